package traffic

import (
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/privlink/privlink/pkg/dataplane"
	"github.com/privlink/privlink/pkg/lab"
)

// A provider's VM uses the endpoint that leads to itself.
func TestShape_ClientIsTheBackend_ReachesItself(t *testing.T) {
	for _, mode := range modes {
		t.Run(string(mode), func(t *testing.T) {
			r := newRig(t, rigOptions{provider: mode, wire: wire()})
			r.state.Links = append(r.state.Links, dataplane.Link{Key: "own endpoint", ID: firstLink + 50, Network: "provider",
				Addr: mustAddr(endpointIP), RuleSet: "service", State: dataplane.LinkApproved, Epoch: 1})
			r.apply()
			server := r.backend.BulkServer(backendIP + ":9000")
			if _, err := r.backend.Transfer(r.context(20*time.Second), "", endpointIP+":9000", lab.Bulk{Put: 8 << 20, Get: 8 << 20, Seed: 7}); err != nil {
				t.Fatal(err)
			}
			for _, err := range server.Errors() {
				t.Error(err)
			}
		})
	}
}

// The backend of one service is a consumer of another, through the same interface.
func TestShape_BackendConsumesAnotherService_BothLinksCarry(t *testing.T) {
	for _, mode := range modes {
		t.Run(string(mode), func(t *testing.T) {
			r := newRig(t, rigOptions{consumer: mode, provider: mode, wire: wire()})
			deep := r.VM(r.gw, "deep", backendIP+"/16", r.o.wire)
			r.state.Networks = append(r.state.Networks, dataplane.Network{Key: "deep", Prefixes: r.state.Networks[0].Prefixes,
				Attachments: []dataplane.Attachment{{Interface: "deep", Mode: mode}}})
			second := r.state.RuleSets[0]
			second.Key, second.Network = "second service", "deep"
			r.state.RuleSets = append(r.state.RuleSets, second)
			r.state.Links = append(r.state.Links, dataplane.Link{Key: "endpoint of the backend", ID: firstLink + 60, Network: "provider",
				Addr: mustAddr(endpointIP), RuleSet: "second service", State: dataplane.LinkApproved, Epoch: 1})
			r.apply()
			server := deep.BulkServer(backendIP + ":9000")
			relay(r, r.backend, backendIP+":9000", endpointIP+":9000")
			result, err := r.consumers[0].Transfer(r.context(20*time.Second), "", endpointIP+":9000", lab.Bulk{Put: 4 << 20, Get: 4 << 20, Seed: 8})
			if err != nil {
				t.Fatal(err)
			}
			if result.Server != "deep" {
				t.Errorf("%q answered, want the second service's backend", result.Server)
			}
			for _, err := range server.Errors() {
				t.Error(err)
			}
		})
	}
}

// relay copies one connection's bytes to another address.
func relay(r *rig, n *lab.Namespace, listen, to string) {
	r.t.Helper()
	l, err := n.Listen("tcp4", listen)
	if err != nil {
		r.t.Fatal(err)
	}
	ctx := r.context(30 * time.Second)
	done := make(chan struct{})
	go func() {
		defer close(done)
		near, err := l.Accept()
		if err != nil {
			return
		}
		defer near.Close()
		far, err := n.Dial(ctx, "tcp4", "", to)
		if err != nil {
			r.t.Error(err)
			return
		}
		defer far.Close()
		back := make(chan struct{})
		go func() {
			defer close(back)
			_, _ = io.Copy(near, far)
			_ = near.(*net.TCPConn).CloseWrite()
		}()
		_, _ = io.Copy(far, near)
		_ = far.(*net.TCPConn).CloseWrite()
		<-back
	}()
	r.t.Cleanup(func() { l.Close(); <-done })
}

