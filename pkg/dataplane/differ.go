package dataplane

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
)

// Difference is one object that the kernel's maps have otherwise than a State wants it.
type Difference struct {
	// Object is its kind and key: "link KEY", "address A of NETWORK", "port P of RULESET", "backend A of RULE".
	Object string
	// Have and Want describe it; empty = not there.
	Have, Want string
}

func (d Difference) String() string {
	switch {
	case d.Have == "":
		return fmt.Sprintf("%s is missing (%s)", d.Object, d.Want)
	case d.Want == "":
		return fmt.Sprintf("%s should not be there (%s)", d.Object, d.Have)
	}
	return fmt.Sprintf("%s is %s, should be %s", d.Object, d.Have, d.Want)
}

// Differences compares the maps pinned below a bpffs folder with a State, object by object. It reads what is pinned and
// asks no daemon, so it works whether one runs or not; a daemon in the middle of Apply differs for as long.
//
// It is strict: it takes every address as probed and every backend as resolved, as they are when Result.Settled is true.
// The splice's own network, whose key is inner, is left out; so are the probes' link, interfaces, and where proxied rules
// lead to.
func Differences(bpffs string, want State, inner string) (list []Difference, err error) {
	r, err := openReading(bpffs)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	return r.differences(want, inner, doubts{})
}

// Differences compares the maps with the State that was applied last, as the function of that name does, but takes
// what Result tells of it into account: what is pending, unresolved or failed does not count.
func (d *Dataplane) Differences() ([]Difference, error) {
	d.readers.RLock()
	defer d.readers.RUnlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, fmt.Errorf("compare the kernel with the state: %w", ErrClosed)
	}
	if !d.applied {
		return nil, nil
	}
	r := reading{k: d.k}
	plan, want, is, inner := d.plan, d.state, d.doubts(), d.inner.Network
	d.mu.Unlock() // an Apply need not wait
	list, err := r.differences(want, inner, is)
	d.mu.Lock()
	if d.plan != plan { // one came, so that the comparison says nothing: again, while none can
		return r.differences(d.state, inner, d.doubts())
	}
	return list, err
}

// doubts are what keeps the kernel from holding a State as it stands.
type doubts struct {
	pending    map[Address]bool // not known to be ours, or known to be another's
	unresolved map[Address]bool // nobody knows where these targets are
	failed     map[string]bool  // keys of what was left out, or partly
	kept       map[uint64]bool  // idents of backends, those included that stay for their flows only
}

// doubts are those of the last plan. mu is held.
func (d *Dataplane) doubts() doubts {
	is := doubts{make(map[Address]bool), make(map[Address]bool), make(map[string]bool), d.plan.keepBackends}
	for _, a := range d.result.Pending {
		is.pending[a] = true
	}
	for _, c := range d.result.Conflicts {
		is.pending[c.Address] = true
	}
	for _, u := range d.result.Unresolved {
		is.unresolved[u.Address] = true
	}
	for _, f := range d.result.Failed {
		is.failed[f.Key] = true
	}
	return is
}

func (r *reading) differences(want State, inner string, is doubts) (list []Difference, err error) {
	due := describe(want, r.k.config.load(0).MaxPairs, is)
	have, err := r.describe(&due, inner)
	if err != nil {
		return nil, fmt.Errorf("compare the kernel with revision %d: %w", want.Revision, err)
	}
	for object, is := range have {
		should, ok := due.objects[object]
		if is != should && (ok || !due.excused[object]) {
			list = append(list, Difference{object, is, should})
		}
	}
	for object, should := range due.objects {
		if _, ok := have[object]; !ok {
			list = append(list, Difference{Object: object, Want: should})
		}
	}
	slices.SortFunc(list, func(a, b Difference) int { return strings.Compare(a.Object, b.Object) })
	return list, nil
}

// description is a State as text, object by object.
type description struct {
	doubts
	objects map[string]string
	excused map[string]bool   // objects of what failed: they may be there or not
	names   map[uint64]string // keys by ident
	proxied map[string]bool   // rules by key
}

func (d *description) name(kind string, parts ...string) string {
	key := parts[len(parts)-1]
	d.names[ident(append([]string{kind}, parts...)...)] = key
	return key
}

