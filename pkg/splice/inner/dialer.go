package inner

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Dialer makes ordinary connections out of the inner VNet through dial entries: for probes.
// It is safe for concurrent use.
type Dialer struct {
	door     Door
	requests chan request
	stop     chan struct{}
	stopped  sync.Once

	mu    sync.Mutex
	ports *Ports
}

type request struct {
	source, to netip.AddrPort
	reply      chan<- reply
}

type reply struct {
	fd  int
	err error
}

// errClosed is returned by Dial after Close.
var errClosed = errors.New("dialer is closed")

// NewDialer returns the n-th user of dial entries, 0..MaxDialers-1. One thread stays inside the
// namespace and makes its sockets, until Close.
func NewDialer(network *Network, door Door, n int) (*Dialer, error) {
	d := &Dialer{door: door, requests: make(chan request), stop: make(chan struct{}), ports: NewPorts(n)}
	entered := make(chan error)
	go func() {
		// Never unlocked: the thread ends with the goroutine.
		runtime.LockOSThread()
		err := network.Enter()
		entered <- err
		if err == nil {
			d.serve()
		}
	}()
	if err := <-entered; err != nil {
		return nil, err
	}
	return d, nil
}

// Close ends the thread. Connections made stay.
func (d *Dialer) Close() { d.stopped.Do(func() { close(d.stop) }) }

// serve makes sockets; everything else about them works from any thread.
func (d *Dialer) serve() {
	for {
		select {
		case <-d.stop:
			return
		case r := <-d.requests:
			fd, err := Connect(r.source, r.to)
			r.reply <- reply{fd, err}
		}
	}
}

// Dial connects to a destination. The connection resets when it is closed unless its linger is
// changed. Errors keep what the kernel said (syscall.ECONNREFUSED, ...); with the context's
// deadline over it is os.ErrDeadlineExceeded, and ErrNotAdmitted if nothing was sent.
func (d *Dialer) Dial(ctx context.Context, to Destination) (*net.TCPConn, error) {
	select {
	case <-d.stop: // first, as the thread may not have noticed yet
		return nil, errClosed
	default:
	}
	d.mu.Lock()
	source, far, err := d.ports.Take(to.Target.Port())
	d.mu.Unlock()
	if err != nil {
		return nil, err
	}
	defer func() {
		d.mu.Lock()
		d.ports.Give(source)
		d.mu.Unlock()
	}()

	if err := d.door.Admit(source, to); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotAdmitted, err)
	}
	defer d.door.Withdraw(source)

	done := make(chan reply, 1)
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-d.stop:
		return nil, errClosed
	case d.requests <- request{source, far, done}:
	}
	made := <-done
	if made.err != nil {
		return nil, made.err
	}
	return connected(ctx, made.fd)
}

// connected waits until a connecting socket is connected, and makes it a connection of net's.
func connected(ctx context.Context, fd int) (*net.TCPConn, error) {
	file := os.NewFile(uintptr(fd), "inner socket")
	made, err := net.FileConn(file)
	file.Close() // net has its own descriptor of the socket
	if err != nil {
		return nil, fmt.Errorf("take over socket: %w", err)
	}
	conn, ok := made.(*net.TCPConn)
	if !ok {
		made.Close()
		return nil, fmt.Errorf("take over socket: got %T", made)
	}
	if err := awaitConnect(ctx, conn); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

func awaitConnect(ctx context.Context, conn *net.TCPConn) error {
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return err
		}
	}
	// A context that ends early wakes the wait by a deadline in the past.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()

	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var failure error
	err = raw.Write(func(fd uintptr) bool {
		code, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		switch {
		case err != nil:
			failure = err
			return true
		case code != 0:
			failure = syscall.Errno(code)
			return true
		}
		_, err = unix.Getpeername(int(fd))
		return err == nil // not yet: wait until writable
	})
	return errors.Join(err, failure)
}