// One network has two endpoints to one service; clients use equal ports on both. Taking one away
// loses no packet of the other.
func TestShape_TwoEndpointsOfOneNetwork_AreApart(t *testing.T) {
	for _, mode := range modes {
		t.Run(string(mode), func(t *testing.T) {
			r := newRig(t, rigOptions{consumer: mode, provider: mode, wire: wire()})
			const other = "10.0.1.11"
			r.state.Links = append(r.state.Links, dataplane.Link{Key: "second endpoint", ID: firstLink + 70, Network: "c1",
				Addr: mustAddr(other), RuleSet: "service", State: dataplane.LinkApproved, Epoch: 1})
			r.apply()
			r.backend.EchoServer(backendIP + ":7")
			ctx := r.context(time.Minute)
			kept := r.consumers[0].Sequence(ctx, endpointIP+":7", lab.SequenceOptions{Local: clientIP + ":20000"})
			gone := r.consumers[0].Sequence(ctx, other+":7", lab.SequenceOptions{Local: clientIP + ":20000"})
			r.Wait("echoes through both", 5*time.Second, func() error {
				if kept.Len() < 200 || gone.Len() < 200 {
					return errNothing
				}
				return nil
			})
			ids := map[uint32]int{}
			if err := r.d.Flows(ctx, func(f dataplane.Flow) bool { ids[f.LinkID]++; return true }); err != nil {
				t.Fatal(err)
			}
			if ids[firstLink] != 1 || ids[firstLink+70] != 1 {
				t.Errorf("flows by LinkID: %v, want one each", ids)
			}
			r.state.Links = r.state.Links[:1]
			r.state.Revision++
			if _, err := r.d.Apply(ctx, r.state); err != nil {
				t.Fatal(err)
			}
			quiet(r, gone)
			before := len(kept.Sent())
			r.Wait("the other to go on", 5*time.Second, func() error {
				if len(kept.Sent()) < before+200 {
					return errNothing
				}
				return nil
			})
			kept.Stop()
			if lost := lostOf(kept); lost > 0 {
				t.Errorf("%d of %d datagrams of the endpoint that stayed were lost", lost, len(kept.Sent()))
			}
			stats, err := r.d.LinkStats()
			if err != nil {
				t.Fatal(err)
			}
			if len(stats) != 1 {
				t.Errorf("counters of %d links, want 1: %v", len(stats), fmt.Sprint(stats))
			}
		})
	}
}

// One network has three endpoints to one service, one of them not approved, one with a quota of one flow: each has
// its own state, counters and quota.
func TestShape_EndpointsOfOneNetwork_StatesCountersAndQuotasApart(t *testing.T) {
	for _, mode := range modes {
		t.Run(string(mode), func(t *testing.T) {
			r := newRig(t, rigOptions{consumer: mode, provider: mode, wire: wire()})
			const narrowIP, pendingIP = "10.0.1.11", "10.0.1.12"
			for i, l := range []dataplane.Link{
				{Key: "narrow", Addr: mustAddr(narrowIP), State: dataplane.LinkApproved, MaxFlows: 1},
				{Key: "pending", Addr: mustAddr(pendingIP), State: dataplane.LinkPending},
			} {
				l.ID, l.Network, l.RuleSet, l.Epoch = firstLink+80+uint32(i), "c1", "service", 1
				r.state.Links = append(r.state.Links, l)
			}
			r.apply()
			r.backend.EchoServer(backendIP + ":7")
			ctx := r.context(20 * time.Second)
			// From the same ports to each endpoint: two flows, three datagrams each.
			ask := func(endpoint string, port, want int) (echoes int) {
				c, err := r.consumers[0].Dial(ctx, "udp4", fmt.Sprintf("%s:%d", clientIP, port), endpoint+":7")
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				patience := 100 * time.Millisecond
				if want > 0 {
					patience = 5 * time.Second
				}
				for n := range 3 {
					if _, err := c.Write([]byte{byte(n)}); err != nil {
						t.Fatal(err)
					}
					if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
						t.Fatal(err)
					}
					if _, err := c.Read(make([]byte, 8)); err == nil {
						echoes++
					}
				}
				return echoes
			}
			for endpoint, want := range map[string][2]int{endpointIP: {3, 3}, narrowIP: {3, 0}, pendingIP: {0, 0}} {
				for i, port := range []int{20000, 20001} {
					if got := ask(endpoint, port, want[i]); got != want[i] {
						t.Errorf("%s: %d echoes of flow %d, want %d", endpoint, got, i+1, want[i])
					}
				}
			}
			stats, err := r.d.LinkStats()
			if err != nil {
				t.Fatal(err)
			}
			const packet = 20 + 8 + 1 // bytes
			want := map[string]dataplane.LinkStats{
				"endpoint of c1": {ID: firstLink, PacketsIn: 6, BytesIn: 6 * packet, PacketsOut: 6, BytesOut: 6 * packet, Opened: 2, Flows: 2, MaxFlows: r.o.pairs / 4},
				"narrow":         {ID: firstLink + 80, PacketsIn: 3, BytesIn: 3 * packet, PacketsOut: 3, BytesOut: 3 * packet, Opened: 1, Refused: 3, Dropped: 3, Flows: 1, MaxFlows: 1},
				"pending":        {ID: firstLink + 81, Dropped: 6, MaxFlows: r.o.pairs / 4},
			}
			if len(stats) != len(want) {
				t.Errorf("counters of %d links, want %d", len(stats), len(want))
			}
			for _, s := range stats {
				w := want[s.Link]
				w.Link, w.RuleSet = s.Link, "service"
				if s != w {
					t.Errorf("counters %+v, want %+v", s, w)
				}
			}
		})
	}
}
