package probe

import (
	"container/heap"
	"context"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
)

// quantum is how long due checks wait for company: threads that wake for several probes at once cost
// a fraction of waking for each.
const quantum = 100 * time.Millisecond

// MaxAtOnce bounds the probes under way, and with them descriptors. An owner has at most as many of them as are free: a
// single one up to a half, two a third each. So whatever backends of others keep silent until their probes' time is over,
// an owner whose backends answer finds places, and its probes keep their interval.
const MaxAtOnce = 400

// A check may be set before the dataplane knows its backend: such a probe is put off so often, and so
// long, before it counts as failed.
const (
	maxWaited    = 5
	waitAdmitted = time.Second
)

// Prober asks a set of checks. The caller replaces the set as often as it likes.
type Prober struct {
	dial   Dial
	report func(Result)
	log    logrus.FieldLogger
	random func() float64 // 0..1

	wake chan struct{} // the queue's head may have changed
	done chan outcome

	mu       sync.Mutex
	entries  map[string]*entry
	queue    queue
	underWay int
	owners   map[string]*owner // with something due or under way
	unable   bool              // the last probe could not be sent
}

// owner is what checks of one owner have to do with each other. Guarded by the prober's lock.
type owner struct {
	waiting  []*entry // due, in the order in which they became so
	underWay int
}

// entry is a check with its history. Guarded by the prober's lock.
type entry struct {
	check   Check
	history history
	result  Result
	due     time.Time
	place   int  // in the queue, -1 = waiting, under way or removed
	removed bool // or replaced
	waited  int  // probes in a row that the dialler did not admit
}

type outcome struct {
	entry   *entry
	verdict verdict
	reason  string
	at      time.Time
	took    time.Duration
}

// New returns a prober. report is called for a check's first result and whenever its verdict
// changes, from one goroutine at a time; it must not block for long and may call Set.
func New(dial Dial, report func(Result), log logrus.FieldLogger) *Prober {
	return &Prober{
		dial: dial, report: report, log: log, random: rand.Float64,
		wake: make(chan struct{}, 1), done: make(chan outcome, MaxAtOnce),
		entries: make(map[string]*entry), owners: make(map[string]*owner),
	}
}

// Set replaces the checks. One that is the same as before keeps history and schedule; one whose
// times, threshold or way to the backend changed keeps its verdict; a new one is asked within a tenth of its interval.
func (p *Prober) Set(checks []Check) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	before := p.entries
	groups := make(map[string]bool)
	for _, old := range before {
		groups[old.check.Group] = true
	}
	p.entries = make(map[string]*entry, len(checks))
	for _, c := range checks {
		c = c.withDefaults()
		old := before[c.Key]
		if old != nil && old.check == c {
			p.entries[c.Key] = old
			delete(before, c.Key)
			continue
		}
		e := &entry{check: c, due: now.Add(p.part(c.Interval / 10)), result: Result{Key: c.Key, Healthy: !groups[c.Group]}}
		if old != nil && old.check.sameQuestion(c) {
			e.history, e.result = old.history, old.result
		}
		p.entries[c.Key] = e
		heap.Push(&p.queue, e)
	}
	for _, old := range before {
		old.removed = true
		if old.place >= 0 {
			heap.Remove(&p.queue, old.place)
		}
	}
	p.notify()
}

// sameQuestion says whether the answers to one check are answers to the other.
func (c Check) sameQuestion(other Check) bool {
	c.Group, c.Owner, c.Interval, c.Timeout, c.Threshold, c.Expects = other.Group, other.Owner, other.Interval, other.Timeout, other.Threshold, other.Expects
	c.To.RuleSet, c.To.Rule, c.To.Link = other.To.RuleSet, other.To.Rule, other.To.Link
	return c == other
}

// Results returns what is known, by key; checks without a first result are not among them.
func (p *Prober) Results() map[string]Result {
	p.mu.Lock()
	defer p.mu.Unlock()
	results := make(map[string]Result, len(p.entries))
	for key, e := range p.entries {
		if e.history.known {
			results[key] = e.result
		}
	}
	return results
}

// Result returns what is known of one check; ok is false before its first result, and Healthy then is what it is
// taken for (see Check.Group).
func (p *Prober) Result(key string) (r Result, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.entries[key]
	if e == nil {
		return Result{}, false
	}
	return e.result, e.history.known
}

// Keys returns the keys of all checks, sorted.
func (p *Prober) Keys() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Sorted(maps.Keys(p.entries))
}

// Run asks until the context ends, and returns when no probe is under way any more.
func (p *Prober) Run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	underWay := 0
	for {
		next := time.Duration(math.MaxInt64)
		if ctx.Err() == nil {
			var due []*entry
			due, next = p.take()
			for _, e := range due {
				underWay++
				go p.ask(ctx, e, e.check)
			}
		} else if underWay == 0 {
			return
		}
		timer.Reset(next)

		select {
		case o := <-p.done:
			underWay--
			p.free(o.entry)
			if ctx.Err() == nil { // what was cut short says nothing
				p.learn(o)
			}
		case <-timer.C:
		case <-p.wake:
		case <-p.ended(ctx):
		}
	}
}

