package probe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/sirupsen/logrus/hooks/test"

	"github.com/privlink/privlink/pkg/splice/inner"
)

var errDown = errors.New("down")

// world is a set of backends without a network: a dial fails, or the probe ends with its error.
type world struct {
	mu      sync.Mutex
	asked   map[string]int
	results []Result
	took    time.Duration
	now     atomic.Int64 // probes under way
	most    atomic.Int64
}

func (w *world) dial(ctx context.Context, to inner.Destination) (Conn, error) {
	if n := w.now.Add(1); n > w.most.Load() {
		w.most.Store(n)
	}
	defer w.now.Add(-1)
	if w.took > 0 {
		select {
		case <-time.After(w.took):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked[to.Rule]++
	return nil, errDown
}

func (w *world) report(r Result) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.results = append(w.results, r)
}

func startProber(t *testing.T, w *world) *Prober {
	t.Helper()
	w.asked = make(map[string]int)
	log := logrus.New()
	log.SetOutput(t.Output())
	p := New(w.dial, w.report, log)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		if n := w.now.Load(); n != 0 {
			t.Errorf("%d probes outlive the prober", n)
		}
	})
	return p
}

func checks(n int, interval time.Duration) []Check {
	list := make([]Check, n)
	for i := range list {
		list[i] = Check{Key: fmt.Sprint(i), To: inner.Destination{Rule: fmt.Sprint(i)}, Interval: interval, Timeout: interval}
	}
	return list
}

func TestProber_ThousandChecks_EachOncePerIntervalAndSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{took: 100 * time.Millisecond}
		p := startProber(t, w)
		p.Set(checks(1000, 5*time.Second))
		time.Sleep(time.Minute)
		w.mu.Lock()
		defer w.mu.Unlock()
		for key, n := range w.asked {
			if n < 11 || n > 14 {
				t.Errorf("check %s was asked %d times in a minute, want about 12", key, n)
			}
		}
		if len(w.asked) != 1000 || len(w.results) != 1000 {
			t.Errorf("%d checks asked, %d reported, want 1,000", len(w.asked), len(w.results))
		}
		if most := w.most.Load(); most > MaxAtOnce {
			t.Errorf("%d probes at once", most)
		}
	})
}

// Checks that begin together, as those of one load balancer do, do not stay together: a node's probes would hit its backends, and
// use its processor, all in one moment of each interval.
func TestProber_BegunTogether_DriftApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{}
		p := startProber(t, w)
		const interval, parts = 5 * time.Second, 10
		var moments []time.Time
		dial := p.dial
		p.dial = func(ctx context.Context, to inner.Destination) (Conn, error) {
			w.mu.Lock()
			moments = append(moments, time.Now())
			w.mu.Unlock()
			return dial(ctx, to)
		}
		p.Set(checks(500, interval))
		fullest := func() (most, all int) {
			time.Sleep(time.Until(time.Now().Truncate(interval).Add(interval)))
			w.mu.Lock()
			moments = nil
			w.mu.Unlock()
			time.Sleep(interval)
			w.mu.Lock()
			defer w.mu.Unlock()
			var of [parts + 1]int
			for _, at := range moments {
				of[at.Sub(at.Truncate(interval))*parts/interval]++
			}
			return slices.Max(of[:]), len(moments)
		}
		if most, all := fullest(); most < all/3 {
			t.Fatalf("%d of %d probes in a tenth of the first interval: they did not begin together", most, all)
		}
		time.Sleep(20 * time.Minute)
		if most, all := fullest(); most > all/5 || all < 400 {
			t.Errorf("%d of %d probes in a tenth of the interval, 20 minutes later", most, all)
		}
	})
}

func TestProber_AllSlow_BoundedAtOnceAndAllAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{took: time.Hour}
		p := startProber(t, w)
		p.Set(checks(1000, 5*time.Second))
		time.Sleep(time.Minute)
		if most := w.most.Load(); most != MaxAtOnce/2 {
			t.Errorf("%d probes of one owner at once, want %d", most, MaxAtOnce/2)
		}
		for key, r := range p.Results() {
			if r.Healthy || r.Reason != "connect: no answer in time" {
				t.Fatalf("check %s: %+v", key, r)
			}
		}
		if n := len(p.Results()); n != 1000 {
			t.Errorf("%d results, want 1,000: slow checks starve others", n)
		}
	})
}

