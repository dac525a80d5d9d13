package dataplane

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/privlink/privlink/pkg/lab"
	"github.com/privlink/privlink/pkg/splice"
)

// balancing is a gateway with a pool of 8 backends, all of them one machine, each of which answers with its address and
// port; and a client.
type balancing struct {
	*gateway
	client, provider *lab.Namespace
}

// newBalancing offers 10.0.1.10: port 80 by the whole tuple, 81 by the source, 82 by source and protocol, and at
// 10.0.1.12 every port by the source. First is what the node had before, which moves its numbers.
func newBalancing(t *testing.T, first ...RuleSet) *balancing {
	t.Helper()
	g, consumer, provider, s := newPair(t)
	if _, err := provider.Run(t.Context(), "ip", "route", "add", "local", "10.0.64.0/24", "dev", "lo"); err != nil {
		t.Fatal(err)
	}
	b := &balancing{g, consumer, provider}
	for _, port := range []string{"8080", "9090"} {
		b.name(provider, port)
	}
	var targets []Target
	s.Pools[0].Members = nil
	for i := range 8 {
		a := netip.AddrFrom4([4]byte{10, 0, 64, byte(10 + i)})
		s.Pools[0].Members = append(s.Pools[0].Members, a)
		targets = append(targets, Target{Pool: "pool", Addr: a, Weight: 1, Healthy: true})
	}
	rules := func(set *RuleSet, protocol Protocol, by map[uint16]Distribution) {
		set.Rules = nil
		for port, distribution := range by {
			rule := Rule{Key: fmt.Sprint(port), Protocol: protocol, Port: port, Distribution: distribution, IdleTCP: 300, IdleUDP: 300, Targets: targets}
			if port != 0 {
				rule.BackendPort = 8080
			}
			set.Rules = append(set.Rules, rule)
		}
	}
	rules(&s.RuleSets[0], ProtocolTCP, map[uint16]Distribution{80: Distribution5Tuple, 81: DistributionSourceIP, 82: DistributionSourceIPProtocol})
	every := RuleSet{Key: "every port", Network: "providers", Sources: []Source{{Addr: netip.MustParseAddr("10.0.2.7")}}}
	rules(&every, ProtocolAll, map[uint16]Distribution{0: DistributionSourceIP})
	s.Links = append(s.Links, Link{Key: "every port", ID: 0x01020305, Network: "consumers", Addr: netip.MustParseAddr("10.0.1.12"), RuleSet: every.Key, State: LinkApproved})
	g.open()
	if len(first) > 0 {
		before := small()
		before.RuleSets, before.Links = first, nil
		g.apply(before)
	}
	s.RuleSets = append(s.RuleSets, every)
	s.Revision = 2
	g.apply(s)
	return b
}

// name serves a port of every address with the address and port that was asked.
func (b *balancing) name(n *lab.Namespace, port string) {
	b.t.Helper()
	listener, err := n.Listen("tcp4", ":"+port)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			fmt.Fprintln(c, c.LocalAddr())
			c.Close()
		}
	}()
}

// nameUDP does the same for datagrams: there is a socket for each backend's address.
func (b *balancing) nameUDP(port string) {
	b.t.Helper()
	for _, target := range b.d.state.RuleSets[0].Rules[0].Targets {
		c, err := b.provider.ListenPacket("udp4", target.Addr.String()+":"+port)
		if err != nil {
			b.t.Fatal(err)
		}
		b.t.Cleanup(func() { c.Close() })
		go func() {
			for buffer := make([]byte, 64); ; {
				_, from, err := c.ReadFrom(buffer)
				if err != nil {
					return
				}
				_, _ = c.WriteTo([]byte(c.LocalAddr().String()+"\n"), from) // a lost answer is missed
			}
		}()
	}
}

// who asks from an address of a client and returns who answered.
func (b *balancing) who(n *lab.Namespace, network, from, to string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c, err := n.Dial(ctx, network, from, to)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return "", err
	}
	if network == "udp4" {
		if _, err := c.Write([]byte("who?")); err != nil {
			return "", err
		}
	}
	answer := make([]byte, 64)
	length, err := c.Read(answer)
	if err != nil {
		return "", fmt.Errorf("from %s to %s: %w", from, to, err)
	}
	return strings.TrimSpace(string(answer[:length])), nil
}

