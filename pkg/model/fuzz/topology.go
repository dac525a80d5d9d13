package fuzz

import (
	"math/rand/v2"
	"slices"

	"github.com/privlink/privlink/pkg/model"
)

// Networks. Consumers have overlapping addresses; the provider of one service is a consumer of
// another; inner is the splice path's.
const (
	consumer1 = 1 + iota
	consumer2
	provider1
	provider2
	tagged
	inner
	networks
)

// devices is how many Ethernet devices a topology uses.
const devices = 6

// place is an attachment: where frames of a network come in.
type place struct {
	key model.InterfaceKey
	in  *model.Interface
}

// DeviceMACs are the addresses of the devices a run needs (program.InNetwork).
func DeviceMACs() []model.MAC {
	macs := make([]model.MAC, devices)
	for i := range macs {
		macs[i] = model.MAC{2, 0, 0, 0, 1, byte(i)}
	}
	return macs
}

// shape is what the programs are loaded with; the rest of a topology is written into maps.
type shape struct {
	name         string
	homes, pairs uint32
	domains      int
}

// In the small shape tables fill up.
var shapes = []shape{
	{name: "normal", homes: 4096, pairs: 1200, domains: 4096},
	{name: "small", homes: 44, pairs: 26, domains: 12},
}

// constants is the part of a configuration that programs are loaded with.
func (s shape) constants() model.Config {
	return model.Config{
		FlowSeed:    [5]uint64{0x9e3779b97f4a7c15, 0xbf58476d1ce4e5b9, 0x94d049bb133111eb, 0xd6e8feb86659fd93, 0x2545f4914f6cdd1d},
		BalanceSeed: [2]uint64{0x0123456789abcdef, 0xfedcba9876543210},
		Homes:       s.homes, MaxPairs: s.pairs, MaxDomains: s.domains,
		PortStep: 40093, PortOffset: 31337,
	}
}

// topology is a random configuration, and what the generator has to know of it.
type topology struct {
	*rand.Rand
	model.Config
	places    []place
	byNetwork [networks][]place
	endpoints []model.AddressKey // addresses that clients write to
	slots     []uint32           // of links
	backends  []uint32
	rules     []uint32
	nats      []model.AddressKey
	dialKeys  []model.DialKey
	gen       uint16
}

func (t *topology) chance(percent float64) bool { return t.Float64()*100 < percent }

func pick[T any](t *topology, from []T) T { return from[t.IntN(len(from))] }

// newTopology makes a random one on devices with these interface numbers.
func newTopology(r *rand.Rand, s shape, indexes []uint32) *topology {
	t := &topology{Rand: r, Config: s.constants(), gen: 1}
	t.Interfaces = make(map[model.InterfaceKey]*model.Interface)
	t.Outputs = make(map[uint16]*model.Output)
	t.Addresses = make(map[model.AddressKey]model.Address)
	t.Links = make(map[uint32]*model.Link)
	t.RuleIndex = make(map[model.RuleKey]uint32)
	t.Rules = make(map[uint32]*model.Rule)
	t.Places = make(map[uint32][]uint32)
	t.NATSets = make(map[uint32]*model.NATSet)
	t.Backends = make(map[uint32]*model.Backend)
	t.Dials = make(map[model.DialKey]model.Dial)

	macs := DeviceMACs()
	attach := func(device int, vlan, vnet uint16) {
		out := uint16(len(t.places) + 1)
		key := model.InterfaceKey{Index: indexes[device], VLAN: vlan}
		in := &model.Interface{VNet: vnet, Out: out, MAC: macs[device], PassOther: t.chance(30), Inner: vnet == inner}
		t.Interfaces[key] = in
		mtu := uint16(1500)
		if t.chance(25) {
			mtu = uint16(300 + t.IntN(600))
		}
		t.Outputs[out] = &model.Output{Index: indexes[device], VLAN: vlan, MTU: mtu, MAC: macs[device], VNet: vnet, XDP: vlan == 0 && t.chance(70)}
		t.places = append(t.places, place{key, in})
		t.byNetwork[vnet] = append(t.byNetwork[vnet], place{key, in})
	}
	attach(0, 0, consumer1)
	attach(1, 0, consumer2)
	attach(2, 0, provider1)
	attach(3, 0, provider2)
	attach(4, 10, tagged)
	attach(4, 20, consumer1)
	attach(5, 0, inner)
	if t.chance(50) {
		attach(4, 0, provider1)
	}

	services := 3
	for service := range services {
		t.addService(uint32(service + 1))
	}
	for _, vnet := range []uint16{consumer1, consumer2, tagged, provider2} {
		for range 1 + t.IntN(3) {
			t.addEndpoint(vnet, uint32(1+t.IntN(services)))
		}
	}
	t.addFrontend(provider1, 1)
	t.addGateway()
	for range 4 {
		t.addDial()
	}
	return t
}

