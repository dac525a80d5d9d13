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

func TestMain(m *testing.M) {
	if name := os.Getenv(serveEnv); name != "" {
		serve(name)
	}
	lab.Main(m)
}

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
	providers    int // 0 = 1; with more, the consumers' links lead to them in turn
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

// rig is a gateway, consumers c1.. in networks of their own, and a provider with one backend, or several that use
// the same addresses.
type rig struct {
	*lab.Lab
	t         *testing.T
	o         rigOptions
	gw        *lab.Namespace
	consumers []*lab.Namespace
	backends  []*lab.Namespace
	backend   *lab.Namespace // the first
	d         *dataplane.Dataplane
	state     dataplane.State
}

func mustAddr(s string) netip.Addr { return netip.MustParseAddr(s) }

// newRig builds the networks and applies a State with every link approved: TCP and UDP on every port
// of the endpoint go to the same port of the backend.
func newRig(t *testing.T, o rigOptions) *rig {
	t.Helper()
	o.consumers, o.providers = max(o.consumers, 1), max(o.providers, 1)
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
	r.state.Revision = 1
	vm := func(name, cidr string, wire lab.VethOptions, vlan uint16) *lab.Namespace {
		vm := l.VM(at, name, cidr, wire)
		if vlan != 0 {
			vm.VLAN("eth0", vlan)
		}
		return vm
	}
	for i := range o.providers {
		var nth string // of the first: none
		if i > 0 {
			nth = fmt.Sprint(i + 1)
		}
		r.backends = append(r.backends, vm("web"+nth, backendIP+"/16", *o.providerWire, o.providerVLAN))
		r.state.Networks = append(r.state.Networks, dataplane.Network{Key: "provider" + nth, Attachments: attach("web"+nth, o.provider, o.providerVLAN), Prefixes: prefixes})
		r.state.Pools = append(r.state.Pools, dataplane.Pool{Key: "pool" + nth, Members: []netip.Addr{mustAddr(backendIP)}})
		r.state.RuleSets = append(r.state.RuleSets, dataplane.RuleSet{
			Key: "service" + nth, Network: "provider" + nth, Sources: sources(o.natIPs),
			Rules: []dataplane.Rule{{Key: "all", Protocol: dataplane.ProtocolAll, IdleTCP: o.idle, IdleUDP: o.idle, TCPReset: o.tcpReset,
				Targets: []dataplane.Target{{Pool: "pool" + nth, Addr: mustAddr(backendIP), Weight: 1, Healthy: true}}}},
		})
	}
	r.backend = r.backends[0]
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
			Addr: mustAddr(endpointIP), RuleSet: r.state.RuleSets[i%o.providers].Key, State: dataplane.LinkApproved, Epoch: 1})
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

// sources are the first n NAT IPs, from natIP on.
func sources(n int) []dataplane.Source {
	var all []dataplane.Source
	for at := mustAddr(natIP); len(all) < n; at = at.Next() {
		all = append(all, dataplane.Source{Addr: at})
	}
	return all
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
