package dataplane

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
	"time"

	"github.com/privlink/privlink/pkg/neigh"
	"github.com/privlink/privlink/pkg/splice"
)

// plan is what the kernel is to hold for a State: slots are given out, nothing is written.
// Generations are missing; they follow from what is there (see apply.go).
type plan struct {
	state      State
	vnets      map[string]uint16 // network key to number
	services   map[string]uint32 // rule set key to number
	pools      map[string]uint32 // pool key to number
	interfaces map[string]bool   // names that stay attached
	statuses   []AttachmentStatus
	ports      map[uint16][]planPort // of a network

	outs      map[uint32]bpfOut
	ifaces    map[ifaceKey]bpfIface
	natsets   map[uint32]bpfNatset
	backends  map[uint32]bpfBackend
	rules     map[uint32]bpfRule
	tables    map[uint32]members // by slot of the rule
	ruleIndex map[bpfRuleKey]bpfRuleRef
	links     map[uint32]bpfLink
	addresses map[bpfAddressKey]bpfAddress

	keepVNets, keepServices, keepPools, keepOuts map[uint64]bool
	keepNatsets, keepBackends, keepRules         map[uint64]bool
	keepLinks                                    map[uint64]bool

	claims     map[neigh.Key]bool
	wants      map[neigh.Key]neigh.Want
	unresolved map[Address]bool
	// everyPort are backends that some rule uses for every port: all rules then share
	// one port domain for them, or two domains would give out one port.
	everyPort map[Address]bool
	// nats are the slots of the rule sets' own NAT sets.
	nats map[string]uint32
	// reaches are those of the networks, by key; targets the slots of a rule's targets, by its own.
	reaches map[string]*reach
	targets map[uint32][]uint32
}

type planPort struct {
	neigh.Port
	attachment Attachment
}

// newPlan is empty, with room for about as much as the last one has; nil = none.
func newPlan(state State, last *plan) *plan {
	if last == nil {
		last = &plan{}
	}
	return &plan{
		state: state,
		vnets: make(map[string]uint16, len(last.vnets)), services: make(map[string]uint32, len(last.services)), pools: make(map[string]uint32, len(last.pools)),
		interfaces: make(map[string]bool), ports: make(map[uint16][]planPort),
		outs: make(map[uint32]bpfOut), ifaces: make(map[ifaceKey]bpfIface),
		natsets: make(map[uint32]bpfNatset, len(last.natsets)), backends: make(map[uint32]bpfBackend, len(last.backends)),
		rules: make(map[uint32]bpfRule, len(last.rules)), tables: make(map[uint32]members, len(last.tables)),
		ruleIndex: make(map[bpfRuleKey]bpfRuleRef, len(last.ruleIndex)), links: make(map[uint32]bpfLink, len(last.links)),
		addresses: make(map[bpfAddressKey]bpfAddress, len(last.addresses)),
		keepVNets: make(map[uint64]bool, len(last.keepVNets)), keepServices: make(map[uint64]bool, len(last.keepServices)),
		keepPools: make(map[uint64]bool, len(last.keepPools)), keepOuts: make(map[uint64]bool),
		keepNatsets: make(map[uint64]bool, len(last.keepNatsets)), keepBackends: make(map[uint64]bool, len(last.keepBackends)),
		keepRules: make(map[uint64]bool, len(last.keepRules)), keepLinks: make(map[uint64]bool, len(last.keepLinks)),
		claims: make(map[neigh.Key]bool, len(last.claims)), wants: make(map[neigh.Key]neigh.Want, len(last.wants)),
		unresolved: make(map[Address]bool), everyPort: make(map[Address]bool),
		nats: make(map[string]uint32, len(last.nats)), reaches: make(map[string]*reach, len(last.reaches)), targets: make(map[uint32][]uint32, len(last.targets)),
	}
}

