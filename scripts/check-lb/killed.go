package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/privlink/privlink/pkg/api"
)

const (
	// detection is how long a dead backend may get new connections: until its next probe, and a second for
	// asking, compiling and the kernel.
	detection = interval + time.Second
	// perSecond is how many connections begin in a second.
	perSecond = 200
	// enough is how many backends are up at least while another is killed: one that flaps is held down.
	enough = 4
)

// death is one kill of a backend.
type death struct {
	backend string
	at      time.Time
}

// unanswered is a connection that failed before its first answer, broken one that failed afterwards.
type unanswered struct {
	from, to time.Time
	err      error
}

type broken struct {
	backend  string
	from, to time.Time // last request that was answered, failure
	err      error
}

// ledger is what became of all connections.
type ledger struct {
	mu          sync.Mutex
	connections int
	requests    int
	unanswered  []unanswered
	broken      []broken
}

// kill kills backends at random while connections begin, and tells those that had to fail from those that had not.
func (w *world) kill(ctx context.Context, o options) (string, error) {
	// Of the connections alone: the backends live on.
	calling, cancel := context.WithCancel(ctx)
	defer cancel()
	random := rand.New(rand.NewPCG(o.seed, 0))
	var book ledger
	var group sync.WaitGroup
	begin := time.Now()
	group.Go(func() { w.connections(calling, &book, begin.Add(o.killing), o.seed) })
	deaths, err := w.deaths(ctx, random, begin.Add(o.killing))
	if err != nil {
		cancel()
	}
	group.Wait()
	if err != nil {
		return "", err
	}
	return joined(book.judge(deaths))
}

// connections begins perSecond connections a second until a time and waits until all have ended.
func (w *world) connections(ctx context.Context, book *ledger, until time.Time, seed uint64) {
	random := rand.New(rand.NewPCG(seed, 1))
	tick := time.NewTicker(time.Second / perSecond)
	defer tick.Stop()
	var group sync.WaitGroup
	defer group.Wait()
	begin, started := time.Now(), 0
	for time.Now().Before(until) && ctx.Err() == nil {
		<-tick.C
		// A tick that comes late begins what was due meanwhile.
		for due := int(time.Since(begin).Seconds() * perSecond); started < due; started++ {
			life := time.Duration(random.Int64N(int64(5 * time.Second)))
			group.Go(func() { w.connection(ctx, book, life) })
		}
	}
}

// connection is one that asks four times a second for as long as it is to live.
func (w *world) connection(ctx context.Context, book *ledger, life time.Duration) {
	from := time.Now()
	c, err := w.call(ctx)
	book.mu.Lock()
	book.connections++
	if err != nil {
		book.unanswered = append(book.unanswered, unanswered{from, time.Now(), err})
	}
	book.mu.Unlock()
	if err != nil {
		return
	}
	defer c.conn.Close()
	// When the last request that was answered was sent: its answer may be read after the backend's death.
	good := from
	for end := from.Add(life); time.Now().Before(end); {
		select {
		case <-time.After(250 * time.Millisecond):
		case <-ctx.Done():
			return
		}
		sent := time.Now()
		if err = c.ask(); err != nil {
			break
		}
		good = sent
	}
	book.mu.Lock()
	defer book.mu.Unlock()
	book.requests += c.serial
	if err != nil {
		book.broken = append(book.broken, broken{c.backend, good, time.Now(), err})
	}
}

// deaths kills and restarts backends until a time and leaves all running.
func (w *world) deaths(ctx context.Context, random *rand.Rand, until time.Time) ([]death, error) {
	var all []death
	back := map[*machine]time.Time{} // who is dead, until when
	restart := func(due time.Time) error {
		for m, at := range back {
			if at.After(due) {
				continue
			}
			if err := m.start(ctx); err != nil {
				return err
			}
			delete(back, m)
		}
		return nil
	}
	next := time.Now().Add(time.Second)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for time.Now().Before(until) {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-tick.C:
		}
		if err := restart(time.Now()); err != nil {
			return nil, err
		}
		if time.Now().Before(next) {
			continue
		}
		health, err := w.health(ctx)
		if err != nil {
			return nil, err
		}
		var up []*machine
		for _, m := range w.machines[:poolSize] {
			if m.process != nil && health[m.ip].State == api.BackendUp {
				up = append(up, m)
			}
		}
		if len(up) <= enough {
			continue
		}
		m := up[random.IntN(len(up))]
		// Before, not after: what fails from here on may have failed of it.
		all = append(all, death{m.name, time.Now()})
		m.kill()
		back[m] = time.Now().Add(time.Second + time.Duration(random.Int64N(int64(10*time.Second))))
		next = time.Now().Add(4*time.Second + time.Duration(random.Int64N(int64(6*time.Second))))
	}
	return all, restart(until.Add(time.Hour))
}

// judge says how many connections failed, and fails for those that had no reason to.
func (b *ledger) judge(deaths []death) (string, error) {
	var errs []string
	late := time.Duration(0) // the latest new connection that failed, after the death before it
	for _, u := range b.unanswered {
		excused := false
		for _, d := range deaths {
			if !u.to.Before(d.at) && u.from.Before(d.at.Add(detection)) {
				excused = true
			}
		}
		if !excused {
			errs = append(errs, fmt.Sprintf("a new connection failed outside of every detection time, after %v: %v", u.to.Sub(u.from).Round(time.Millisecond), u.err))
			continue
		}
		for i := len(deaths) - 1; i >= 0; i-- {
			if after := u.from.Sub(deaths[i].at); after >= 0 {
				late = max(late, after)
				break
			}
		}
	}
	lost := 0
	for _, x := range b.broken {
		excused := false
		for _, d := range deaths {
			if d.backend == x.backend && !d.at.Before(x.from) && !d.at.After(x.to) {
				excused = true
			}
		}
		if !excused {
			lost++
			errs = append(errs, fmt.Sprintf("a connection to %s, which was alive, broke: %v", x.backend, x.err))
		}
	}
	note := fmt.Sprintf("%d kills, %d connections, %d requests; on living backends %d lost; %d ended with their backend; "+
		"%d new ones failed, the last %v after a kill (detection time %v)", len(deaths), b.connections, b.requests, lost, len(b.broken)-lost,
		len(b.unanswered), late.Round(time.Millisecond), detection)
	if len(deaths) == 0 {
		errs = append(errs, "nobody was killed")
	}
	if len(errs) > 0 {
		return note, errors.New(strings.Join(errs[:min(len(errs), 5)], "; "))
	}
	return note, nil
}
