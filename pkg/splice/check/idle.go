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

	"github.com/privlink/privlink/pkg/lab"
)

var idleCases = []namedCase{
	{"idle timeout 10 s: silent connection ends, both ends reset", func(ctx context.Context, s *suite) (string, error) { return s.quiet(ctx, nobodyKeeps) }},
	{"idle timeout 10 s: consumer's TCP keepalives keep it", func(ctx context.Context, s *suite) (string, error) { return s.quiet(ctx, consumerKeeps) }},
	{"idle timeout 10 s: backend's TCP keepalives keep it", func(ctx context.Context, s *suite) (string, error) { return s.quiet(ctx, backendKeeps) }},
	{"client silent for a minute, then served", silentMinute},
	{"8,000 idle connections at once: each usable after 330 s with a timeout of 900 s", idleUsable},
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
		if took < 9*time.Second || took > 13*time.Second {
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
	wait := pick(s, time.Minute, 5*time.Second)
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

// openMany opens echoing connections, half from each consumer, and uses each once.
func (s *suite) openMany(ctx context.Context, count int, port uint16) ([]*net.TCPConn, error) {
	conns := make([]*net.TCPConn, count)
	err := parallel(count, 64, func(i int) error {
		c, err := s.dial(ctx, i%2, "", "azure", port)
		if err != nil {
			return err
		}
		conns[i] = c
		if err := c.SetKeepAlive(false); err != nil {
			return err
		}
		return echoed(c, fmt.Sprintf("connection %d", i))
	})
	return conns, err
}

func closeAll(conns []*net.TCPConn) {
	for _, c := range conns {
		if c != nil {
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
	count, wait := pick(s, 8000, 800), pick(s, 330*time.Second, 15*time.Second)
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
	descriptors := float64(open.Descriptors-before.Descriptors-2*int(open.Splice.Pipes-before.Splice.Pipes)) / float64(count)
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
	count := pick(s, 8000, 800)
	port, limit := uint16(portIdleDefault), 301*time.Second
	if s.quick {
		port, limit = portIdleShort+0, 0
	}
	if limit == 0 {
		return "only in the full run: the default is 300 s", nil
	}
	if err := s.settle(ctx); err != nil {
		return "", err
	}
	before, err := s.stats()
	if err != nil {
		return "", err
	}
	conns, err := s.openMany(ctx, count, port)
	defer closeAll(conns)
	if err != nil {
		return "", err
	}
	last := time.Now()
	var latest time.Duration
	var mu sync.Mutex
	err = parallel(count, count, func(i int) error {
		if err := conns[i].SetDeadline(last.Add(limit + 30*time.Second)); err != nil {
			return err
		}
		_, err := conns[i].Read(make([]byte, 1))
		mu.Lock()
		latest = max(latest, time.Since(last))
		mu.Unlock()
		if !errors.Is(err, syscall.ECONNRESET) {
			return fmt.Errorf("after %v: %w", time.Since(last), err)
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	after, err := s.stats()
	if err != nil {
		return "", err
	}
	note := fmt.Sprintf("the last after %v, %d by the idle timeout", latest.Round(100*time.Millisecond), after.Idle-before.Idle)
	if latest > limit+2*time.Second {
		return note, errors.New("too late")
	}
	return note, nil
}

// settle waits until no proxied connection is left of earlier cases.
func (s *suite) settle(_ context.Context) error {
	return lab.Poll(20*time.Second, func() error {
		now, err := s.stats()
		if err != nil {
			return err
		}
		if now.Active != 0 {
			return fmt.Errorf("%d connections of earlier cases are left", now.Active)
		}
		return nil
	})
}