// want says how an object is to be, where what it is a part of did not fail.
func (d *description) want(of, object, text string) {
	if d.failed[of] {
		d.excused[object] = true
		return
	}
	d.objects[object] = text
}

// ours says whether an address is known to be nobody else's.
func (d *description) ours(network string, a netip.Addr) bool { return !d.pending[Address{network, a}] }

// describe says what a State wants. It follows DESIGN's words and none of the plan's tables.
func describe(s State, pairs uint32, is doubts) description {
	limits := defaultLimits(s, pairs)
	d := description{doubts: is, objects: map[string]string{}, excused: map[string]bool{}, names: map[uint64]string{}, proxied: map[string]bool{}}
	for _, n := range s.Networks {
		d.name("vnet", n.Key)
		for _, a := range n.Gateways {
			d.want(n.Key, addressObject(a, n.Key), addressText(bpfAddressKindADDR_GATEWAY, "", true))
		}
	}
	for i := range s.RuleSets {
		rs := &s.RuleSets[i]
		d.name("service", rs.Key)
		if rs.Network != "" {
			d.ruleSet(rs)
		}
	}
	for _, l := range s.Links {
		if l.Network == "" {
			continue
		}
		kind := bpfAddressKindADDR_ENDPOINT
		if l.Frontend {
			kind = bpfAddressKindADDR_FRONTEND
		}
		d.want(l.Key, addressObject(l.Addr, l.Network), addressText(kind, d.name("link", l.Key), d.ours(l.Network, l.Addr)))
		if l.MaxFlows == 0 {
			l.MaxFlows = limits(&l)
		}
		limit := strconv.FormatUint(uint64(l.MaxFlows), 10)
		d.want(l.Key, "link "+l.Key, linkText(l.ID, l.State, uint16(l.Epoch), l.RuleSet, l.Addr, l.Network, limit))
	}
	for _, l := range s.Links {
		for _, peer := range l.Peers {
			at := addressObject(l.Addr, peer)
			if _, ok := d.objects[at]; !ok {
				d.want(l.Key, at, addressText(bpfAddressKindADDR_PEERED, l.Key, false))
			}
		}
	}
	return d
}

func (d *description) ruleSet(rs *RuleSet) {
	var nat []string
	for _, s := range rs.Sources {
		d.want(rs.Key, addressObject(s.Addr, rs.Network), addressText(bpfAddressKindADDR_NAT, "", d.ours(rs.Network, s.Addr)))
		if !s.Draining && d.ours(rs.Network, s.Addr) {
			nat = append(nat, s.Addr.String())
		}
	}
	for i := range rs.Rules {
		r := &rs.Rules[i]
		d.name("rule", rs.Key, r.Key)
		d.proxied[r.Key] = r.Proxy
		var chosen []string
		for _, t := range r.Targets {
			state, flags := bpfBackendStateBACKEND_UP, uint8(0)
			switch {
			case !t.Healthy || t.NoNew:
				state = bpfBackendStateBACKEND_DOWN
			case d.unresolved[Address{rs.Network, t.Addr}]:
				state = bpfBackendStateBACKEND_UNRESOLVED
			default:
				chosen = append(chosen, t.Addr.String())
			}
			if r.TCPReset {
				flags = uint8(bpfBackendFlagsBACKEND_TCP_RESET)
			}
			d.names[backendIdent(rs, r, t)] = r.Key + "|" + t.Pool
			d.want(rs.Key, backendObject(t.Addr, r.BackendPort, r.Key+"|"+t.Pool), backendText(uint8(state), flags, rs.Network, idleTCP(r), r.IdleUDP))
		}
		slices.Sort(chosen)
		plain := ruleText(r.Key, nat, rs.Network, r.BackendPort, uint8(r.Distribution), chosen)
		switch {
		case !r.Proxy:
			d.want(rs.Key, portObject(r.Port, r.Protocol, rs.Key), plain)
		case r.Protocol == ProtocolAll: // all but TCP passes plain
			d.names[ident("rule", rs.Key, r.Key, "plain")] = r.Key
			d.want(rs.Key, portObject(r.Port, ProtocolAll, rs.Key), plain)
			fallthrough
		default:
			d.want(rs.Key, portObject(r.Port, ProtocolTCP, rs.Key), proxyText(r.Key))
		}
	}
}