func (t *topology) nextSlot(slots *[]uint32) uint32 {
	slot := uint32(len(*slots) + 1)
	*slots = append(*slots, slot)
	return slot
}

// addService makes a NAT set, rules and backends. The first service is provided in provider1, the
// second in provider2, the third is proxied: its backend is the listener in inner.
func (t *topology) addService(service uint32) {
	vnet := []uint16{provider1, provider2, inner}[(service-1)%3]
	set := &model.NATSet{VNet: vnet}
	count := 1 + t.IntN(3)
	if t.chance(10) {
		count = model.MaxNATIPs
	}
	for i := range count {
		t.addNAT(set, natAddr(service, i))
	}
	t.NATSets[service] = set
	if t.chance(4) {
		set.Addrs = nil
	}
	t.addRule(service, model.RuleKey{Service: service, Port: 80, Proto: model.TCP}, vnet)
	t.addRule(service, model.RuleKey{Service: service, Port: 53, Proto: model.UDP}, vnet)
	if t.chance(40) {
		t.addRule(service, model.RuleKey{Service: service, Port: 443, Proto: model.TCP}, vnet)
	}
	if t.chance(30) {
		t.addRule(service, model.RuleKey{Service: service}, vnet)
		if t.chance(50) {
			t.addRule(service, model.RuleKey{Service: service, Proto: model.TCP}, vnet)
		}
	}
}

// natAddr is one of the addresses that may be a NAT IP of a set.
func natAddr(set uint32, n int) model.IP { return ip(10, 0, byte(100+set), byte(10+n)) }

func (t *topology) addNAT(set *model.NATSet, addr model.IP) {
	set.Addrs = append(set.Addrs, addr)
	key := model.AddressKey{Addr: addr, VNet: set.VNet}
	t.Addresses[key] = model.Address{Kind: model.AddressNAT, ARP: true}
	if !slices.Contains(t.nats, key) {
		t.nats = append(t.nats, key)
	}
}

func (t *topology) addRule(nat uint32, key model.RuleKey, vnet uint16) {
	slot := t.nextSlot(&t.rules)
	rule := &model.Rule{NAT: nat, Distribution: model.Distribution(t.IntN(3))}
	if key.Port != 0 && t.chance(70) {
		rule.BackendPort = uint16(8000 + t.IntN(3))
	}
	t.Rules[slot] = rule
	t.RuleIndex[key] = slot
	n := 1 + t.IntN(3)
	first := len(t.backends)
	for range n {
		t.addBackend(vnet, rule)
	}
	t.place(slot, t.backends[first:])
}

// place makes a small table: what it is made of matters to the choice, not how.
func (t *topology) place(rule uint32, backends []uint32) {
	places := make([]uint32, 0, 13)
	for range 13 {
		places = append(places, pick(t, backends))
	}
	t.Places[rule] = places
}

