package bench

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/privlink/privlink/pkg/lab"
)

// conversation is one client and one server on one core, each a thread that blocks in
// system calls and does nothing else.
type conversation struct {
	cpu            int
	client, server *lab.Namespace
	listen, target netip.AddrPort
	// header: connections begin with a PROXY protocol header, version 1 or 2, which the server reads first.
	header bool
}

// patience is how long a system call may block before the run fails.
var patience = unix.Timeval{Sec: 5}

// on runs fn with its thread in a namespace and on a CPU. The thread is not used again.
func on(cpu int, ns *lab.Namespace, fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		done <- func() error {
			var set unix.CPUSet
			set.Set(cpu)
			if err := unix.SchedSetaffinity(0, &set); err != nil {
				return err
			}
			if err := unix.Setpriority(unix.PRIO_PROCESS, 0, -20); err != nil {
				return err
			}
			if err := enter(ns); err != nil {
				return err
			}
			return fn()
		}()
	}()
	return <-done
}

func socket() (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	return fd, errors.Join(
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &patience))
}

// again repeats a call that a signal of the Go runtime interrupted.
func again[T any](call func() (T, error)) (T, error) {
	for {
		v, err := call()
		if !errors.Is(err, unix.EINTR) {
			return v, err
		}
	}
}

// serve accepts one connection after the other and answers each byte with a byte until the
// client closes. Closing the listener ends it.
func (c *conversation) serve(fd int) error {
	var b [1]byte
	for {
		conn, err := again(func() (int, error) {
			conn, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
			return conn, err
		})
		if errors.Is(err, unix.EINVAL) {
			return nil // shut down
		}
		if errors.Is(err, unix.EAGAIN) {
			continue
		}
		if err != nil {
			return fmt.Errorf("accept: %w", err)
		}
		_ = unix.SetsockoptTimeval(conn, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience)
		_ = unix.SetsockoptInt(conn, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
		if c.header {
			if err := skipHeader(conn); err != nil {
				_ = unix.Close(conn)
				return err
			}
		}
		for {
			n, err := again(func() (int, error) { return unix.Read(conn, b[:]) })
			if err != nil || n == 0 {
				break
			}
			if _, err := again(func() (int, error) { return unix.Write(conn, b[:]) }); err != nil {
				break
			}
		}
		_ = unix.Close(conn)
	}
}

// skipHeader reads a PROXY protocol header and nothing behind it.
func skipHeader(conn int) error {
	var b [107]byte // the longest of version 1
	peek := func(n int) ([]byte, error) {
		got, err := again(func() (int, error) {
			got, _, err := unix.Recvfrom(conn, b[:n], unix.MSG_PEEK|unix.MSG_WAITALL)
			return got, err
		})
		if err == nil && got < 16 {
			err = fmt.Errorf("%d bytes only", got)
		}
		return b[:max(got, 0)], err
	}
	head, err := peek(16)
	if err != nil {
		return fmt.Errorf("read PROXY header: %w", err)
	}
	length := 0
	if head[0] == 'P' {
		got, _, err := unix.Recvfrom(conn, b[:], unix.MSG_PEEK)
		end := bytes.IndexByte(b[:max(got, 0)], '\n')
		if err != nil || end < 0 {
			return fmt.Errorf("read PROXY header: no end of line: %w", err)
		}
		length = end + 1
	} else {
		length = 16 + int(binary.BigEndian.Uint16(head[14:]))
	}
	if length > len(b) {
		return fmt.Errorf("read PROXY header: %d bytes long", length)
	}
	_, err = again(func() (int, error) {
		n, _, err := unix.Recvfrom(conn, b[:length], unix.MSG_WAITALL)
		return n, err
	})
	return err
}

// with runs fn on the client's side while the server serves.
func (c *conversation) with(serve func(fd int) error, fn func() error) error {
	var fd int
	err := c.server.Do(func() (err error) {
		if fd, err = socket(); err != nil {
			return err
		}
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
		if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: c.listen.Addr().As4(), Port: int(c.listen.Port())}); err != nil {
			return fmt.Errorf("bind %s: %w", c.listen, err)
		}
		return unix.Listen(fd, 128)
	})
	if err != nil {
		return err
	}
	served := make(chan error, 1)
	go func() { served <- on(c.cpu, c.server, func() error { return serve(fd) }) }()
	err = on(c.cpu, c.client, fn)
	_ = unix.Shutdown(fd, unix.SHUT_RDWR)
	err = errors.Join(err, <-served)
	_ = unix.Close(fd)
	return err
}

