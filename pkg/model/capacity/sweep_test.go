package capacity

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/privlink/privlink/pkg/dataplane"
	"github.com/privlink/privlink/pkg/model"
	"github.com/privlink/privlink/pkg/model/program"
)

const (
	million = 1_000_000
	living  = 1000 // flows that go on meanwhile
)

// longestSlice is what no slice may take by the clock on the wall. It ends after dataplane.SweepBudget, a
// fifth of that. At real-time priority only an interrupt, or a hypervisor, can hold one up: a slice that took
// longer on the wall, and not of its processor, was interrupted, and no more than interruptedSlices in a
// hundred may be. One that used its processor for longer is too long, whatever happened.
const (
	longestSlice      = 5 * time.Millisecond
	interruptedSlices = 1
)

// swept is what a sweep took.
type swept struct {
	processor    time.Duration // in all
	longest      time.Duration // slice, on the wall
	slices       int
	interrupted  int
	longestOwned time.Duration // slice, of the processor
}

// A million idle pairs are swept while another CPU forwards: nothing is lost there, it takes at most
// half as long as opening them did (without what running a program for each of them costs), and no slice
// takes longer than it may.
func TestSweep_MillionIdlePairsUnderTraffic_FastAndHarmless(t *testing.T) {
	onSite(t, 1<<23, natIPs, backendPorts, func(s *site) error {
		lane := s.Lane()
		f := newFrame(model.UDP, macs[0], model.MAC{2, 9})
		empty, err := s.emptyRun(lane, f)
		if err != nil {
			return err
		}
		if err := s.refresh(lane, f, living); err != nil {
			return err
		}
		// From here on, so that opening has it beside itself, too.
		traffic, err := s.traffic()
		if err != nil {
			return err
		}
		defer traffic.end()
		begin := cpuTime()
		for i := living; i < living+million; i++ {
			src, sport := client(i)
			left, _, err := lane.Send(s.indexes[0], f.address(src, endpoint, sport, uint16(firstPort+i%backendPorts)))
			if err != nil {
				return err
			}
			if !left {
				return fmt.Errorf("flow %d was not opened", i)
			}
		}
		opening := cpuTime() - begin - million*empty
		s.at(s.now + 200)
		if err := traffic.round(); err != nil {
			return err
		}
		s.at(s.now + 150) // the others were silent for 350 s

		if err := realTime(true); err != nil {
			return err
		}
		sweep, err := s.sweepAll()
		if err := errors.Join(err, realTime(false), traffic.end()); err != nil {
			return err
		}
		t.Logf("opened in %v, besides test runs of %v each; swept in %v, %d slices, longest %v (%v of the processor), %d interrupted",
			opening, empty, sweep.processor, sweep.slices, sweep.longest, sweep.longestOwned, sweep.interrupted)
		if s.Pairs() != living {
			t.Errorf("%d pairs are left, want %d", s.Pairs(), living)
		}
		if sweep.processor > opening/2 {
			t.Errorf("swept in %v, opened in %v", sweep.processor, opening)
		}
		if sweep.longestOwned > longestSlice {
			t.Errorf("a slice took %v of the processor, at most %v allowed", sweep.longestOwned, longestSlice)
		}
		if sweep.interrupted*100 > interruptedSlices*sweep.slices {
			t.Errorf("%d of %d slices took more than %v, up to %v", sweep.interrupted, sweep.slices, longestSlice, sweep.longest)
		}
		return nil
	})
}

// traffic is a thread that refreshes the first flows, round after round.
type traffic struct {
	stop   atomic.Bool
	rounds atomic.Uint64
	wait   sync.WaitGroup
	err    error // after wait
}

