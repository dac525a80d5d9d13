package dataplane

import (
	"context"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/privlink/privlink/pkg/lab"
)

// moving is a pool that changes while flows of one datagram each are opened: none may be lost.
type moving struct {
	*gateway
	t        *testing.T
	provider *lab.Namespace
	state    State
	crowd    *crowd
}

// movingAddr is the n-th backend's; all are one machine.
func movingAddr(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 64, byte(10 + n)}) }

func newMoving(t *testing.T, backends int) *moving {
	t.Helper()
	g, consumer, provider, s := newPair(t)
	g.edit = func(o *Options) { o.Pairs = 1 << 18 }
	g.open()
	for n := range backends {
		if _, err := provider.Run(t.Context(), "ip", "address", "add", movingAddr(n).String()+"/32", "dev", "lo"); err != nil {
			t.Fatal(err)
		}
		c, err := provider.ListenPacket("udp4", netip.AddrPortFrom(movingAddr(n), 7000).String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		go func() {
			b := make([]byte, 64)
			for {
				_, from, err := c.ReadFrom(b)
				if err != nil {
					return // closed with the test
				}
				_, _ = c.WriteTo([]byte(c.LocalAddr().String()), from) // what cannot be sent is missed
			}
		}()
	}
	rs := &s.RuleSets[0]
	rs.Sources = append(rs.Sources, Source{Addr: netip.MustParseAddr("10.0.2.6")}, Source{Addr: netip.MustParseAddr("10.0.2.7")})
	rs.Rules[0].Protocol, rs.Rules[0].Port, rs.Rules[0].BackendPort = ProtocolUDP, 7000, 7000
	s.Links[0].MaxFlows = 1 << 18
	return &moving{gateway: g, t: t, provider: provider, state: s, crowd: newCrowd(t, consumer, g.ns.MAC("consumer"), "10.0.1.10:7000", 0, 200_000)}
}

// pool makes a State whose pool are the first n backends, of which some take flows.
func (m *moving) pool(n int, up func(int) bool) State {
	s := m.state
	m.state.Revision++
	s.Revision = m.state.Revision
	rule := s.RuleSets[0].Rules[0]
	rule.Targets = nil
	s.Pools = []Pool{{Key: "pool"}}
	for i := range n {
		rule.Targets = append(rule.Targets, Target{Pool: "pool", Addr: movingAddr(i), Weight: 1, Healthy: up(i)})
		s.Pools[0].Members = append(s.Pools[0].Members, movingAddr(i))
	}
	s.RuleSets = slices.Clone(s.RuleSets)
	s.RuleSets[0].Rules = []Rule{rule}
	return s
}

// A table of the same size is rewritten where it stands, and a backend that takes no new flows any more is marked: whenever a
// flow is opened meanwhile, it finds a backend of the old set or of the new one.
func TestRules_BackendsGoUpAndDownUnderNewFlows_EachIsAnsweredByTheOldOrTheNewSet(t *testing.T) {
	m := newMoving(t, 8)
	// What a flow may find: the sets of before its datagram was sent until after its answer came.
	states := []State{m.pool(8, func(int) bool { return true })}
	m.apply(states[0])
	for step := range 240 {
		alone := step % 8 // one of eight takes flows, then the others
		states = append(states, m.pool(8, func(i int) bool { return (i == alone) == (step%2 == 0) }))
	}
	var begun, done atomic.Int64
	ended := make(chan error, 1)
	go func() {
		for n := 1; n < len(states); n++ {
			begun.Store(int64(n))
			if _, err := m.d.Apply(context.Background(), states[n]); err != nil {
				ended <- err
				return
			}
			done.Store(int64(n))
		}
		ended <- nil
	}()
	c := m.crowd
	moved := map[netip.Addr]bool{}
	for flow := 0; done.Load() < int64(len(states)-1); flow++ {
		select {
		case err := <-ended:
			if err != nil {
				t.Fatal(err)
			}
			ended <- nil
		default:
		}
		first := done.Load()
		if err := c.ask(flow, flow+1); err != nil {
			t.Fatalf("flow %d between state %d and %d: %v", flow, first, begun.Load(), err)
		}
		who := c.answers[flow].Addr()
		moved[who] = true
		if !slices.ContainsFunc(states[first:begun.Load()+1], func(s State) bool {
			return slices.ContainsFunc(s.RuleSets[0].Rules[0].Targets, func(x Target) bool { return x.Addr == who && x.Healthy })
		}) {
			t.Errorf("flow %d is with %s, which takes no flows from state %d to %d", flow, who, first, begun.Load())
		}
		c.opened = flow + 1
	}
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	t.Logf("%d flows while the table changed %d times", c.opened, len(states)-1)
	if len(moved) != 8 || c.opened < 300 {
		t.Errorf("%d flows with %d backends show nothing", c.opened, len(moved))
	}
}

// A backend gets its first flow when its MAC is known: the datagrams of flows that are opened while it is looked for go to
// others, and the first that goes to it arrives.
func TestRules_BackendsComeUnderNewFlows_NoDatagramIsLost(t *testing.T) {
	const first, all = 2, 24
	m := newMoving(t, all)
	m.apply(m.pool(first, func(int) bool { return true }))
	served := map[netip.Addr]bool{}
	c := m.crowd
	talk := func() {
		t.Helper()
		if err := c.ask(c.opened, c.opened+1); err != nil {
			t.Fatalf("flow %d: %v", c.opened, err)
		}
		served[c.answers[c.opened].Addr()] = true
		c.opened++
	}
	for n := first + 1; n <= all; n++ {
		late := movingAddr(n - 1)
		// It answers nobody for a while.
		m.provider.Sysctl("net.ipv4.conf.eth0.arp_ignore", "8")
		if _, err := m.d.Apply(context.Background(), m.pool(n, func(int) bool { return true })); err != nil {
			t.Fatal(err)
		}
		for range 20 {
			talk()
		}
		if served[late] {
			t.Fatalf("%s got a flow although nobody knew where it is", late)
		}
		m.provider.Sysctl("net.ipv4.conf.eth0.arp_ignore", "0")
		for end := time.Now().Add(10 * time.Second); !served[late]; talk() {
			if time.Now().After(end) {
				t.Fatalf("%s got no flow", late)
			}
		}
	}
	t.Logf("%d flows while %d backends came", c.opened, all-first)
}
