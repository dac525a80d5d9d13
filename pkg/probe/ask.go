package probe

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/privlink/privlink/pkg/splice/header"
	"github.com/privlink/privlink/pkg/splice/inner"
)

// Conn is a connection whose close can be made a reset or an end in order, by SetLinger as in net.TCPConn.
type Conn interface {
	net.Conn
	SetLinger(sec int) error
}

// Dial makes a connection to a backend.
type Dial func(ctx context.Context, to inner.Destination) (Conn, error)

// Through is the Dial of the inner VNet.
func Through(dialer *inner.Dialer) Dial {
	return func(ctx context.Context, to inner.Destination) (Conn, error) {
		conn, err := dialer.Dial(ctx, to)
		if err != nil {
			return nil, err // and no typed nil
		}
		return conn, nil
	}
}

// afterHeader is how long a TCP probe waits for what a server says to its header.
const afterHeader = 300 * time.Millisecond

// maxBody is how much of a body is read so that the connection ends in order, in bytes.
const maxBody = 64 << 10

// verdict is what came of one probe.
type verdict int

const (
	unwell verdict = iota
	well
	// notAdmitted: the dataplane does not know the backend, yet or any more.
	notAdmitted
	// unable: nothing could be sent from here, which is not the backend's fault.
	unable
)

// ask probes once and returns what came of it, and why. A dialler's inner.ErrNotAdmitted says nothing about the backend, unless it
// was looked for and does not answer.
func ask(ctx context.Context, dial Dial, c *Check) (verdict, string) {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	conn, err := dial(ctx, c.To)
	if err != nil {
		v := unwell
		switch {
		case errors.Is(err, inner.ErrLocal):
			v = unable
		case errors.Is(err, inner.ErrNotAdmitted) && !errors.Is(err, inner.ErrUnresolved):
			v = notAdmitted
		}
		return v, "connect: " + cause(err)
	}
	healthy, why := askOn(ctx, conn, c)
	if healthy {
		return well, why
	}
	return unwell, why
}

// askOn probes on a connection, and closes it.
func askOn(ctx context.Context, conn Conn, c *Check) (healthy bool, why string) {
	defer conn.Close()
	// Closed in order, like the connections it stands for; the kernel keeps what is on its way.
	if err := conn.SetLinger(-1); err != nil {
		return false, reason(c, "close in order", err)
	}
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return false, reason(c, "set deadline", err)
		}
	}

	if c.Header {
		if _, err := conn.Write(header.Local()); err != nil {
			return false, reason(c, "send PROXY header", err)
		}
	}
	switch c.Kind {
	case HTTP:
		return askPath(c, conn)
	case HTTPS:
		// Backends have certificates of their own making; the probe asks for health, not for trust.
		secure := tls.Client(conn, &tls.Config{InsecureSkipVerify: true, ServerName: c.To.Target.Addr().String()})
		if err := secure.HandshakeContext(ctx); err != nil {
			return false, reason(c, "TLS handshake", err)
		}
		return askPath(c, secure)
	default:
		return askConnected(c, conn)
	}
}

// askConnected is a TCP probe: connected is healthy. What a server answers to the header cannot
// make it unhealthy, but is worth telling.
func askConnected(c *Check, conn Conn) (bool, string) {
	if !c.Header {
		return true, "connected"
	}
	// The stream stays open meanwhile: haproxy answers a header and an early end with 400, too.
	if err := conn.SetReadDeadline(time.Now().Add(min(afterHeader, c.Timeout))); err != nil {
		return true, "connected"
	}
	answer := make([]byte, 512)
	n, _ := conn.Read(answer) // silence is the best answer
	if what, ok := refusal(answer[:n]); ok {
		return true, fmt.Sprintf("connected, but the PROXY header was answered with %s (%s)", what, hintNotRead)
	}
	return true, "connected"
}

// askPath is an HTTP probe on a connection: only 200 is healthy.
func askPath(c *Check, conn net.Conn) (bool, string) {
	request := "GET " + c.Path + " HTTP/1.1\r\nHost: " + c.To.Target.String() +
		"\r\nUser-Agent: privlink-probe\r\nAccept: */*\r\nConnection: close\r\n\r\n"
	if _, err := io.WriteString(conn, request); err != nil {
		return false, reason(c, "send request", err)
	}
	buffered := bufio.NewReaderSize(conn, 2048)
	response, err := http.ReadResponse(buffered, nil)
	if err != nil {
		if start, _ := buffered.Peek(buffered.Buffered()); c.Header {
			if what, ok := refusal(start); ok {
				return false, fmt.Sprintf("read answer: %s (%s)", what, hintNotRead)
			}
		}
		return false, reason(c, "read answer", err)
	}
	defer response.Body.Close()
	_, _ = io.CopyN(io.Discard, response.Body, maxBody) // only so that the close is in order
	if response.StatusCode != http.StatusOK {
		return false, statusReason(c, response.StatusCode)
	}
	return true, fmt.Sprintf("%v: status 200", c.Kind)
}