// Whoever has backends that keep silent until their probes' time is over, however many, the probes of others keep their interval.
func TestProber_ThousandsSilentOfOthers_IntervalsAreKept(t *testing.T) {
	for _, owners := range []int{1, 20} {
		t.Run(fmt.Sprint(owners, " with silent ones"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := &world{}
				p := startProber(t, w)
				dial := p.dial
				p.dial = func(ctx context.Context, to inner.Destination) (Conn, error) {
					if to.RuleSet == "silent" {
						<-ctx.Done()
						return nil, ctx.Err()
					}
					return dial(ctx, to)
				}
				list := checks(2020, 5*time.Second)
				for i := range list {
					list[i].Owner = "mine"
					if i >= 20 {
						list[i].Owner, list[i].To.RuleSet, list[i].Timeout = fmt.Sprint(i%owners), "silent", 30*time.Second
					}
				}
				p.Set(list)
				time.Sleep(time.Minute) // all places that they can have are theirs
				w.mu.Lock()
				clear(w.asked)
				w.mu.Unlock()
				p.Set(list[20:])
				time.Sleep(time.Minute)
				p.Set(list)
				time.Sleep(time.Minute)
				w.mu.Lock()
				defer w.mu.Unlock()
				for i := range 20 {
					if n := w.asked[fmt.Sprint(i)]; n < 11 || n > 14 {
						t.Errorf("check %d was asked %d times in a minute, want about 12", i, n)
					}
				}
			})
		})
	}
}

// A target that does not answer ARP is not dialled, takes no place, and is down for that reason.
func TestProber_ThousandsUnresolved_TakeNoPlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{took: 100 * time.Millisecond}
		p := startProber(t, w)
		dial := p.dial
		p.dial = func(ctx context.Context, to inner.Destination) (Conn, error) {
			if to.RuleSet == "absent" {
				return nil, fmt.Errorf("%w: admit: %w", inner.ErrNotAdmitted, inner.ErrUnresolved)
			}
			return dial(ctx, to)
		}
		list := checks(2100, 5*time.Second)
		for i := range 2000 {
			list[i].To.RuleSet = "absent"
		}
		p.Set(list)
		time.Sleep(time.Minute)
		w.mu.Lock()
		defer w.mu.Unlock()
		for i := 2000; i < 2100; i++ {
			if n := w.asked[fmt.Sprint(i)]; n < 11 || n > 14 {
				t.Errorf("check %d was asked %d times in a minute, want about 12", i, n)
			}
		}
		if len(w.asked) != 100 || w.most.Load() > 50 {
			t.Errorf("%d targets dialled, %d at once, want 100 of them a few at a time", len(w.asked), w.most.Load())
		}
		for i := range 2000 {
			if r := p.Results()[fmt.Sprint(i)]; r.Healthy || r.Reason != "connect: no answer to ARP" || r.Failed < 11 {
				t.Fatalf("check %d: %+v", i, r)
			}
		}
	})
}

func TestProber_Set_ReplacesAndForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{}
		p := startProber(t, w)
		list := checks(3, 5*time.Second)
		p.Set(list)
		time.Sleep(20 * time.Second)
		before := p.Results()

		list[1].Threshold = 7       // the same question
		list[2].To.Rule = "another" // the same question on another way
		p.Set(list[1:])
		if after := p.Results(); len(after) != 2 || after["1"].Failed != before["1"].Failed || after["2"].Failed != before["2"].Failed {
			t.Errorf("after the change: %+v, before: %+v", after, before)
		}
		w.mu.Lock()
		asked := w.asked["0"]
		w.mu.Unlock()
		time.Sleep(20 * time.Second)
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.asked["0"] != asked {
			t.Error("a removed check is still asked")
		}
		if w.asked["another"] < 3 || p.Results()["2"].Failed < before["2"].Failed+3 {
			t.Errorf("on the new way it was asked %d times", w.asked["another"])
		}
	})
}

