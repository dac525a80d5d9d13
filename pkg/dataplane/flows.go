package dataplane

import (
	"context"
	"fmt"
	"net/netip"
)

// Phase is where a flow is in its life.
type Phase string

// Phases; those of enum flow_phase in bpf/types.h.
const (
	PhaseSYN     Phase = "syn"     // half-open TCP
	PhaseOpen    Phase = "open"    // established TCP, and UDP
	PhaseClosing Phase = "closing" // FIN seen both ways
	PhaseReset   Phase = "reset"   // RST seen
	PhaseEnded   Phase = "ended"   // revoked: its ends get RSTs until both are over
)

var phases = map[bpfFlowPhase]Phase{
	bpfFlowPhasePHASE_SYN: PhaseSYN, bpfFlowPhasePHASE_OPEN: PhaseOpen, bpfFlowPhasePHASE_CLOSING: PhaseClosing,
	bpfFlowPhasePHASE_RESET: PhaseReset, bpfFlowPhasePHASE_ENDED: PhaseEnded,
}

// Flow is one tracked conversation: a pair of entries.
type Flow struct {
	// Slot and Twin are the entries of its two directions in flows_v1: bpftool map lookup shows them.
	Slot, Twin uint32
	Protocol   Protocol
	// Client asks Endpoint in Network; NAT asks Backend in the provider's.
	Client, Endpoint, NAT, Backend netip.AddrPort
	Network                        string // key
	Link                           string // key; empty for what belongs to none (probes)
	LinkID                         uint32
	RuleSet, Rule, Pool            string // keys; empty when the backend is gone
	Phase                          Phase
	// Age is how many seconds ago the last packet came, in either direction.
	Age uint32
	// Inner says that it is the second leg of a proxied connection, or a probe.
	Inner bool
}

// entry is one element of the flow table, read without tearing.
type entry struct {
	slot uint32
	bpfFlow
}

func (e *entry) live() bool {
	return e.State&3 == uint32(bpfSlotStateSLOT_LIVE)
}

func (e *entry) flow() bool    { return e.Key.Kind == uint8(bpfFlowKindKIND_FLOW) }
func (e *entry) reverse() bool { return e.Rw.Tag.Of.Flags&uint16(bpfFlowFlagsFLOW_REVERSE) != 0 }
func (e *entry) phase() bpfFlowPhase {
	return bpfFlowPhase(e.Rw.Tag.Of.Flags) & bpfFlowPhasePHASE_MASK
}

// read copies an entry; false when it changed hands meanwhile.
func (k *kernel) read(slot uint32) (entry, bool) {
	if slot >= k.flows.count {
		return entry{}, false
	}
	e := entry{slot, k.flows.load(slot)}
	return e, uint32(k.flows.word(slot, 0)) == e.State
}

// scan calls f for every entry that is LIVE, until f says false.
func (k *kernel) scan(ctx context.Context, f func(entry) bool) error {
	for slot := range k.flows.count {
		if slot%SweepSlice == 0 {
			if err := ctx.Err(); err != nil {
				return fmt.Errorf("read the flow table: %w", err)
			}
		}
		if k.flows.word(slot, 0)&3 != uint64(bpfSlotStateSLOT_LIVE) {
			continue
		}
		if e, ok := k.read(slot); ok && !f(e) {
			return nil
		}
	}
	return nil
}

// names turn slots back into the State's keys.
type names struct {
	networks map[uint16]string
	links    map[uint32]string
	linkIDs  map[uint32]uint32
	rules    map[uint32][2]string
	pools    map[uint32]string
}

// names of the last plan. mu is held.
func (d *Dataplane) names() names { return d.namesOf(d.plan) }

func (d *Dataplane) namesOf(p *plan) names {
	n := names{
		networks: make(map[uint16]string), links: make(map[uint32]string), linkIDs: make(map[uint32]uint32),
		rules: make(map[uint32][2]string), pools: make(map[uint32]string),
	}
	if p == nil {
		return n
	}
	for key, number := range p.vnets {
		n.networks[number] = key
	}
	for _, l := range p.state.Links {
		slot := d.links.find(ident("link", l.Key))
		n.links[slot], n.linkIDs[slot] = l.Key, l.ID
	}
	for _, rs := range p.state.RuleSets {
		for _, r := range rs.Rules {
			n.rules[d.rules.find(ruleIdent(rs.Key, r.Key))] = [2]string{rs.Key, r.Key}
		}
	}
	for key, number := range p.pools {
		n.pools[number] = key
	}
	return n
}

// Flows calls f for every live flow, in the order of its slot, until f says false. It reads the table
// while packets change it: a flow that opens or ends meanwhile may be there or not.
func (d *Dataplane) Flows(ctx context.Context, f func(Flow) bool) error {
	d.readers.RLock()
	defer d.readers.RUnlock()
	d.mu.Lock()
	closed, n := d.closed, d.names()
	d.mu.Unlock()
	if closed {
		return fmt.Errorf("read the flow table: %w", ErrClosed)
	}
	now, err := d.k.now()
	if err != nil {
		return err
	}
	return d.k.scan(ctx, func(e entry) bool {
		if !e.flow() || e.reverse() {
			return true
		}
		twin, ok := d.k.read(e.Twin)
		if !ok || !twin.live() || twin.Twin != e.slot {
			return true // its other half is not there yet, or no more
		}
		return f(d.flow(n, e, twin, now))
	})
}

func (d *Dataplane) flow(n names, e, twin entry, now uint32) Flow {
	backend := d.k.backends.load(min(e.Rw.Via.Forward.Backend, d.k.backends.count-1))
	rule := n.rules[backend.Rule]
	link := e.Rw.Tag.Of.Link
	age := min(int32(now-e.Stamp), int32(now-twin.Stamp))
	return Flow{
		Slot: e.slot, Twin: e.Twin, Protocol: Protocol(e.Key.Proto),
		Client: addrPort(e.Key.Saddr, e.Key.Sport), Endpoint: addrPort(e.Key.Daddr, e.Key.Dport),
		NAT: addrPort(e.Rw.Saddr, e.Rw.Sport), Backend: addrPort(e.Rw.Daddr, e.Rw.Dport),
		Network: n.networks[e.Key.Vnet], Link: n.links[link], LinkID: n.linkIDs[link],
		RuleSet: rule[0], Rule: rule[1], Pool: n.pools[backend.Pool],
		Phase: phases[e.phase()], Age: uint32(max(age, 0)), // a stamp may be newer than the clock just read
		Inner: e.Rw.Tag.Of.Flags&uint16(bpfFlowFlagsFLOW_INNER) != 0,
	}
}

func addrPort(addr uint32, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(fromNetOrder(addr), portOrder(port))
}
