package dataplane

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
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
	leaving   []uint32 // slots of backends that take no new flows from this plan on
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
	unresolved map[Address]unresolved
	// failed says of what cannot stand in the kernel as the State has it why, by key. All else does.
	failed map[string]error
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
		unresolved: make(map[Address]unresolved), failed: make(map[string]error), everyPort: make(map[Address]bool),
		nats: make(map[string]uint32, len(last.nats)), reaches: make(map[string]*reach, len(last.reaches)), targets: make(map[uint32][]uint32, len(last.targets)),
	}
}

// compile gives every name of the State a slot and says what should stand there. What cannot stand there is left out and
// noted (plan.failed): a State is everybody's, and one tenant's mistake must not keep the others' changes from the kernel.
func (d *Dataplane) compile(state State) *plan {
	p := newPlan(state, d.plan)
	d.planNetworks(p)
	d.syncInterfaces(p)
	d.planClaims(p)
	d.planReach(p)
	d.planPools(p)
	d.planRuleSets(p)
	d.planRetired(p)
	d.planProbes(p)
	d.planLinks(p)
	return p
}

// fail notes why something of the State is not, or not wholly, in the plan. The first reason stands.
func (p *plan) fail(key string, format string, args ...any) {
	if p.failed[key] == nil {
		p.failed[key] = fmt.Errorf(format, args...)
	}
}

func (d *Dataplane) planNetworks(p *plan) {
	for _, n := range p.state.Networks {
		id := ident("vnet", n.Key)
		if p.keepVNets[id] {
			p.fail(n.Key, "there are two networks with this name")
			continue
		}
		slot, _, err := d.vnets.get(id, d.sweeps)
		if err != nil {
			p.fail(n.Key, "%w", err)
			continue
		}
		p.keepVNets[id] = true
		p.vnets[n.Key] = uint16(slot)
	}
}

// place is an address of a network that can be one in the kernel.
func (p *plan) place(network string, addr netip.Addr) (neigh.Key, error) {
	vnet, ok := p.vnets[network]
	switch {
	case !ok:
		return neigh.Key{}, fmt.Errorf("there is no network %s", network)
	case !addr.Is4():
		return neigh.Key{}, fmt.Errorf("%s is no IPv4 address", addr)
	}
	return neigh.Key{VNet: vnet, Addr: addr}, nil
}

// planClaims says which addresses are to be ours; what they are for follows in planRuleSets and planLinks.
func (d *Dataplane) planClaims(p *plan) {
	for _, l := range p.state.Links {
		if l.Network == "" {
			continue // no address yet
		}
		key, err := p.place(l.Network, l.Addr)
		if err != nil {
			p.fail(l.Key, "%w", err)
			continue
		}
		p.claims[key] = true
	}
	for _, rs := range p.state.RuleSets {
		if rs.Network == "" {
			continue // no address yet, so nothing can be reached
		}
		for _, s := range rs.Sources {
			key, err := p.place(rs.Network, s.Addr)
			if err != nil {
				p.fail(rs.Key, "%w", err)
				continue
			}
			if rs.Network != d.inner.Network {
				p.claims[key] = true // in the inner network nobody else could have it
			}
			p.addresses[addressKey(key)] = d.address(key, bpfAddressKindADDR_NAT, 0)
		}
	}
	for _, n := range p.state.Networks {
		for _, a := range n.Gateways {
			key, err := p.place(n.Key, a)
			if err != nil {
				p.fail(n.Key, "%w", err)
				continue
			}
			if _, ok := p.addresses[addressKey(key)]; !ok {
				entry := d.address(key, bpfAddressKindADDR_GATEWAY, 0)
				entry.Arp = 1 // asked for by the operator, and nobody's address in Azure's networks either
				p.addresses[addressKey(key)] = entry
			}
		}
	}
	d.prober.Set(p.claims, d.clock())
	d.adoptClaims(p)
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

func (d *Dataplane) planPools(p *plan) {
	add := func(key string) {
		if _, ok := p.pools[key]; ok {
			return
		}
		id := ident("pool", key)
		slot, _, err := d.pools.get(id, d.sweeps)
		if err != nil {
			p.fail(key, "%w", err)
			return
		}
		p.keepPools[id] = true
		p.pools[key] = slot
	}
	for _, pool := range p.state.Pools {
		add(pool.Key)
	}
	for _, rs := range p.state.RuleSets {
		for _, r := range rs.Rules {
			for _, t := range r.Targets {
				add(t.Pool)
			}
		}
	}
}

func (d *Dataplane) planRuleSets(p *plan) {
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
			p.fail(rs.Key, "there are two rule sets with this name")
			continue
		}
		service, _, err := d.services.get(id, d.sweeps)
		if err != nil {
			p.fail(rs.Key, "%w", err)
			continue
		}
		p.keepServices[id] = true
		p.services[rs.Key] = service
		if _, ok := p.vnets[rs.Network]; !ok {
			if rs.Network != "" {
				p.fail(rs.Key, "there is no network %s", rs.Network)
			}
			continue
		}
		nat := d.planNatset(p, rs)
		p.nats[rs.Key] = nat
		for j := range rs.Rules {
			if err := d.planRule(p, rs, &rs.Rules[j], service, nat); err != nil {
				p.fail(rs.Key, "rule %s is left out: %w", shortRule(rs, &rs.Rules[j]), err)
			}
		}
	}
}

