package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/privlink/privlink/pkg/api"
)

const (
	// perSecond is how many connections begin in a second.
	perSecond = 200
	// enough is how many backends are up at least while another is killed: one that flaps is held down.
	enough = 4
	// answered is how long a connection that nothing happens to may be without its first answer, so that it may be one of a
	// death's victims if it began so much before.
	answered = time.Second
)

// death is one end of a backend.
type death struct {
	backend string
	// It began at `at` and was over at `done`: taking an address away takes some milliseconds, and a request that
	// begins meanwhile may be the last that arrives.
	at, done time.Time
	// silent says that its machine went: whoever asks it gets no answer, and its probe must wait until its time is over.
	silent bool
	up     int // backends that took connections, this one included
}

// detection is how long a dead backend may get new connections: until its next probe, for a silent one until that one's
// timeout, and a second for asking, compiling and the kernel.
func (d death) detection() time.Duration {
	if d.silent {
		return 2*interval + time.Second
	}
	return interval + time.Second
}

// bound is how many new connections may fail of it: its share of those that begin until it is detected, and four standard
// deviations.
func (d death) bound() int {
	mean := perSecond * (d.detection() + answered).Seconds() / float64(d.up)
	return int(mean + 4*math.Sqrt(mean))
}

// has says whether a connection that began at a time may have failed of it. Deaths are so far apart that only one has it.
func (d death) has(from time.Time) bool {
	return !from.Before(d.at.Add(-answered)) && from.Before(d.at.Add(d.detection()))
}

// what names its kind.
func (d death) what() string {
	if d.silent {
		return "silent machine"
	}
	return "killed process"
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

// deaths kills and restarts backends until a time and leaves all running. Every third, the first included, is a whole
// machine that falls silent. A death is detected before the next one.
func (w *world) deaths(ctx context.Context, random *rand.Rand, until time.Time) ([]death, error) {
	var all []death
	back := map[*machine]time.Time{} // who is dead, until when
	restart := func(due time.Time) error {
		for m, at := range back {
			if at.After(due) {
				continue
			}
			if err := m.revive(ctx); err != nil {
				return err
			}
			delete(back, m)
		}
		return nil
	}
	some := func(least, more time.Duration) time.Duration {
		return least + time.Duration(random.Int64N(int64(more)))
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
			if _, dead := back[m]; !dead && health[m.ip].State == api.BackendUp {
				up = append(up, m)
			}
		}
		if len(up) <= enough {
			continue
		}
		m := up[random.IntN(len(up))]
		// Before, not after: what fails from here on may have failed of it.
		d := death{backend: m.name, at: time.Now(), silent: len(all)%3 == 0, up: len(up)}
		all = append(all, d)
		if d.silent {
			if err := m.silence(ctx); err != nil {
				return nil, err
			}
			// Longer than anybody waits: a connection that came back with it would not show that it was lost.
			back[m] = d.at.Add(some(d.detection()+patience, 2*time.Second))
		} else {
			m.kill()
			back[m] = d.at.Add(some(time.Second, 10*time.Second))
		}
		all[len(all)-1].done = time.Now()
		next = d.at.Add(some(d.detection()+2*answered, 3*time.Second))
	}
	return all, restart(until.Add(time.Hour))
}

// judge says how many connections failed, and fails for those that had no reason to and for more than one death explains.
func (b *ledger) judge(deaths []death) (string, error) {
	var errs []string
	victims := make([]int, len(deaths))
	late := make(map[bool]time.Duration) // the latest new connection that failed after its death, by kind
	for _, u := range b.unanswered {
		i := slices.IndexFunc(deaths, func(d death) bool { return d.has(u.from) && !u.to.Before(d.at) })
		if i < 0 {
			errs = append(errs, fmt.Sprintf("a new connection failed outside of every detection time, after %v: %v", u.to.Sub(u.from).Round(time.Millisecond), u.err))
			continue
		}
		victims[i]++
		late[deaths[i].silent] = max(late[deaths[i].silent], u.from.Sub(deaths[i].at))
	}
	lost := 0
	for _, x := range b.broken {
		excused := false
		for _, d := range deaths {
			if d.backend == x.backend && !d.done.Before(x.from) && !d.at.After(x.to) {
				excused = true
			}
		}
		if !excused {
			lost++
			errs = append(errs, fmt.Sprintf("a connection to %s, which was alive, broke: %v", x.backend, x.err))
		}
	}
	note := fmt.Sprintf("%d connections, %d requests; on living backends %d lost; %d ended with their backend", b.connections, b.requests, lost, len(b.broken)-lost)
	for _, silent := range []bool{false, true} {
		count, failed, most, kind := 0, 0, 0, death{silent: silent}
		for i, d := range deaths {
			if d.silent != silent {
				continue
			}
			count, failed, most = count+1, failed+victims[i], max(most, victims[i])
			if victims[i] > d.bound() {
				errs = append(errs, fmt.Sprintf("%d new connections failed after a %s, of %d backends that were up: %d at most", victims[i], d.what(), d.up, d.bound()))
			}
		}
		if count == 0 {
			errs = append(errs, fmt.Sprintf("no %s", kind.what()))
		}
		note += fmt.Sprintf("; %s, %d times: %d new ones failed, %d at most of one, the last after %v (detection time %v)",
			kind.what(), count, failed, most, late[silent].Round(time.Millisecond), kind.detection())
	}
	if len(errs) > 0 {
		return note, errors.New(strings.Join(errs[:min(len(errs), 5)], "; "))
	}
	return note, nil
}
