package capacity

import (
	"errors"
	"fmt"
	"slices"
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

// A million idle pairs are swept while another CPU forwards: nothing is lost there, it takes at most
// half as long as opening them did, and no slice takes longer than 5 ms.
func TestSweep_MillionIdlePairsUnderTraffic_FastAndHarmless(t *testing.T) {
	onSite(t, 1<<23, natIPs, backendPorts, func(s *site) error {
		lane := s.Lane()
		f := newFrame(model.UDP, macs[0], model.MAC{2, 9})
		begin := cpuTime()
		for i := range million {
			src, sport := client(i)
			left, _, err := lane.Send(s.indexes[0], f.address(src, endpoint, sport, uint16(firstPort+i%backendPorts)))
			if err != nil || !left {
				return fmt.Errorf("flow %d was not opened (%w)", i, err)
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
		if longest > 5*time.Millisecond {
			t.Errorf("a slice took %v", longest)
		}
		return nil
	})
}

// refresh sends a datagram on the first n flows.
func (s *site) refresh(lane *program.Lane, f frame, n int) error {
	for i := range n {
		src, sport := client(i)
		left, _, err := lane.Send(s.indexes[0], f.address(src, endpoint, sport, uint16(firstPort+i%backendPorts)))
		if err != nil || !left {
			return fmt.Errorf("flow %d lost a datagram (%w)", i, err)
		}
	}
	return nil
}

// sweepAll ends what is idle and, when its ports have rested, frees it.
// The longest slice is that of 99 in 100: interrupts are charged to whom they meet.
func (s *site) sweepAll() (all, longest time.Duration, err error) {
	var took []time.Duration
	for _, wait := range []uint32{0, 15} {
		s.at(s.now + wait)
		for first := uint32(0); first < s.homes+model.Window; first += dataplane.SweepSlice {
			begin := cpuTime()
			if _, err := s.Sweep(first, dataplane.SweepSlice, s.now); err != nil {
				return 0, 0, err
			}
			slice := cpuTime() - begin
			all += slice
			took = append(took, slice)
		}
	}
	slices.Sort(took)
	return all, took[len(took)*99/100], nil
}
