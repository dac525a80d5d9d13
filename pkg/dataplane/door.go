package dataplane

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/cilium/ebpf"
	"github.com/privlink/privlink/pkg/splice"
	"github.com/privlink/privlink/pkg/splice/header"
	"github.com/privlink/privlink/pkg/splice/inner"
)

// door is what the splice path and the probes ask for on every connection: a picture of the last apply
// that is read without the mutex, which an Apply may hold for milliseconds.
type door struct {
	inner   uint16 // number of the inner network; 0 without one
	probes  uint32 // slot of the link that probes go by
	rules   map[doorRule]doorTarget
	names   map[uint32]doorRule // by slot of the rule
	links   map[uint32]string
	linkIDs map[uint32]uint32
	idle    map[uint32]time.Duration // of a rule
	headers map[uint32]doorHeader    // of a rule
	// unresolved are the targets that answer nobody.
	unresolved map[Address]unresolved
}

// doorHeader is what a rule's backends read before everything else.
type doorHeader struct {
	style  header.Style
	crc32c bool
}

type doorRule struct{ ruleSet, rule string }

// doorTarget is where a rule's connections may go.
type doorTarget struct {
	network      string
	slot         uint32 // of the rule
	nat          uint32
	distribution Distribution
	targets      []uint32 // slots
	backends     map[netip.Addr]uint32
	table        *maglevTable // of the real targets, whatever the kernel has for the rule
}

// maglevTable is built when it is first asked for, and kept while its members stay.
type maglevTable struct {
	members members
	signed  uint64
	places  []uint32
}

// ErrNoFlow says that there is no live flow for a connection.
var ErrNoFlow = errors.New("no live flow")

// ErrNoDestination says that a destination is not in the State, or its link not what it was.
var ErrNoDestination = errors.New("no such destination now")

var _ splice.Gateway = (*Dataplane)(nil)

// openDoor draws the picture after an apply. mu is held.
func (d *Dataplane) openDoor(p *plan) {
	n := d.namesOf(p)
	v := &door{
		inner: p.vnets[d.inner.Network], probes: d.links.find(probeIdent), links: n.links, linkIDs: n.linkIDs,
		rules: make(map[doorRule]doorTarget), names: make(map[uint32]doorRule), idle: make(map[uint32]time.Duration),
		headers: make(map[uint32]doorHeader), unresolved: p.unresolved,
	}
	old := d.door.Load()
	for i := range p.state.RuleSets {
		rs := &p.state.RuleSets[i]
		for j := range rs.Rules {
			r := &rs.Rules[j]
			key := doorRule{rs.Key, r.Key}
			slot := d.rules.find(ruleIdent(rs.Key, r.Key))
			t := doorTarget{network: rs.Network, slot: slot, nat: p.nats[rs.Key], distribution: r.Distribution, targets: p.targets[slot]}
			if old != nil && slices.Equal(old.rules[key].targets, t.targets) {
				t.backends = old.rules[key].backends // a slot stays a backend's from one apply to the next
			} else {
				t.backends = make(map[netip.Addr]uint32, len(r.Targets))
				for i, at := range t.targets {
					t.backends[r.Targets[i].Addr] = at
				}
			}
			if r.Proxy {
				m := p.proxied(rs, r, t.targets)
				signed := m.signature()
				if old != nil && old.rules[key].table != nil && old.rules[key].table.signed == signed {
					t.table = old.rules[key].table
				} else {
					t.table = &maglevTable{m, signed, m.places(m.choose(d.k.config.load(0).MaglevSeed))}
				}
			}
			style, err := header.ParseStyle(r.ProxyTLV)
			if err != nil {
				d.log.WithError(err).WithField("rule", r.Key).Error("PROXY headers of this rule name no link")
				style = header.None
			}
			v.headers[t.slot] = doorHeader{style, r.ProxyCRC32C}
			v.rules[key], v.names[t.slot], v.idle[t.slot] = t, key, time.Duration(r.IdleTCP)*time.Second
		}
	}
	d.door.Store(v)
	d.opened.Do(func() { close(d.ready) })
}

// Ready implements splice.Gateway: after the first apply.
func (d *Dataplane) Ready() <-chan struct{} { return d.ready }