// shortRule is a rule's key without what it shares with its rule set's.
func shortRule(rs *RuleSet, r *Rule) string {
	return strings.TrimPrefix(strings.TrimPrefix(r.Key, rs.Key), "|")
}

// planNatset gives the set of source addresses a slot of its own for every content: it is never
// changed in place. Slot 0 (no new flows) while none of them is ours.
func (d *Dataplane) planNatset(p *plan, rs *RuleSet) uint32 {
	set := bpfNatset{Vnet: p.vnets[rs.Network]}
	parts := []string{"natset", rs.Key, strconv.Itoa(int(set.Vnet))}
	for _, s := range rs.Sources {
		key := neigh.Key{VNet: set.Vnet, Addr: s.Addr}
		if !s.Addr.Is4() || s.Draining || rs.Network != d.inner.Network && !d.prober.Get(key).Ours {
			continue
		}
		if int(set.Count) == len(set.Addr) {
			p.fail(rs.Key, "source addresses after the first %d are left out", len(set.Addr))
			break
		}
		set.Addr[set.Count] = netOrder(s.Addr)
		set.Count++
		parts = append(parts, s.Addr.String())
	}
	if set.Count == 0 {
		return 0
	}
	set.Ident = ident(parts...)
	slot, _, err := d.natsets.get(set.Ident, d.sweeps)
	if err != nil {
		p.fail(rs.Key, "%w", err)
		return 0
	}
	p.keepNatsets[set.Ident] = true
	p.natsets[slot] = set
	return slot
}

func ruleIdent(ruleSet, rule string) uint64 { return ident("rule", ruleSet, rule) }

// planRule enters a rule with its targets. An error leaves out the whole rule.
func (d *Dataplane) planRule(p *plan, rs *RuleSet, r *Rule, service, nat uint32) error {
	if err := p.checkRule(rs, r, service); err != nil {
		return err
	}
	id := ruleIdent(rs.Key, r.Key)
	slot, _, err := d.rules.get(id, d.sweeps)
	if err != nil {
		return err
	}
	p.keepRules[id] = true
	rule := bpfRule{Ident: id, Service: service, Nat: nat, BackendPort: portOrder(r.BackendPort), Distribution: uint8(r.Distribution)}
	table := members{port: strconv.Itoa(int(r.BackendPort)), list: make([]member, 0, len(r.Targets))}
	idents := newBackendIdents(rs, r)
	p.targets[slot] = make([]uint32, 0, len(r.Targets))
	for i := range r.Targets {
		at, err := d.planTarget(p, rs, r, &r.Targets[i], slot, &idents, &table)
		if err != nil {
			p.fail(rs.Key, "backend %s of rule %s is left out: %w", r.Targets[i].Addr, shortRule(rs, r), err)
		}
		p.targets[slot] = append(p.targets[slot], at)
	}
	if !r.Proxy {
		p.enterRule(ruleKey(service, r, r.Protocol), slot, rule, table)
		return nil
	}
	proxied, listener := rule, members{}
	proxied.BackendPort = portOrder(d.inner.Listen.Port())
	if proxied.Nat, listener, err = d.planListener(p, rs, r, slot); err != nil {
		return err
	}
	p.enterRule(ruleKey(service, r, ProtocolTCP), slot, proxied, listener)
	if r.Protocol == ProtocolAll {
		// UDP of every port passes plain, to the same backends; TCP has its own rule before it.
		return d.planPlain(p, rs, r, rule, table)
	}
	return nil
}

