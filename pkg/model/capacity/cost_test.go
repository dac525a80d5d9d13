package capacity

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/privlink/privlink/pkg/model"
	"github.com/privlink/privlink/pkg/model/program"
)

// cpuTime is what the calling thread has used of its CPU: the machine may have other things to do.
func cpuTime() time.Duration {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &now); err != nil {
		panic(fmt.Sprintf("read the thread's clock: %v", err))
	}
	return time.Duration(now.Nano())
}

// emptyRun is what a test run costs in which the program does nothing, in the shortest of some stretches.
func (s *site) emptyRun(lane *program.Lane, f frame) (time.Duration, error) {
	const stretches, stretch = 20, 1000
	shortest := time.Hour
	for range stretches {
		begin := cpuTime()
		for range stretch {
			if err := lane.Nothing(f); err != nil {
				return 0, err
			}
		}
		shortest = min(shortest, (cpuTime()-begin)/stretch)
	}
	return shortest, nil
}

// Opening a flow when 99 % of the ports are used costs at most three times what it does at 10 %, where the
// free ports are what flows left that ended at random: both levels lose as many flows, and get as many new ones.
func TestPorts_OpeningAt99PercentWithHoles_CostsAtMostThreeTimes(t *testing.T) {
	const rounds, holes = 5, allPorts / 100
	onSite(t, 1<<22, natIPs, 1, func(s *site) error {
		lane := s.Lane()
		f := newFrame(model.UDP, macs[0], model.MAC{2, 9})
		empty, err := s.emptyRun(lane, f)
		if err != nil {
			return err
		}
		random := rand.New(rand.NewPCG(1, 2))
		next := 0 // number of the flow to open
		open := func(n int) (time.Duration, error) {
			begin := cpuTime()
			for end := next + n; next < end; next++ {
				src, sport := client(next)
				if left, _, err := lane.Send(s.indexes[0], f.address(src, endpoint, sport, firstPort)); err != nil || !left {
					return 0, fmt.Errorf("flow %d was not opened (%w)", next, err)
				}
			}
			return (cpuTime()-begin)/time.Duration(n) - empty, nil
		}
		cost := map[int]time.Duration{}
		for _, percent := range []int{10, 99} {
			if _, err := open(allPorts*percent/100 - int(s.Pairs())); err != nil {
				return err
			}
			cost[percent] = time.Hour
			for range rounds {
				if err := s.forget(random, holes); err != nil {
					return err
				}
				took, err := open(holes)
				if err != nil {
					return err
				}
				cost[percent] = min(cost[percent], took)
			}
		}
		t.Logf("a flow costs %v at 10 %% of the ports, %v at 99 %%; besides a test run of %v", cost[10], cost[99], empty)
		if cost[99] > 3*cost[10] {
			t.Errorf("a flow costs %v at 99 %% of the ports, %v at 10 %%", cost[99], cost[10])
		}
		return nil
	})
}

// forget makes n flows, chosen at random, look as if they had been silent for long, and sweeps until their
// ports are free.
func (s *site) forget(random *rand.Rand, n int) error {
	flows, before, longAgo := s.Flows(), int(s.Pairs()), s.now-400
	for silent := 0; silent < n; {
		f := &flows[random.IntN(len(flows))]
		if f.State&3 == 2 && f.Rw.Tag.Of.Flags&model.FlagReverse == 0 && f.Stamp != longAgo {
			f.Stamp, flows[f.Twin].Stamp = longAgo, longAgo
			silent++
		}
	}
	if _, err := s.sweepAll(); err != nil {
		return err
	}
	if left := before - int(s.Pairs()); left != n {
		return fmt.Errorf("%d flows are gone, want %d", left, n)
	}
	return nil
}
