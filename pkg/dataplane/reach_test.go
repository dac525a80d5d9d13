package dataplane

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/privlink/privlink/pkg/lab"
	"github.com/privlink/privlink/pkg/neigh"
	"github.com/privlink/privlink/pkg/splice/inner"
)

// works dials the endpoint once and says something.
func works(n *lab.Namespace, address string) error {
	c, err := dial(n, address)
	if err != nil {
		return err
	}
	defer c.Close()
	return say(c, "hello\n")
}

func TestBackend_BehindANextHop_IsReached(t *testing.T) {
	g := newGateway(t)
	consumer := g.VM(g.ns, "consumer", "10.0.1.4/16", lab.VethOptions{})
	router := g.VM(g.ns, "provider", "10.0.0.1/16", lab.VethOptions{})
	backend := g.VM(router, "backend", "192.0.2.10/24", lab.VethOptions{})
	router.Addr("backend", "192.0.2.1/24")
	router.Sysctl("net.ipv4.ip_forward", "1")
	backend.Route("10.0.0.0/16", "192.0.2.1")
	s := small()
	s.Networks[1].Attachments[0].NextHop = netip.MustParseAddr("10.0.0.1")
	s.Pools[0].Members[0] = netip.MustParseAddr("192.0.2.10")
	s.RuleSets[0].Rules[0].Targets[0].Addr = s.Pools[0].Members[0]
	g.open()
	echo(t, backend, "192.0.2.10:8080")
	g.apply(s)
	if err := works(consumer, "10.0.1.10:80"); err != nil {
		t.Fatal(err)
	}
}

func TestBackend_OnTheSecondAttachment_IsFound(t *testing.T) {
	g, consumer, _, s := newPair(t)
	second := g.VM(g.ns, "second", "10.0.1.5/16", lab.VethOptions{})
	s.Networks[1].Attachments = append(s.Networks[1].Attachments, Attachment{Interface: "second", Mode: ModeTC})
	s.Pools[0].Members[0] = netip.MustParseAddr("10.0.1.5")
	s.RuleSets[0].Rules[0].Targets[0].Addr = s.Pools[0].Members[0]
	g.open()
	echo(t, second, "10.0.1.5:8080")
	g.apply(s)
	if err := works(consumer, "10.0.1.10:80"); err != nil {
		t.Fatal(err)
	}
}

// A probe of a target that does not answer ARP is refused with that reason; one that is not looked for long enough waits.
// Who does not answer, or what is missing, is told.
func TestBackend_NotToBeFound_ProbeRefusedAndWhyTold(t *testing.T) {
	for _, c := range []struct {
		name, target string
		change       func(*State)
		missing      Missing
		why          string
	}{
		{"itself", "10.0.1.99", func(*State) {}, MissingAnswer, "nobody answers ARP for its address"},
		{"router", "192.0.2.10", func(s *State) { s.Networks[1].Attachments[0].NextHop = netip.MustParseAddr("10.0.0.1") }, MissingHopAnswer, "nobody answers ARP for its next hop 10.0.0.1"},
		{"no router", "192.0.2.10", func(*State) {}, MissingNextHop, "it is in no subnet of its network, and no attachment has a next hop"},
		{"no interface", "10.0.1.4", func(s *State) { s.Networks[1].Attachments = nil }, MissingInterface, "no interface of its network is attached"},
	} {
		t.Run(c.name, func(t *testing.T) {
			g, _, _, _, s := newInner(t)
			at := netip.MustParseAddr(c.target)
			s.Pools[0].Members[0], s.RuleSets[0].Rules[0].Targets[0].Addr = at, at
			c.change(&s)
			if _, err := g.d.Apply(context.Background(), s); err != nil {
				t.Fatal(err)
			}
			if r := g.d.Result(); len(r.Unresolved) != 1 || r.Unresolved[0] != (Unresolved{Address{"providers", at}, c.missing, c.why, strings.Contains(c.why, "ARP")}) {
				t.Errorf("unresolved: %+v, want %s", r.Unresolved, c.why)
			}
			g.waitSame()
			source := netip.AddrPortFrom(inner.DialSource(0), 2000)
			admit := func() error {
				return g.d.Admit(source, inner.Destination{RuleSet: "service", Rule: "web", Target: netip.AddrPortFrom(at, 8080)})
			}
			if err := admit(); strings.Contains(c.why, "ARP") && errors.Is(err, inner.ErrUnresolved) || err == nil {
				t.Errorf("asked for just now: %v", err)
			}
			g.Wait("the refusal of a probe", 5*time.Second, func() error {
				if err := admit(); !errors.Is(err, inner.ErrUnresolved) || !strings.Contains(err.Error(), c.why) {
					return fmt.Errorf("it is %w", err)
				}
				return nil
			})
		})
	}
}

