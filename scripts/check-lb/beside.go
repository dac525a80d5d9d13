package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/privlink/privlink/pkg/lab"
)

// beside is traffic that goes on while something is measured: one connection that asks all the time, and new ones.
type beside struct {
	stop   context.CancelFunc
	group  sync.WaitGroup
	mu     sync.Mutex
	asked  int
	opened int
	failed []error
}

// talk begins it, from a namespace to an address that answers as serve does.
func talk(ctx context.Context, from *lab.Namespace, to string) (*beside, error) {
	b := &beside{}
	dial := func(ctx context.Context) (*caller, error) {
		conn, err := from.Dial(ctx, "tcp4", "", to)
		if err != nil {
			return nil, err
		}
		c := newCaller(conn)
		if err := c.ask(); err != nil {
			conn.Close()
			return nil, err
		}
		return c, nil
	}
	var kept *caller
	err := lab.Poll(30*time.Second, func() (err error) {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		kept, err = dial(ctx)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("begin the traffic beside: %w", err)
	}
	running, stop := context.WithCancel(ctx)
	b.stop = stop
	every := func(pause time.Duration, do func() error, count *int) {
		b.group.Go(func() {
			tick := time.NewTicker(pause)
			defer tick.Stop()
			for {
				select {
				case <-running.Done():
					return
				case <-tick.C:
				}
				err := do()
				b.mu.Lock()
				*count++
				if err != nil {
					b.failed = append(b.failed, err)
				}
				b.mu.Unlock()
			}
		})
	}
	every(5*time.Millisecond, kept.ask, &b.asked)
	every(50*time.Millisecond, func() error {
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		c, err := dial(ctx)
		if err != nil {
			return err
		}
		return c.conn.Close()
	}, &b.opened)
	context.AfterFunc(running, func() {
		b.group.Wait()
		kept.conn.Close()
	})
	return b, nil
}

// end says what became of it.
func (b *beside) end() (note string, err error) {
	b.stop()
	b.group.Wait()
	note = fmt.Sprintf("beside it %d requests and %d new connections, %d failed", b.asked, b.opened, len(b.failed))
	if b.asked == 0 || b.opened == 0 {
		return note, errors.New("no traffic beside")
	}
	if len(b.failed) > 0 {
		return note, b.failed[0]
	}
	return note, nil
}