// ended is the context's end, once: afterwards only probes under way are waited for.
func (p *Prober) ended(ctx context.Context) <-chan struct{} {
	if ctx.Err() != nil {
		return nil
	}
	return ctx.Done()
}

// ask runs one probe; the check is passed by value, as the entry is guarded.
func (p *Prober) ask(ctx context.Context, e *entry, c Check) {
	start := time.Now()
	v, why := ask(ctx, p.dial, &c)
	end := time.Now()
	p.done <- outcome{e, v, why, end, end.Sub(start)}
}

// take gives out those due entries that may be asked now, and says when the next one is due.
func (p *Prober) take() (now []*entry, next time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	at := time.Now()
	for len(p.queue) > 0 && !p.queue[0].due.After(at) {
		e := heap.Pop(&p.queue).(*entry)
		o := p.owners[e.check.Owner]
		if o == nil {
			o = &owner{}
			p.owners[e.check.Owner] = o
		}
		o.waiting = append(o.waiting, e)
	}
	for e := p.pick(); e != nil; e = p.pick() {
		now = append(now, e)
	}
	if len(p.queue) == 0 {
		return now, time.Hour // something will wake the scheduler
	}
	return now, max(p.queue[0].due.Sub(at), quantum)
}

// pick takes the first entry that waits of an owner who may have one more under way, and of these the one who has the
// fewest.
func (p *Prober) pick() *entry {
	var least *owner
	for name, o := range p.owners {
		for len(o.waiting) > 0 && o.waiting[0].removed {
			o.waiting = o.waiting[1:]
		}
		p.forget(name, o)
		if len(o.waiting) > 0 && o.underWay < MaxAtOnce-p.underWay && (least == nil || o.underWay < least.underWay) {
			least = o
		}
	}
	if least == nil {
		return nil
	}
	e := least.waiting[0]
	least.waiting = least.waiting[1:]
	least.underWay++
	p.underWay++
	return e
}

// free gives back an entry's place among those under way.
func (p *Prober) free(e *entry) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.underWay--
	o := p.owners[e.check.Owner]
	o.underWay--
	p.forget(e.check.Owner, o)
}

// forget lets go of an owner with nothing to do.
func (p *Prober) forget(name string, o *owner) {
	if len(o.waiting)+o.underWay == 0 {
		delete(p.owners, name)
	}
}

// learn puts an outcome into the entry's history and schedules its next probe.
func (p *Prober) learn(o outcome) {
	p.mu.Lock()
	e := o.entry
	if e.removed {
		p.mu.Unlock()
		return
	}
	p.sayUnable(o)
	if o.verdict == unable || o.verdict == notAdmitted && e.waited < maxWaited {
		if o.verdict == notAdmitted {
			e.waited++
		}
		e.due = o.at.Add(min(waitAdmitted, e.check.Interval))
		heap.Push(&p.queue, e)
		p.mu.Unlock()
		return
	}
	if o.verdict != notAdmitted {
		e.waited = 0
	}
	changed := e.history.observe(o.verdict == well, &e.check, o.at)
	e.result.Healthy, e.result.Since = e.history.healthy, e.history.since
	e.result.Reason, e.result.At, e.result.Took = o.reason, o.at, o.took
	if o.verdict == well {
		e.result.Succeeded++
	} else {
		e.result.Failed++
	}
	// From the start of the last probe, give or take a tenth, and never at once.
	c := &e.check
	e.due = o.at.Add(max(c.Interval/10, c.Interval*9/10+p.part(c.Interval/5)-o.took))
	heap.Push(&p.queue, e)
	result := e.result
	p.mu.Unlock()

	if changed {
		p.log.WithFields(logrus.Fields{"check": result.Key, "healthy": result.Healthy, "reason": result.Reason}).Info("backend health")
		p.report(result)
	}
}

// sayUnable logs once that probes cannot be sent, and once that they can again. The lock is held.
func (p *Prober) sayUnable(o outcome) {
	if is := o.verdict == unable; is != p.unable {
		p.unable = is
		if is {
			p.log.WithField("reason", o.reason).Error("probes cannot be sent; backends count as what they were until they can (privlink doctor says what is missing)")
		} else {
			p.log.Info("probes are sent again")
		}
	}
}

// part is a random part of d.
func (p *Prober) part(d time.Duration) time.Duration {
	return time.Duration(p.random() * float64(d))
}

func (p *Prober) notify() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// queue is a heap of entries by due time.
type queue []*entry

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].due.Before(q[j].due) }
func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].place, q[j].place = i, j
}

// Push is heap.Interface's.
func (q *queue) Push(x any) {
	e := x.(*entry)
	e.place = len(*q)
	*q = append(*q, e)
}

// Pop is heap.Interface's.
func (q *queue) Pop() any {
	last := len(*q) - 1
	e := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	e.place = -1
	return e
}
