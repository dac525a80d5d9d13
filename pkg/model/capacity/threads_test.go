package capacity

import (
	"errors"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

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

// wantOpens is how many flows have to get a port in a full minute of a machine that does nothing else. Where
// it does, the minute ends when the test had as much processor time as such a machine would have given it.
const wantOpens = 5_000_000

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

// Eight threads on all CPUs open and close the same tuples while the clock runs and the sweep goes round. Every
// frame that leaves is looked at: its addresses are those of the other side, its checksums right. Afterwards
// free and used ports are all ports, no entry has lost its other half, and every packet was counted once.
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
		seen := make([]tally, threads)
		for n := range threads {
			wait.Go(func() {
				if errs[n] = join(); errs[n] == nil {
					errs[n] = s.openAndClose(uint64(n), &stop, &seen[n])
				}
			})
		}
		want := wantOpens * uint64(duration/time.Second) / 60
		begin, before := time.Now(), processTime()
		err = s.clockAndSweep(duration, want)
		stop.Store(true)
		wait.Wait()
		wall, processor := time.Since(begin), processTime()-before
		if err := errors.Join(append(errs, err)...); err != nil {
			return err
		}
		stats, err := s.LinkStats(link)
		if err != nil {
			return err
		}
		idle := processor / time.Duration(runtime.NumCPU()) // the time it would have taken on an idle machine
		t.Logf("%d flows got a port, %d did not, in %v on %v of %d processors: %.0f a second, %.0f if there were nothing else",
			stats.Opened, stats.Refused, wall.Round(time.Millisecond), processor.Round(time.Millisecond), runtime.NumCPU(),
			float64(stats.Opened)/wall.Seconds(), float64(stats.Opened)/idle.Seconds())
		if stats.Opened < want {
			t.Errorf("%d flows got a port, want %d in %v", stats.Opened, want, duration)
		}
		if err := s.countsAddUp(seen); err != nil {
			return err
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

// processTime is what all threads have used of all CPUs.
func processTime() time.Duration {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &now); err != nil {
		panic(fmt.Sprintf("read the process's clock: %v", err))
	}
	return time.Duration(now.Nano())
}

// tally counts what a thread saw become of its packets.
type tally struct{ sent, in, out, answered, dropped uint64 }

// openAndClose sends SYN, its answer from the backend, and RST on random tuples: a SYN on a pair that was reset
// opens another one, with another port.
func (s *site) openAndClose(seed uint64, stop *atomic.Bool, seen *tally) error {
	lane := s.Lane()
	random := rand.New(rand.NewPCG(seed, 1))
	there, back := newFrame(model.TCP, macs[0], model.MAC{2, 9}), newFrame(model.TCP, macs[1], model.MAC{2, 0, 0, 0, 2, 4})
	back[47] = model.SYN | model.ACK
	for !stop.Load() {
		src, sport := client(random.IntN(tuples))
		port := firstPort + uint16(random.IntN(backendPorts))
		there.address(src, endpoint, sport, port)
		for _, flags := range []byte{model.SYN, model.RST} {
			there[47] = flags
			out, err := seen.send(lane, s.indexes[0], there.checksummed())
			if err != nil {
				return err
			}
			if flags != model.SYN || out == nil || out.to() != backendIP {
				continue
			}
			if _, err := seen.send(lane, s.indexes[1], back.address(backendIP, out.from(), port, out.sport()).checksummed()); err != nil {
				return err
			}
		}
	}
	return nil
}

// send sends a frame and looks at what leaves: to the backend from a NAT IP, to a client from the endpoint, or
// back to the sender from whom it wrote to.
func (c *tally) send(lane *program.Lane, ifindex uint32, f frame) (frame, error) {
	c.sent++
	left, raw, err := lane.Send(ifindex, f)
	if err != nil {
		return nil, err
	}
	out := frame(raw)
	switch {
	case !left:
		c.dropped++
		return nil, nil
	case !out.right():
		return nil, fmt.Errorf("%x left as %x: a checksum is wrong", f, out)
	case out.from() == f.to() && out.to() == f.from() && out.sport() == f.dport() && out.dport() == f.sport() && out[47]&model.RST != 0:
		c.answered++
	case f.to() == endpoint && out.from() >= firstNAT && out.from() < firstNAT+natIPs && out.sport() >= model.FirstPort &&
		out.to() == backendIP && out.dport() == f.dport():
		c.in++
	case f.from() == backendIP && out.from() == endpoint && out.sport() == f.sport() && isClient(out.to(), out.dport()):
		c.out++
	default:
		return nil, fmt.Errorf("%x left as %x", f, out)
	}
	return out, nil
}

// isClient says whether one of the tuples has this address and port.
func isClient(addr model.IP, port uint16) bool {
	first, from := client(0)
	last, to := client(tuples - 1)
	return addr >= first && addr <= last && port >= from && port <= to
}

// countsAddUp compares what the threads saw with the counters of the link and of the reasons.
func (s *site) countsAddUp(seen []tally) error {
	var all tally
	for _, c := range seen {
		all.sent += c.sent
		all.in += c.in
		all.out += c.out
		all.answered += c.answered
		all.dropped += c.dropped
	}
	stats, err := s.LinkStats(link)
	if err != nil {
		return err
	}
	reasons, err := s.Reasons()
	if err != nil {
		return err
	}
	var why uint64
	for r, n := range reasons {
		if r := model.Reason(r); r != model.RSTSent && r != model.RSTLimited {
			why += n
		}
	}
	counted := tally{sent: stats.PacketsIn + stats.PacketsOut + why, in: stats.PacketsIn, out: stats.PacketsOut, answered: reasons[model.RSTSent]}
	counted.dropped = why - counted.answered
	if all != counted {
		return fmt.Errorf("the threads saw %+v, the counters say %+v", all, counted)
	}
	// A SYN-ACK that a NAT IP has no flow for belongs to no link.
	if want := why - reasons[model.NATNoFlow]; stats.Dropped != want {
		return fmt.Errorf("%d packets of the link did not go on, %d are counted", want, stats.Dropped)
	}
	return nil
}

// clockAndSweep lets time pass and sweeps, in slices, until the duration is over and so many flows were
// opened, or until the processors have worked for as long as the duration.
func (s *site) clockAndSweep(duration time.Duration, want uint64) error {
	begin, before := time.Now(), processTime()
	budget := duration * time.Duration(runtime.NumCPU())
	const part = 1 << 14 // slots
	for first := uint32(0); ; first += part {
		since := time.Since(begin)
		if first >= s.homes+model.Window {
			first = 0
			stats, err := s.LinkStats(link)
			if err != nil {
				return err
			}
			if since > duration && stats.Opened >= want || processTime()-before > budget {
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
