package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/privlink/privlink/pkg/lab"
	"github.com/privlink/privlink/pkg/splice"
)

var streamCases = []namedCase{
	{"header comes first, whole, in one segment, byte for byte", headerInOneSegment},
	{"header and what the client sent with the handshake", headerWithFirstBytes},
	{"server speaks first", serverFirst},
	{"client closes at once", closesAtOnce},
	{"client's first bytes with the handshake's ACK", withHandshake},
	{"half-close, client first", func(ctx context.Context, s *suite) (string, error) { return "", s.halfClose(ctx, true) }},
	{"half-close, backend first", func(ctx context.Context, s *suite) (string, error) { return "", s.halfClose(ctx, false) }},
	{"reset by the client reaches the backend as a reset", func(ctx context.Context, s *suite) (string, error) { return "", s.resets(ctx, true) }},
	{"reset by the backend reaches the client as a reset", func(ctx context.Context, s *suite) (string, error) { return "", s.resets(ctx, false) }},
	{"slow reader pushes back, nothing is lost", slowReader},
	{"first backend refuses, the next one serves", nextBackend},
	{"first backend drops SYNs, the next one serves", nextAfterTimeout},
	{"no backend listens: the client gets a reset, counted", func(ctx context.Context, s *suite) (string, error) { return s.nobody(ctx, portNobody) }},
	{"the only backend drops SYNs: the client gets a reset, counted", func(ctx context.Context, s *suite) (string, error) { return s.nobody(ctx, portDeaf) }},
}

// wantHeader is the header as the specification and Azure's documentation have it, written here once more.
func wantHeader(client net.Conn, id uint32) []byte {
	from, to := client.LocalAddr().(*net.TCPAddr), client.RemoteAddr().(*net.TCPAddr)
	b := append([]byte("\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a\x21\x11\x00\x14"), from.IP.To4()...)
	b = append(b, to.IP.To4()...)
	return append(b, byte(from.Port>>8), byte(from.Port), byte(to.Port>>8), byte(to.Port),
		0xee, 0x00, 0x05, 0x01, byte(id), byte(id>>8), byte(id>>16), byte(id>>24))
}

// segments are the payloads that a capture of a backend saw arrive on its port, in order, empty ones left out.
func segments(packets []lab.Packet, port uint16) (list [][]byte) {
	for _, p := range packets {
		if p.Outgoing || len(p.Data) < 54 || p.Data[23] != unix.IPPROTO_TCP {
			continue
		}
		tcp := 14 + int(p.Data[14]&15)*4
		end := 14 + int(binary.BigEndian.Uint16(p.Data[16:]))
		if binary.BigEndian.Uint16(p.Data[tcp+2:]) != port || end > len(p.Data) {
			continue
		}
		if payload := p.Data[tcp+int(p.Data[tcp+12]>>4)*4 : end]; len(payload) > 0 {
			list = append(list, payload)
		}
	}
	return list
}

func headerInOneSegment(ctx context.Context, s *suite) (string, error) {
	capture := s.backend.Capture("eth0")
	client, server, err := s.pairOf(ctx, 0, "azure")
	if err != nil {
		return "", err
	}
	defer client.Close()
	defer server.Close()
	if err := echoBetween(client, server, "after the header"); err != nil {
		return "", err
	}
	want := [][]byte{wantHeader(client, linkID(0, "azure")), []byte("after the header")}
	if got := segments(capture.Stop(), portPair); !slices.EqualFunc(got, want, bytes.Equal) {
		return "", fmt.Errorf("the segments were %x, want %x", got, want)
	}
	return fmt.Sprintf("%x", want[0]), nil
}

// firstBytes makes a connection whose client speaks with the handshake, and ends it when the server has
// read that. The client's end tells the addresses.
func (s *suite) firstBytes(ctx context.Context) (client net.Conn, err error) {
	client, err = s.dialSpeaking(ctx, "first bytes")
	if err != nil {
		return nil, err
	}
	defer client.Close()
	server, err := take(ctx, s.servers.pair)
	if err != nil {
		return nil, err
	}
	defer server.Close()
	return client, expect(server, "first bytes")
}

// headerWithFirstBytes checks that nothing comes before the header, in whatever segments it comes.
func headerWithFirstBytes(ctx context.Context, s *suite) (string, error) {
	capture := s.backend.Capture("eth0")
	client, err := s.firstBytes(ctx)
	if err != nil {
		return "", err
	}
	got, header := segments(capture.Stop(), portPair), wantHeader(client, linkID(0, "azure"))
	if len(got) == 0 || !bytes.HasPrefix(got[0], header) || string(bytes.Join(got, nil)) != string(header)+"first bytes" {
		return "", fmt.Errorf("the segments were %x", got)
	}
	return fmt.Sprintf("in %d segments", len(got)), nil
}

