package bench

import (
	"context"
	"encoding/binary"
	"fmt"
	"path/filepath"
	"time"

	"github.com/cilium/ebpf"

	"github.com/privlink/privlink/pkg/dataplane"
	"github.com/privlink/privlink/pkg/lab"
)

// Sweep opens a million flows, lets them expire, and removes them with privlink's own sweep,
// run from here while the daemon is away. Time is an input: the stamps are set back instead of
// waiting for the idle timeout and for the ports' rest.
func Sweep(ctx context.Context, net *lab.Lab, core *Core, p Progress, r *Report, rounds int) error {
	const flows, pairs, backends = 1_000_000, 1 << 20, 4
	base, err := NewLane(net, core, nil, flows)
	if err != nil {
		return err
	}
	defer func() { _ = base.Close() }()
	privlink := NewPrivlink(XDP, pairs, backends)
	ours, err := NewLane(net, core, privlink, flows)
	if err != nil {
		return err
	}
	defer func() { _ = ours.Close() }()
	p.Step("sweep: verifying %s flows", count(verified))
	if err := ours.Open(verified); err != nil {
		return err
	}
	// The kernel goes on forwarding; nobody else sweeps from here on.
	if err := privlink.plane.Close(); err != nil {
		return err
	}
	program, err := ebpf.LoadPinnedProgram(filepath.Join(privlink.bpffs, "programs", "sweep_slice"), nil)
	if err != nil {
		return fmt.Errorf("open the sweep: %w", err)
	}
	defer func() { _ = program.Close() }()
	s := sweeper{core: core, net: ours, program: program, flows: privlink.maps["flows_v1"]}
	var opening, removing, ratios, idle Series
	longest := Series{}
	for round := range rounds {
		if err := ctx.Err(); err != nil {
			return err
		}
		p.Step("sweep, round %d of %d", round+1, rounds)
		if err := privlink.Forget(); err != nil {
			return err
		}
		empty, slice, err := s.pass()
		if err != nil {
			return err
		}
		plan := Plan{Flows: flows, Packets: flows}
		b, err := base.Run(plan)
		if err != nil {
			return err
		}
		o, err := ours.Run(plan)
		if err != nil {
			return err
		}
		// Set back by more than the idle timeout: the first pass ends all; by more than a
		// port's rest: the second frees them.
		var took time.Duration
		for _, back := range []uint32{4000, 60} {
			if err := s.age(back); err != nil {
				return err
			}
			d, longestSlice, err := s.pass()
			if err != nil {
				return err
			}
			took += d
			slice = max(slice, longestSlice)
		}
		if left := s.found.Live + s.found.Dead - s.found.Freed; left > 0 {
			return fmt.Errorf("sweep: %d entries are left of %d expired flows", left, o.Sent-o.Dropped)
		}
		open := (o.NSPerPacket - b.NSPerPacket) * float64(o.Sent) / 1e6
		opening, removing = append(opening, open), append(removing, took.Seconds()*1000)
		ratios = append(ratios, took.Seconds()*1000/open)
		idle = append(idle, empty.Seconds()*1000)
		longest = append(longest, slice.Seconds()*1000)
	}
	section := fmt.Sprintf("sweep of %d slots", s.flows.MaxEntries())
	r.costs = append(r.costs,
		costLine{section: section, name: "opening " + count(flows) + " flows", times: opening, unit: "ms"},
		costLine{section: section, name: "removing them (two passes)", times: removing, unit: "ms"},
		costLine{section: section, name: "a pass over an empty table", times: idle, unit: "ms"},
		costLine{section: section, name: fmt.Sprintf("longest slice (ends after %v)", dataplane.SweepBudget), times: longest, unit: "ms"})
	r.AddSeries("sweep.cost_vs_opening", removing.Min()/opening.Min(), "ratio", ratios)
	// Of a longest time the smallest would flatter; the largest shows the machine's pauses.
	r.AddSeries("sweep.longest_slice_ms", longest.Median(), "ms", longest)
	return nil
}

// sweeper runs privlink's sweep on the benchmark's core.
type sweeper struct {
	core    *Core
	net     *Lane
	program *ebpf.Program
	flows   *ebpf.Map
	found   dataplane.RawSweep // by the last pass
}

// pass visits the whole table and returns the time it took and that of the longest slice.
func (s *sweeper) pass() (total, longest time.Duration, err error) {
	s.found = dataplane.RawSweep{}
	err = s.core.Do(s.net.Topology.Gateway(), func() error {
		slots := s.flows.MaxEntries()
		for first := uint32(0); first < slots; {
			slice := dataplane.RawSweep{First: first, Count: min(dataplane.SweepSlice, slots-first)}
			start := time.Now()
			if ret, err := s.program.Run(&ebpf.RunOptions{Context: &slice, ContextOut: &slice}); err != nil || ret != 0 {
				return fmt.Errorf("sweep from slot %d: it returned %d: %w", first, int32(ret), err)
			}
			took := time.Since(start)
			if slice.Count == 0 {
				return fmt.Errorf("sweep from slot %d of %d: the program visited none", first, slots)
			}
			first += slice.Count
			total += took
			longest = max(longest, took)
			s.found.Live += slice.Live
			s.found.Dead += slice.Dead
			s.found.Freed += slice.Freed
		}
		return nil
	})
	return total, longest, err
}

// age sets the stamps of all entries back by so many seconds.
func (s *sweeper) age(seconds uint32) error {
	const size, stamp = 64, 8 // of an entry, and where its stamp is (struct flow of bpf/types.h)
	memory, err := s.flows.Memory()
	if err != nil {
		return err
	}
	chunk := make([]byte, 1<<20)
	for at := int64(0); at < int64(memory.Size()); at += int64(len(chunk)) {
		n, err := memory.ReadAt(chunk[:min(int64(len(chunk)), int64(memory.Size())-at)], at)
		if err != nil {
			return err
		}
		for i := 0; i+size <= n; i += size {
			field := chunk[i+stamp : i+stamp+4]
			binary.NativeEndian.PutUint32(field, binary.NativeEndian.Uint32(field)-seconds)
		}
		if _, err := memory.WriteAt(chunk[:n], at); err != nil {
			return err
		}
	}
	return nil
}