// compile gives every name of the State a slot and says what should stand there.
func (d *Dataplane) compile(state State) (*plan, error) {
	p := newPlan(state, d.plan)
	for _, step := range []func(*plan) error{
		d.planNetworks, d.syncInterfaces, d.planClaims, d.planReach, d.planPools, d.planRuleSets, d.planRetired, d.planLinks, d.planProbes,
	} {
		if err := step(p); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func (d *Dataplane) planNetworks(p *plan) error {
	for _, n := range p.state.Networks {
		id := ident("vnet", n.Key)
		if p.keepVNets[id] {
			return fmt.Errorf("compile networks: %s is there twice", n.Key)
		}
		p.keepVNets[id] = true
		slot, _, err := d.vnets.get(id, d.sweeps)
		if err != nil {
			return err
		}
		p.vnets[n.Key] = uint16(slot)
	}
	return nil
}

// planClaims says which addresses are to be ours; what they are for follows in planRuleSets and planLinks.
func (d *Dataplane) planClaims(p *plan) error {
	for _, l := range p.state.Links {
		if l.Network == "" {
			continue // no address yet
		}
		vnet, ok := p.vnets[l.Network]
		if !ok {
			return fmt.Errorf("compile link %s: no network %s", l.Key, l.Network)
		}
		if !l.Addr.Is4() {
			return fmt.Errorf("compile link %s: %s is no IPv4 address", l.Key, l.Addr)
		}
		p.claims[neigh.Key{VNet: vnet, Addr: l.Addr}] = true
	}
	for _, rs := range p.state.RuleSets {
		if rs.Network == "" {
			continue // no address yet, so nothing can be reached
		}
		vnet, ok := p.vnets[rs.Network]
		if !ok {
			return fmt.Errorf("compile rule set %s: no network %s", rs.Key, rs.Network)
		}
		for _, s := range rs.Sources {
			if !s.Addr.Is4() {
				return fmt.Errorf("compile rule set %s: %s is no IPv4 address", rs.Key, s.Addr)
			}
			key := neigh.Key{VNet: vnet, Addr: s.Addr}
			if rs.Network != d.inner.Network {
				p.claims[key] = true // in the inner network nobody else could have it
			}
			p.addresses[addressKey(key)] = d.address(key, bpfAddressKindADDR_NAT, 0)
		}
	}
	for _, n := range p.state.Networks {
		for _, a := range n.Gateways {
			key := neigh.Key{VNet: p.vnets[n.Key], Addr: a}
			if _, ok := p.addresses[addressKey(key)]; !ok {
				entry := d.address(key, bpfAddressKindADDR_GATEWAY, 0)
				entry.Arp = 1 // asked for by the operator, and nobody's address in Azure's networks either
				p.addresses[addressKey(key)] = entry
			}
		}
	}
	d.prober.Set(p.claims, d.clock())
	d.adoptClaims(p)
	return nil
}

func addressKey(key neigh.Key) bpfAddressKey {
	return bpfAddressKey{Addr: netOrder(key.Addr), Vnet: key.VNet}
}

// address makes an entry that is answered for as soon as the address is ours.
func (d *Dataplane) address(key neigh.Key, kind bpfAddressKind, link uint32) bpfAddress {
	a := bpfAddress{Key: addressKey(key), Link: link, Kind: uint8(kind)}
	if d.prober.Get(key).Ours {
		a.Arp = 1
	}
	return a
}

// netOrder is an IPv4 address as the maps hold it: the four bytes in network order.
func netOrder(a netip.Addr) uint32 {
	b := a.As4()
	return binary.NativeEndian.Uint32(b[:])
}

func fromNetOrder(v uint32) netip.Addr {
	var b [4]byte
	binary.NativeEndian.PutUint32(b[:], v)
	return netip.AddrFrom4(b)
}

// portOrder is a port in network order, and back.
func portOrder(port uint16) uint16 { return port<<8 | port>>8 }

func (d *Dataplane) planPools(p *plan) error {
	add := func(key string) error {
		if _, ok := p.pools[key]; ok {
			return nil
		}
		id := ident("pool", key)
		p.keepPools[id] = true
		slot, _, err := d.pools.get(id, d.sweeps)
		p.pools[key] = slot
		return err
	}
	for _, pool := range p.state.Pools {
		if err := add(pool.Key); err != nil {
			return err
		}
	}
	for _, rs := range p.state.RuleSets {
		for _, r := range rs.Rules {
			for _, t := range r.Targets {
				if err := add(t.Pool); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (d *Dataplane) planRuleSets(p *plan) error {
	for _, rs := range p.state.RuleSets {
		for _, r := range rs.Rules {
			if r.Port != 0 {
				continue
			}
			for _, t := range r.Targets {
				p.everyPort[Address{rs.Network, t.Addr}] = true
			}
		}
	}
	for i := range p.state.RuleSets {
		rs := &p.state.RuleSets[i]
		id := ident("service", rs.Key)
		if p.keepServices[id] {
			return fmt.Errorf("compile rule sets: %s is there twice", rs.Key)
		}
		p.keepServices[id] = true
		service, _, err := d.services.get(id, d.sweeps)
		if err != nil {
			return err
		}
		p.services[rs.Key] = service
		if rs.Network == "" {
			continue
		}
		nat, err := d.planNatset(p, rs)
		if err != nil {
			return err
		}
		p.nats[rs.Key] = nat
		for j := range rs.Rules {
			if err := d.planRule(p, rs, &rs.Rules[j], service, nat); err != nil {
				return err
			}
		}
	}
	return nil
}

// planNatset gives the set of source addresses a slot of its own for every content: it is never
// changed in place. Slot 0 (no new flows) while none of them is ours.
func (d *Dataplane) planNatset(p *plan, rs *RuleSet) (uint32, error) {
	set := bpfNatset{Vnet: p.vnets[rs.Network]}
	parts := []string{"natset", rs.Key, strconv.Itoa(int(set.Vnet))}
	for _, s := range rs.Sources {
		key := neigh.Key{VNet: set.Vnet, Addr: s.Addr}
		if s.Draining || rs.Network != d.inner.Network && !d.prober.Get(key).Ours {
			continue
		}
		if int(set.Count) == len(set.Addr) {
			return 0, fmt.Errorf("compile rule set %s: more than %d source addresses", rs.Key, len(set.Addr))
		}
		set.Addr[set.Count] = netOrder(s.Addr)
		set.Count++
		parts = append(parts, s.Addr.String())
	}
	if set.Count == 0 {
		return 0, nil
	}
	set.Ident = ident(parts...)
	slot, _, err := d.natsets.get(set.Ident, d.sweeps)
	if err != nil {
		return 0, err
	}
	p.keepNatsets[set.Ident] = true
	p.natsets[slot] = set
	return slot, nil
}

func ruleIdent(ruleSet, rule string) uint64 { return ident("rule", ruleSet, rule) }

func (d *Dataplane) planRule(p *plan, rs *RuleSet, r *Rule, service, nat uint32) error {
	id := ruleIdent(rs.Key, r.Key)
	if p.keepRules[id] {
		return fmt.Errorf("compile rule set %s: rule %s is there twice", rs.Key, r.Key)
	}
	if r.Port == 0 != (r.Protocol == ProtocolAll) {
		return fmt.Errorf("compile rule %s of %s: port %d with protocol %d", r.Key, rs.Key, r.Port, r.Protocol)
	}
	p.keepRules[id] = true
	slot, _, err := d.rules.get(id, d.sweeps)
	if err != nil {
		return err
	}
	rule := bpfRule{Ident: id, Service: service, Nat: nat, BackendPort: portOrder(r.BackendPort), Distribution: uint8(r.Distribution)}
	table := members{port: strconv.Itoa(int(r.BackendPort)), list: make([]member, 0, len(r.Targets))}
	idents := newBackendIdents(rs, r)
	p.targets[slot] = make([]uint32, 0, len(r.Targets))
	for i := range r.Targets {
		if err := d.planTarget(p, rs, r, &r.Targets[i], slot, &idents, &table); err != nil {
			return err
		}
	}
	protocol := r.Protocol
	if r.Proxy {
		if r.Protocol == ProtocolAll {
			// UDP of every port passes plain, to the same backends; TCP has a rule of its own before it.
			protocol = ProtocolTCP
			if err := d.planPlain(p, rs, r, rule, table); err != nil {
				return err
			}
		}
		if rule.Nat, table, err = d.planListener(p, rs, r, slot); err != nil {
			return err
		}
		rule.BackendPort = portOrder(d.inner.Listen.Port())
	}
	return p.enterRule(rs, r, protocol, slot, rule, table)
}

// planPlain makes the rule for what a proxied rule for all ports does not send through the splice path.
func (d *Dataplane) planPlain(p *plan, rs *RuleSet, r *Rule, rule bpfRule, table members) error {
	rule.Ident = ident("rule", rs.Key, r.Key, "plain")
	p.keepRules[rule.Ident] = true
	slot, _, err := d.rules.get(rule.Ident, d.sweeps)
	if err != nil {
		return err
	}
	return p.enterRule(rs, r, ProtocolAll, slot, rule, table)
}

// enterRule makes a rule answer for a protocol on its port.
func (p *plan) enterRule(rs *RuleSet, r *Rule, protocol Protocol, slot uint32, rule bpfRule, table members) error {
	key := bpfRuleKey{Service: rule.Service, Port: portOrder(r.Port), Proto: uint8(protocol)}
	if _, ok := p.ruleIndex[key]; ok {
		return fmt.Errorf("compile rule set %s: two rules for protocol %d port %d", rs.Key, protocol, r.Port)
	}
	p.ruleIndex[key] = bpfRuleRef{Key: key, Rule: slot}
	rule.Balance = table.signature()
	p.tables[slot] = table
	p.rules[slot] = rule
	return nil
}

// planTarget enters a backend, and puts it into the rule's table if it may take new flows.
func (d *Dataplane) planTarget(p *plan, rs *RuleSet, r *Rule, t *Target, rule uint32, idents *backendIdents, table *members) error {
	if !t.Addr.Is4() {
		return fmt.Errorf("compile rule %s of %s: target %s is no IPv4 address", r.Key, rs.Key, t.Addr)
	}
	reach := p.reaches[rs.Network]
	id, name := idents.of(t)
	b := bpfBackend{
		Ident: id,
		Addr:  netOrder(t.Addr), Port: portOrder(r.BackendPort), Vnet: reach.vnet,
		IdleTcp: idleTCP(r), IdleUdp: r.IdleUDP, Rule: rule, Pool: p.pools[t.Pool],
		State: uint8(bpfBackendStateBACKEND_UP),
	}
	if r.TCPReset {
		b.Flags |= uint8(bpfBackendFlagsBACKEND_TCP_RESET)
	}
	if len(p.everyPort) > 0 && p.everyPort[Address{rs.Network, t.Addr}] {
		b.Flags |= uint8(bpfBackendFlagsBACKEND_HA)
	}
	resolved := d.locate(p, reach, t.Addr, &b)
	switch {
	case !t.Healthy || t.NoNew:
		b.State = uint8(bpfBackendStateBACKEND_DOWN)
	case !resolved:
		b.State = uint8(bpfBackendStateBACKEND_UNRESOLVED)
	}
	if !resolved {
		p.unresolved[Address{rs.Network, t.Addr}] = true
	}
	slot, _, err := d.backends.get(b.Ident, d.sweeps)
	if err != nil {
		return err
	}
	p.keepBackends[b.Ident] = true
	p.backends[slot] = b
	p.targets[rule] = append(p.targets[rule], slot)
	if resolved && t.Healthy && !t.NoNew {
		table.list = append(table.list, member{t.Pool, t.Addr, max(t.Weight, 1), slot, id, name})
	}
	return nil
}

// idleTCP is the timeout of a rule's flows. A proxied connection is ended by the splice, whose resets
// still have to find its flows.
func idleTCP(r *Rule) uint32 {
	if r.Proxy {
		return r.IdleTCP + uint32(splice.IdleMargin/time.Second)
	}
	return r.IdleTCP
}

// planListener makes the splice's listener the backend of a proxied rule.
func (d *Dataplane) planListener(p *plan, rs *RuleSet, r *Rule, rule uint32) (nat uint32, table members, err error) {
	if d.inner.Network == "" {
		return 0, members{}, nil // no splice: the rule has no backend and refuses TCP
	}
	set := &RuleSet{Key: d.inner.Network, Network: d.inner.Network}
	for _, a := range d.inner.Sources {
		set.Sources = append(set.Sources, Source{Addr: a})
	}
	if nat, err = d.planNatset(p, set); err != nil {
		return 0, members{}, err
	}
	b := bpfBackend{
		Ident: ident("backend", rs.Key, r.Key, d.inner.Network, d.inner.Listen.String()),
		Addr:  netOrder(d.inner.Listen.Addr()), Port: portOrder(d.inner.Listen.Port()), Vnet: p.vnets[d.inner.Network],
		IdleTcp: idleTCP(r), IdleUdp: r.IdleUDP, Rule: rule, Pool: p.pools[d.inner.Network],
		State: uint8(bpfBackendStateBACKEND_UP),
	}
	// Both ends of the inner pair have one MAC, and nobody there answers ARP.
	for _, port := range p.ports[b.Vnet] {
		b.Hop = bpfHop{Mac: port.MAC, Out: port.Slot}
	}
	slot, _, err := d.backends.get(b.Ident, d.sweeps)
	if err != nil {
		return 0, members{}, err
	}
	p.keepBackends[b.Ident] = true
	p.backends[slot] = b
	if b.Hop.Out != 0 {
		table = members{list: []member{{addr: d.inner.Listen.Addr(), weight: 1, slot: slot, ident: b.Ident}}}
	}
	return nat, table, nil
}

// planRetired keeps backends that their rule no longer chooses, for their flows, while the rule and the
// pool's member are still there. What they are stands in the kernel, so that a restart knows them too.
func (d *Dataplane) planRetired(p *plan) error {
	if d.backends.used() == len(p.keepBackends) {
		return nil // all are chosen
	}
	type member struct {
		pool uint32
		addr uint32
	}
	all := make(map[member]bool)
	for _, pool := range p.state.Pools {
		for _, a := range pool.Members {
			if a.Is4() {
				all[member{p.pools[pool.Key], netOrder(a)}] = true
			}
		}
	}
	for _, rs := range p.state.RuleSets {
		for _, r := range rs.Rules {
			for _, t := range r.Targets {
				all[member{p.pools[t.Pool], netOrder(t.Addr)}] = true
			}
		}
	}
	keys := make(map[uint16]string, len(p.vnets))
	for key, vnet := range p.vnets {
		keys[vnet] = key
	}
	d.backends.others(p.keepBackends, func(id uint64, slot uint32) {
		b := d.k.backends.load(slot)
		if _, ok := p.rules[b.Rule]; !ok || !all[member{b.Pool, b.Addr}] || keys[b.Vnet] == "" {
			return
		}
		p.keepBackends[id] = true
		b.Flags &^= uint8(bpfBackendFlagsBACKEND_HA)
		if p.everyPort[Address{keys[b.Vnet], fromNetOrder(b.Addr)}] {
			b.Flags |= uint8(bpfBackendFlagsBACKEND_HA)
		}
		if keys[b.Vnet] != d.inner.Network {
			kept := b
			d.locate(p, p.reaches[keys[b.Vnet]], fromNetOrder(b.Addr), &kept)
			b = kept
		}
		p.backends[slot] = b
	})
	return nil
}

func (d *Dataplane) planLinks(p *plan) error {
	for _, l := range p.state.Links {
		if l.Network == "" {
			continue
		}
		id := ident("link", l.Key)
		if p.keepLinks[id] {
			return fmt.Errorf("compile links: %s is there twice", l.Key)
		}
		service, ok := p.services[l.RuleSet]
		if !ok && l.RuleSet != "" {
			return fmt.Errorf("compile link %s: no rule set %s", l.Key, l.RuleSet)
		}
		p.keepLinks[id] = true
		slot, _, err := d.links.get(id, d.sweeps)
		if err != nil {
			return err
		}
		entry := bpfLink{
			Ident: id, LinkId: l.ID, State: uint8(l.State), Service: service, MaxFlows: l.MaxFlows,
			Addr: netOrder(l.Addr), Vnet: p.vnets[l.Network], Epoch: uint16(l.Epoch),
		}
		if entry.MaxFlows == 0 {
			entry.MaxFlows = max(1, d.k.config.load(0).MaxPairs/4)
		}
		p.links[slot] = entry
		kind := bpfAddressKindADDR_ENDPOINT
		if l.Frontend {
			kind = bpfAddressKindADDR_FRONTEND
		}
		key := neigh.Key{VNet: entry.Vnet, Addr: l.Addr}
		if old, ok := p.addresses[addressKey(key)]; ok && old.Link != 0 {
			return fmt.Errorf("compile link %s: %s in %s belongs to another link", l.Key, l.Addr, l.Network)
		}
		p.addresses[addressKey(key)] = d.address(key, kind, slot)
	}
	// Peers last: what a network has itself goes before what its peers have.
	for _, l := range p.state.Links {
		for _, peer := range l.Peers {
			vnet, ok := p.vnets[peer]
			if !ok {
				continue // a peering to a network that is not on this node
			}
			key := bpfAddressKey{Addr: netOrder(l.Addr), Vnet: vnet}
			if _, ok := p.addresses[key]; !ok {
				p.addresses[key] = bpfAddress{Key: key, Link: d.links.find(ident("link", l.Key)), Kind: uint8(bpfAddressKindADDR_PEERED)}
			}
		}
	}
	return nil
}
