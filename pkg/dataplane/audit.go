package dataplane

import (
	"context"
	"fmt"
	"math/bits"
	"net/netip"
)

// Leak is a disagreement between the flow table and what is counted from it.
type Leak struct {
	// What is "port taken without an entry", "entry without its port", "count of a domain", "quota of a link".
	What string
	// NAT, Backend and Protocol name the port domain; Port is the NAT port. Zero for a quota.
	NAT      netip.AddrPort
	Backend  netip.AddrPort
	Protocol Protocol
	// Link is the key of a quota's link.
	Link      string
	Have, Due uint32 // of a count
}

func (l Leak) String() string {
	if l.Link != "" {
		return fmt.Sprintf("%s %s: %d, should be %d", l.What, l.Link, l.Have, l.Due)
	}
	return fmt.Sprintf("%s: %s to %s protocol %d (%d, should be %d)", l.What, l.NAT, l.Backend, l.Protocol, l.Have, l.Due)
}

// domainState is what one reading of a port domain says.
type domainState struct {
	used  uint32
	words [bpfLimitsPORT_WORDS]uint64
}

// Audit compares every port bitmap and every quota with the entries of the flow table, bit by bit. It reads the
// bitmaps before and after the table: only what both say is reported, as packets go on opening flows. A
// flow that opens and another that ends under one port in between can still be reported wrongly; ask again.
func (d *Dataplane) Audit(ctx context.Context) ([]Leak, error) {
	d.readers.RLock()
	defer d.readers.RUnlock()
	if d.shut.Load() {
		return nil, fmt.Errorf("audit the ports: %w", ErrClosed)
	}
	before, err := d.k.domainStates()
	if err != nil {
		return nil, fmt.Errorf("audit the ports: %w", err)
	}
	quotasBefore := d.quotas()
	entries := make(map[bpfDomainKey]*domainState)
	pairs := make(map[uint32]uint32) // by slot of the link
	config := d.k.config.load(0)
	for slot := range d.k.flows.count {
		if slot%SweepSlice == 0 && ctx.Err() != nil {
			return nil, fmt.Errorf("audit the ports: %w", ctx.Err())
		}
		state := uint32(d.k.flows.word(slot, 0)) & 3
		if state != uint32(bpfSlotStateSLOT_LIVE) && state != uint32(bpfSlotStateSLOT_DEAD) {
			continue
		}
		e, ok := d.k.read(slot)
		// A reverse half holds its port, its quota and its place in the count, live or resting.
		if !ok || !e.flow() || !e.reverse() {
			continue
		}
		key := e.domain()
		if entries[key] == nil {
			entries[key] = &domainState{}
		}
		bit := config.bitOf(portOrder(e.Key.Dport))
		entries[key].words[bit/64] |= 1 << (bit % 64)
		if e.Rw.Tag.Of.Flags&uint16(bpfFlowFlagsFLOW_INNER) == 0 {
			pairs[e.Rw.Tag.Of.Link]++
		}
	}
	after, err := d.k.domainStates()
	if err != nil {
		return nil, fmt.Errorf("audit the ports: %w", err)
	}
	leaks := compareDomains(config, before, entries, after)
	quotasAfter := d.quotas()
	for slot, quota := range quotasAfter {
		if quota == quotasBefore[slot] && quota.pairs != pairs[slot] {
			leaks = append(leaks, Leak{What: "quota of link", Link: quota.link, Have: quota.pairs, Due: pairs[slot]})
		}
	}
	return leaks, nil
}

type quota struct {
	link  string
	pairs uint32
}

func (d *Dataplane) quotas() map[uint32]quota {
	d.mu.Lock()
	defer d.mu.Unlock()
	quotas := make(map[uint32]quota)
	for slot, key := range d.names().links {
		quotas[slot] = quota{key, d.k.usage.load(slot).Pairs}
	}
	return quotas
}

// domain is the port domain of a reverse half.
func (e *entry) domain() bpfDomainKey {
	key := bpfDomainKey{Nat: e.Key.Daddr, Backend: e.Key.Saddr, Port: e.Key.Sport, Vnet: e.Key.Vnet, Proto: e.Key.Proto}
	if e.Rw.Tag.Of.Flags&uint16(bpfFlowFlagsFLOW_HA) != 0 {
		key.Port = 0
	}
	return key
}

// bitOf is the bit of a port, as in bpf/ports.h; portOf is its inverse.
func (c *bpfConfig) bitOf(port uint16) uint32 {
	const ports = uint64(bpfLimitsPORT_COUNT)
	n := (uint64(port) - uint64(bpfLimitsFIRST_PORT) + ports - uint64(c.PortOffset)) % ports
	return uint32(n * uint64(c.PortInverse) % ports)
}

func (c *bpfConfig) portOf(bit uint32) uint16 {
	const ports = uint64(bpfLimitsPORT_COUNT)
	return uint16(uint64(bpfLimitsFIRST_PORT) + (uint64(bit)*uint64(c.PortStep)+uint64(c.PortOffset))%ports)
}

func (k *kernel) domainStates() (map[bpfDomainKey]*domainState, error) {
	all := make(map[bpfDomainKey]*domainState)
	err := k.domains(func(key bpfDomainKey, v *bpfDomain) {
		all[key] = &domainState{v.Used, v.Word}
	})
	return all, err
}

func compareDomains(config bpfConfig, before, entries, after map[bpfDomainKey]*domainState) []Leak {
	var leaks []Leak
	none := &domainState{}
	leak := func(key bpfDomainKey, what string, port uint16, have, due uint32) {
		leaks = append(leaks, Leak{
			What: what, NAT: netip.AddrPortFrom(fromNetOrder(key.Nat), port), Backend: addrPort(key.Backend, key.Port),
			Protocol: Protocol(key.Proto), Have: have, Due: due,
		})
	}
	for key, is := range after {
		was, due := before[key], entries[key]
		if was == nil {
			was = none
		}
		if due == nil {
			due = none
		}
		taken, stable := uint32(0), is.used == was.used && is.words == was.words
		for i := range is.words {
			both := is.words[i] & was.words[i]
			neither := ^(is.words[i] | was.words[i])
			taken += uint32(bits.OnesCount64(is.words[i]))
			for w := both &^ due.words[i]; w != 0; w &= w - 1 {
				leak(key, "port taken without an entry", config.portOf(uint32(i*64+bits.TrailingZeros64(w))), 1, 0)
			}
			for w := neither & due.words[i]; w != 0; w &= w - 1 {
				leak(key, "entry without its port", config.portOf(uint32(i*64+bits.TrailingZeros64(w))), 0, 1)
			}
		}
		if stable && taken != is.used {
			leak(key, "count of a domain", 0, is.used, taken)
		}
	}
	for key := range entries {
		if after[key] == nil && before[key] == nil {
			leak(key, "entry without its domain", 0, 0, 1)
		}
	}
	return leaks
}
