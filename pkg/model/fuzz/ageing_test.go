package fuzz

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/privlink/privlink/pkg/model"
	"github.com/privlink/privlink/pkg/model/program"
)

// aged runs f on a topology whose links are approved and whose time the test moves.
func aged(t *testing.T, f func(r *runner) error) {
	t.Helper()
	err := program.InNetwork(DeviceMACs(), func(indexes []uint32) error {
		s := shapes[0]
		c := s.constants()
		var sides []side
		for name, xdp := range map[string]bool{"TC alone": false, "XDP then TC": true} {
			p, err := program.Load(&c, program.Options{XDP: xdp, Sums: program.SumsAny})
			if err != nil {
				return err
			}
			defer p.Close()
			sides = append(sides, side{p, name})
		}
		top := newTopology(rand.New(rand.NewPCG(7, 7)), s, indexes)
		for _, l := range top.Links {
			l.State, l.MaxFlows = model.LinkApproved, 1000
		}
		for _, b := range top.Backends {
			b.IdleTCP, b.IdleUDP = 300, 300
		}
		m := model.New(top.Config)
		m.Now = 1000
		count := newCoverage()
		r := &runner{generator: newGenerator(top, m), sides: sides, count: &count, filled: make(map[model.DomainKey]bool)}
		if err := r.write(); err != nil {
			return err
		}
		return f(r)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// send runs one packet through all sides, without events.
func (r *runner) send(in model.Input) (model.Decision, error) {
	random := r.Uint32() | 1
	r.m.Random = random
	r.m.Table.Touched = r.m.Table.Touched[:0]
	want := r.m.Packet(in)
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
			err = p.CompareSlots(r.m, r.m.Table.Touched)
		}
		if err != nil {
			return want, fmt.Errorf("%s: %w", p.name, err)
		}
	}
	r.opened(r.m.Table.Touched)
	r.saw(want)
	return want, nil
}

func (r *runner) sweepAll() error { return r.sweep(0, uint32(len(r.m.Table.Slots))) }

// Connections come and go for 72 hours; after a last timeout nothing of them is left: no entry, no
// pair, no port, no incomplete datagram.
func TestAgeing_72Hours_NothingLeaks(t *testing.T) {
	opened := uint64(0)
	aged(t, func(r *runner) error {
		end := r.m.Now + 72*3600
		for r.m.Now < end {
			for range 6 {
				if _, err := r.send(r.next()); err != nil {
					return err
				}
			}
			r.m.Now += uint32(1 + r.IntN(60))
			if r.chance(20) {
				if err := r.sweepAll(); err != nil {
					return err
				}
			}
			if r.chance(2) {
				if err := r.compareAll(); err != nil {
					return err
				}
			}
		}
		for _, wait := range []uint32{400, 15, 15} {
			r.m.Now += wait
			if err := r.sweepAll(); err != nil {
				return err
			}
		}
		for _, s := range r.m.LinkStats {
			opened += s.Opened
		}
		for n, s := range r.m.Table.Slots {
			if s.State != model.SlotFree || s.Homes != 0 {
				t.Errorf("slot %d is left: %+v", n, s)
			}
		}
		for k, d := range r.m.PortDomains {
			if d.Used != 0 || d.Resting != 0 {
				t.Errorf("domain %+v: %d ports left, %d resting", k, d.Used, d.Resting)
			}
		}
		if r.m.Pairs != 0 || r.m.Fragments != 0 {
			t.Errorf("%d pairs and %d datagrams are left", r.m.Pairs, r.m.Fragments)
		}
		return r.compareAll() // the programs have what the model has: nothing
	})
	if opened < 5000 {
		t.Errorf("only %d flows were opened in 72 hours", opened)
	}
}

// connection opens and establishes a TCP connection, and returns its forward key.
func (r *runner) connection() (model.Key, error) {
	for range 1000 {
		in := r.newFlow()
		if h := r.m.Hit(in); h != nil || in.Frame[23] != model.TCP || in.Frame[47] != model.SYN {
			continue
		}
		d, err := r.send(in)
		if err != nil {
			return model.Key{}, err
		}
		if d.Action != model.ActionRedirect {
			continue
		}
		s := r.m.Hit(in)
		for _, step := range []struct {
			k     model.Key
			flags byte
		}{{r.m.Table.Slots[s.Twin].Key, model.SYN | model.ACK}, {s.Key, model.ACK}} {
			if _, err := r.send(r.segment(step.k, step.flags)); err != nil {
				return model.Key{}, err
			}
		}
		return s.Key, nil
	}
	return model.Key{}, fmt.Errorf("no connection in 1000 tries")
}

// segment is a segment with this key and nothing special.
func (r *runner) segment(k model.Key, flags byte) model.Input {
	at := r.byNetwork[k.VNet][0]
	return r.at(at, frame(at.in.MAC, model.MAC{2, 0, 0, 0, 3, byte(k.Src)}, header{key: k, ttl: 64}, tcp(k, flags, 1, 1, 0, nil)))
}

// Keepalives of 240 s carry a connection through a week; without them it is gone after 300 s.
func TestAgeing_Keepalives240s_LiveAWeekThenGoneAfter300s(t *testing.T) {
	aged(t, func(r *runner) error {
		k, err := r.connection()
		if err != nil {
			return err
		}
		for end := r.m.Now + 7*24*3600; r.m.Now < end; r.m.Now += 240 {
			d, err := r.send(r.segment(k, model.ACK))
			if err != nil {
				return err
			}
			if d.Action != model.ActionRedirect {
				t.Fatalf("after %d s: %s %s", r.m.Now-1000, d.Action, d.Reason)
			}
			if err := r.sweepAll(); err != nil {
				return err
			}
		}
		r.m.Now += 301 - 240
		d, err := r.send(r.segment(k, model.ACK))
		if err == nil && d.Reason != model.NoFlow {
			t.Errorf("without keepalives: %s %s", d.Action, d.Reason)
		}
		return err
	})
}

// A stream in one direction for an hour: the silent direction's first packet still gets through.
func TestAgeing_OneWayStream_SilentDirectionLives(t *testing.T) {
	aged(t, func(r *runner) error {
		k, err := r.connection()
		if err != nil {
			return err
		}
		back := r.m.Table.Slots[r.m.Hit(r.segment(k, model.ACK)).Twin].Key
		for end := r.m.Now + 3600; r.m.Now < end; r.m.Now += 20 {
			if _, err := r.send(r.segment(k, model.ACK)); err != nil {
				return err
			}
			if err := r.sweepAll(); err != nil {
				return err
			}
		}
		d, err := r.send(r.segment(back, model.ACK))
		if err == nil && d.Action != model.ActionRedirect {
			t.Errorf("the silent direction: %s %s", d.Action, d.Reason)
		}
		return err
	})
}

// The invariants notice what they are for.
func TestInvariants_BrokenByHand_Noticed(t *testing.T) {
	aged(t, func(r *runner) error {
		k, err := r.connection()
		if err != nil {
			return err
		}
		if err := checkTable(r.m, nil); err != nil {
			return err
		}
		forward := r.m.Hit(r.segment(k, model.ACK))
		reverse := &r.m.Table.Slots[forward.Twin]
		for what, breakIt := range map[string]func() func(){
			"lost partner": func() func() {
				reverse.Twin = model.NoSlot
				twin := slotOf(r.m, forward)
				return func() { reverse.Twin = twin }
			},
			"pair too many": func() func() { r.m.Pairs++; return func() { r.m.Pairs-- } },
			"datagram":      func() func() { r.m.Fragments++; return func() { r.m.Fragments-- } },
			"leaked port": func() func() {
				d := r.m.PortDomains[r.m.DomainKeys()[0]]
				d.Used++
				return func() { d.Used-- }
			},
			"port used twice": func() func() {
				copied := freeSlot(r.m)
				*copied = *reverse
				copied.State = model.SlotDead
				r.m.Pairs++
				return func() { *copied = model.Slot{}; r.m.Pairs-- }
			},
		} {
			repair := breakIt()
			if checkTable(r.m, nil) == nil {
				t.Errorf("%s: not noticed", what)
			}
			repair()
		}
		in := r.segment(k, model.ACK)
		out := model.Decision{Action: model.ActionRedirect, Frame: in.Frame}
		if checkFrame(in, out) == nil {
			t.Error("an untranslated address is not noticed")
		}
		d, err := r.send(in)
		if err != nil {
			return err
		}
		d.Frame = append([]byte(nil), d.Frame...)
		d.Frame[50] ^= 1
		if checkFrame(in, d) == nil {
			t.Error("a wrong checksum is not noticed")
		}
		if checkCounters(r.m, r.packets+1, r.forwarded) == nil {
			t.Error("a packet without a decision is not noticed")
		}
		return nil
	})
}

func slotOf(m *model.Machine, s *model.Slot) uint32 {
	for n := range m.Table.Slots {
		if &m.Table.Slots[n] == s {
			return uint32(n)
		}
	}
	return model.NoSlot
}

func freeSlot(m *model.Machine) *model.Slot {
	for n := range m.Table.Slots {
		if m.Table.Slots[n].State == model.SlotFree {
			return &m.Table.Slots[n]
		}
	}
	return nil
}
