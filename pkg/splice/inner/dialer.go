package inner

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"sync"

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
			fd, err := Socket()
			if err == nil {
				if err = Connect(fd, r.source, r.to); err != nil {
					unix.Close(fd)
				}
			}
			r.reply <- reply{fd, err}
		}
	}
}

// Dial connects to a destination. The connection resets when it is closed unless its linger is
// changed. Errors keep what the kernel said (syscall.ECONNREFUSED, ...); with the context's
// deadline over it is os.ErrDeadlineExceeded, and ErrNotAdmitted or ErrLocal if nothing was sent.
func (d *Dialer) Dial(ctx context.Context, to Destination) (*Conn, error) {
	select {
	case <-d.stop: // first, as the thread may not have noticed yet
		return nil, errClosed
	default:
	}
	d.mu.Lock()
	way, err := d.ports.Take()
	d.mu.Unlock()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrLocal, err)
	}
	source, far := way.Source, way.Far(to.Target.Port())
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
		return nil, fmt.Errorf("%w: %w", ErrLocal, made.err)
	}
	return newConn(ctx, made.fd, source, far)
}