// Nobody is taken out for not having been asked yet, unless the others of the group have been.
func TestProber_NewGroup_IsTakenForHealthyUntilAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := startProber(t, &world{})
		list := checks(3, 5*time.Second)
		list[2].Group = "other"
		p.Set(list[:1])
		if r, known := p.Result("0"); !r.Healthy || known {
			t.Errorf("first of its group: %+v, known %v", r, known)
		}
		time.Sleep(5 * time.Second)
		if r, known := p.Result("0"); r.Healthy || !known {
			t.Errorf("asked: %+v, known %v", r, known)
		}
		p.Set(list)
		if r, known := p.Result("1"); r.Healthy || known {
			t.Errorf("new beside one that was asked: %+v, known %v", r, known)
		}
		if r, known := p.Result("2"); !r.Healthy || known {
			t.Errorf("first of another group: %+v, known %v", r, known)
		}
	})
}

func TestProber_RemovedWhileUnderWay_ReportsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{took: 3 * time.Second}
		p := startProber(t, w)
		p.Set(checks(1, 5*time.Second))
		time.Sleep(2 * time.Second)
		p.Set(nil)
		time.Sleep(10 * time.Second)
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.asked["0"] != 1 || len(w.results) != 0 {
			t.Errorf("asked %d times, reported %v", w.asked["0"], w.results)
		}
	})
}

// TestProber_NotAdmittedYet_WaitsInsteadOfFailing: checks come before the dataplane has what they need.
func TestProber_NotAdmittedYet_WaitsInsteadOfFailing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{}
		p := startProber(t, w)
		var admitted atomic.Bool
		dial := p.dial
		p.dial = func(ctx context.Context, to inner.Destination) (Conn, error) {
			if !admitted.Load() {
				return nil, fmt.Errorf("%w: no such backend", inner.ErrNotAdmitted)
			}
			return dial(ctx, to)
		}
		p.Set(checks(1, 15*time.Second))
		time.Sleep(3 * time.Second)
		if len(p.Results()) != 0 {
			t.Fatalf("a probe that was never sent has a result: %+v", p.Results())
		}
		admitted.Store(true)
		time.Sleep(2 * time.Second)
		if r := p.Results()["0"]; r.Reason != "connect: down" {
			t.Errorf("two seconds after it was admitted: %+v", r)
		}
		admitted.Store(false)
		time.Sleep(time.Minute)
		if r := p.Results()["0"]; r.Healthy || r.Reason != "connect: not admitted: no such backend" {
			t.Errorf("a minute after the backend went: %+v", r)
		}
	})
}

// accepted is a connection to a backend that listens, and reads what it is sent.
func accepted() Conn {
	ours, its := net.Pipe()
	go func() { _, _ = io.Copy(io.Discard, its) }()
	return pipe{ours}
}

type pipe struct{ net.Conn }

func (pipe) SetLinger(int) error { return nil }

// What this machine lacks takes no backend out, however long it lasts, and is said once.
func TestProber_NothingCanBeSent_VerdictsStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := startProber(t, &world{})
		said := test.NewLocal(p.log.(*logrus.Logger))
		var lacking atomic.Bool
		p.dial = func(context.Context, inner.Destination) (Conn, error) {
			if lacking.Load() {
				return nil, fmt.Errorf("%w: make socket: %w", inner.ErrLocal, syscall.EMFILE)
			}
			return accepted(), nil
		}
		list := checks(2, 5*time.Second)
		list[1].Group = "other"
		p.Set(list[:1])
		time.Sleep(20 * time.Second)
		before, known := p.Result("0")
		if !known || !before.Healthy {
			t.Fatalf("asked: %+v, known %v", before, known)
		}
		lacking.Store(true)
		p.Set(list)
		time.Sleep(5 * time.Minute)
		if r, _ := p.Result("0"); r != before {
			t.Errorf("minutes after the last probe that was sent: %+v, before %+v", r, before)
		}
		if r, known := p.Result("1"); known || !r.Healthy {
			t.Errorf("never asked: %+v, known %v", r, known)
		}
		lacking.Store(false)
		time.Sleep(10 * time.Second)
		for _, key := range []string{"0", "1"} {
			if r, known := p.Result(key); !known || r.At.Before(before.At.Add(5*time.Minute)) {
				t.Errorf("check %s, when probes can be sent again: %+v, known %v", key, r, known)
			}
		}
		var messages []string
		for _, e := range said.AllEntries() {
			if word, _, _ := strings.Cut(e.Message, ";"); strings.HasPrefix(word, "probes ") {
				messages = append(messages, word)
			}
		}
		if !slices.Equal(messages, []string{"probes cannot be sent", "probes are sent again"}) {
			t.Errorf("it said %q", messages)
		}
	})
}