func TestBackend_NobodyThere_TakesNoFlows(t *testing.T) {
	g, consumer, provider, s := newPair(t)
	ghost := netip.MustParseAddr("10.0.1.99")
	s.Pools[0].Members = append(s.Pools[0].Members, ghost)
	s.RuleSets[0].Rules[0].Targets = append(s.RuleSets[0].Rules[0].Targets, Target{Pool: "pool", Addr: ghost, Weight: 1, Healthy: true})
	g.open()
	echo(t, provider, "10.0.1.4:8080")
	if _, err := g.d.Apply(context.Background(), s); err != nil {
		t.Fatal(err)
	}
	g.Wait("the one backend to be found", 5*time.Second, func() error {
		r := g.d.Result()
		if !r.Settled() || len(r.Unresolved) != 1 || r.Unresolved[0].Addr != ghost {
			return fmt.Errorf("%+v", r)
		}
		return nil
	})
	g.waitSame()
	for range 20 {
		if err := works(consumer, "10.0.1.10:80"); err != nil {
			t.Fatal(err)
		}
	}
	provider.Addr("eth0", "10.0.1.99/16")
	g.Wait("the late one to be found", 10*time.Second, func() error {
		if r := g.d.Result(); len(r.Unresolved) != 0 {
			return fmt.Errorf("%+v", r.Unresolved)
		}
		return nil
	})
}

func TestInterface_MTUAndMACChange_AreFollowed(t *testing.T) {
	g, consumer, _, s, c := opened(t)
	link := g.ns.Link("provider")
	if err := g.ns.Netlink().LinkSetMTU(link, 1400); err != nil {
		t.Fatal(err)
	}
	mac := []byte{2, 0, 0, 0, 0, 0x77}
	if err := g.ns.Netlink().LinkSetHardwareAddr(link, mac); err != nil {
		t.Fatal(err)
	}
	slot := g.d.outs.find(outIdent("providers", s.Networks[1].Attachments[0]))
	g.Wait("the output to have them", 5*time.Second, func() error {
		if o := g.d.k.outs.load(slot); o.Mtu != 1400 || o.Mac != [6]uint8(mac) {
			return fmt.Errorf("%+v", o)
		}
		return nil
	})
	// Announced, so the backend's reply comes to the new MAC.
	if err := say(c, "still here\n"); err != nil {
		t.Fatal(err)
	}
	if err := works(consumer, "10.0.1.10:80"); err != nil {
		t.Fatal(err)
	}
}

func TestBackend_MovesToAnotherMAC_IsFollowed(t *testing.T) {
	g, _, provider, _, c := opened(t)
	provider.Sysctl("net.ipv4.conf.eth0.arp_notify", "1")
	if err := provider.Netlink().LinkSetHardwareAddr(provider.Link("eth0"), []byte{2, 0, 0, 0, 0, 0x66}); err != nil {
		t.Fatal(err)
	}
	g.Wait("the connection to go on", 5*time.Second, func() error { return say(c, "x") })
}

