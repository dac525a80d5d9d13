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

// cpuTime is what the calling thread has used of its CPU: the machine may have other things to do.
func cpuTime() time.Duration {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &now); err != nil {
		panic(fmt.Sprintf("read the thread's clock: %v", err))
	}
	return time.Duration(now.Nano())
}

// longestSlice is what no slice may take. It ends after dataplane.SweepBudget, a fifth of that.
const longestSlice = 5 * time.Millisecond

// A million idle pairs are swept while another CPU forwards: nothing is lost there, it takes at most
// half as long as opening them did, and no slice takes longer than it may, in processor time: a slice
// that was interrupted for somebody else's sake is not a long one.
func TestSweep_MillionIdlePairsUnderTraffic_FastAndHarmless(t *testing.T) {
	onSite(t, 1<<23, natIPs, backendPorts, func(s *site) error {
		lane := s.Lane()
		f := newFrame(model.UDP, macs[0], model.MAC{2, 9})
		begin := cpuTime()
		for i := range million {
			src, sport := client(i)
			left, _, err := lane.Send(s.indexes[0], f.address(src, endpoint, sport, uint16(firstPort+i%backendPorts)))
			if err != nil {
				return err
			}
			if !left {
				return fmt.Errorf("flow %d was not opened", i)
			}
		}
		opening := cpuTime() - begin
		s.at(s.now + 200)
		if err := s.refresh(lane, f, living); err != nil {
			return err
		}
		s.at(s.now + 150) // the others were silent for 350 s

		join, leave, err := program.Joiner()
		if err != nil {
			return err
		}
		defer leave()
		var stop atomic.Bool
		var wait sync.WaitGroup
		var errTraffic error
		wait.Go(func() {
			if errTraffic = join(); errTraffic != nil {
				return
			}
			lane, f := s.Lane(), newFrame(model.UDP, macs[0], model.MAC{2, 9})
			for !stop.Load() && errTraffic == nil {
				errTraffic = s.refresh(lane, f, living)
			}
		})
		sweeping, longest, err := s.sweepAll()
		stop.Store(true)
		wait.Wait()
		if err := errors.Join(err, errTraffic); err != nil {
			return err
		}
		t.Logf("opened in %v, swept in %v, longest slice %v", opening, sweeping, longest)
		if s.Pairs() != living {
			t.Errorf("%d pairs are left, want %d", s.Pairs(), living)
		}
		if sweeping > opening/2 {
			t.Errorf("swept in %v, opened in %v", sweeping, opening)
		}
		if longest > longestSlice {
			t.Errorf("a slice took %v, at most %v allowed", longest, longestSlice)
		}
		return nil
	})
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
func (s *site) sweepAll() (all, longest time.Duration, err error) {
	for _, wait := range []uint32{0, 15} {
		s.at(s.now + wait)
		for first, end := uint32(0), s.homes+model.Window; first < end; {
			begin := cpuTime()
			visited, _, err := s.SweepSlice(first, min(dataplane.SweepSlice, end-first), s.now)
			if err != nil {
				return 0, 0, err
			}
			slice := cpuTime() - begin
			first += visited
			all += slice
			longest = max(longest, slice)
		}
	}
	return all, longest, nil
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