// checkRule refuses what the kernel's tables have no place for, before anything of the rule is entered.
func (p *plan) checkRule(rs *RuleSet, r *Rule, service uint32) error {
	if p.keepRules[ruleIdent(rs.Key, r.Key)] {
		return errors.New("there are two rules with this name")
	}
	if r.Port == 0 != (r.Protocol == ProtocolAll) {
		return fmt.Errorf("port %d with protocol %d", r.Port, r.Protocol)
	}
	protocols := []Protocol{r.Protocol}
	if r.Proxy {
		protocols = append(protocols, ProtocolTCP)
	}
	for _, protocol := range protocols {
		if other, taken := p.ruleIndex[ruleKey(service, r, protocol)]; taken {
			for i := range rs.Rules {
				if p.rules[other.Rule].Ident == ruleIdent(rs.Key, rs.Rules[i].Key) {
					return fmt.Errorf("rule %s is for port %d of protocol %d already", shortRule(rs, &rs.Rules[i]), r.Port, protocol)
				}
			}
			return fmt.Errorf("another rule is for port %d of protocol %d already", r.Port, protocol)
		}
	}
	return nil
}

// planPlain makes the rule for what a proxied rule for all ports does not send through the splice path.
func (d *Dataplane) planPlain(p *plan, rs *RuleSet, r *Rule, rule bpfRule, table members) error {
	rule.Ident = ident("rule", rs.Key, r.Key, "plain")
	slot, _, err := d.rules.get(rule.Ident, d.sweeps)
	if err != nil {
		return err
	}
	p.keepRules[rule.Ident] = true
	p.enterRule(ruleKey(rule.Service, r, ProtocolAll), slot, rule, table)
	return nil
}

// ruleKey is where a packet looks for a rule.
func ruleKey(service uint32, r *Rule, protocol Protocol) bpfRuleKey {
	return bpfRuleKey{Service: service, Port: portOrder(r.Port), Proto: uint8(protocol)}
}

// enterRule makes a rule answer where packets look for it; checkRule has seen that the place is free.
func (p *plan) enterRule(key bpfRuleKey, slot uint32, rule bpfRule, table members) {
	p.ruleIndex[key] = bpfRuleRef{Key: key, Rule: slot}
	rule.Balance = table.signature()
	p.tables[slot] = table
	p.rules[slot] = rule
}