func TestLink_OfAPeeredNetwork_IsReached(t *testing.T) {
	g, _, provider, s := newPair(t)
	peer := g.VM(g.ns, "peer", "10.7.0.4/16", lab.VethOptions{})
	s.Networks = append(s.Networks, Network{Key: "peers", Attachments: []Attachment{{Interface: "peer", Mode: ModeTC}},
		Gateways: []netip.Addr{netip.MustParseAddr("10.7.0.1")}, Prefixes: []netip.Prefix{netip.MustParsePrefix("10.7.0.0/16")}})
	s.Links[0].Peers = []string{"peers"}
	peer.Route("10.0.0.0/16", "10.7.0.1")
	g.open()
	echo(t, provider, "10.0.1.4:8080")
	g.apply(s)
	if err := works(peer, "10.0.1.10:80"); err != nil {
		t.Fatal(err)
	}
	s.Links[0].Peers = nil
	g.apply(s)
	if err := works(peer, "10.0.1.10:80"); err == nil {
		t.Fatal("the peering is gone and the endpoint still answers")
	}
}

// What a peering carried ends with it, also where the daemon died after it took the address away and before it
// looked for the flows; what the endpoint's own network has open goes on.
func TestPeering_Gone_EndsItsFlowsOnly(t *testing.T) {
	for _, c := range []struct {
		name string
		take func(*testing.T, *gateway, State)
	}{
		{"applied", func(_ *testing.T, g *gateway, s State) { g.apply(s) }},
		{"killed in between", func(t *testing.T, g *gateway, s State) {
			g.d.mu.Lock()
			key := addressKey(neigh.Key{VNet: g.d.plan.vnets["peers"], Addr: netip.MustParseAddr("10.0.1.10")})
			err := g.d.k.maps[mapAddresses].Delete(&key)
			g.d.mu.Unlock()
			if err := errors.Join(err, g.d.Close()); err != nil {
				t.Fatal(err)
			}
			g.open()
			g.apply(s)
		}},
		{"another endpoint has its address", func(t *testing.T, g *gateway, s State) {
			other := s.Links[0]
			other.Key, other.Network, other.ID = "other", "peers", 7
			s.Links = append(s.Links, other)
			g.apply(s)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			g, consumer, provider, s := newPair(t)
			peer := g.VM(g.ns, "peer", "10.7.0.4/16", lab.VethOptions{})
			s.Networks = append(s.Networks, Network{Key: "peers", Attachments: []Attachment{{Interface: "peer", Mode: ModeTC}},
				Gateways: []netip.Addr{netip.MustParseAddr("10.7.0.1")}, Prefixes: []netip.Prefix{netip.MustParsePrefix("10.7.0.0/16")}})
			s.Links[0].Peers = []string{"peers"}
			peer.Route("10.0.0.0/16", "10.7.0.1")
			g.open()
			l, err := provider.Listen("tcp", "10.0.1.4:8080")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			g.apply(s)
			var ends [2][2]net.Conn // of the peer, of the endpoint's network
			for i, n := range []*lab.Namespace{peer, consumer} {
				if ends[i][0], err = dial(n, "10.0.1.10:80"); err != nil {
					t.Fatal(err)
				}
				defer ends[i][0].Close()
				if ends[i][1], err = l.Accept(); err != nil {
					t.Fatal(err)
				}
				defer ends[i][1].Close()
			}
			s.Links = slices.Clone(s.Links)
			s.Links[0].Peers = nil
			c.take(t, g, s)
			wantReset(t, ends[0][0])
			wantReset(t, ends[0][1])
			if _, err := ends[1][0].Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			if err := ends[1][1].SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
				t.Fatal(err)
			}
			if _, err := ends[1][1].Read(make([]byte, 1)); err != nil {
				t.Errorf("the flow of the endpoint's own network: %v", err)
			}
		})
	}
}

func TestFlow_IdleWithTCPReset_ResetsBothEnds(t *testing.T) {
	t.Parallel()
	g, consumer, provider, s := newPair(t)
	r := &s.RuleSets[0].Rules[0]
	r.TCPReset, r.IdleTCP = true, 10
	g.open()
	l, err := provider.Listen("tcp", "10.0.1.4:8080")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	g.apply(s)
	c, err := dial(consumer, "10.0.1.10:80")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	served, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer served.Close()
	g.Wait("the idle flow to be ended", 30*time.Second, func() error {
		count := 0
		if err := g.d.Flows(context.Background(), func(Flow) bool { count++; return true }); err != nil {
			return err
		}
		if count > 0 {
			return errors.New("it is still there")
		}
		return nil
	})
	wantReset(t, c)
	wantReset(t, served)
}
