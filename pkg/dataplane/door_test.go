package dataplane

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/privlink/privlink/pkg/lab"
	"github.com/privlink/privlink/pkg/splice"
	"github.com/privlink/privlink/pkg/splice/inner"
)

// newInner is a pair whose service is proxied, with a namespace in the place of the splice's.
func newInner(t *testing.T) (g *gateway, consumer, provider, inside *lab.Namespace, s State) {
	t.Helper()
	g, consumer, provider, s = newPair(t)
	inside = g.Namespace("inside")
	const mac = "02:00:00:00:00:01"
	g.Veth(g.ns, "inner", inside, "eth0", lab.VethOptions{
		A: lab.EndOptions{MAC: mac}, B: lab.EndOptions{MAC: mac, Addr: "100.64.0.1/10"},
	})
	if _, err := inside.Run(context.Background(), "ip", "link", "set", "eth0", "arp", "off"); err != nil {
		t.Fatal(err)
	}
	if _, err := inside.Run(context.Background(), "ip", "addr", "add", inner.DialSource(0).String()+"/32", "dev", "lo"); err != nil {
		t.Fatal(err)
	}
	g.edit = func(o *Options) {
		o.Inner = Inner{Network: "inner", Interface: "inner", Listen: netip.MustParseAddrPort("100.64.0.1:1"), Sources: inner.Sources()}
	}
	g.open()
	s.RuleSets[0].Rules[0].Proxy = true
	return g, consumer, provider, inside, s
}

func TestDoor_ProxiedConnection_IsIdentifiedAndDialled(t *testing.T) {
	g, consumer, provider, inside, s := newInner(t)
	echo(t, provider, "10.0.1.4:8080")
	g.apply(s)
	l, err := inside.Listen("tcp", "100.64.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := dial(consumer, "10.0.1.10:80")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	leg, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer leg.Close()
	local, peer := netip.MustParseAddrPort(leg.LocalAddr().String()), netip.MustParseAddrPort(leg.RemoteAddr().String())
	id, err := g.d.Identify(local, peer)
	if err != nil {
		t.Fatal(err)
	}
	want := splice.Identity{
		Client: netip.MustParseAddrPort(c.LocalAddr().String()), Endpoint: netip.MustParseAddrPort("10.0.1.10:80"), LinkID: 0x01020304,
		Link: "endpoint", RuleSet: "service", Rule: "web", LinkRef: id.LinkRef, IdleTimeout: 300 * time.Second,
	}
	if id != want || id.LinkRef == 0 {
		t.Errorf("identity %+v, want %+v", id, want)
	}
	targets := g.d.Targets(&id, 4)
	if len(targets) != 1 || targets[0] != netip.MustParseAddrPort("10.0.1.4:8080") {
		t.Fatalf("targets: %v", targets)
	}
	if age, ok := g.d.Heard(local, peer); !ok || age > 2*time.Second {
		t.Errorf("heard %v %v", age, ok)
	}

	source := netip.AddrPortFrom(inner.DialSource(0), 2000)
	connect := func() error {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		second, err := inside.Dial(ctx, "tcp", source.String(), "100.65.0.1:80")
		if err != nil {
			return err
		}
		defer second.Close()
		return say(second, "second leg\n")
	}
	if err := connect(); err == nil {
		t.Fatal("the inner network was left without a dial entry")
	}
	if err := g.d.Admit(source, inner.Destination{RuleSet: id.RuleSet, Rule: id.Rule, Target: targets[0], Link: id.LinkRef}); err != nil {
		t.Fatal(err)
	}
	if err := connect(); err != nil {
		t.Fatal(err)
	}
	// another target for the same source takes no more room
	if err := g.d.Admit(source, inner.Destination{RuleSet: id.RuleSet, Rule: id.Rule, Target: targets[0], Link: id.LinkRef}); err != nil {
		t.Fatal(err)
	}
	if used := mapUse(t, g)[mapDials]; used != 1 {
		t.Errorf("%d dials in use, want 1", used)
	}
	g.d.Withdraw(source)
	g.d.Withdraw(source) // nothing
	if used := mapUse(t, g)[mapDials]; used != 0 {
		t.Errorf("%d dials in use after the last was withdrawn", used)
	}

	source = netip.AddrPortFrom(inner.DialSource(0), 2001)
	if err := g.d.Admit(source, inner.Destination{RuleSet: id.RuleSet, Rule: id.Rule, Target: targets[0]}); err != nil {
		t.Fatalf("a probe: %v", err)
	}
	if err := connect(); err != nil {
		t.Fatalf("a probe: %v", err)
	}
	g.d.Withdraw(source)

	s.Links[0].State = LinkRejected
	if _, err := g.d.Apply(context.Background(), s); err != nil {
		t.Fatal(err)
	}
	if err := g.d.Admit(source, inner.Destination{RuleSet: id.RuleSet, Rule: id.Rule, Target: targets[0], Link: id.LinkRef}); !errors.Is(err, ErrNoDestination) {
		t.Errorf("a revoked link was admitted: %v", err)
	}
}

func TestDoor_Probe_ReachesAnUnhealthyTarget(t *testing.T) {
	g, _, provider, inside, s := newInner(t)
	echo(t, provider, "10.0.1.4:8080")
	s.RuleSets[0].Rules[0].Targets[0].Healthy = false
	s.RuleSets[0].Rules[0].Proxy = false
	g.apply(s)
	source := netip.AddrPortFrom(inner.DialSource(0), 2000)
	if err := g.d.Admit(source, inner.Destination{RuleSet: "service", Rule: "web", Target: netip.MustParseAddrPort("10.0.1.4:8080")}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	c, err := inside.Dial(ctx, "tcp", source.String(), "100.65.0.1:80")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := say(c, "are you there\n"); err != nil {
		t.Fatal(err)
	}
}

// TestDoor_InnerVeth_TakesPacketsAtItsOtherEnd counts what the gateway's end sends: all that goes in by the other end's
// receive path never comes by there.
func TestDoor_InnerVeth_TakesPacketsAtItsOtherEnd(t *testing.T) {
	g, consumer, _, inside, s := newInner(t)
	g.apply(s)
	echo(t, inside, "100.64.0.1:1")
	sent := func() (packets uint64) {
		t.Helper()
		if err := g.ns.Do(func() error {
			l, err := netlink.LinkByName("inner")
			if err == nil {
				packets = l.Attrs().Statistics.TxPackets
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return packets
	}
	before := sent()
	c, err := dial(consumer, "10.0.1.10:80")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := say(c, "hello\n"); err != nil {
		t.Fatal(err)
	}
	if now := sent(); now != before {
		t.Errorf("the gateway's end of the inner veth sent %d packets itself", now-before)
	}

	// Ends in one namespace cannot: the kernel would drop every packet.
	g.Veth(g.ns, "one", g.ns, "other", lab.VethOptions{})
	devices, err := g.d.ns.devices()
	if err != nil {
		t.Fatal(err)
	}
	if devices["one"].peerElsewhere || devices["lo"].peerElsewhere || !devices["inner"].peerElsewhere {
		t.Errorf("other end in another namespace: one %v, lo %v, inner %v", devices["one"].peerElsewhere, devices["lo"].peerElsewhere, devices["inner"].peerElsewhere)
	}
}
