package dataplane

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
)

// LinkStats counts what a link carried, since it was made.
type LinkStats struct {
	Link    string // key
	ID      uint32 // the LinkID; 0 for a frontend
	RuleSet string // key
	// In is from the client, Out to it; bytes are of IP packets.
	PacketsIn, BytesIn, PacketsOut, BytesOut uint64
	Opened, Refused                          uint64 // flows
	Dropped                                  uint64 // packets
	// Flows are open now, or not swept yet; MaxFlows may be.
	Flows, MaxFlows uint32
}

// LinkStats reads the counters of every link of the last State, in its order.
func (d *Dataplane) LinkStats() ([]LinkStats, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, fmt.Errorf("read the links' counters: %w", ErrClosed)
	}
	if d.plan == nil {
		return nil, nil
	}
	all := make([]LinkStats, 0, len(d.plan.state.Links))
	var cpus []bpfLinkStats
	for _, l := range d.plan.state.Links {
		slot := d.links.find(ident("link", l.Key))
		if slot == 0 {
			continue // it has no address yet
		}
		if err := d.k.maps[mapLinkStats].Lookup(slot, &cpus); err != nil {
			return nil, fmt.Errorf("read the counters of link %s: %w", l.Key, err)
		}
		s := LinkStats{Link: l.Key, ID: l.ID, RuleSet: l.RuleSet, Flows: d.k.usage.load(slot).Pairs, MaxFlows: d.k.links.load(slot).MaxFlows}
		for _, c := range cpus {
			s.PacketsIn += c.PacketsIn
			s.BytesIn += c.BytesIn
			s.PacketsOut += c.PacketsOut
			s.BytesOut += c.BytesOut
			s.Opened += c.Opened
			s.Refused += c.Refused
			s.Dropped += c.Dropped
		}
		all = append(all, s)
	}
	return all, nil
}

// clearStats begins a new owner's counters of a slot at 0.
func (k *kernel) clearStats(slot uint32) error {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return fmt.Errorf("count CPUs: %w", err)
	}
	if err := k.maps[mapLinkStats].Put(slot, make([]bpfLinkStats, cpus)); err != nil {
		return fmt.Errorf("clear the counters of link slot %d: %w", slot, err)
	}
	return nil
}

// ReasonStats counts the packets of one reason.
type ReasonStats struct {
	Reason
	Packets, Bytes uint64 // bytes of frames
}

// ReasonStats reads the counters of all reasons, in the order of the enum.
func (d *Dataplane) ReasonStats() ([]ReasonStats, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, fmt.Errorf("read the reasons' counters: %w", ErrClosed)
	}
	reasons, err := Reasons()
	if err != nil {
		return nil, err
	}
	all := make([]ReasonStats, 0, len(reasons))
	var cpus []bpfReasonStats
	for i, r := range reasons {
		if err := d.k.maps[mapReasons].Lookup(uint32(i), &cpus); err != nil {
			return nil, fmt.Errorf("read the counter of reason %s: %w", r.Label, err)
		}
		s := ReasonStats{Reason: r}
		for _, c := range cpus {
			s.Packets += c.Packets
			s.Bytes += c.Bytes
		}
		all = append(all, s)
	}
	return all, nil
}

// PortUse is how many ports of a NAT IP are taken towards one backend.
type PortUse struct {
	Network  string // key
	NAT      netip.Addr
	Backend  netip.AddrPort // port 0: every port
	Protocol Protocol
	// Used ports, of PortsPerDomain; those that rest after a flow included.
	Used, Resting uint32
}

// PortsPerDomain is how many flows one NAT IP can have with one backend and port.
const PortsPerDomain = uint32(bpfLimitsPORT_COUNT)

// Ports reads the use of every port domain.
func (d *Dataplane) Ports() ([]PortUse, error) {
	d.readers.RLock()
	defer d.readers.RUnlock()
	d.mu.Lock()
	closed, n := d.closed, d.names()
	d.mu.Unlock()
	if closed {
		return nil, fmt.Errorf("read the port domains: %w", ErrClosed)
	}
	var all []PortUse
	err := d.k.domains(func(key bpfDomainKey, v *bpfDomain) {
		all = append(all, PortUse{
			Network: n.networks[key.Vnet], NAT: fromNetOrder(key.Nat), Backend: addrPort(key.Backend, key.Port),
			Protocol: Protocol(key.Proto), Used: v.Used, Resting: v.Resting,
		})
	})
	return all, err
}

// domains calls f for every port domain. Values are 8 KiB, so they are read a few at a time.
func (k *kernel) domains(f func(bpfDomainKey, *bpfDomain)) error {
	const batch = 64
	keys, values := make([]bpfDomainKey, batch), make([]bpfDomain, batch)
	var cursor ebpf.MapBatchCursor
	for {
		n, err := k.maps[mapDomains].BatchLookup(&cursor, keys, values, nil)
		for i := range n {
			f(keys[i], &values[i])
		}
		switch {
		case errors.Is(err, ebpf.ErrKeyNotExist):
			return nil // the end
		case err != nil:
			return fmt.Errorf("read map %s: %w", mapDomains, err)
		}
	}
}

// MapUse is how full a map is.
type MapUse struct {
	Map       string
	Used, Max uint32
	Noun      string // what is counted
}

// MapUse says how full each table is that can be full.
func (d *Dataplane) MapUse() ([]MapUse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, fmt.Errorf("read the use of the maps: %w", ErrClosed)
	}
	use := []MapUse{
		{mapFlows, d.k.table.load(0).Pairs, d.k.config.load(0).MaxPairs, "flows"},
		{mapAddresses, uint32(len(d.addresses)), d.k.maps[mapAddresses].MaxEntries(), "addresses"},
		{mapRuleIndex, uint32(len(d.ruleIndex)), d.k.maps[mapRuleIndex].MaxEntries(), "rules"},
		{mapIfaces, uint32(len(d.planIfaces())), d.k.ifaces.count, "attachments"},
		{mapDials, uint32(d.dials.Load()), d.k.maps[mapDials].MaxEntries(), "dials by PROXY connections and probes"},
	}
	for _, s := range []struct {
		name string
		*slots
	}{
		{mapVNets, d.vnets}, {mapServices, d.services}, {mapPools, d.pools}, {mapOuts, d.outs}, {mapLinks, d.links},
		{mapRules, d.rules}, {mapNatsets, d.natsets}, {mapBackends, d.backends},
	} {
		use = append(use, MapUse{s.name, uint32(s.used()), s.max - 1, s.noun})
	}
	domains := uint32(0)
	var key bpfDomainKey
	var previous any
	for d.k.maps[mapDomains].NextKey(previous, &key) == nil {
		domains++
		previous = &key
	}
	return append(use, MapUse{mapDomains, domains, d.k.maps[mapDomains].MaxEntries(), "port domains"}), nil
}

func (d *Dataplane) planIfaces() map[ifaceKey]bpfIface {
	if d.plan == nil {
		return nil
	}
	return d.plan.ifaces
}

// Pairs is how many flows the table holds.
func (d *Dataplane) Pairs() uint32 { return d.pairs }
