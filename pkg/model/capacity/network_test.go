package capacity

import (
	"encoding/binary"
	"testing"

	"github.com/privlink/privlink/pkg/dataplane"
	"github.com/privlink/privlink/pkg/model"
	"github.com/privlink/privlink/pkg/model/program"
)

// One consumer, one provider, one service.
const (
	consumerNet = 1
	providerNet = 2
	link        = 1
	clients     = model.IP(0x0a100000) // 10.16.0.0 and on
	endpoint    = model.IP(0x0a00010a) // 10.0.1.10
	firstNAT    = model.IP(0x0a006400) // 10.0.100.0 and on
	backendIP   = model.IP(0x0a000204) // 10.0.2.4
	firstPort   = 80
)

var macs = []model.MAC{{2, 0, 0, 0, 1, 0}, {2, 0, 0, 0, 1, 1}}

// site is the programs with this network.
type site struct {
	*program.Programs
	indexes []uint32
	homes   uint32
	now     uint32
}

// onSite runs f with a table of so many homes, so many NAT IPs, and as many backend ports, each with
// a rule for TCP and one for UDP.
func onSite(t *testing.T, homes uint32, natIPs, backendPorts int, f func(s *site) error) {
	t.Helper()
	err := program.InNetwork(macs, func(indexes []uint32) error {
		c := config(indexes, homes, natIPs, backendPorts)
		p, err := program.Load(&c, program.Options{XDP: true})
		if err != nil {
			return err
		}
		defer p.Close()
		if err := p.Write(&c); err != nil {
			return err
		}
		s := &site{Programs: p, indexes: indexes, homes: homes}
		s.at(1000)
		s.SetClock(1000, 1)
		return f(s)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (s *site) at(now uint32) {
	s.now = now
	s.SetClock(now, 0)
}

func config(indexes []uint32, homes uint32, natIPs, backendPorts int) model.Config {
	c := model.Config{
		Interfaces: make(map[model.InterfaceKey]*model.Interface), Outputs: make(map[uint16]*model.Output),
		Addresses: map[model.AddressKey]model.Address{{Addr: endpoint, VNet: consumerNet}: {Kind: model.AddressEndpoint, Link: link}},
		Links: map[uint32]*model.Link{
			link: {ID: 0x01010101, Gen: 1, State: model.LinkApproved, Service: 1, MaxFlows: homes, Addr: endpoint, VNet: consumerNet},
		},
		RuleIndex: make(map[model.RuleKey]uint32), Rules: make(map[uint32]*model.Rule), Places: make(map[uint32][]uint32),
		NATSets: map[uint32]*model.NATSet{1: {VNet: providerNet}}, Backends: make(map[uint32]*model.Backend),
		FlowSeed:    [5]uint64{0x9e3779b97f4a7c15, 0xbf58476d1ce4e5b9, 0x94d049bb133111eb, 0xd6e8feb86659fd93, 0x2545f4914f6cdd1d},
		BalanceSeed: [2]uint64{1, 2}, Homes: homes, MaxPairs: dataplane.RawPairs(homes), MaxDomains: 1024, PortStep: 40093, PortOffset: 31337,
	}
	for i, vnet := range []uint16{consumerNet, providerNet} {
		out := uint16(i + 1)
		c.Interfaces[model.InterfaceKey{Index: indexes[i]}] = &model.Interface{VNet: vnet, Out: out, MAC: macs[i]}
		c.Outputs[out] = &model.Output{Index: indexes[i], MTU: 1500, MAC: macs[i], VNet: vnet, XDP: true}
	}
	for i := range natIPs {
		addr := firstNAT + model.IP(i)
		c.NATSets[1].Addrs = append(c.NATSets[1].Addrs, addr)
		c.Addresses[model.AddressKey{Addr: addr, VNet: providerNet}] = model.Address{Kind: model.AddressNAT}
	}
	for i := range backendPorts {
		slot, port := uint32(i+1), uint16(firstPort+i)
		c.RuleIndex[model.RuleKey{Service: 1, Port: port, Proto: model.TCP}] = slot
		c.RuleIndex[model.RuleKey{Service: 1, Port: port, Proto: model.UDP}] = slot
		c.Rules[slot] = &model.Rule{NAT: 1}
		c.Places[slot] = []uint32{slot}
		c.Backends[slot] = &model.Backend{
			Addr: backendIP, VNet: providerNet, Gen: 1, State: model.BackendUp, MAC: model.MAC{2, 0, 0, 0, 2, 4}, Out: 2, IdleTCP: 300, IdleUDP: 300,
		}
	}
	return c
}

// frame is a packet whose addresses and ports are written again for each flow. Its checksums are not
// right until checksummed, and need not be: UDP carries none, and the programs do not look at TCP's.
type frame []byte

func newFrame(proto byte, dst, src model.MAC) frame {
	size := 8
	if proto == model.TCP {
		size = 20
	}
	b := make([]byte, 14+20+size+18)
	copy(b, dst[:])
	copy(b[6:], src[:])
	b[12] = 0x08
	b[14], b[22], b[23] = 0x45, 64, proto
	binary.BigEndian.PutUint16(b[16:], uint16(20+size+18))
	if proto == model.TCP {
		b[46] = 5 << 4
		b[50] = 0xee // not the pseudo-header's sum: XDP may finish it
	} else {
		binary.BigEndian.PutUint16(b[38:], uint16(size+18))
	}
	return b
}

func (f frame) address(src, dst model.IP, sport, dport uint16) frame {
	binary.BigEndian.PutUint32(f[26:], uint32(src))
	binary.BigEndian.PutUint32(f[30:], uint32(dst))
	binary.BigEndian.PutUint16(f[34:], sport)
	binary.BigEndian.PutUint16(f[36:], dport)
	return f
}

// checksummed writes the checksums, right this time.
func (f frame) checksummed() frame {
	l4 := f[34:]
	at := 6
	if f[23] == model.TCP {
		at = 16
	}
	clear(f[24:26])
	clear(l4[at : at+2])
	binary.BigEndian.PutUint16(f[24:], ^onesSum(f[14:34], 0))
	binary.BigEndian.PutUint16(l4[at:], ^onesSum(l4, f.pseudo()))
	return f
}

// right says whether both checksums are.
func (f frame) right() bool {
	return onesSum(f[14:34], 0) == 0xffff && onesSum(f[34:14+binary.BigEndian.Uint16(f[16:])], f.pseudo()) == 0xffff
}

// pseudo is the sum of the pseudo-header.
func (f frame) pseudo() uint32 {
	return uint32(onesSum(f[26:34], uint32(f[23])+uint32(binary.BigEndian.Uint16(f[16:]))-20))
}

func (f frame) from() model.IP { return model.IP(binary.BigEndian.Uint32(f[26:])) }
func (f frame) to() model.IP   { return model.IP(binary.BigEndian.Uint32(f[30:])) }
func (f frame) sport() uint16  { return binary.BigEndian.Uint16(f[34:]) }
func (f frame) dport() uint16  { return binary.BigEndian.Uint16(f[36:]) }

// onesSum adds words of 16 bits to a sum (RFC 1071); the length is even.
func onesSum(b []byte, sum uint32) uint16 {
	for ; len(b) > 1; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return uint16(sum)
}

// client is flow number n's address and port.
func client(n int) (model.IP, uint16) {
	return clients + model.IP(n/50_000), uint16(10_000 + n%50_000)
}
