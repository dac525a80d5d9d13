package dataplane

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/privlink/privlink/pkg/lab"
	"github.com/sirupsen/logrus"
)

func TestMain(m *testing.M) { lab.Main(m) }

// gateway is a namespace with consumers on one side and a provider on the other, and a dataplane for it.
type gateway struct {
	*lab.Lab
	t     *testing.T
	ns    *lab.Namespace
	bpffs string
	edit  func(*Options)
	d     *Dataplane
}

func newGateway(t *testing.T) *gateway {
	t.Helper()
	l := lab.New(t)
	return &gateway{Lab: l, t: t, ns: l.Namespace("gw"), bpffs: l.BPFFS("pins"), edit: func(*Options) {}}
}

func (g *gateway) options() Options {
	log := logrus.New()
	log.SetOutput(g.t.Output())
	o := Options{BPFFS: g.bpffs, NetNS: g.ns.Path(), Pairs: 1024, Log: log}
	g.edit(&o)
	return o
}

func (g *gateway) open() *Dataplane {
	g.t.Helper()
	d, err := Open(context.Background(), g.options())
	if err != nil {
		g.t.Fatal(err)
	}
	g.d = d
	g.t.Cleanup(func() { d.Close() })
	return d
}

// apply applies a State and waits until all of it is settled and every target found.
func (g *gateway) apply(s State) Result {
	g.t.Helper()
	if _, err := g.d.Apply(context.Background(), s); err != nil {
		g.t.Fatal(err)
	}
	g.Wait("the kernel to agree", 5*time.Second, func() error {
		r := g.d.Result()
		if !r.Settled() || len(r.Unresolved) > 0 {
			return errors.New("not settled")
		}
		return nil
	})
	g.waitSame()
	return g.d.Result()
}

// waitSame waits until the dataplane finds in the kernel what its State says.
func (g *gateway) waitSame() {
	g.t.Helper()
	g.Wait("no difference", 5*time.Second, func() error {
		if found := g.ownDifferences(); found != "" {
			return errors.New(found)
		}
		return nil
	})
}

// pair is a gateway with a consumer VM and a provider VM, both 10.0.1.4 in their networks, and its State:
// one endpoint 10.0.1.10, port 80, to port 8080.
func newPair(t *testing.T) (g *gateway, consumer, provider *lab.Namespace, s State) {
	g = newGateway(t)
	consumer = g.VM(g.ns, "consumer", "10.0.1.4/16", lab.VethOptions{})
	provider = g.VM(g.ns, "provider", "10.0.1.4/16", lab.VethOptions{})
	return g, consumer, provider, small()
}

func small() State {
	prefix := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16")}
	backend := netip.MustParseAddr("10.0.1.4")
	return State{
		Revision: 1,
		Networks: []Network{
			{Key: "consumers", Attachments: []Attachment{{Interface: "consumer", Mode: ModeTC}}, Prefixes: prefix},
			{Key: "providers", Attachments: []Attachment{{Interface: "provider", Mode: ModeTC}}, Prefixes: prefix},
		},
		Pools: []Pool{{Key: "pool", Members: []netip.Addr{backend}}},
		RuleSets: []RuleSet{{
			Key: "service", Network: "providers", Sources: []Source{{Addr: netip.MustParseAddr("10.0.2.5")}},
			Rules: []Rule{{Key: "web", Protocol: ProtocolTCP, Port: 80, BackendPort: 8080, IdleTCP: 300, IdleUDP: 300,
				Targets: []Target{{Pool: "pool", Addr: backend, Weight: 1, Healthy: true}}}},
		}},
		Links: []Link{{Key: "endpoint", ID: 0x01020304, Network: "consumers", Addr: netip.MustParseAddr("10.0.1.10"),
			RuleSet: "service", State: LinkApproved, Epoch: 1}},
	}
}

func TestOpen_TwoDaemons_SecondRefused(t *testing.T) {
	g := newGateway(t)
	g.open()
	if _, err := Open(context.Background(), g.options()); !errors.Is(err, ErrLocked) {
		t.Fatalf("second daemon: %v", err)
	}
	if err := Down(context.Background(), g.options()); !errors.Is(err, ErrLocked) {
		t.Fatalf("down while a daemon runs: %v", err)
	}
}
