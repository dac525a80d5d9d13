package tables

import (
	"testing"

	"github.com/privlink/privlink/pkg/model"
	"github.com/privlink/privlink/pkg/model/program"
)

// The network of all rows: a client, an endpoint, a NAT IP, a backend.
//
//	client 10.0.1.4 -> endpoint 10.0.1.10:80 | NAT IP 10.0.100.10 -> backend 10.0.2.4:8080
var (
	client   = addr(10, 0, 1, 4)
	endpoint = addr(10, 0, 1, 10)
	pending  = addr(10, 0, 1, 11) // its connection is not approved
	lonely   = addr(10, 0, 1, 12) // of a service without backends
	peered   = addr(10, 9, 9, 10) // the endpoint, as the peered network of the VLAN sees it
	gateway  = addr(10, 0, 1, 1)
	natIP    = addr(10, 0, 100, 10)
	natIP2   = addr(10, 0, 100, 11)
	backend  = addr(10, 0, 2, 4)
	frontend = addr(10, 0, 2, 100)
	socket   = addr(100, 64, 0, 2) // in the inner network
)

var (
	clientMAC  = model.MAC{2, 0, 0, 0, 0, 4}
	backendMAC = model.MAC{2, 0, 0, 0, 2, 4}
	innerMAC   = model.MAC{2, 0, 0, 0, 9, 9}
)

// Networks and their attachments.
const (
	consumerNet = 1 + iota
	providerNet
	taggedNet
	innerNet
	otherNet
)

type port struct {
	device int
	vlan   uint16
	vnet   uint16
	mac    model.MAC
}

// ports are the attachments by name; their place in the list is their output slot.
var ports = []struct {
	name string
	port
}{
	{"consumer", port{0, 0, consumerNet, model.MAC{2, 0, 0, 0, 1, 0}}},
	{"provider", port{1, 0, providerNet, model.MAC{2, 0, 0, 0, 1, 1}}},
	{"tagged", port{2, 7, taggedNet, model.MAC{2, 0, 0, 0, 1, 2}}},
	{"inner", port{3, 0, innerNet, model.MAC{2, 0, 0, 0, 1, 3}}},
	{"other", port{4, 0, otherNet, model.MAC{2, 0, 0, 0, 1, 4}}}, // with --pass-other
}

func portNamed(t *testing.T, name string) (port, uint16) {
	for i, p := range ports {
		if p.name == name {
			return p.port, uint16(i + 1)
		}
	}
	t.Fatalf("no attachment %q", name)
	return port{}, 0
}

func deviceMACs() []model.MAC {
	macs := make([]model.MAC, len(ports))
	for _, p := range ports {
		macs[p.device] = p.mac
	}
	return macs
}

// Slots of what rows change.
const (
	linkApproved = 1
	linkPending  = 2
	linkLonely   = 3
	linkOther    = 4
	linkFrontend = 5
	ruleWeb      = 1
	ruleDNS      = 2
	backendWeb   = 1
	backendDNS   = 2
	backendInner = 3
)

// Ports are numbered in plain order from the first cursor that random state 1 gives: word 225.
const (
	firstNATPort = 1024 + 225*64
	nextNATPort  = firstNATPort + 64 // the cursor goes on to the next word
)

