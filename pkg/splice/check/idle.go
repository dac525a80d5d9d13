package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

var idleCases = []namedCase{
	{"idle timeout 10 s: silent connection ends, both ends reset", func(ctx context.Context, s *suite) (string, error) { return s.quiet(ctx, nobodyKeeps) }},
	{"idle timeout 10 s: consumer's TCP keepalives keep it", func(ctx context.Context, s *suite) (string, error) { return s.quiet(ctx, consumerKeeps) }},
	{"idle timeout 10 s: backend's TCP keepalives keep it", func(ctx context.Context, s *suite) (string, error) { return s.quiet(ctx, backendKeeps) }},
	{"client silent for a minute, then served", silentMinute},
	{nameIdle, idleUsable},
	{"8,000 idle connections at once: all ended by 301 s with the default", idleEnded},
}

type keeper uint8

const (
	nobodyKeeps keeper = iota
	consumerKeeps
	backendKeeps
)

// quiet leaves a connection alone for longer than its rule's ten seconds.
func (s *suite) quiet(ctx context.Context, k keeper) (string, error) {
	if s.quick && k != nobodyKeeps {
		return "", leftOut("three timeouts have to pass")
	}
	client, err := s.dial(ctx, 0, "", "azure", portIdleShort)
	if err != nil {
		return "", err
	}
	defer client.Close()
	server, err := take(ctx, s.servers.idle)
	if err != nil {
		return "", err
	}
	defer server.Close()
	for c, on := range map[*net.TCPConn]bool{client: k == consumerKeeps, server.TCPConn: k == backendKeeps} {
		if err := c.SetKeepAliveConfig(net.KeepAliveConfig{Enable: on, Idle: 3 * time.Second, Interval: 3 * time.Second, Count: 5}); err != nil {
			return "", err
		}
	}
	if err := echoBetween(client, server, "hello"); err != nil {
		return "", err
	}
	start := time.Now()
	if k == nobodyKeeps {
		if err := errors.Join(expectReset(client), expectReset(server)); err != nil {
			return "", err
		}
		took := time.Since(start)
		if took < 9*time.Second || took > 11*time.Second {
			return "", fmt.Errorf("ended after %v", took)
		}
		return fmt.Sprintf("after %v", took.Round(100*time.Millisecond)), nil
	}

	// Three timeouts; both flows must live that long.
	if err := client.SetReadDeadline(start.Add(35 * time.Second)); err != nil {
		return "", err
	}
	if _, err := client.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		return "", fmt.Errorf("after %v: %w", time.Since(start), err)
	}
	if err := client.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return "", err
	}
	if err := echoBetween(client, server, "still there"); err != nil {
		return "", err
	}
	return "alive after 35 s", nil
}

func silentMinute(ctx context.Context, s *suite) (string, error) {
	const wait = time.Minute
	if s.quick {
		return "", leftOut("it takes a minute")
	}
	client, server, err := s.pairOf(ctx, 0, "azure")
	if err != nil {
		return "", err
	}
	defer client.Close()
	defer server.Close()
	if err := pause(ctx, wait); err != nil {
		return "", err
	}
	if err := errors.Join(client.SetDeadline(time.Now().Add(5*time.Second)), server.SetDeadline(time.Now().Add(5*time.Second))); err != nil {
		return "", err
	}
	return wait.String(), echoBetween(client, server, "at last")
}

// pause waits for time that is itself the case's subject.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// used is an open connection, and when its last byte passed at the earliest and at the latest.
type used struct {
	*net.TCPConn
	earliest, latest time.Time
}

// openMany opens echoing connections, half from each consumer, and uses each once.
func (s *suite) openMany(ctx context.Context, count int, port uint16) ([]used, error) {
	conns := make([]used, count)
	err := parallel(count, 64, func(i int) error {
		c, err := s.dial(ctx, i%2, "", "azure", port)
		if err != nil {
			return err
		}
		conns[i].TCPConn = c
		if err := c.SetKeepAlive(false); err != nil {
			return err
		}
		conns[i].earliest = time.Now()
		err = echoed(c, fmt.Sprintf("connection %d", i))
		conns[i].latest = time.Now()
		return err
	})
	return conns, err
}

