package reuse

import (
	"encoding/binary"

	"github.com/privlink/privlink/pkg/model"
)

// Two tenants, equal in everything but the network they are in and the NAT IP they appear from: the same
// client address and port, the same endpoint IP, the same backend.
const (
	providerNet = 3
	clientIP    = model.IP(0x0a000104) // 10.0.1.4
	endpointIP  = model.IP(0x0a00010a) // 10.0.1.10
	backendIP   = model.IP(0x0a000204) // 10.0.2.4
	clientPort  = 40000
	servicePort = 80
	homes       = 1 // every key has the same window: the lowest free slots are taken again
	maxPairs    = 8
)

// tenant is 0 or 1; its network and its link have the number tenant+1, its device is the tenant's.
type tenant int

const (
	mine, theirs tenant = 0, 1
	provider            = 2 // device
)

func (t tenant) number() uint32    { return uint32(t) + 1 }
func (t tenant) nat() model.IP     { return 0x0a006400 + model.IP(t) } // 10.0.100.0 and 1
func (t tenant) client() model.MAC { return model.MAC{2, 0, 0, 0, 9, byte(t)} }

// moved is another MAC of the same client.
func (t tenant) moved() model.MAC { return model.MAC{2, 0, 0, 0, 8, byte(t)} }

var (
	devices    = []model.MAC{{2, 0, 0, 0, 1, 0}, {2, 0, 0, 0, 1, 1}, {2, 0, 0, 0, 1, 2}}
	backendMAC = model.MAC{2, 0, 0, 0, 2, 4}
)

func config(indexes []uint32) model.Config {
	c := model.Config{
		Interfaces: make(map[model.InterfaceKey]*model.Interface), Outputs: make(map[uint16]*model.Output),
		Addresses: make(map[model.AddressKey]model.Address), Links: make(map[uint32]*model.Link),
		RuleIndex: make(map[model.RuleKey]uint32), Rules: make(map[uint32]*model.Rule), Places: make(map[uint32][]uint32),
		NATSets: make(map[uint32]*model.NATSet), Backends: make(map[uint32]*model.Backend),
		FlowSeed:    [5]uint64{0x9e3779b97f4a7c15, 0xbf58476d1ce4e5b9, 0x94d049bb133111eb, 0xd6e8feb86659fd93, 0x2545f4914f6cdd1d},
		BalanceSeed: [2]uint64{1, 2}, Homes: homes, MaxPairs: maxPairs, MaxDomains: 64, PortStep: 40093, PortOffset: 31337,
	}
	for i, mac := range devices {
		out, vnet := uint16(i+1), uint16(i+1)
		c.Interfaces[model.InterfaceKey{Index: indexes[i]}] = &model.Interface{VNet: vnet, Out: out, MAC: mac}
		c.Outputs[out] = &model.Output{Index: indexes[i], MTU: 1500, MAC: mac, VNet: vnet, XDP: true}
	}
	for t := mine; t <= theirs; t++ {
		n := t.number()
		c.Addresses[model.AddressKey{Addr: endpointIP, VNet: uint16(n)}] = model.Address{Kind: model.AddressEndpoint, Link: n}
		c.Addresses[model.AddressKey{Addr: t.nat(), VNet: providerNet}] = model.Address{Kind: model.AddressNAT}
		c.Links[n] = &model.Link{ID: n, Gen: 1, State: model.LinkApproved, Service: n, MaxFlows: maxPairs, Addr: endpointIP, VNet: uint16(n)}
		c.NATSets[n] = &model.NATSet{VNet: providerNet, Addrs: []model.IP{t.nat()}}
		for _, proto := range []byte{model.TCP, model.UDP} {
			c.RuleIndex[model.RuleKey{Service: n, Port: servicePort, Proto: proto}] = n
		}
		c.Rules[n] = &model.Rule{NAT: n}
		c.Places[n] = []uint32{n}
		c.Backends[n] = &model.Backend{
			Addr: backendIP, Port: servicePort, VNet: providerNet, Gen: 1, State: model.BackendUp, MAC: backendMAC, Out: provider + 1, IdleTCP: 300, IdleUDP: 300,
		}
	}
	return c
}

// packet makes a frame without payload. Its L4 checksum is not right, and need not be: UDP carries none,
// and nobody looks at TCP's.
func packet(proto, flags byte, dst, src model.MAC, from, to model.IP, sport, dport uint16) []byte {
	size := 8
	if proto == model.TCP {
		size = 20
	}
	b := make([]byte, 14+20+size)
	copy(b, dst[:])
	copy(b[6:], src[:])
	b[12] = 0x08
	b[14], b[22], b[23] = 0x45, 64, proto
	binary.BigEndian.PutUint16(b[16:], uint16(20+size))
	binary.BigEndian.PutUint32(b[26:], uint32(from))
	binary.BigEndian.PutUint32(b[30:], uint32(to))
	binary.BigEndian.PutUint16(b[34:], sport)
	binary.BigEndian.PutUint16(b[36:], dport)
	if proto == model.TCP {
		b[46], b[47] = 5<<4, flags
		b[50] = 0xee // not the pseudo-header's sum: XDP may finish it
	} else {
		binary.BigEndian.PutUint16(b[38:], uint16(size))
	}
	return b
}

// seen is what identifies a frame that left.
type seen struct {
	dst, src     model.MAC
	proto        byte
	from, to     model.IP
	sport, dport uint16
}

func look(frame []byte) seen {
	s := seen{proto: frame[23], from: model.IP(binary.BigEndian.Uint32(frame[26:])), to: model.IP(binary.BigEndian.Uint32(frame[30:]))}
	copy(s.dst[:], frame)
	copy(s.src[:], frame[6:])
	s.sport, s.dport = binary.BigEndian.Uint16(frame[34:]), binary.BigEndian.Uint16(frame[36:])
	return s
}