// planTarget enters a backend and returns its slot, and puts it into the rule's table if it may take new flows.
func (d *Dataplane) planTarget(p *plan, rs *RuleSet, r *Rule, t *Target, rule uint32, idents *backendIdents, table *members) (uint32, error) {
	if !t.Addr.Is4() {
		return 0, errors.New("no IPv4 address")
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
	missing, resolved := d.locate(p, reach, t.Addr, &b)
	switch {
	case !t.Healthy || t.NoNew:
		b.State = uint8(bpfBackendStateBACKEND_DOWN)
	case !resolved:
		b.State = uint8(bpfBackendStateBACKEND_UNRESOLVED)
	}
	if !resolved {
		p.unresolved[Address{rs.Network, t.Addr}] = missing
	}
	slot, _, err := d.backends.get(b.Ident, d.sweeps)
	if err != nil {
		return 0, err
	}
	p.keepBackends[b.Ident] = true
	p.backends[slot] = b
	if resolved && t.Healthy && !t.NoNew {
		table.list = append(table.list, member{t.Pool, t.Addr, max(t.Weight, 1), slot, id, name})
	}
	return slot, nil
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
	nat = d.planNatset(p, set)
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
func (d *Dataplane) planRetired(p *plan) {
	if d.backends.used() == len(p.keepBackends) {
		return // all are chosen
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
				if t.Addr.Is4() {
					all[member{p.pools[t.Pool], netOrder(t.Addr)}] = true
				}
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
}

func (d *Dataplane) planLinks(p *plan) {
	room := int(d.k.maps[mapAddresses].MaxEntries())
	limits := defaultLimits(p.state, d.k.config.load(0).MaxPairs)
	for _, l := range p.state.Links {
		at, err := p.place(l.Network, l.Addr)
		if err != nil {
			continue // planClaims said so, or it has no address yet
		}
		if l.MaxFlows == 0 {
			l.MaxFlows = limits(&l)
		}
		if err := d.planLink(p, &l, at, room); err != nil {
			p.fail(l.Key, "%w", err)
		}
	}
	// Peers last: what a network has itself goes before what its peers have.
	for _, l := range p.state.Links {
		slot := d.links.find(ident("link", l.Key))
		if _, planned := p.links[slot]; !planned {
			continue
		}
		for _, peer := range l.Peers {
			vnet, ok := p.vnets[peer]
			if !ok {
				continue // a peering to a network that is not on this node
			}
			key := bpfAddressKey{Addr: netOrder(l.Addr), Vnet: vnet}
			if _, ok := p.addresses[key]; ok {
				continue
			}
			if len(p.addresses) >= room {
				p.fail(l.Key, "it cannot be reached from network %s: all %d addresses are in use", peer, room)
				break
			}
			p.addresses[key] = bpfAddress{Key: key, Link: slot, Kind: uint8(bpfAddressKindADDR_PEERED)}
		}
	}
}

// defaultLimits says how many pairs a link may have open that has no limit of its own: a quarter of the table's,
// and at most half of the ports that its rule set's NAT IPs have towards one backend. Whoever takes all that it
// may, and gets all of it sent to one backend, leaves the other half to the others. A frontend has no others: its
// one link is the whole network's.
func defaultLimits(s State, pairs uint32) func(*Link) uint32 {
	ports := make(map[string]uint32, len(s.RuleSets))
	for _, rs := range s.RuleSets {
		for _, source := range rs.Sources {
			if !source.Draining && ports[rs.Key] < uint32(len(bpfNatset{}.Addr))*PortsPerDomain {
				ports[rs.Key] += PortsPerDomain
			}
		}
	}
	return func(l *Link) uint32 {
		limit := pairs / 4
		if have := ports[l.RuleSet]; have != 0 && !l.Frontend {
			limit = min(limit, have/2)
		}
		return max(1, limit)
	}
}

// planLink enters a link and its address. An error leaves out both.
func (d *Dataplane) planLink(p *plan, l *Link, at neigh.Key, room int) error {
	id := ident("link", l.Key)
	if p.keepLinks[id] {
		return errors.New("there are two links with this name")
	}
	service, ok := p.services[l.RuleSet]
	if !ok && l.RuleSet != "" {
		return fmt.Errorf("there is no rule set %s", l.RuleSet)
	}
	key := addressKey(at)
	switch old, ok := p.addresses[key]; {
	case ok && old.Link != 0:
		return fmt.Errorf("%s in %s belongs to another link", l.Addr, l.Network)
	case !ok && len(p.addresses) >= room:
		return fmt.Errorf("all %d addresses are in use", room)
	}
	slot, _, err := d.links.get(id, d.sweeps)
	if err != nil {
		return err
	}
	p.keepLinks[id] = true
	entry := bpfLink{
		Ident: id, LinkId: l.ID, State: uint8(l.State), Service: service, MaxFlows: l.MaxFlows,
		Addr: netOrder(l.Addr), Vnet: at.VNet, Epoch: uint16(l.Epoch),
	}
	p.links[slot] = entry
	kind := bpfAddressKindADDR_ENDPOINT
	if l.Frontend {
		kind = bpfAddressKindADDR_FRONTEND
	}
	p.addresses[key] = d.address(at, kind, slot)
	return nil
}
