package traffic

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/privlink/privlink/pkg/dataplane"
	"github.com/privlink/privlink/pkg/lab"
	"github.com/sirupsen/logrus"
)

func TestMain(m *testing.M) { lab.Main(m) }

// The rig's addresses: every network uses 10.0.0.0/16, and the same ones in it.
const (
	clientIP   = "10.0.1.4"
	endpointIP = "10.0.1.10"
	backendIP  = "10.0.0.4"
	natIP      = "10.0.0.100"
	firstLink  = 0x20000001
)

// rigOptions choose what differs between tests.
type rigOptions struct {
	consumers    int // 0 = 1
	consumer     dataplane.Mode
	provider     dataplane.Mode
	wire         lab.VethOptions // of every veth; A is the gateway's end
	providerWire *lab.VethOptions
	pairs        uint32
	passOther    bool
	idle         uint32 // seconds; 0 = 300
	tcpReset     bool
	natIPs       int
	// providerVLAN and consumerVLANs, by consumer, are the tags their frames carry; 0 or missing = none.
	providerVLAN  uint16
	consumerVLANs []uint16
	// trunk puts everybody behind one interface of the gateway, by a switch.
	trunk bool
}

// rig is a gateway, consumers c1.. in networks of their own, and a provider with one backend.
type rig struct {
	*lab.Lab
	t         *testing.T
	o         rigOptions
	gw        *lab.Namespace
	consumers []*lab.Namespace
	backend   *lab.Namespace
	d         *dataplane.Dataplane
	state     dataplane.State
}

func mustAddr(s string) netip.Addr { return netip.MustParseAddr(s) }

// newRig builds the networks and applies a State with every link approved: TCP and UDP on every port
// of the endpoint go to the same port of the backend.
func newRig(t *testing.T, o rigOptions) *rig {
	t.Helper()
	if o.consumers == 0 {
		o.consumers = 1
	}
	if o.consumer == "" {
		o.consumer = dataplane.ModeTC
	}
	if o.provider == "" {
		o.provider = dataplane.ModeTC
	}
	if o.pairs == 0 {
		o.pairs = 1 << 15
	}
	if o.idle == 0 {
		o.idle = 300
	}
	if o.natIPs == 0 {
		o.natIPs = 1
	}
	if o.providerWire == nil {
		o.providerWire = &o.wire
	}
	l := lab.New(t)
	r := &rig{Lab: l, t: t, o: o, gw: l.Namespace("gw")}
	prefixes := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16")}
	at := r.gw
	if o.trunk {
		at = l.Namespace("switch")
	}
	ports := []string{"trunk", "web"}
	attach := func(name string, mode dataplane.Mode, vlan uint16) []dataplane.Attachment {
		if o.trunk {
			name = "trunk"
		}
		return []dataplane.Attachment{{Interface: name, VLAN: vlan, Mode: mode, PassOther: o.passOther}}
	}
	r.state = dataplane.State{
		Revision: 1,
		Networks: []dataplane.Network{{Key: "provider", Attachments: attach("web", o.provider, o.providerVLAN), Prefixes: prefixes}},
		Pools:    []dataplane.Pool{{Key: "pool", Members: []netip.Addr{mustAddr(backendIP)}}},
	}
	set := dataplane.RuleSet{Key: "service", Network: "provider"}
	for i := range o.natIPs {
		set.Sources = append(set.Sources, dataplane.Source{Addr: mustAddr(natIP).Next()})
		set.Sources[i].Addr = netip.AddrFrom4([4]byte{10, 0, 0, byte(100 + i)})
	}
	set.Rules = []dataplane.Rule{{Key: "all", Protocol: dataplane.ProtocolAll, IdleTCP: o.idle, IdleUDP: o.idle, TCPReset: o.tcpReset,
		Targets: []dataplane.Target{{Pool: "pool", Addr: mustAddr(backendIP), Weight: 1, Healthy: true}}}}
	r.state.RuleSets = []dataplane.RuleSet{set}
	vm := func(name, cidr string, wire lab.VethOptions, vlan uint16) *lab.Namespace {
		vm := l.VM(at, name, cidr, wire)
		if vlan != 0 {
			vm.VLAN("eth0", vlan)
		}
		return vm
	}
	r.backend = vm("web", backendIP+"/16", *o.providerWire, o.providerVLAN)
	for i := range o.consumers {
		name := fmt.Sprintf("c%d", i+1)
		var vlan uint16
		if i < len(o.consumerVLANs) {
			vlan = o.consumerVLANs[i]
		}
		ports = append(ports, name)
		r.consumers = append(r.consumers, vm(name, clientIP+"/16", o.wire, vlan))
		r.state.Networks = append(r.state.Networks, dataplane.Network{Key: name, Attachments: attach(name, o.consumer, vlan), Prefixes: prefixes})
		r.state.Links = append(r.state.Links, dataplane.Link{Key: "endpoint of " + name, ID: firstLink + uint32(i), Network: name,
			Addr: mustAddr(endpointIP), RuleSet: "service", State: dataplane.LinkApproved, Epoch: 1})
	}
	if o.trunk {
		l.Veth(r.gw, "trunk", at, "trunk", o.wire)
		at.Bridge("br0", ports...)
	}
	log := logrus.New()
	log.SetOutput(t.Output())
	d, err := dataplane.Open(context.Background(), dataplane.Options{BPFFS: l.BPFFS("pins"), NetNS: r.gw.Path(), Pairs: o.pairs, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	r.d = d
	t.Cleanup(func() { d.Close() })
	r.apply()
	return r
}

// apply gives the rig's State, changed or not, to the dataplane and waits until the kernel agrees.
func (r *rig) apply() {
	r.t.Helper()
	r.state.Revision++
	if _, err := r.d.Apply(context.Background(), r.state); err != nil {
		r.t.Fatal(err)
	}
	r.Wait("the kernel to agree", 10*time.Second, func() error {
		result := r.d.Result()
		if !result.Settled() || len(result.Unresolved) > 0 {
			return errors.New("addresses are being probed or resolved")
		}
		return nil
	})
}

// gatewayMAC is what a consumer's frames are sent to.
func (r *rig) gatewayMAC(consumer int) net.HardwareAddr {
	r.t.Helper()
	if r.o.trunk {
		return r.gw.MAC("trunk")
	}
	return r.gw.MAC(fmt.Sprintf("c%d", consumer+1))
}

// setLink puts one consumer's link into a state; the write is done when it returns.
func (r *rig) setLink(consumer int, s dataplane.LinkState) {
	r.t.Helper()
	r.state.Revision++
	r.state.Links[consumer].State = s
	if _, err := r.d.Apply(context.Background(), r.state); err != nil {
		r.t.Fatal(err)
	}
}

// flows counts the live ones.
func (r *rig) flows() int {
	r.t.Helper()
	n := 0
	if err := r.d.Flows(context.Background(), func(dataplane.Flow) bool { n++; return true }); err != nil {
		r.t.Fatal(err)
	}
	return n
}

// context ends with the test or after a limit.
func (r *rig) context(limit time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	r.t.Cleanup(cancel)
	return ctx
}

// bulkSize is what a checked transfer sends each way.
func bulkSize(t *testing.T) uint64 {
	mib := uint64(256)
	if s := os.Getenv("TRAFFIC_BULK_MIB"); s != "" {
		n, err := strconv.ParseUint(s, 10, 32)
		if err != nil {
			t.Fatalf("TRAFFIC_BULK_MIB=%s: %v", s, err)
		}
		mib = n
	}
	return mib << 20
}
