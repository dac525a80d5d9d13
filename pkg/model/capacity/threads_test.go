package capacity

import (
	"errors"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/privlink/privlink/pkg/dataplane"
	"github.com/privlink/privlink/pkg/model"
	"github.com/privlink/privlink/pkg/model/program"
)

// threads open and close the same tuples, tuples of them towards each of backendPorts.
const (
	threads      = 8
	backendPorts = 8
	tuples       = 2000
	perSecond    = 100 // seconds of the flow clock that pass in one
)

// wantOpens is how many flows have to get a port in a full minute. On a machine that has other things
// to do the threads go on until they did, patience times as long at most.
const (
	wantOpens = 5_000_000
	patience  = 8
)

// seconds is how long they do.
func seconds(t *testing.T) int {
	text := os.Getenv("PRIVLINK_STRESS_SECONDS")
	if text == "" {
		return 60
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("PRIVLINK_STRESS_SECONDS=%q: not a number of seconds", text)
	}
	return n
}

// Eight threads on all CPUs open and close the same tuples while the clock runs and the sweep goes
// round: afterwards free and used ports are all ports, and no entry has lost its other half.
func TestPorts_ThreadsOpenAndCloseTheSameTuples_NothingLeaks(t *testing.T) {
	duration := time.Duration(seconds(t)) * time.Second
	onSite(t, 1<<22, natIPs, backendPorts, func(s *site) error {
		join, leave, err := program.Joiner()
		if err != nil {
			return err
		}
		defer leave()
		var stop atomic.Bool
		var wait sync.WaitGroup
		errs := make([]error, threads)
		for n := range threads {
			wait.Go(func() {
				if errs[n] = join(); errs[n] == nil {
					errs[n] = s.openAndClose(uint64(n), &stop)
				}
			})
		}
		want := wantOpens * uint64(duration/time.Second) / 60
		err = s.clockAndSweep(duration, want)
		stop.Store(true)
		wait.Wait()
		if err := errors.Join(append(errs, err)...); err != nil {
			return err
		}
		stats, err := s.LinkStats(link)
		if err != nil {
			return err
		}
		t.Logf("%d flows got a port, %d did not", stats.Opened, stats.Refused)
		if stats.Opened < want {
			t.Errorf("%d flows got a port, want %d", stats.Opened, want)
		}
		if err := s.portsAddUp(); err != nil {
			return err
		}
		for _, wait := range []uint32{400, 15, 15} {
			s.at(s.now + wait)
			if _, err := s.Sweep(0, s.homes+model.Window, s.now); err != nil {
				return err
			}
		}
		return s.empty()
	})
}

// openAndClose sends SYN and RST on random tuples: a SYN on a pair that was reset opens another one,
// with another port.
func (s *site) openAndClose(seed uint64, stop *atomic.Bool) error {
	lane := s.Lane()
	random := rand.New(rand.NewPCG(seed, 1))
	f := newFrame(model.TCP, macs[0], model.MAC{2, 9})
	for !stop.Load() {
		src, sport := client(random.IntN(tuples))
		f.address(src, endpoint, sport, firstPort+uint16(random.IntN(backendPorts)))
		for _, flags := range []byte{model.SYN, model.RST} {
			f[47] = flags
			if _, _, err := lane.Send(s.indexes[0], f); err != nil {
				return err
			}
		}
	}
	return nil
}

// clockAndSweep lets time pass and sweeps, in slices, until the duration is over and so many flows were
// opened.
func (s *site) clockAndSweep(duration time.Duration, want uint64) error {
	begin := time.Now()
	const part = 1 << 14 // slots
	for first := uint32(0); ; first += part {
		since := time.Since(begin)
		if first >= s.homes+model.Window {
			first = 0
			stats, err := s.LinkStats(link)
			if err != nil {
				return err
			}
			if since > duration && stats.Opened >= want || since > patience*duration {
				return nil
			}
		}
		s.at(1000 + uint32(since*perSecond/time.Second))
		if _, err := s.Sweep(first, part, s.now); err != nil {
			return err
		}
	}
}

// portsAddUp compares bits, counters and entries.
func (s *site) portsAddUp() error {
	entries := make(map[dataplane.RawDomainKey]uint32)
	pairs := uint32(0)
	for i := range s.Flows() {
		f := &s.Flows()[i]
		switch {
		case f.State&3 == 1:
			return fmt.Errorf("slot %d stayed busy", i)
		case f.Home&0x40000000 != 0:
			return fmt.Errorf("home %d stayed locked", i)
		case f.State&3 == 0 || f.Key.Kind != model.KindFlow:
		case f.Rw.Tag.Of.Flags&model.FlagReverse != 0:
			pairs++
			entries[dataplane.RawDomainKey{Nat: f.Key.Daddr, Backend: f.Key.Saddr, Port: f.Key.Sport, Vnet: f.Key.Vnet, Proto: f.Key.Proto}]++
		case f.State&3 == 2:
			twin := &s.Flows()[f.Twin]
			if twin.State&3 != 2 || twin.Twin != uint32(i) {
				return fmt.Errorf("forward half %d is live without its other half", i)
			}
		}
	}
	if pairs != s.Pairs() {
		return fmt.Errorf("%d reverse halves stand in the table, %d pairs are counted", pairs, s.Pairs())
	}
	domains, err := s.Domains()
	if err != nil {
		return err
	}
	for k, d := range domains {
		set := 0
		for _, w := range d.Word {
			set += bits.OnesCount64(w)
		}
		if uint32(set) != d.Used || d.Used != entries[k] {
			return fmt.Errorf("domain %+v: %d bits set, %d ports counted, %d entries", k, set, d.Used, entries[k])
		}
	}
	return nil
}

// empty checks that nothing is left.
func (s *site) empty() error {
	for i := range s.Flows() {
		if f := &s.Flows()[i]; f.State&3 != 0 || f.Home != 0 {
			return fmt.Errorf("slot %d is left: state %#x, home %#x", i, f.State, f.Home)
		}
	}
	if s.Pairs() != 0 {
		return fmt.Errorf("%d pairs are left", s.Pairs())
	}
	domains, err := s.Domains()
	if err != nil {
		return err
	}
	for k, d := range domains {
		if d.Used != 0 || d.Resting != 0 {
			return fmt.Errorf("domain %+v: %d ports used, %d resting", k, d.Used, d.Resting)
		}
	}
	return nil
}