// echoBetween sends a text each way.
func echoBetween(a, b net.Conn, text string) error {
	for _, way := range [][2]net.Conn{{a, b}, {b, a}} {
		if _, err := io.WriteString(way[0], text); err != nil {
			return err
		}
		if err := expect(way[1], text); err != nil {
			return err
		}
	}
	return nil
}

func expect(c net.Conn, text string) error {
	got := make([]byte, len(text))
	if n, err := io.ReadFull(c, got); err != nil || string(got) != text {
		return fmt.Errorf("read %q, %v, want %q", got[:n], err, text)
	}
	return nil
}

func expectEnd(c net.Conn) error {
	if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		return fmt.Errorf("read %d bytes, %v, want the end of the stream", n, err)
	}
	return nil
}

func expectReset(c net.Conn) error {
	n, err := io.Copy(io.Discard, struct{ io.Reader }{c})
	if !errors.Is(err, syscall.ECONNRESET) {
		return fmt.Errorf("read %d bytes, then %v, want a reset", n, err)
	}
	return nil
}

func serverFirst(ctx context.Context, s *suite) (string, error) {
	client, server, err := s.pairOf(ctx, 0, "azure")
	if err != nil {
		return "", err
	}
	defer client.Close()
	defer server.Close()
	// As a database greets: the client waits for it.
	if _, err := io.WriteString(server, "\x4a\x00\x00\x00\x0a8.0.40\x00"); err != nil {
		return "", err
	}
	return "", expect(client, "\x4a\x00\x00\x00\x0a8.0.40\x00")
}

func closesAtOnce(ctx context.Context, s *suite) (string, error) {
	client, err := s.dial(ctx, 0, "", "azure", portPair)
	if err != nil {
		return "", err
	}
	client.Close()
	server, err := take(ctx, s.servers.pair)
	if err != nil {
		return "", err
	}
	defer server.Close()
	return "", expectEnd(server)
}

// dialSpeaking connects a client that makes the kernel hold the handshake's last ACK back until there is data
// to go with it.
func (s *suite) dialSpeaking(ctx context.Context, text string) (client net.Conn, err error) {
	err = s.consumers[0].Do(func() error {
		dialer := net.Dialer{Timeout: 5 * time.Second, Control: func(_, _ string, raw syscall.RawConn) error {
			return raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_QUICKACK, 0) })
		}}
		client, err = dialer.DialContext(ctx, "tcp4", fmt.Sprintf("%s:%d", endpoint("azure"), portPair))
		if err != nil {
			return err
		}
		_, err = io.WriteString(client, text)
		return errors.Join(err, client.SetDeadline(time.Now().Add(60*time.Second)))
	})
	return client, err
}

func withHandshake(ctx context.Context, s *suite) (string, error) {
	capture := s.consumers[0].Capture("eth0")
	client, err := s.firstBytes(ctx)
	if err != nil {
		return "", err
	}
	// The client's second packet carries the data.
	sent := 0
	for _, p := range capture.Stop() {
		if !p.Outgoing || len(p.Data) < 54 || p.Data[23] != unix.IPPROTO_TCP {
			continue
		}
		header := 14 + int(p.Data[14]&15)*4
		if int(binary.BigEndian.Uint16(p.Data[header:])) != client.LocalAddr().(*net.TCPAddr).Port {
			continue // the last packets of a case before
		}
		if sent++; sent == 2 {
			length := 14 + int(p.Data[16])<<8 + int(p.Data[17]) - header - int(p.Data[header+12]>>4)*4
			if length != len("first bytes") {
				return "", fmt.Errorf("the client's second packet carries %d bytes: the case does not test what it says", length)
			}
			return "", nil
		}
	}
	return "", errors.New("the capture shows no second packet")
}

func (s *suite) halfClose(ctx context.Context, clientFirst bool) error {
	client, server, err := s.pairOf(ctx, 0, "azure")
	if err != nil {
		return err
	}
	defer client.Close()
	defer server.Close()
	first, second := client, server.TCPConn
	if !clientFirst {
		first, second = second, first
	}
	if err := first.CloseWrite(); err != nil {
		return err
	}
	if err := expectEnd(second); err != nil {
		return err
	}
	for range 3 {
		if _, err := io.WriteString(second, "still talking"); err != nil {
			return err
		}
		if err := expect(first, "still talking"); err != nil {
			return err
		}
	}
	if err := second.CloseWrite(); err != nil {
		return err
	}
	return expectEnd(first)
}