func addressObject(a netip.Addr, network string) string {
	return fmt.Sprintf("address %s of %s", a, network)
}

func addressText(kind bpfAddressKind, link string, arp bool) string {
	text := map[bpfAddressKind]string{
		bpfAddressKindADDR_ENDPOINT: "an endpoint", bpfAddressKindADDR_FRONTEND: "a frontend", bpfAddressKindADDR_NAT: "a NAT IP",
		bpfAddressKindADDR_GATEWAY: "a gateway", bpfAddressKindADDR_PEERED: "an endpoint of a peered network",
	}[kind]
	if text == "" {
		text = fmt.Sprintf("of unknown kind %d", kind)
	}
	if link != "" {
		text += ", link " + link
	}
	if !arp {
		text += ", not answered for"
	}
	return text
}

func linkText(id uint32, state LinkState, epoch uint16, ruleSet string, addr netip.Addr, network, limit string) string {
	named := map[LinkState]string{LinkPending: "Pending", LinkApproved: "Approved", LinkRejected: "Rejected", LinkDisconnected: "Disconnected"}[state]
	if named == "" {
		named = fmt.Sprintf("in unknown state %d", state)
	}
	return fmt.Sprintf("%s with LinkID %#x (epoch %d) of %q at %s in %s, flows %s", named, id, epoch, ruleSet, addr, network, limit)
}

func backendObject(addr netip.Addr, port uint16, of string) string {
	return fmt.Sprintf("backend %s port %d of %s", addr, port, of)
}

func portObject(port uint16, protocol Protocol, ruleSet string) string {
	return fmt.Sprintf("port %d protocol %d of %s", port, protocol, ruleSet)
}

func backendText(state, flags uint8, network string, idleTCP, idleUDP uint32) string {
	named := map[bpfBackendState]string{
		bpfBackendStateBACKEND_UP: "up", bpfBackendStateBACKEND_DOWN: "down", bpfBackendStateBACKEND_UNRESOLVED: "not found by ARP",
	}[bpfBackendState(state)]
	if named == "" {
		named = fmt.Sprintf("in unknown state %d", state)
	}
	return fmt.Sprintf("%s, flags %d in %s, idle %d and %d", named, flags, network, idleTCP, idleUDP)
}

func ruleText(rule string, nat []string, network string, port uint16, distribution uint8, chosen []string) string {
	if len(nat) == 0 {
		network = "" // no set at all
	}
	return fmt.Sprintf("rule %s from %v in %q to port %d, distribution %d, backends %v", rule, nat, network, port, distribution, chosen)
}

func proxyText(rule string) string { return "rule " + rule + ", proxied" }

// reading is the pinned maps, mapped.
type reading struct {
	k *kernel
}

func openReading(bpffs string) (*reading, error) {
	r := &reading{k: &kernel{maps: make(map[string]*ebpf.Map)}}
	for _, name := range []string{mapConfig, mapTable, mapFlows, mapVNets, mapServices, mapPools, mapIfaces, mapOuts, mapLinks, mapUsage, mapRules,
		mapNatsets, mapBackends, mapAddresses, mapRuleIndex, mapMaglev} {
		m, err := ebpf.LoadPinnedMap(filepath.Join(bpffs, "maps", name), nil)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("read pinned map %s: %w", name, err), r.close())
		}
		r.k.maps[name] = m
	}
	if err := r.k.mapArrays(); err != nil {
		return nil, errors.Join(err, r.close())
	}
	return r, nil
}

func (r *reading) close() error {
	r.k.close()
	return nil
}

