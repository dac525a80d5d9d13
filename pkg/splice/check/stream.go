package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/privlink/privlink/pkg/lab"
)

var streamCases = []namedCase{
	{"header comes first and in one piece", headerInOnePiece},
	{"server speaks first", serverFirst},
	{"client closes at once", closesAtOnce},
	{"client's first bytes with the handshake's ACK", withHandshake},
	{"half-close, client first", func(ctx context.Context, s *suite) (string, error) { return "", s.halfClose(ctx, true) }},
	{"half-close, backend first", func(ctx context.Context, s *suite) (string, error) { return "", s.halfClose(ctx, false) }},
	{"reset by the client reaches the backend as a reset", func(ctx context.Context, s *suite) (string, error) { return "", s.resets(ctx, true) }},
	{"reset by the backend reaches the client as a reset", func(ctx context.Context, s *suite) (string, error) { return "", s.resets(ctx, false) }},
	{"slow reader pushes back, nothing is lost", slowReader},
	{"first backend refuses, the next one serves", nextBackend},
	{"no backend listens: the client gets a reset, counted", nobody},
}

func headerInOnePiece(ctx context.Context, s *suite) (string, error) {
	client, server, err := s.pairOf(ctx, 0, "azure")
	if err != nil {
		return "", err
	}
	defer client.Close()
	defer server.Close()
	if server.first != 36 && server.first != 16 {
		return "", fmt.Errorf("the first read brought %d bytes", server.first)
	}
	return "", echoBetween(client, server, "after the header")
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

// withHandshake makes the kernel hold the handshake's last ACK back until there is data to go with it.
func withHandshake(ctx context.Context, s *suite) (string, error) {
	capture := s.consumers[0].Capture("eth0")
	var client net.Conn
	err := s.consumers[0].Do(func() error {
		dialer := net.Dialer{Timeout: 5 * time.Second, Control: func(_, _ string, raw syscall.RawConn) error {
			return raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_QUICKACK, 0) })
		}}
		var err error
		client, err = dialer.DialContext(ctx, "tcp4", fmt.Sprintf("%s:%d", endpoint("azure"), portPair))
		if err != nil {
			return err
		}
		_, err = io.WriteString(client, "first bytes")
		return err
	})
	if err != nil {
		return "", err
	}
	defer client.Close()
	server, err := take(ctx, s.servers.pair)
	if err != nil {
		return "", err
	}
	defer server.Close()
	if err := expect(server, "first bytes"); err != nil {
		return "", err
	}
	// The client's second packet carries the data.
	sent := 0
	for _, p := range capture.Stop() {
		if !p.Outgoing || len(p.Data) < 54 || p.Data[23] != unix.IPPROTO_TCP {
			continue
		}
		if sent++; sent == 2 {
			header := 14 + int(p.Data[14]&15)*4
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

func nobody(ctx context.Context, s *suite) (string, error) {
	before, err := s.stats()
	if err != nil {
		return "", err
	}
	client, err := s.dial(ctx, 0, "", "azure", portNobody)
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
		if after.NoBackend != before.NoBackend+1 {
			return fmt.Errorf("counted %d", after.NoBackend-before.NoBackend)
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
