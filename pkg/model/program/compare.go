package program

import (
	"fmt"
	"strings"

	"github.com/privlink/privlink/pkg/dataplane"
	"github.com/privlink/privlink/pkg/model"
)

// CompareSlots compares some slots of the flow table with the model's; nil when they are equal.
func (p *Programs) CompareSlots(m *model.Machine, slots []uint32) error {
	for _, n := range slots {
		if !sameSlot(&p.flows[n], &m.Table.Slots[n]) {
			return p.slotError(m, uint32(n))
		}
	}
	if p.table[0].Pairs != m.Pairs {
		return fmt.Errorf("pairs: program %d, model %d", p.table[0].Pairs, m.Pairs)
	}
	return nil
}

// slotError names the fields of a slot that differ.
func (p *Programs) slotError(m *model.Machine, n uint32) error {
	have, want := fields(&p.flows[n]), fields(ptr(rawSlot(&m.Table.Slots[n])))
	var differ []string
	for i := range have {
		if have[i] != want[i] {
			differ = append(differ, fmt.Sprintf("program %s, model %s", have[i], want[i]))
		}
	}
	return fmt.Errorf("slot %d (%+v): %s", n, m.Table.Slots[n], strings.Join(differ, "; "))
}

func ptr[T any](v T) *T { return &v }

// fields writes an entry field by field.
func fields(f *dataplane.RawFlow) []string {
	forward, tag := f.Rw.Via.Forward, f.Rw.Tag.Of
	return []string{
		fmt.Sprintf("state %d distance %d", f.State&3, f.State>>2&31), fmt.Sprintf("home %#x", f.Home),
		fmt.Sprintf("stamp %d", f.Stamp), fmt.Sprintf("twin %d", int32(f.Twin)),
		fmt.Sprintf("key %v", f.Key), fmt.Sprintf("rewrite %x:%x %x:%x", f.Rw.Saddr, f.Rw.Sport, f.Rw.Daddr, f.Rw.Dport),
		fmt.Sprintf("backend %d", forward.Backend), fmt.Sprintf("backend gen %d", forward.BackendGen),
		fmt.Sprintf("client %#x", forward.Client), fmt.Sprintf("link %d", tag.Link), fmt.Sprintf("link gen %d", tag.LinkGen),
		fmt.Sprintf("flags %#x", tag.Flags), fmt.Sprintf("deltas fit %t", deltasFit(f)),
	}
}

// CompareAll compares the whole flow table, usage, port domains and counters with the model's.
func (p *Programs) CompareAll(m *model.Machine) error {
	for n := range m.Table.Slots {
		if !sameSlot(&p.flows[n], &m.Table.Slots[n]) {
			return p.slotError(m, uint32(n))
		}
	}
	if p.table[0].Pairs != m.Pairs || p.table[0].Fragments != m.Fragments || (p.table[0].WantedSweep != 0) != m.WantedSweep {
		return fmt.Errorf("table: program %+v, model %d pairs, %d fragments, sweep wanted %t", p.table[0], m.Pairs, m.Fragments, m.WantedSweep)
	}
	for slot := range p.usage {
		var want model.Usage
		if u := m.Usage[uint32(slot)]; u != nil {
			want = *u
		}
		if got := p.usage[slot]; got.Pairs != want.Pairs || got.Fragments != want.Fragments {
			return fmt.Errorf("usage of link %d: program %+v, model %+v", slot, got, want)
		}
	}
	if err := p.compareDomains(m); err != nil {
		return err
	}
	return p.compareCounters(m)
}

func (p *Programs) compareDomains(m *model.Machine) error {
	var got dataplane.RawDomain
	for k, want := range m.PortDomains {
		if err := p.maps["domains_v1"].Lookup(rawDomainKey(k), &got); err != nil {
			return fmt.Errorf("port domain %+v: %w", k, err)
		}
		if got.Used != want.Used || got.Cursor != want.Cursor || got.Resting != want.Resting {
			return fmt.Errorf("port domain %+v: program used %d cursor %d resting %d, model %d %d %d",
				k, got.Used, got.Cursor, got.Resting, want.Used, want.Cursor, want.Resting)
		}
		if got.Word != want.Words {
			return fmt.Errorf("port domain %+v: bitmaps differ", k)
		}
	}
	return nil
}

func (p *Programs) compareCounters(m *model.Machine) error {
	var reasons []dataplane.RawReason
	for r := range model.ReasonCount {
		if err := p.maps["reasons_v2"].Lookup(uint32(r), &reasons); err != nil {
			return fmt.Errorf("counters of reason %s: %w", r, err)
		}
		var got model.ReasonStats
		for _, c := range reasons {
			got.Packets += c.Packets
			got.Bytes += c.Bytes
		}
		if got != m.Reasons[r] {
			return fmt.Errorf("counters of reason %s: program %+v, model %+v", r, got, m.Reasons[r])
		}
	}
	var stats []dataplane.RawLinkStats
	for slot := range m.Links {
		if err := p.maps["link_stats_v1"].Lookup(slot, &stats); err != nil {
			return fmt.Errorf("counters of link %d: %w", slot, err)
		}
		var got, want model.LinkStats
		for _, c := range stats {
			got.PacketsIn += c.PacketsIn
			got.BytesIn += c.BytesIn
			got.PacketsOut += c.PacketsOut
			got.BytesOut += c.BytesOut
			got.Opened += c.Opened
			got.Refused += c.Refused
			got.Dropped += c.Dropped
		}
		if s := m.LinkStats[slot]; s != nil {
			want = *s
		}
		if got != want {
			return fmt.Errorf("counters of link %d: program %+v, model %+v", slot, got, want)
		}
	}
	return nil
}