// describe says what the maps have. Idents become names where the State has them.
func (r *reading) describe(d *description, inner string) (map[string]string, error) {
	named := func(a *array[bpfName], number uint32) string {
		if number == 0 || number >= a.count {
			return ""
		}
		return nameOf(d, a.load(number).Ident)
	}
	have := map[string]string{}
	hidden := ident("vnet", inner)
	innerVNet := func(vnet uint16) bool { return vnet != 0 && r.k.vnets.load(uint32(vnet)).Ident == hidden }
	network := func(vnet uint16) string { return named(r.k.vnets, uint32(vnet)) }
	for slot := uint32(1); slot < r.k.links.count; slot++ {
		l := r.k.links.load(slot)
		if l.Ident == 0 || l.Ident == probeIdent {
			continue
		}
		key := nameOf(d, l.Ident)
		limit := strconv.FormatUint(uint64(l.MaxFlows), 10)
		have["link "+key] = linkText(l.LinkId, LinkState(l.State), l.Epoch, named(r.k.services, l.Service), fromNetOrder(l.Addr), network(l.Vnet), limit)
	}
	for slot := uint32(1); slot < r.k.backends.count; slot++ {
		b := r.k.backends.load(slot)
		if b.Ident == 0 || innerVNet(b.Vnet) {
			continue
		}
		if _, due := d.names[b.Ident]; !due && d.kept[b.Ident] {
			continue // its rule chooses it no more, and its flows stay
		}
		have[backendObject(fromNetOrder(b.Addr), portOrder(b.Port), nameOf(d, b.Ident))] = backendText(b.State,
			b.Flags&uint8(bpfBackendFlagsBACKEND_TCP_RESET), network(b.Vnet), b.IdleTcp, b.IdleUdp)
	}
	var key bpfAddressKey
	var address bpfAddress
	all := r.k.maps[mapAddresses].Iterate()
	for all.Next(&key, &address) {
		if innerVNet(key.Vnet) {
			continue
		}
		link := ""
		if address.Link != 0 {
			link = nameOf(d, r.k.links.load(address.Link).Ident)
		}
		have[addressObject(fromNetOrder(key.Addr), network(key.Vnet))] = addressText(bpfAddressKind(address.Kind), link, address.Arp == 1)
	}
	if err := all.Err(); err != nil {
		return nil, fmt.Errorf("read map %s: %w", mapAddresses, err)
	}
	var port bpfRuleKey
	var ref bpfRuleRef
	all = r.k.maps[mapRuleIndex].Iterate()
	for all.Next(&port, &ref) {
		text, err := r.rule(d, ref.Rule, Protocol(port.Proto), network)
		if err != nil {
			return nil, err
		}
		have[portObject(portOrder(port.Port), Protocol(port.Proto), named(r.k.services, port.Service))] = text
	}
	if err := all.Err(); err != nil {
		return nil, fmt.Errorf("read map %s: %w", mapRuleIndex, err)
	}
	return have, nil
}

// nameOf is the key of an ident, or the ident itself where the State has no such key.
func nameOf(d *description, id uint64) string {
	if name, ok := d.names[id]; ok {
		return name
	}
	if id == 0 {
		return "nobody"
	}
	return fmt.Sprintf("unknown %#x", id)
}

func (r *reading) rule(d *description, slot uint32, protocol Protocol, network func(uint16) string) (string, error) {
	rule := r.k.rules.load(slot)
	key := nameOf(d, rule.Ident)
	if d.proxied[key] && protocol == ProtocolTCP {
		return proxyText(key), nil
	}
	var nat []string
	set := r.k.natsets.load(rule.Nat)
	for _, a := range set.Addr[:set.Count] {
		nat = append(nat, fromNetOrder(a).String())
	}
	chosen, err := r.chosen(slot)
	if err != nil {
		return "", fmt.Errorf("read the Maglev table of rule %s: %w", key, err)
	}
	return ruleText(key, nat, network(set.Vnet), portOrder(rule.BackendPort), rule.Distribution, chosen), nil
}

// chosen are the addresses of the backends that a rule's table leads to. A place that leads to another rule's backend, or
// to nobody's, shows as it is.
func (r *reading) chosen(slot uint32) ([]string, error) {
	var inner *ebpf.Map
	err := r.k.maps[mapMaglev].Lookup(slot, &inner)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer inner.Close()
	places, err := mapArray[uint32](inner)
	if err != nil {
		return nil, err
	}
	slots := map[uint32]bool{}
	for i := range places.load(0) {
		slots[places.load(i+1)] = true
	}
	if err := places.close(); err != nil {
		return nil, err
	}
	found := map[string]bool{}
	for backend := range slots {
		b := r.k.backends.load(backend)
		name := fromNetOrder(b.Addr).String()
		if b.Ident == 0 || b.Rule != slot {
			name = fmt.Sprintf("slot %d of another", backend)
		}
		found[name] = true
	}
	return slices.Sorted(maps.Keys(found)), nil
}