func closeAll(conns []used) {
	for _, c := range conns {
		if c.TCPConn != nil {
			c.Close()
		}
	}
}

// parallel runs fn for 0..count-1, at most width at once, and returns the first error.
func parallel(count, width int, fn func(int) error) error {
	var group sync.WaitGroup
	var once sync.Once
	var first error
	next := make(chan int)
	for range width {
		group.Go(func() {
			for i := range next {
				if err := fn(i); err != nil {
					once.Do(func() { first = fmt.Errorf("number %d: %w", i, err) })
				}
			}
		})
	}
	for i := range count {
		next <- i
	}
	close(next)
	group.Wait()
	return first
}

func idleUsable(ctx context.Context, s *suite) (string, error) {
	count, wait := pick(s, 8000, 800), pick(s, 330*time.Second, 2*time.Second)
	// A process that has served before has memory to spare, and would show less than it takes.
	if err := s.restart(ctx); err != nil {
		return "", err
	}
	before, err := s.numbers()
	if err != nil {
		return "", err
	}
	conns, err := s.openMany(ctx, count, portIdleLong)
	defer closeAll(conns)
	if err != nil {
		return "", err
	}
	open, err := s.numbers()
	if err != nil {
		return "", err
	}
	perConn := float64(open.RSS-before.RSS) / float64(count)
	descriptors := float64(open.Descriptors-before.Descriptors) / float64(count)
	// Client's and backend's sockets are this kernel's, too: two of four are the splice's.
	kernel := float64(open.Slab-before.Slab) / float64(count) / 2
	note := fmt.Sprintf("%d open, %.0f B of RSS, %.0f B of kernel memory and %.2f descriptors each, %d pipes",
		open.Splice.Active, perConn, kernel, descriptors, open.Splice.Pipes)
	if int(open.Splice.Active) < count {
		return note, errors.New("not all are open")
	}
	if perConn > 8000 {
		return note, errors.New("more than 8 kB each")
	}
	if descriptors > 2.01 {
		return note, errors.New("more than two descriptors each")
	}
	if err := pause(ctx, wait); err != nil {
		return note, err
	}
	err = parallel(count, 64, func(i int) error {
		if err := conns[i].SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			return err
		}
		return echoed(conns[i], fmt.Sprintf("again %d", i))
	})
	return fmt.Sprintf("%s, after %v all answer", note, wait), err
}

func idleEnded(ctx context.Context, s *suite) (string, error) {
	if s.quick {
		return "", leftOut("the default is 300 s")
	}
	const count = 8000
	if _, err := s.settle(); err != nil {
		return "", err
	}
	before, err := s.stats()
	if err != nil {
		return "", err
	}
	conns, err := s.openMany(ctx, count, portIdleDefault)
	defer closeAll(conns)
	if err != nil {
		return "", err
	}
	// Each counts from its own last byte, which passed the splice between two moments that we know.
	ends := make([]time.Time, count)
	err = parallel(count, count, func(i int) error {
		if err := conns[i].SetDeadline(conns[i].latest.Add(330 * time.Second)); err != nil {
			return err
		}
		_, err := conns[i].Read(make([]byte, 1))
		ends[i] = time.Now()
		if !errors.Is(err, syscall.ECONNRESET) {
			return fmt.Errorf("after %v: %w", ends[i].Sub(conns[i].latest), err)
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	shortest, longest := time.Hour, time.Duration(0)
	for i, c := range conns {
		shortest, longest = min(shortest, ends[i].Sub(c.earliest)), max(longest, ends[i].Sub(c.latest))
	}
	after, err := s.stats()
	if err != nil {
		return "", err
	}
	ended := after.Idle - before.Idle
	note := fmt.Sprintf("%v to %v after the last byte of each, %d by the idle timeout", shortest.Round(10*time.Millisecond), longest.Round(10*time.Millisecond), ended)
	if shortest < 299*time.Second || longest > 301*time.Second || ended != count {
		return note, errors.New("want 299 s to 301 s, and every one")
	}
	return note, nil
}