func (s *suite) resets(ctx context.Context, byClient bool) error {
	client, server, err := s.pairOf(ctx, 0, "azure")
	if err != nil {
		return err
	}
	defer client.Close()
	defer server.Close()
	first, second := client, server.TCPConn
	if !byClient {
		first, second = second, first
	}
	if err := echoBetween(first, second, "hello"); err != nil {
		return err
	}
	if err := first.SetLinger(0); err != nil {
		return err
	}
	first.Close()
	return expectReset(second)
}

func slowReader(ctx context.Context, s *suite) (string, error) {
	client, server, err := s.pairOf(ctx, 0, "azure")
	if err != nil {
		return "", err
	}
	defer client.Close()
	defer server.Close()
	const size = 64 << 20
	written := make(chan error, 1)
	done := make(chan int, 1)
	go func() {
		n, err := server.Write(make([]byte, size))
		done <- n
		written <- err
	}()
	select {
	case <-done:
		return "", errors.New("64 MiB were taken although nobody reads")
	case <-time.After(time.Second):
	}
	got, err := io.Copy(io.Discard, io.LimitReader(client, size))
	if err != nil || got != size {
		return "", fmt.Errorf("read %d bytes, %v", got, err)
	}
	return "", <-written
}

func nextBackend(ctx context.Context, s *suite) (string, error) {
	before, err := s.stats()
	if err != nil {
		return "", err
	}
	const count = 20
	for range count {
		client, err := s.dial(ctx, 0, "", "azure", portSecond)
		if err != nil {
			return "", err
		}
		defer client.Close()
		server, err := take(ctx, s.servers.second)
		if err != nil {
			return "", err
		}
		defer server.Close()
		if err := echoBetween(client, server, "here"); err != nil {
			return "", err
		}
	}
	after, err := s.stats()
	if err != nil {
		return "", err
	}
	failed := after.DialFailed - before.DialFailed
	if failed == 0 {
		return "", fmt.Errorf("of %d connections none tried the backend that refuses", count)
	}
	return fmt.Sprintf("%d connections, %d refused first", count, failed), nil
}

// nextAfterTimeout opens so many that some of them are for the first backend.
func nextAfterTimeout(ctx context.Context, s *suite) (string, error) {
	before, err := s.stats()
	if err != nil {
		return "", err
	}
	const count = 16
	start := time.Now()
	for range count {
		client, err := s.dial(ctx, 0, "", "azure", portLate)
		if err != nil {
			return "", err
		}
		defer client.Close()
	}
	for range count {
		server, err := take(ctx, s.servers.second)
		if err != nil {
			return "", err
		}
		defer server.Close()
	}
	took := time.Since(start)
	after, err := s.stats()
	if err != nil {
		return "", err
	}
	late := after.DialTimedOut - before.DialTimedOut
	note := fmt.Sprintf("%d connections, %d after the first had %v", count, late, splice.DefaultDialTimeout)
	if late == 0 || after.NoBackend != before.NoBackend {
		return note, fmt.Errorf("%d timed out, %d had no backend", late, after.NoBackend-before.NoBackend)
	}
	if took > splice.DefaultDialTimeout+2*time.Second {
		return note, fmt.Errorf("the last was served after %v", took)
	}
	return note, nil
}

// nobody connects to a port where no backend answers.
func (s *suite) nobody(ctx context.Context, port uint16) (string, error) {
	before, err := s.stats()
	if err != nil {
		return "", err
	}
	client, err := s.dial(ctx, 0, "", "azure", port)
	if err != nil && !errors.Is(err, syscall.ECONNRESET) {
		return "", err
	}
	if err == nil {
		defer client.Close()
		if err := expectReset(client); err != nil {
			return "", err
		}
	}
	return "", lab.Poll(5*time.Second, func() error {
		after, err := s.stats()
		if err != nil {
			return err
		}
		if after.NoBackend != before.NoBackend+1 || after.DialFailed+after.DialTimedOut != before.DialFailed+before.DialTimedOut+1 {
			return fmt.Errorf("counted %d without backend, %d refusals, %d timeouts", after.NoBackend-before.NoBackend,
				after.DialFailed-before.DialFailed, after.DialTimedOut-before.DialTimedOut)
		}
		return nil
	})
}

// retryDatagram sends a datagram until it comes back: the first may be lost.
func retryDatagram(c net.Conn, text string) error {
	return lab.Poll(5*time.Second, func() error {
		if _, err := io.WriteString(c, text); err != nil {
			return err
		}
		if err := c.SetReadDeadline(time.Now().Add(500 * time.Millisecond)); err != nil {
			return err
		}
		got := make([]byte, 2048)
		n, err := c.Read(got)
		if err != nil {
			return err
		}
		if string(got[:n]) != text {
			return fmt.Errorf("datagram %q came back", got[:n])
		}
		return nil
	})
}