func (s *site) traffic() (*traffic, error) {
	join, leave, err := program.Joiner()
	if err != nil {
		return nil, err
	}
	w := new(traffic)
	w.wait.Go(func() {
		defer leave()
		if w.err = join(); w.err != nil {
			return
		}
		lane, f := s.Lane(), newFrame(model.UDP, macs[0], model.MAC{2, 9})
		for ; !w.stop.Load() && w.err == nil; w.rounds.Add(1) {
			w.err = s.refresh(lane, f, living)
		}
	})
	return w, nil
}

// round waits until every flow has been refreshed from now on.
func (w *traffic) round() error {
	limit := time.Now().Add(time.Minute)
	for target := w.rounds.Load() + 2; w.rounds.Load() < target; time.Sleep(time.Millisecond) {
		if time.Now().After(limit) {
			return errors.Join(errors.New("the traffic stands still"), w.end())
		}
	}
	return nil
}

// end ends it and says what it lost.
func (w *traffic) end() error {
	w.stop.Store(true)
	w.wait.Wait()
	return w.err
}

// realTime puts the calling thread before all that are not, or back among them.
func realTime(on bool) error {
	attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_NORMAL}
	if on {
		attr.Policy, attr.Priority = unix.SCHED_FIFO, 1
	}
	if err := unix.SchedSetAttr(0, &attr, 0); err != nil {
		return fmt.Errorf("real-time priority %t: %w", on, err)
	}
	return nil
}

// refresh sends a datagram on the first n flows.
func (s *site) refresh(lane *program.Lane, f frame, n int) error {
	for i := range n {
		src, sport := client(i)
		left, _, err := lane.Send(s.indexes[0], f.address(src, endpoint, sport, uint16(firstPort+i%backendPorts)))
		if err != nil {
			return err
		}
		if !left {
			return fmt.Errorf("flow %d lost a datagram", i)
		}
	}
	return nil
}

// sweepAll ends what is idle and, when its ports have rested, frees it.
func (s *site) sweepAll() (w swept, err error) {
	for _, wait := range []uint32{0, 15} {
		s.at(s.now + wait)
		for first, end := uint32(0), s.homes+model.Window; first < end; {
			begin, owned := time.Now(), cpuTime()
			visited, _, err := s.SweepSlice(first, min(dataplane.SweepSlice, end-first), s.now)
			if err != nil {
				return w, err
			}
			owned = cpuTime() - owned
			took := time.Since(begin)
			first += visited
			w.slices++
			w.processor += owned
			w.longest, w.longestOwned = max(w.longest, took), max(w.longestOwned, owned)
			if took > longestSlice {
				w.interrupted++
			}
		}
	}
	return w, nil
}

// A slice ends by the clock, in time for the next look at it: with no time at all it visits the slots
// between two looks, whatever it was asked for, and the next slice goes on where it stopped.
func TestSweep_TimeIsOver_StopsAndGoesOn(t *testing.T) {
	const homes, flows, stride = 1 << 12, 500, 64
	err := program.InNetwork(macs, func(indexes []uint32) error {
		c := config(indexes, homes, 1, backendPorts)
		p, err := program.Load(&c, program.Options{SweepBudget: 1})
		if err != nil {
			return err
		}
		defer p.Close()
		if err := p.Write(&c); err != nil {
			return err
		}
		s := &site{Programs: p, indexes: indexes, homes: homes}
		s.at(1000)
		s.SetClock(1000, 1)
		if err := s.refresh(s.Lane(), newFrame(model.UDP, macs[0], model.MAC{2, 9}), flows); err != nil {
			return err
		}
		s.at(s.now + 301)
		slots, killed := uint32(homes+model.Window), uint32(0)
		for first := uint32(0); first < slots; {
			visited, found, err := s.SweepSlice(first, slots-first, s.now)
			if err != nil {
				return err
			}
			if visited != min(stride, slots-first) {
				return fmt.Errorf("from slot %d on %d of %d were visited, want %d at most", first, visited, slots-first, stride)
			}
			first += visited
			killed += found.Killed
		}
		if killed != flows {
			return fmt.Errorf("%d of %d idle pairs were found", killed, flows)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
