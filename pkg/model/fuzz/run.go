package fuzz

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"github.com/privlink/privlink/pkg/model"
	"github.com/privlink/privlink/pkg/model/program"
)

// EraPackets is how many packets one topology gets.
const EraPackets = 10_000

// compareAll is after how many packets everything is compared, not only what the packet touched.
// A replayed era compares after each.
const compareAll = 512

// side is one set of real programs.
type side struct {
	*program.Programs
	name string
}

// runner is one era.
type runner struct {
	*generator
	sides []side
	count *Coverage
	every bool

	filled             map[model.DomainKey]bool // port domains filled by hand
	packets, forwarded uint64
}

// Options of a run.
type Options struct {
	Packets int
	Seed    uint64
	Mutant  uint32    // fault to compile in, 0 = none
	First   bool      // stop at the first difference
	Every   bool      // compare everything after every packet
	Log     io.Writer // differences, one line each, with the seed that replays them
}

// Result of a run.
type Result struct {
	Packets     int
	Differences int
	Coverage    Coverage
	Elapsed     time.Duration
}

// Run sends packets. It must have the calling goroutine for itself only as far as ctx goes: the
// programs run on a thread of their own.
func Run(ctx context.Context, o Options) (result Result, err error) {
	err = program.InNetwork(DeviceMACs(), func(indexes []uint32) error {
		result, err = run(ctx, o, indexes)
		return err
	})
	return result, err
}

func run(ctx context.Context, o Options, indexes []uint32) (Result, error) {
	result := Result{Coverage: newCoverage()}
	start := time.Now()
	loaded := make([][]side, len(shapes))
	for i, s := range shapes {
		c := s.constants()
		for _, xdp := range []bool{false, true} {
			p, err := program.Load(&c, program.Options{XDP: xdp, Sums: program.SumsAny, Mutant: o.Mutant})
			if err != nil {
				return result, err
			}
			defer p.Close()
			name := "TC alone"
			if xdp {
				name = "XDP then TC"
			}
			loaded[i] = append(loaded[i], side{p, name})
		}
	}
	left := o.Packets
	for era := uint64(0); left > 0; era++ {
		if err := ctx.Err(); err != nil {
			return result, err
		}
		seed := o.Seed + era
		n := min(EraPackets, left)
		left -= n
		which := 0
		if seed%4 == 3 {
			which = 1
		}
		done, err := runEra(seed, n, shapes[which], indexes, loaded[which], &result.Coverage, o.Every)
		result.Packets += n
		if err != nil {
			result.Packets -= n - done - 1
			result.Differences++
			fmt.Fprintf(o.Log, "FUZZ_SEED=%d packet %d (%s): %v\n", seed, done, shapes[which].name, err)
			if o.First {
				break
			}
		}
	}
	result.Elapsed = time.Since(start)
	return result, nil
}

// runEra runs one topology; an error is a difference, found after so many packets.
func runEra(seed uint64, packets int, s shape, indexes []uint32, sides []side, count *Coverage, every bool) (int, error) {
	t := newTopology(rand.New(rand.NewPCG(seed, 0x707269766c696e6b)), s, indexes)
	m := model.New(t.Config)
	m.Now = 1000
	r := &runner{generator: newGenerator(t, m), sides: sides, count: count, every: every, filled: make(map[model.DomainKey]bool)}
	for _, p := range sides {
		if err := p.Reset(); err != nil {
			return 0, err
		}
	}
	if err := r.write(); err != nil {
		return 0, err
	}
	before := m.Reasons
	defer func() { count.addReasons(&before, &m.Reasons) }()
	for i := range packets {
		if err := r.step(i); err != nil {
			return i, err
		}
	}
	return packets, r.compareAll()
}

func (r *runner) each(f func(side) error) error {
	for _, p := range r.sides {
		if err := f(p); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	return nil
}

func (r *runner) write() error {
	return r.each(func(p side) error { return p.Write(&r.Config) })
}

func (r *runner) compareAll() error {
	if err := errors.Join(checkTable(r.m, r.filled), checkCounters(r.m, r.packets, r.forwarded)); err != nil {
		return err
	}
	return r.each(func(p side) error { return p.CompareAll(r.m) })
}

// step is one packet, and the events before it.
func (r *runner) step(i int) error {
	if r.wanted.refusals == 0 && r.wanted.errors == 0 {
		for _, e := range events {
			if !r.chance(e.percent) {
				continue
			}
			r.count.Events[e.name]++
			written, err := e.happen(r)
			if err == nil && written {
				err = r.write()
			}
			if err != nil {
				return fmt.Errorf("event %q: %w", e.name, err)
			}
		}
	}
	in := r.next()
	random := r.Uint32() | 1
	r.m.Random = random
	r.m.Table.Touched = r.m.Table.Touched[:0]
	r.count.before(r.m, in)
	want := r.m.Packet(in)
	r.count.Actions[want.Action]++
	r.packets++
	if want.Action == model.ActionRedirect {
		r.forwarded++
	}
	for _, p := range r.sides {
		got, err := p.Packet(in, r.m.Now, random)
		if err == nil {
			err = sameDecision(got, want)
		}
		if err == nil {
			err = checkFrame(in, got)
		}
		if err == nil {
			err = p.CompareSlots(r.m, r.m.Table.Touched)
		}
		if err != nil {
			return fmt.Errorf("%s: %w\n  in %d vlan %d: %x", p.name, err, in.Interface, in.VLAN, in.Frame)
		}
	}
	if r.every || i%compareAll == compareAll-1 {
		if err := r.compareAll(); err != nil {
			return err
		}
	}
	r.opened(r.m.Table.Touched)
	r.saw(want)
	return nil
}

// sameDecision compares what becomes of a packet; what a dropped frame looks like means nothing.
func sameDecision(got, want model.Decision) error {
	if got.Action != want.Action || got.Reason != want.Reason || got.Out != want.Out || got.VLAN != want.VLAN {
		return fmt.Errorf("decision: program %s %s by %d tag %d, model %s %s by %d tag %d",
			got.Action, got.Reason, got.Out, got.VLAN, want.Action, want.Reason, want.Out, want.VLAN)
	}
	if want.Action != model.ActionDrop && got.Frame != nil && !bytes.Equal(got.Frame, want.Frame) {
		return fmt.Errorf("frame after %s %s:\n  program %x\n  model   %x", want.Action, want.Reason, got.Frame, want.Frame)
	}
	return nil
}

// sweep runs a slice of the sweep on all sides.
func (r *runner) sweep(first, count uint32) error {
	r.m.Table.Touched = r.m.Table.Touched[:0]
	want := r.m.Sweep(first, count)
	r.m.WantedSweep = false
	return r.each(func(p side) error {
		p.SweepDone()
		got, err := p.Sweep(first, count, r.m.Now)
		if err != nil {
			return err
		}
		if got != want {
			return fmt.Errorf("sweep: program %+v, model %+v", got, want)
		}
		return p.CompareSlots(r.m, r.m.Table.Touched)
	})
}
