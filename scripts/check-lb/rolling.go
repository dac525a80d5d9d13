package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

const (
	callers     = 100   // connections at once
	perCall     = 10    // requests of a connection
	minRequests = 10001 // of all
)

// rolled is what became of the requests during the replacement.
type rolled struct {
	mu               sync.Mutex
	requests, failed int
	served           map[string]int // requests by backend
	first            error          // of the failures
}

// replace replaces every backend by a new one while callers ask, and counts what failed.
func (w *world) replace(ctx context.Context) (*rolled, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r := &rolled{served: map[string]int{}}
	before, after := slices.Clone(w.machines[:poolSize]), w.machines[poolSize:]
	// Who was killed often is held down for a while.
	if err := w.up(ctx, before...); err != nil {
		return r, err
	}
	done := make(chan struct{})
	var group sync.WaitGroup
	for range callers {
		group.Go(func() {
			for {
				select {
				case <-done:
					return
				case <-ctx.Done():
					return
				default:
					w.conversation(ctx, r)
				}
			}
		})
	}
	err := w.roll(ctx, before, after)
	for err == nil && r.count() < minRequests && ctx.Err() == nil {
		time.Sleep(50 * time.Millisecond)
	}
	close(done)
	group.Wait()
	if err != nil {
		return r, err
	}
	errs := []error{r.first}
	for _, m := range after {
		if r.served[m.name] == 0 {
			errs = append(errs, fmt.Errorf("new backend %s served nothing", m.name))
		}
	}
	return r, errors.Join(errs...)
}

// roll brings in one new backend at a time, and takes an old one out when the new one is up. An old one's process
// ends when its drain period is over.
func (w *world) roll(ctx context.Context, before, after []*machine) error {
	var ending sync.WaitGroup
	defer ending.Wait()
	for i, fresh := range after {
		if err := fresh.start(ctx); err != nil {
			return err
		}
		if err := w.pool(ctx, append(slices.Clone(before[i:]), after[:i+1]...)); err != nil {
			return err
		}
		if err := w.up(ctx, fresh); err != nil {
			return err
		}
		if err := w.pool(ctx, append(slices.Clone(before[i+1:]), after[:i+1]...)); err != nil {
			return err
		}
		ending.Go(func() {
			select {
			case <-time.After(drain + time.Second):
				before[i].kill()
			case <-ctx.Done():
			}
		})
	}
	return nil
}

func (r *rolled) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.requests
}

// conversation is one connection with its requests. What was not asked any more after a failure is not counted.
func (w *world) conversation(ctx context.Context, r *rolled) {
	began := time.Now()
	c, err := w.call(ctx)
	r.note(c, began, err)
	if err != nil {
		return
	}
	defer c.conn.Close()
	for range perCall - 1 {
		time.Sleep(50 * time.Millisecond) // a client's pause for thought
		err := c.ask()
		r.note(c, began, err)
		if err != nil {
			return
		}
	}
}

func (r *rolled) note(c *caller, began time.Time, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests++
	if err == nil {
		r.served[c.backend]++
		return
	}
	r.failed++
	if r.first == nil {
		with := "nobody"
		if c != nil {
			with = c.backend
		}
		r.first = fmt.Errorf("a connection with %s, %v old: %w", with, time.Since(began).Round(time.Millisecond), err)
	}
}
