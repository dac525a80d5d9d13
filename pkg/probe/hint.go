package probe

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"

	"github.com/privlink/privlink/pkg/splice/inner"
)

// What an outcome suggests when one side speaks PROXY protocol and the other does not.
const (
	hintNotRead  = "the server may not read PROXY headers: switch them on there, or enableProxyProtocol off"
	hintNoProbes = "the server may want a PROXY header from probes too: set proxyProbes to true"
	hintExpected = "the server may wait for a PROXY header: set enableProxyProtocol to true, or switch it off there"
)

// reason returns an error in one line, with a hint if it looks like a mismatch.
func reason(c *Check, operation string, err error) string {
	text := operation + ": " + cause(err)
	if hint := mismatch(c, err); hint != "" {
		text += " (" + hint + ")"
	}
	return text
}

// cause names the errors of a network in words of their own.
func cause(err error) string {
	switch {
	case errors.Is(err, inner.ErrUnresolved):
		return inner.ErrUnresolved.Error()
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "connection reset"
	case isTimeout(err):
		return "no answer in time"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "connection closed"
	}
	var operation *net.OpError
	if errors.As(err, &operation) {
		return operation.Err.Error()
	}
	return err.Error()
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) || (errors.As(err, &timeout) && timeout.Timeout())
}

// mismatch returns a hint for an error after the connection was made. A server that waits for a
// header closes, or waits; one that knows none answers it in its own protocol.
func mismatch(c *Check, err error) string {
	var record tls.RecordHeaderError
	var alert tls.AlertError
	dropped := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) ||
		errors.Is(err, syscall.EPIPE) || isTimeout(err)
	switch {
	case c.Header && (dropped || errors.As(err, &record) || errors.As(err, &alert)):
		return hintNotRead
	case !c.Header && c.Expects && dropped:
		return hintNoProbes
	case !c.Header && dropped:
		return hintExpected
	}
	return ""
}

// refusal recognizes what servers answer to a header they took for a request of their own.
func refusal(answer []byte) (what string, ok bool) {
	switch {
	case bytes.HasPrefix(answer, []byte("HTTP/1.1 400")), bytes.HasPrefix(answer, []byte("HTTP/1.0 400")):
		return "HTTP 400", true
	case bytes.HasPrefix(answer, []byte("<html>")) && bytes.Contains(answer, []byte("400")):
		return "HTTP 400", true // HTTP 0.9, as nginx answers what is no request at all
	case len(answer) >= 2 && answer[0] == 0x15 && answer[1] == 0x03:
		return "a TLS alert", true
	}
	return "", false
}

// statusReason is the reason for an answer other than 200.
func statusReason(c *Check, status int) string {
	text := fmt.Sprintf("%v: status %d, want 200", c.Kind, status)
	if c.Header && status == 400 {
		text += " (" + hintNotRead + ")"
	}
	return text
}