// proxied are the targets of a rule with PROXY that take new flows; in the kernel's table the listener stands for them.
func (p *plan) proxied(rs *RuleSet, r *Rule, slots []uint32) members {
	m := members{port: strconv.Itoa(int(r.BackendPort))}
	idents := newBackendIdents(rs, r)
	for i, slot := range slots {
		t := &r.Targets[i]
		if t.Healthy && !t.NoNew && p.backends[slot].State == uint8(bpfBackendStateBACKEND_UP) {
			id, name := idents.of(t)
			m.list = append(m.list, member{t.Pool, t.Addr, max(t.Weight, 1), slot, id, name})
		}
	}
	return m
}

// enter keeps the kernel's memory mapped until the returned function is called; false when closed.
func (d *Dataplane) enter() (leave func(), v *door, ok bool) {
	d.readers.RLock()
	v = d.door.Load()
	if v == nil || d.shut.Load() {
		d.readers.RUnlock()
		return nil, nil, false
	}
	return d.readers.RUnlock, v, true
}

// findFlow looks a key up, as bpf/flowtable.h does.
func (k *kernel) findFlow(key bpfFlowKey) (entry, bool) {
	home := k.home(key)
	bits := uint32(k.flows.word(home, 0)>>32) & 0x3fffffff
	for distance := uint32(0); bits != 0; distance, bits = distance+1, bits>>1 {
		if bits&1 == 0 {
			continue
		}
		if e, ok := k.read(home + distance); ok && e.live() && e.Key == key {
			return e, true
		}
	}
	return entry{}, false
}

// home is flow_home of bpf/flowtable.h.
func (k *kernel) home(key bpfFlowKey) uint32 {
	p := padded[bpfFlowKey]{v: key}
	w := p.words()
	c := k.config.load(0)
	h := c.Seed[4] + uint64(uint32(w[0]))*c.Seed[0] + w[0]>>32*c.Seed[1] + uint64(uint32(w[1]))*c.Seed[2] + w[1]>>32*c.Seed[3]
	h ^= h >> 32
	h *= 0x9fb21c651e98df25
	h ^= h >> 29
	h *= 0xd6e8feb86659fd93
	return uint32(h >> 32 * uint64(c.Homes) >> 32)
}

// innerKey is the key of packets from local to peer in the inner network.
func innerKey(v *door, local, peer netip.AddrPort) bpfFlowKey {
	return bpfFlowKey{
		Saddr: netOrder(local.Addr().Unmap()), Daddr: netOrder(peer.Addr().Unmap()), Sport: portOrder(local.Port()), Dport: portOrder(peer.Port()),
		Vnet: v.inner, Proto: uint8(ProtocolTCP), Kind: uint8(bpfFlowKindKIND_FLOW),
	}
}

// Identify implements splice.Gateway.
func (d *Dataplane) Identify(local, peer netip.AddrPort) (splice.Identity, error) {
	leave, v, ok := d.enter()
	if !ok {
		return splice.Identity{}, fmt.Errorf("identify %s: %w", peer, ErrClosed)
	}
	defer leave()
	e, ok := d.k.findFlow(innerKey(v, local, peer))
	if !ok || !e.reverse() {
		return splice.Identity{}, fmt.Errorf("identify %s: %w", peer, ErrNoFlow)
	}
	forward, ok := d.k.read(e.Twin)
	if !ok || !forward.live() || forward.Twin != e.slot {
		return splice.Identity{}, fmt.Errorf("identify %s: %w", peer, ErrNoFlow)
	}
	tag := e.Rw.Tag.Of
	rule := d.k.backends.load(min(forward.Rw.Via.Forward.Backend, d.k.backends.count-1)).Rule
	name, ok := v.names[rule]
	if !ok || v.links[tag.Link] == "" {
		return splice.Identity{}, fmt.Errorf("identify %s: %w", peer, ErrNoDestination)
	}
	return splice.Identity{
		Client: addrPort(e.Rw.Daddr, e.Rw.Dport), Endpoint: addrPort(e.Rw.Saddr, e.Rw.Sport), LinkID: v.linkIDs[tag.Link],
		Link: v.links[tag.Link], RuleSet: name.ruleSet, Rule: name.rule, LinkRef: linkRef(tag.Link, tag.LinkGen), IdleTimeout: v.idle[rule],
		Style: v.headers[rule].style, CRC32C: v.headers[rule].crc32c,
	}, nil
}

