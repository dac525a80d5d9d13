package dataplane

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/privlink/privlink/pkg/lab"
	"golang.org/x/sys/unix"
)

// large is a State with 1,000 endpoints in 100 networks (one of them attached), to 100 services of 8 backends.
func large(pending bool) State {
	s := small()
	for i := range 100 {
		n := Network{Key: fmt.Sprintf("n%d", i), Prefixes: s.Networks[0].Prefixes}
		s.Networks = append(s.Networks, n)
		rs := RuleSet{Key: fmt.Sprintf("s%d", i), Network: "providers", Sources: []Source{{Addr: netip.AddrFrom4([4]byte{10, 0, 3, byte(i)})}}}
		rule := Rule{Key: "r", Protocol: ProtocolTCP, Port: 80, IdleTCP: 300, IdleUDP: 300}
		pool := Pool{Key: fmt.Sprintf("p%d", i)}
		for b := range 8 {
			a := netip.AddrFrom4([4]byte{10, 0, 4, byte(b)})
			pool.Members = append(pool.Members, a)
			rule.Targets = append(rule.Targets, Target{Pool: pool.Key, Addr: a, Weight: 1, Healthy: true})
		}
		rs.Rules = []Rule{rule}
		s.RuleSets = append(s.RuleSets, rs)
		s.Pools = append(s.Pools, pool)
	}
	for i := range 1000 {
		l := Link{Key: fmt.Sprintf("l%d", i), ID: uint32(i + 1), Network: fmt.Sprintf("n%d", i%100), Addr: netip.AddrFrom4([4]byte{10, 0, 5, byte(i / 100)}),
			RuleSet: fmt.Sprintf("s%d", i%100), State: LinkApproved}
		if pending && i == 500 {
			l.State = LinkPending
		}
		s.Links = append(s.Links, l)
	}
	return s
}

func TestApply_ThousandEndpoints_InTime(t *testing.T) {
	g, _, provider, _ := newPair(t)
	for b := range 8 {
		provider.Addr("eth0", fmt.Sprintf("10.0.4.%d/16", b))
	}
	// The promises are of a machine that has nothing else to do. Of one that has, the processor time of
	// this process (the verifier's and the maps' included) says the same.
	start := used(t)
	g.open()
	loaded := used(t) - start
	g.apply(large(true))
	settled := used(t) - start
	const rounds = 10
	start = used(t)
	for range rounds {
		for _, pending := range []bool{false, true} {
			if _, err := g.d.Apply(context.Background(), large(pending)); err != nil {
				t.Fatal(err)
			}
		}
	}
	apply := (used(t) - start) / (2 * rounds)
	if err := g.d.Close(); err != nil {
		t.Fatal(err)
	}
	start = used(t)
	g.open()
	g.apply(large(true))
	adopted := used(t) - start
	t.Logf("loaded in %v, all settled after %v; an approval or rejection %v; adopted and applied in %v", loaded, settled, apply, adopted)
	if settled > 2*time.Second || apply > 50*time.Millisecond || adopted > time.Second {
		t.Error("too slow")
	}
}

func TestApply_HundredInterfaces_InTime(t *testing.T) {
	g := newGateway(t)
	far := g.Namespace("far")
	s := small()
	s.Networks, s.Links = nil, nil
	s.RuleSets[0].Network = "n0"
	for i := range 100 {
		near := fmt.Sprintf("v%d", i)
		g.Veth(g.ns, near, far, fmt.Sprintf("f%d", i), lab.VethOptions{})
		network := fmt.Sprintf("n%d", i)
		s.Networks = append(s.Networks, Network{Key: network, Attachments: []Attachment{{Interface: near, Mode: ModeTC}}})
		s.Links = append(s.Links, Link{Key: fmt.Sprintf("l%d", i), ID: uint32(i + 1), Network: network,
			Addr: netip.MustParseAddr("10.0.1.10"), RuleSet: "service", State: LinkApproved})
	}
	g.open()
	if _, err := g.d.Apply(context.Background(), s); err != nil {
		t.Fatal(err)
	}
	g.Wait("all addresses to be probed", 20*time.Second, func() error {
		if r := g.d.Result(); !r.Settled() {
			return fmt.Errorf("%d pending", len(r.Pending))
		}
		return nil
	})
	const rounds = 10
	start := used(t)
	for range rounds {
		if _, err := g.d.Apply(context.Background(), s); err != nil {
			t.Fatal(err)
		}
	}
	apply := (used(t) - start) / rounds
	t.Logf("an approval or rejection with 100 interfaces: %v", apply)
	if apply > 50*time.Millisecond {
		t.Error("too slow")
	}
}

// used is the processor time of this process.
func used(t *testing.T) time.Duration {
	t.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
