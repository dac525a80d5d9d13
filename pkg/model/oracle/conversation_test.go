package oracle

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/privlink/privlink/pkg/lab"
)

// conversation is one kind of talk between a client and the server; it says how it ended.
type conversation struct {
	name  string
	share int // of 100 of its protocol
	talk  func(ctx context.Context, from *lab.Namespace, number int) string
}

// How conversations end.
const (
	echoed  = "echoed"
	refused = "refused"
	reset   = "reset"
	timeout = "timeout"
)

// ending puts an error into one of the words above.
func ending(err error) string {
	var netErr net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return refused
	case errors.Is(err, syscall.ECONNRESET):
		return reset
	case errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &netErr) && netErr.Timeout():
		return timeout
	}
	return "error: " + err.Error()
}

// patience is how long an answer may take that ought to come; machines may be busy.
const patience = 20 * time.Second

// What the first byte of a TCP conversation asks of the server.
const (
	askEcho      = 'e' // echo until the client closes
	askServerFIN = 'f' // echo once, then close
	askServerRST = 'r' // echo once, then reset
	askHalfClose = 'h' // read to the end, then answer all of it
)

var tcpKinds = []conversation{
	{"tcp echo, client closes", 40, func(ctx context.Context, from *lab.Namespace, n int) string {
		return tcpTalk(ctx, from, servedPort, askEcho, payload(n, 1+n*37%3000), nil)
	}},
	{"tcp echo, server closes", 20, func(ctx context.Context, from *lab.Namespace, n int) string {
		return tcpTalk(ctx, from, servedPort, askServerFIN, payload(n, 1+n*53%1400), func(c *net.TCPConn) string {
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
				return "no end: " + ending(err)
			}
			return echoed
		})
	}},
	{"tcp echo, server resets", 10, func(ctx context.Context, from *lab.Namespace, n int) string {
		return tcpTalk(ctx, from, servedPort, askServerRST, payload(n, 1+n*53%1400), func(c *net.TCPConn) string {
			_, err := c.Read(make([]byte, 1))
			if err == nil {
				return "no reset"
			}
			return ending(err)
		})
	}},
	{"tcp echo, client resets", 10, func(ctx context.Context, from *lab.Namespace, n int) string {
		return tcpTalk(ctx, from, servedPort, askEcho, payload(n, 1+n*11%1400), func(c *net.TCPConn) string {
			if err := c.SetLinger(0); err != nil {
				return ending(err)
			}
			return echoed
		})
	}},
	{"tcp half-close", 10, func(ctx context.Context, from *lab.Namespace, n int) string {
		return halfClose(ctx, from, payload(n, 1+n*97%9000))
	}},
	{"tcp published port, nobody listens", 5, func(ctx context.Context, from *lab.Namespace, n int) string {
		return tcpTalk(ctx, from, closedPort, askEcho, payload(n, 1), nil)
	}},
	{"tcp unpublished port", 5, func(ctx context.Context, from *lab.Namespace, n int) string {
		return tcpTalk(ctx, from, unpublishedPort, askEcho, payload(n, 1), nil)
	}},
}

var udpKinds = []conversation{
	{"udp echo", 70, func(ctx context.Context, from *lab.Namespace, n int) string {
		return udpTalk(ctx, from, n, servedPort, payload(n, 1+n*31%1400), patience)
	}},
	{"udp echo, fragmented", 20, func(ctx context.Context, from *lab.Namespace, n int) string {
		return udpTalk(ctx, from, n, servedPort, payload(n, 1500+n*31%6000), patience)
	}},
	{"udp published port, nobody listens", 9, func(ctx context.Context, from *lab.Namespace, n int) string {
		return udpTalk(ctx, from, n, closedPort, payload(n, 20), patience)
	}},
	{"udp unpublished port", 1, func(ctx context.Context, from *lab.Namespace, n int) string {
		return udpTalk(ctx, from, n, unpublishedPort, payload(n, 20), 300*time.Millisecond)
	}},
}

// payload is what conversation n says: no two alike, so that a mix-up shows.
func payload(n, size int) []byte {
	b := make([]byte, max(size, 8))
	binary.BigEndian.PutUint64(b, uint64(n)*0x9e3779b97f4a7c15)
	for i := 8; i < len(b); i++ {
		b[i] = b[i-8] + byte(i)
	}
	return b
}

// tcpTalk connects, asks, compares the echo, and ends as `end` says (nil: closes).
func tcpTalk(ctx context.Context, from *lab.Namespace, port string, ask byte, say []byte, end func(*net.TCPConn) string) string {
	conn, err := connect(ctx, from, port, ask, len(say))
	if err != nil {
		return ending(err)
	}
	defer conn.Close()
	if _, err := conn.Write(say); err != nil {
		return "say: " + ending(err)
	}
	got := make([]byte, len(say))
	if _, err := io.ReadFull(conn, got); err != nil {
		return "hear: " + ending(err)
	}
	if !bytes.Equal(got, say) {
		return "another's bytes"
	}
	if end != nil {
		return end(conn)
	}
	return echoed
}