// Stands implements splice.Gateway.
func (d *Dataplane) Stands(id *splice.Identity) bool {
	leave, _, ok := d.enter()
	if !ok {
		return false
	}
	defer leave()
	return d.k.stands(uint32(id.LinkRef>>16), uint16(id.LinkRef))
}

// stands says whether the kernel has a link as approved, in that generation.
func (k *kernel) stands(link uint32, gen uint16) bool {
	l := k.links.load(min(link, k.links.count-1))
	return l.State == uint8(LinkApproved) && l.Gen == gen
}

// linkRef is a link's slot and generation in one word, never 0.
func linkRef(slot uint32, gen uint16) uint64 { return uint64(slot)<<16 | uint64(gen) }

// Targets implements splice.Gateway.
func (d *Dataplane) Targets(id *splice.Identity, limit int) []netip.AddrPort {
	leave, v, ok := d.enter()
	if !ok {
		return nil
	}
	defer leave()
	t := v.rules[doorRule{id.RuleSet, id.Rule}]
	if t.table == nil || len(t.table.places) == 0 {
		return nil
	}
	var targets []netip.AddrPort
	seen := make(map[uint32]bool, limit)
	places := t.table.places
	at := int(uint64(d.k.balance(id, t.distribution)) * uint64(len(places)) >> 32)
	for i := 0; i < len(places) && len(targets) < min(limit, len(t.table.members.list)); i++ {
		slot := places[(at+i)%len(places)]
		if seen[slot] {
			continue
		}
		seen[slot] = true
		b := d.k.backends.load(slot)
		if b.State != uint8(bpfBackendStateBACKEND_UP) {
			continue
		}
		port := portOrder(b.Port)
		if port == 0 {
			port = id.Endpoint.Port()
		}
		targets = append(targets, netip.AddrPortFrom(fromNetOrder(b.Addr), port))
	}
	return targets
}

// balance is balance_hash of bpf/balance.h.
func (k *kernel) balance(id *splice.Identity, distribution Distribution) uint32 {
	seed := k.config.load(0).MaglevSeed
	h := mix64(seed[0] ^ (uint64(id.LinkID)<<32 | uint64(netOrder(id.Client.Addr()))))
	switch distribution {
	case DistributionSourceIPProtocol:
		h = mix64(h ^ seed[1] ^ uint64(ProtocolTCP))
	case Distribution5Tuple:
		h = mix64(h ^ seed[1] ^ (uint64(ProtocolTCP)<<32 | uint64(portOrder(id.Client.Port()))<<16 | uint64(portOrder(id.Endpoint.Port()))))
	}
	return uint32(h >> 32)
}

// Admit implements inner.Door: a TCP connection from source, in the inner network, may go to a target.
func (d *Dataplane) Admit(source netip.AddrPort, to inner.Destination) error {
	leave, v, ok := d.enter()
	if !ok {
		return fmt.Errorf("admit %s: %w", source, ErrClosed)
	}
	defer leave()
	t, ok := v.rules[doorRule{to.RuleSet, to.Rule}]
	slot := t.backends[to.Target.Addr()]
	if !ok || slot == 0 || t.nat == 0 {
		return fmt.Errorf("admit %s to %s: %w", source, to.Target, ErrNoDestination)
	}
	if is, ok := v.unresolved[Address{t.network, to.Target.Addr()}]; ok && !is.asking {
		return fmt.Errorf("admit %s to %s: %w (%s)", source, to.Target, inner.ErrUnresolved, is.why)
	} else if ok {
		return fmt.Errorf("admit %s to %s: %w", source, to.Target, ErrNoDestination)
	}
	link := uint32(to.Link >> 16)
	gen := uint16(to.Link)
	if to.Link == 0 {
		link, gen = v.probes, d.k.links.load(v.probes).Gen
	}
	if !d.k.stands(link, gen) {
		return fmt.Errorf("admit %s to %s: %w", source, to.Target, ErrNoDestination)
	}
	key := dialKey(source)
	entry := bpfDial{
		Key: key, Link: link, LinkGen: gen, Backend: slot, BackendGen: d.k.backends.load(slot).Gen,
		Nat: t.nat, Dport: portOrder(to.Target.Port()),
	}
	err := d.k.maps[mapDials].Update(&key, &entry, ebpf.UpdateNoExist)
	if err == nil {
		d.dials.Add(1)
	} else if errors.Is(err, ebpf.ErrKeyExist) { // the next target, from the same source
		err = d.k.maps[mapDials].Update(&key, &entry, ebpf.UpdateExist)
	}
	if err != nil {
		return fmt.Errorf("admit %s to %s: %w", source, to.Target, err)
	}
	return nil
}