func (t *topology) addBackend(vnet uint16, rule *model.Rule) {
	slot := t.nextSlot(&t.backends)
	via := pick(t, t.byNetwork[vnet])
	idle := func() uint32 { return []uint32{10, 30, 300, 300, 300, 3600}[t.IntN(6)] }
	t.Backends[slot] = &model.Backend{
		Addr: ip(10, 0, 2, byte(4+t.IntN(6))), Port: rule.BackendPort, VNet: vnet, Gen: t.nextGen(), State: model.BackendUp,
		TCPReset: t.chance(30), HA: t.chance(20), MAC: model.MAC{2, 0, 0, 0, 2, byte(slot)},
		Out: via.in.Out, IdleTCP: idle(), IdleUDP: idle(),
	}
}

func (t *topology) nextGen() uint16 {
	t.gen++
	return t.gen
}

func (t *topology) addEndpoint(vnet uint16, service uint32) {
	slot := t.nextSlot(&t.slots)
	addr := ip(10, 0, 1, byte(10+len(t.endpoints)%4))
	key := model.AddressKey{Addr: addr, VNet: vnet}
	if _, taken := t.Addresses[key]; taken {
		t.slots = t.slots[:len(t.slots)-1]
		return
	}
	state := model.LinkApproved
	if t.chance(10) {
		state = model.LinkState(1 + t.IntN(4))
	}
	quota := uint32(400)
	if t.chance(20) {
		quota = uint32(1 + t.IntN(20))
	}
	t.Links[slot] = &model.Link{ID: 0x01010100 + slot, Gen: t.nextGen(), State: state, Service: service, MaxFlows: quota, Addr: addr, VNet: vnet}
	t.Addresses[key] = model.Address{Kind: model.AddressEndpoint, Link: slot, ARP: t.chance(90)}
	t.endpoints = append(t.endpoints, key)
	if vnet == consumer1 && t.chance(50) {
		peer := model.AddressKey{Addr: ip(10, 9, 0, byte(slot)), VNet: tagged}
		t.Addresses[peer] = model.Address{Kind: model.AddressPeered, Link: slot}
		t.endpoints = append(t.endpoints, peer)
	}
}

func (t *topology) addFrontend(vnet uint16, service uint32) {
	slot := t.nextSlot(&t.slots)
	key := model.AddressKey{Addr: ip(10, 0, 3, 100), VNet: vnet}
	t.Links[slot] = &model.Link{Gen: t.nextGen(), State: model.LinkApproved, Service: service, MaxFlows: 300, Addr: key.Addr, VNet: vnet}
	t.Addresses[key] = model.Address{Kind: model.AddressFrontend, Link: slot, ARP: true}
	t.endpoints = append(t.endpoints, key)
}

func (t *topology) addGateway() {
	t.Addresses[model.AddressKey{Addr: ip(10, 0, 1, 1), VNet: consumer1}] = model.Address{Kind: model.AddressGateway, ARP: true}
}

// addDial admits a socket of the inner network to a backend of the providers'.
func (t *topology) addDial() {
	backend := pick(t, t.backends)
	b := t.Backends[backend]
	link := pick(t, t.slots)
	proto := uint8(model.TCP)
	if t.chance(30) {
		proto = model.UDP
	}
	key := model.DialKey{Addr: ip(100, 64, 0, byte(2+t.IntN(3))), Port: uint16(40000 + t.IntN(30)), Proto: proto}
	d := model.Dial{Link: link, LinkGen: t.Links[link].Gen, Backend: backend, BackendGen: b.Gen, NAT: 1 + uint32(t.IntN(2)), Port: 8000}
	if t.chance(10) {
		d.BackendGen++
	}
	if t.chance(10) {
		d.LinkGen++
	}
	if _, ok := t.Dials[key]; !ok {
		t.dialKeys = append(t.dialKeys, key)
	}
	t.Dials[key] = d
}

func ip(a, b, c, d byte) model.IP {
	return model.IP(uint32(a)<<24 | uint32(b)<<16 | uint32(c)<<8 | uint32(d))
}