// connect opens a TCP conversation and says what it is about and how long.
func connect(ctx context.Context, from *lab.Namespace, port string, ask byte, size int) (*net.TCPConn, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := from.Dial(ctx, "tcp4", "", endpointIP+":"+port)
	if err != nil {
		return nil, err
	}
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	if _, err := conn.Write([]byte{ask, byte(size >> 8), byte(size)}); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn.(*net.TCPConn), nil
}

func halfClose(ctx context.Context, from *lab.Namespace, say []byte) string {
	conn, err := connect(ctx, from, servedPort, askHalfClose, len(say))
	if err != nil {
		return ending(err)
	}
	defer conn.Close()
	if _, err := conn.Write(say); err != nil {
		return "say: " + ending(err)
	}
	if err := conn.CloseWrite(); err != nil {
		return "close: " + ending(err)
	}
	got, err := io.ReadAll(conn)
	if err != nil {
		return "hear: " + ending(err)
	}
	if !bytes.Equal(got, say) {
		return "another's bytes"
	}
	return echoed
}

// udpTalk asks and compares the echo. Each conversation has a port of its own, or a late answer to one
// would be another's.
func udpTalk(ctx context.Context, from *lab.Namespace, number int, port string, say []byte, wait time.Duration) string {
	conn, err := from.Dial(ctx, "udp4", fmt.Sprintf("%s:%d", clientIP, 20_000+number), endpointIP+":"+port)
	if err != nil {
		return ending(err)
	}
	defer conn.Close()
	got := make([]byte, 1<<16)
	// A datagram may be lost where a queue is full: that is no difference between gateways.
	for range 3 {
		if _, err := conn.Write(say); err != nil {
			return ending(err)
		}
		if err := conn.SetReadDeadline(time.Now().Add(wait / 3)); err != nil {
			return ending(err)
		}
		size, err := conn.Read(got)
		if err == nil && !bytes.Equal(got[:size], say) {
			return "another's bytes"
		}
		if err == nil {
			return echoed
		}
		if end := ending(err); end != timeout {
			return end
		}
	}
	return timeout
}

// serve answers conversations in the server's namespace, and counts those that did not come from the
// NAT IP.
func serve(t *testing.T, n network) (strangers *atomic.Int64) {
	t.Helper()
	strangers = new(atomic.Int64)
	tcp, err := n.server.Listen("tcp4", serverIP+":"+servedPort)
	if err != nil {
		t.Fatal(err)
	}
	udp, err := n.server.ListenPacket("udp4", serverIP+":"+servedPort)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		tcp.Close()
		udp.Close()
	})
	note := func(from net.Addr) {
		if !strings.HasPrefix(from.String(), natIP+":") {
			strangers.Add(1)
		}
	}
	go func() {
		for {
			conn, err := tcp.Accept()
			if err != nil {
				return
			}
			note(conn.RemoteAddr())
			go answerTCP(conn.(*net.TCPConn))
		}
	}()
	go func() {
		buffer := make([]byte, 1<<16)
		for {
			size, from, err := udp.ReadFrom(buffer)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				continue // an ICMP error about an earlier answer
			}
			note(from)
			if _, err := udp.WriteTo(buffer[:size], from); err != nil && errors.Is(err, net.ErrClosed) {
				return
			}
		}
	}()
	return strangers
}

// answerTCP does what the first bytes of a conversation ask for. Its errors are the client's to see.
func answerTCP(conn *net.TCPConn) {
	defer conn.Close()
	var ask [3]byte
	if err := conn.SetDeadline(time.Now().Add(2 * patience)); err != nil {
		return
	}
	if _, err := io.ReadFull(conn, ask[:]); err != nil {
		return
	}
	said := make([]byte, binary.BigEndian.Uint16(ask[1:]))
	if _, err := io.ReadFull(conn, said); err != nil {
		return
	}
	if ask[0] == askHalfClose {
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			return
		}
	}
	if _, err := conn.Write(said); err != nil {
		return
	}
	switch ask[0] {
	case askEcho:
		_, _ = conn.Read(make([]byte, 1)) // until the client ends it, in whatever way
	case askServerRST:
		// Only what the client has acknowledged arrives before a reset: give it time to hear.
		waitAcknowledged(conn)
		_ = conn.SetLinger(0)
	}
}

// waitAcknowledged waits until the other end has acknowledged everything.
func waitAcknowledged(conn *net.TCPConn) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return
	}
	for range 1000 {
		queued := -1
		err := raw.Control(func(fd uintptr) { queued = unacknowledged(int(fd)) })
		if err != nil || queued <= 0 {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

func describe(kind, privlink, nftables string) string {
	return fmt.Sprintf("%-40s privlink %-10s nftables %s", kind, privlink, nftables)
}