// ask connects from a port, 0 for any, and returns who answered.
func (b *balancing) ask(from int, to string) string {
	b.t.Helper()
	local := ""
	if from != 0 {
		local = fmt.Sprintf("10.0.1.4:%d", from)
	}
	who, err := b.who(b.client, "tcp4", local, to)
	if err != nil {
		b.t.Fatal(err)
	}
	return who
}

// answers are those from 32 ports, which are others for each port asked.
func (b *balancing) answers(to string) (all []string) {
	for from := range 32 {
		all = append(all, b.ask(20000+int(netip.MustParseAddrPort(to).Port())*100+from, to))
	}
	return all
}

func distinct(list []string) int {
	slices.Sort(list)
	return len(slices.Compact(list))
}

// Two nodes choose by names, not by the numbers they have given to them.
func TestBalance_TwoNodesWithOneState_ChooseTheSameBackends(t *testing.T) {
	one := newBalancing(t)
	two := newBalancing(t, RuleSet{Key: "earlier", Network: "providers", Sources: []Source{{Addr: netip.MustParseAddr("10.0.2.9")}}, Rules: []Rule{
		{Key: "earlier", Protocol: ProtocolTCP, Port: 80, IdleTCP: 300, IdleUDP: 300, Targets: []Target{{Pool: "pool", Addr: netip.MustParseAddr("10.0.1.4"), Weight: 1, Healthy: true}}},
	}})
	if id := backendIdent(&one.d.state.RuleSets[0], &one.d.state.RuleSets[0].Rules[0], one.d.state.RuleSets[0].Rules[0].Targets[0]); one.d.backends.find(id) == two.d.backends.find(id) {
		t.Fatal("both nodes have the same numbers, which shows nothing")
	}
	for _, to := range []string{"10.0.1.10:80", "10.0.1.10:81", "10.0.1.10:82"} {
		first, second := one.answers(to), two.answers(to)
		if !slices.Equal(first, second) {
			t.Errorf("%s: one node chooses\n%v, the other\n%v", to, first, second)
		}
	}
}

func TestBalance_Distributions_AreAsStableAsTheySay(t *testing.T) {
	b := newBalancing(t)
	if n := distinct(b.answers("10.0.1.10:80")); n < 4 {
		t.Errorf("32 connections by the whole tuple reach %d of 8 backends", n)
	}
	for _, to := range []string{"10.0.1.10:81", "10.0.1.10:82"} {
		if all := b.answers(to); distinct(all) != 1 {
			t.Errorf("%s: connections of one client reach %v", to, all)
		}
	}
	// Every port, by the source: one backend for all of them, at the port that was asked for.
	first, second := b.ask(0, "10.0.1.12:8080"), b.ask(0, "10.0.1.12:9090")
	host, _, _ := net.SplitHostPort(first)
	if first != host+":8080" || second != host+":9090" {
		t.Errorf("every port: %s and %s", first, second)
	}
}