// dial connects from one of the client's addresses.
func (c *conversation) dial(from netip.Addr) (int, error) {
	fd, err := socket()
	if err != nil {
		return -1, err
	}
	// The port is chosen at connect, where only the whole tuple has to be free.
	_ = unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: from.As4()}); err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("bind %s: %w", from, err)
	}
	if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: c.target.Addr().As4(), Port: int(c.target.Port())}); err != nil && !errors.Is(err, unix.EINTR) {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("connect %s: %w", c.target, err)
	}
	return fd, nil
}

// exchange sends a byte and waits for one.
func exchange(fd int) error {
	var b [1]byte
	if _, err := again(func() (int, error) { return unix.Write(fd, b[:]) }); err != nil {
		return fmt.Errorf("request: %w", err)
	}
	if n, err := again(func() (int, error) { return unix.Read(fd, b[:]) }); err != nil || n != 1 {
		return fmt.Errorf("response of %d bytes: %w", n, err)
	}
	return nil
}

// stretch is over how long a rate is taken. A busy host disturbs most of a second, seldom all of it.
const stretch = 50 * time.Millisecond

// connections is the number of connect, request, response, close per second, in the best stretch.
func (c *conversation) connections(ctx context.Context, d time.Duration) (float64, error) {
	var n, before int
	var best float64
	err := c.with(c.serve, func() error {
		begin := time.Now()
		for last := begin; last.Sub(begin) < d; {
			if took := time.Since(last); took >= stretch {
				best = max(best, float64(n-before)/took.Seconds())
				before, last = n, time.Now()
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			fd, err := c.dial(clientAddress(n % clientAddresses))
			if err != nil {
				return fmt.Errorf("connection %d: %w", n, err)
			}
			err = exchange(fd)
			_ = unix.Close(fd)
			if err != nil {
				return fmt.Errorf("connection %d: %w", n, err)
			}
			n++
		}
		return nil
	})
	return best, err
}

// latency is the median time in microseconds of a request and its response on an open connection.
func (c *conversation) latency(ctx context.Context, d time.Duration) (float64, error) {
	var times Series
	err := c.with(c.serve, func() error {
		fd, err := c.dial(clientAddress(0))
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(fd) }()
		for start := time.Now(); time.Since(start) < d; {
			if err := ctx.Err(); err != nil {
				return err
			}
			sent := time.Now()
			if err := exchange(fd); err != nil {
				return err
			}
			times = append(times, float64(time.Since(sent).Nanoseconds())/1000)
		}
		return nil
	})
	return times.Median(), err
}

// bulk is the rate in bit/s at which one connection carries data from client to server.
func (c *conversation) bulk(ctx context.Context, d time.Duration) (float64, error) {
	var rate float64
	received := make(chan int, 1)
	swallow := func(fd int) error {
		conn, err := again(func() (int, error) {
			conn, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
			return conn, err
		})
		if err != nil {
			return fmt.Errorf("accept: %w", err)
		}
		defer func() { _ = unix.Close(conn) }()
		b := make([]byte, 1<<18)
		var total int
		for {
			n, err := again(func() (int, error) { return unix.Read(conn, b) })
			if err != nil {
				return fmt.Errorf("receive: %w", err)
			}
			if n == 0 {
				received <- total
				return nil
			}
			total += n
		}
	}
	err := c.with(swallow, func() error {
		fd, err := c.dial(clientAddress(0))
		if err != nil {
			return err
		}
		b := make([]byte, 1<<17)
		start := time.Now()
		for time.Since(start) < d && err == nil {
			if err = ctx.Err(); err == nil {
				_, err = again(func() (int, error) { return unix.Write(fd, b) })
			}
		}
		_ = unix.Shutdown(fd, unix.SHUT_WR)
		if err == nil {
			select {
			case n := <-received:
				rate = float64(n) * 8 / time.Since(start).Seconds()
			case <-time.After(10 * time.Second):
				err = errors.New("the end of the stream did not arrive in 10 s")
			}
		}
		_ = unix.Close(fd)
		return err
	})
	return rate, err
}