// config is the configuration that rows begin with.
func config(indexes []uint32) model.Config {
	c := model.Config{
		Interfaces: make(map[model.InterfaceKey]*model.Interface), Outputs: make(map[uint16]*model.Output),
		Addresses: map[model.AddressKey]model.Address{
			{Addr: endpoint, VNet: consumerNet}: {Kind: model.AddressEndpoint, Link: linkApproved, ARP: true},
			{Addr: pending, VNet: consumerNet}:  {Kind: model.AddressEndpoint, Link: linkPending, ARP: true},
			{Addr: lonely, VNet: consumerNet}:   {Kind: model.AddressEndpoint, Link: linkLonely, ARP: true},
			{Addr: gateway, VNet: consumerNet}:  {Kind: model.AddressGateway, ARP: true},
			{Addr: peered, VNet: taggedNet}:     {Kind: model.AddressPeered, Link: linkApproved},
			{Addr: endpoint, VNet: otherNet}:    {Kind: model.AddressEndpoint, Link: linkOther, ARP: true},
			{Addr: natIP, VNet: providerNet}:    {Kind: model.AddressNAT, ARP: true},
			{Addr: natIP2, VNet: providerNet}:   {Kind: model.AddressNAT, ARP: true},
			{Addr: frontend, VNet: providerNet}: {Kind: model.AddressFrontend, Link: linkFrontend, ARP: true},
		},
		Links: map[uint32]*model.Link{
			linkApproved: {ID: 0x01020304, Gen: 1, State: model.LinkApproved, Service: 1, MaxFlows: 4, Addr: endpoint, VNet: consumerNet},
			linkPending:  {ID: 0x01020305, Gen: 1, State: model.LinkPending, Service: 1, MaxFlows: 4, Addr: pending, VNet: consumerNet},
			linkLonely:   {ID: 0x01020306, Gen: 1, State: model.LinkApproved, Service: 2, MaxFlows: 4, Addr: lonely, VNet: consumerNet},
			linkOther:    {ID: 0x01020307, Gen: 1, State: model.LinkApproved, Service: 1, MaxFlows: 4, Addr: endpoint, VNet: otherNet},
			linkFrontend: {Gen: 1, State: model.LinkApproved, Service: 1, MaxFlows: 4, Addr: frontend, VNet: providerNet},
		},
		RuleIndex: map[model.RuleKey]uint32{
			{Service: 1, Port: 80, Proto: model.TCP}: ruleWeb,
			{Service: 1, Port: 53, Proto: model.UDP}: ruleDNS,
			{Service: 2, Port: 80, Proto: model.TCP}: 3,
			{Service: 2, Port: 53, Proto: model.UDP}: 4,
		},
		Rules: map[uint32]*model.Rule{
			ruleWeb: {NAT: 1, BackendPort: 8080}, ruleDNS: {NAT: 1}, 3: {NAT: 1}, 4: {NAT: 1},
		},
		Places:  map[uint32][]uint32{ruleWeb: {backendWeb}, ruleDNS: {backendDNS}},
		NATSets: map[uint32]*model.NATSet{1: {VNet: providerNet, Addrs: []model.IP{natIP}}},
		Backends: map[uint32]*model.Backend{
			backendWeb:   newBackend(8080),
			backendDNS:   newBackend(0),
			backendInner: newBackend(8080),
		},
		Dials: map[model.DialKey]model.Dial{
			{Addr: socket, Port: 40000, Proto: model.TCP}: {Link: linkApproved, LinkGen: 1, Backend: backendInner, BackendGen: 1, NAT: 1, Port: 8080},
		},
		FlowSeed: [5]uint64{1, 3, 5, 7, 9}, BalanceSeed: [2]uint64{1, 2},
		Homes: 256, MaxPairs: 64, MaxDomains: 3, PortStep: 1,
	}
	for i, p := range ports {
		slot := uint16(i + 1)
		c.Interfaces[model.InterfaceKey{Index: indexes[p.device], VLAN: p.vlan}] = &model.Interface{
			VNet: p.vnet, Out: slot, MAC: p.mac, PassOther: p.name == "other", Inner: p.name == "inner",
		}
		c.Outputs[slot] = &model.Output{Index: indexes[p.device], VLAN: p.vlan, MTU: 1500, MAC: p.mac, VNet: p.vnet, XDP: p.vlan == 0}
	}
	return c
}

func newBackend(port uint16) *model.Backend {
	return &model.Backend{
		Addr: backend, Port: port, VNet: providerNet, Gen: 1, State: model.BackendUp,
		MAC: backendMAC, Out: 2, IdleTCP: 300, IdleUDP: 300,
	}
}

func addr(a, b, c, d byte) model.IP {
	return model.IP(uint32(a)<<24 | uint32(b)<<16 | uint32(c)<<8 | uint32(d))
}

// bench is the model and the programs, with one configuration and one clock.
type bench struct {
	*testing.T
	c     *model.Config
	m     *model.Machine
	sides map[string]*program.Programs
	index []uint32
}

// write makes the programs know a changed configuration.
func (b *bench) write() {
	b.Helper()
	for name, p := range b.sides {
		if err := p.Write(b.c); err != nil {
			b.Fatalf("%s: %v", name, err)
		}
	}
}