// Withdraw implements inner.Door.
func (d *Dataplane) Withdraw(source netip.AddrPort) {
	leave, _, ok := d.enter()
	if !ok {
		return
	}
	defer leave()
	key := dialKey(source)
	err := d.k.maps[mapDials].Delete(&key)
	if err == nil {
		d.dials.Add(-1)
	} else if !errors.Is(err, ebpf.ErrKeyNotExist) {
		d.log.WithError(err).WithField("source", source).Error("withdrawing a dial entry")
	}
}

func dialKey(source netip.AddrPort) bpfDialKey {
	return bpfDialKey{Addr: netOrder(source.Addr().Unmap()), Port: portOrder(source.Port()), Proto: uint8(ProtocolTCP)}
}

// Heard implements splice.Gateway.
func (d *Dataplane) Heard(local, peer netip.AddrPort) (age time.Duration, ok bool) {
	leave, v, ok := d.enter()
	if !ok {
		return 0, false
	}
	defer leave()
	e, ok := d.k.findFlow(innerKey(v, local, peer))
	if !ok {
		return 0, false
	}
	twin, ok := d.k.read(e.Twin)
	if !ok || !twin.live() || twin.Twin != e.slot {
		return 0, false
	}
	now, err := d.k.now()
	if err != nil {
		return 0, false
	}
	return time.Duration(max(0, int32(now-twin.Stamp))) * time.Second, true
}

// clearDials removes what a killed daemon left: its sockets are gone.
func (k *kernel) clearDials() error {
	var key [8]byte
	for k.maps[mapDials].NextKey(nil, &key) == nil {
		if err := k.maps[mapDials].Delete(&key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("clear map %s: %w", mapDials, err)
		}
	}
	return nil
}

// probeIdent names the link that probes go by: always approved, of no network, without an address.
var probeIdent = ident("link", "", "probes")

// planProbes makes that link.
func (d *Dataplane) planProbes(p *plan) {
	if d.inner.Network == "" {
		return
	}
	slot, _, err := d.links.get(probeIdent, d.sweeps)
	if err != nil {
		p.fail(d.inner.Network, "no backend can be probed: %w", err)
		return
	}
	p.keepLinks[probeIdent] = true
	p.links[slot] = bpfLink{Ident: probeIdent, State: uint8(LinkApproved), MaxFlows: d.k.config.load(0).MaxPairs}
}

// Verdicts are those in force in the kernel, by Target.Probe, as whoever had it before left them: what probes have found out stands
// nowhere else. For a daemon that has asked nobody yet.
func (d *Dataplane) Verdicts(s State) map[string]bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	verdicts := make(map[string]bool)
	for i := range s.RuleSets {
		rs := &s.RuleSets[i]
		for j := range rs.Rules {
			for _, t := range rs.Rules[j].Targets {
				slot := d.backends.find(backendIdent(rs, &rs.Rules[j], t))
				if t.Probe == "" || t.NoNew || slot == 0 || d.closed {
					continue
				}
				state := bpfBackendState(d.k.backends.load(slot).State)
				if up := state == bpfBackendStateBACKEND_UP; up || state == bpfBackendStateBACKEND_DOWN {
					verdicts[t.Probe] = verdicts[t.Probe] || up
				}
			}
		}
	}
	return verdicts
}
