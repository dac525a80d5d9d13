package dataplane

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
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

// A pool of 1,000 backends behind a service and the frontend that it publishes: both have a table of it.
func TestApply_OneOfThousandBackends_InTime(t *testing.T) {
	g, _, provider, _ := newPair(t)
	if _, err := provider.Run(t.Context(), "ip", "route", "add", "local", "10.0.64.0/18", "dev", "lo"); err != nil {
		t.Fatal(err)
	}
	const backends = 1000
	s := small()
	s.RuleSets = append(s.RuleSets, RuleSet{Key: "frontend", Network: "providers", Sources: []Source{{Addr: netip.MustParseAddr("10.0.2.6"), Frontend: true}},
		Rules: []Rule{{Key: "frontend web", Protocol: ProtocolTCP, Port: 80, BackendPort: 8080, IdleTCP: 300, IdleUDP: 300}}})
	var targets []Target
	for i := range backends {
		a := netip.AddrFrom4([4]byte{10, 0, 64 + byte(i>>8), byte(i)})
		s.Pools[0].Members = append(s.Pools[0].Members, a)
		targets = append(targets, Target{Pool: "pool", Addr: a, Weight: 1, Healthy: true})
	}
	change := func(healthy bool) {
		s.Revision++
		for i := range s.RuleSets {
			rule := s.RuleSets[i].Rules[0]
			rule.Targets = slices.Clone(targets)
			rule.Targets[backends/2].Healthy = healthy
			s.RuleSets[i].Rules = []Rule{rule}
		}
	}
	change(true)
	g.open()
	if _, err := g.d.Apply(context.Background(), s); err != nil {
		t.Fatal(err)
	}
	g.Wait("every backend's MAC", 30*time.Second, func() error {
		if r := g.d.Result(); !r.Settled() || len(r.Unresolved) > 0 {
			return fmt.Errorf("%d pending, %d unresolved", len(r.Pending), len(r.Unresolved))
		}
		return nil
	})
	const rounds = 20
	var wall, spent []time.Duration
	for i := range rounds {
		change(i%2 == 1)
		began, start := time.Now(), used(t)
		if _, err := g.d.Apply(context.Background(), s); err != nil {
			t.Fatal(err)
		}
		wall, spent = append(wall, time.Since(began)), append(spent, used(t)-start)
	}
	slices.Sort(wall)
	slices.Sort(spent)
	t.Logf("a change of one of %d backends: processor time %v, wall %v, longest %v", backends, spent[rounds/2], wall[rounds/2], wall[rounds-1])
	if spent[rounds/2] > 20*time.Millisecond {
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
