package inner

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Conn is a TCP connection out of the inner VNet. It is a net.Conn around the runtime's poller and
// nothing else: net.FileConn would duplicate the descriptor and make a dozen system calls to learn and
// set what is known and set already, and probes are short.
type Conn struct {
	*os.File
	local, remote netip.AddrPort
}

// newConn waits until a connecting socket is connected, and owns it from the call on.
func newConn(ctx context.Context, fd int, local, remote netip.AddrPort) (*Conn, error) {
	c := &Conn{File: os.NewFile(uintptr(fd), "tcp"), local: local, remote: remote}
	if err := c.awaitConnect(ctx); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// LocalAddr implements net.Conn: the address in the inner VNet.
func (c *Conn) LocalAddr() net.Addr { return net.TCPAddrFromAddrPort(c.local) }

// RemoteAddr implements net.Conn: the made-up address in the inner VNet, not the backend's.
func (c *Conn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.remote) }

// SetLinger is as that of net.TCPConn: below 0 Close ends the connection in order, which it does not
// do before; 0 makes it a reset again.
func (c *Conn) SetLinger(sec int) error {
	var linger unix.Linger
	if sec >= 0 {
		linger = unix.Linger{Onoff: 1, Linger: int32(sec)}
	}
	return c.control(func(fd int) error {
		return unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &linger)
	})
}

func (c *Conn) control(fn func(fd int) error) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var failure error
	return errors.Join(raw.Control(func(fd uintptr) { failure = fn(int(fd)) }), failure)
}

func (c *Conn) awaitConnect(ctx context.Context) error {
	if deadline, ok := ctx.Deadline(); ok {
		if err := c.SetDeadline(deadline); err != nil {
			return fmt.Errorf("set deadline: %w", err)
		}
	}
	// A context that ends early wakes the wait by a deadline in the past.
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()

	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var failure error
	err = raw.Write(func(fd uintptr) bool {
		if _, err := unix.Getpeername(int(fd)); err == nil {
			return true
		}
		code, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		if err == nil && code != 0 {
			err = syscall.Errno(code)
		}
		failure = err
		return err != nil // else not yet: wait until writable
	})
	return errors.Join(err, failure)
}