// By the source alone, a client's TCP and UDP go to one backend; with the protocol they need not. Two consumers with the same
// addresses are two sources: the link is part of the choice.
func TestBalance_BySource_ProtocolsTogetherAndLinksApart(t *testing.T) {
	const clients = 24
	b := newBalancing(t)
	b.nameUDP("8080")
	other := b.VM(b.ns, "other", "10.0.1.4/16", lab.VethOptions{})
	s := b.d.state
	s.Revision++
	s.Networks = append(slices.Clone(s.Networks), Network{Key: "others", Attachments: []Attachment{{Interface: "other", Mode: ModeTC}}, Prefixes: s.Networks[0].Prefixes})
	sets := slices.Clone(s.RuleSets)
	i := slices.IndexFunc(sets, func(rs RuleSet) bool { return rs.Key == "every port" })
	protocol := sets[i]
	protocol.Key, protocol.Sources = "protocol", []Source{{Addr: netip.MustParseAddr("10.0.2.8")}}
	protocol.Rules = slices.Clone(protocol.Rules)
	protocol.Rules[0].Distribution = DistributionSourceIPProtocol
	s.RuleSets = append(sets, protocol)
	s.Links = append(slices.Clone(s.Links),
		Link{Key: "by protocol", ID: 0x01020306, Network: "consumers", Addr: netip.MustParseAddr("10.0.1.13"), RuleSet: "protocol", State: LinkApproved},
		Link{Key: "of others", ID: 0x01020307, Network: "others", Addr: netip.MustParseAddr("10.0.1.12"), RuleSet: "every port", State: LinkApproved})
	b.apply(s)
	for _, n := range []*lab.Namespace{b.client, other} {
		for i := range clients {
			n.Addr("eth0", fmt.Sprintf("10.0.3.%d/16", 10+i))
		}
	}
	answers := func(from *lab.Namespace, network, to string) (all []string) {
		t.Helper()
		for i := range clients {
			who, err := b.who(from, network, fmt.Sprintf("10.0.3.%d:0", 10+i), to)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, who)
		}
		return all
	}
	tcp, udp := answers(b.client, "tcp4", "10.0.1.12:8080"), answers(b.client, "udp4", "10.0.1.12:8080")
	if !slices.Equal(tcp, udp) {
		t.Errorf("by the source\nTCP %v\nUDP %v", tcp, udp)
	}
	if n := distinct(slices.Clone(tcp)); n < 4 {
		t.Errorf("%d clients reach %d of 8 backends", clients, n)
	}
	if with := answers(b.client, "udp4", "10.0.1.13:8080"); slices.Equal(answers(b.client, "tcp4", "10.0.1.13:8080"), with) {
		t.Errorf("with the protocol both go to %v", with)
	}
	if others := answers(other, "tcp4", "10.0.1.12:8080"); slices.Equal(tcp, others) {
		t.Errorf("clients with equal addresses on two links all reach %v", others)
	}
}

// A proxied connection goes to the backend that it would have gone to without a proxy: the kernel's rules are plain here, and
// the door is opened as if they were not.
func TestBalance_SecondLeg_ChoosesAsTheProgramDoes(t *testing.T) {
	b := newBalancing(t)
	b.d.mu.Lock()
	proxied := *b.d.plan
	set := proxied.state.RuleSets[0]
	set.Rules = slices.Clone(set.Rules)
	for i := range set.Rules {
		set.Rules[i].Proxy = true
	}
	proxied.state.RuleSets = []RuleSet{set}
	b.d.openDoor(&proxied)
	b.d.mu.Unlock()
	for i := range set.Rules {
		rule := &set.Rules[i]
		id := splice.Identity{Endpoint: netip.AddrPortFrom(netip.MustParseAddr("10.0.1.10"), rule.Port), LinkID: b.d.state.Links[0].ID, RuleSet: set.Key, Rule: rule.Key}
		for from := range 32 {
			id.Client = netip.AddrPortFrom(netip.MustParseAddr("10.0.1.4"), uint16(30000+int(rule.Port)*100+from))
			want := b.d.Targets(&id, 1)
			if len(want) != 1 {
				t.Fatalf("from %s to %s: the second leg has %v", id.Client, id.Endpoint, want)
			}
			if got := b.ask(int(id.Client.Port()), id.Endpoint.String()); got != want[0].String() {
				t.Errorf("from %s to %s: the program chooses %s, the second leg %s", id.Client, id.Endpoint, got, want[0])
			}
		}
	}
}

// A backend that moves and says so is followed within a second.
func TestBackend_GratuitousARP_IsFollowedWithinASecond(t *testing.T) {
	g, _, provider, _ := newPair(t)
	g.open()
	g.apply(small())
	provider.Sysctl("net.ipv4.conf.eth0.arp_notify", "1")
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 0x66}
	rs := &small().RuleSets[0]
	slot := g.d.backends.find(backendIdent(rs, &rs.Rules[0], rs.Rules[0].Targets[0]))
	began := time.Now()
	if err := provider.Netlink().LinkSetHardwareAddr(provider.Link("eth0"), mac); err != nil {
		t.Fatal(err)
	}
	g.Wait("the kernel to have the new MAC", 20*time.Second, func() error {
		if have := g.d.k.backends.load(slot).Hop.Mac; have != [6]byte(mac) {
			return fmt.Errorf("it has %x", have)
		}
		return nil
	})
	took := time.Since(began)
	t.Logf("followed after %v", took)
	if took > time.Second {
		t.Errorf("followed after %v, want a second at most", took)
	}
}
