package faults

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/privlink/privlink/pkg/dataplane"
	"github.com/privlink/privlink/pkg/lab/load"
	"golang.org/x/sys/unix"
)

// One consumer opens flows until the table takes no more; what the other one has goes on.
func TestTable_Full_EstablishedFlowsLoseNothing(t *testing.T) {
	for name, o := range hooks {
		t.Run(name, func(t *testing.T) {
			o.pairs = 256
			r := newRig(t, o)
			for i := range r.state.Links {
				r.state.Links[i].MaxFlows = o.pairs // the quota is not what is tested
			}
			r.open()
			attacker := r.consumers[1]
			r.consumers = r.consumers[:1]
			r.clients = nil
			c, err := load.Start(context.Background(), r.consumers[0], endpointIP, load.Options{Bulk: -1, Short: -1})
			if err != nil {
				t.Fatal(err)
			}
			r.clients = append(r.clients, c)
			sent := c.Known()
			r.Wait("echoes", 5*time.Second, func() error {
				if !c.Known().After(sent) {
					return errEarly
				}
				return nil
			})
			full := func() uint64 {
				stats, err := r.d.ReasonStats()
				if err != nil {
					t.Fatal(err)
				}
				var n uint64
				for _, s := range stats {
					if s.Label == "table_full" || s.Label == "window_full" {
						n += s.Packets
					}
				}
				return n
			}
			for port := uint16(10000); full() < 1000; {
				var frames [][]byte
				for range 500 {
					frames = append(frames, frame(attacker.MAC("eth0"), r.gw.MAC("c2"), clientIP, endpointIP, port))
					port++
				}
				if err := attacker.Inject("eth0", frames...); err != nil {
					t.Fatal(err)
				}
				if port >= 60000 {
					t.Fatalf("refused for want of space: %d", full())
				}
			}
			at := time.Now()
			r.Wait("echoes of what was sent into the full table", 5*time.Second, func() error {
				if !c.Known().After(at) {
					return errEarly
				}
				return nil
			})
			r.wantNothingLost()
		})
	}
}

// The daemon has no descriptors left: it says so, traffic goes on, and the next try works.
func TestDescriptors_NoneLeft_ApplyFailsAndRecovers(t *testing.T) {
	r := newRig(t, rigOptions{consumers: 2})
	d := r.newDaemon()
	d.start()
	r.load(load.Options{})
	var before unix.Rlimit
	if err := unix.Prlimit(d.process.PID(), unix.RLIMIT_NOFILE, nil, &before); err != nil {
		t.Fatal(err)
	}
	s := r.state
	s.Revision++
	s.RuleSets = append([]dataplane.RuleSet(nil), s.RuleSets...)
	s.RuleSets[0].Rules = append(s.RuleSets[0].Rules[:1:1], dataplane.Rule{
		Key: "web", Protocol: dataplane.ProtocolTCP, Port: 80, IdleTCP: 300, IdleUDP: 300, Targets: s.RuleSets[0].Rules[0].Targets,
	})
	// The daemon lowers its own limit, after it has read the State: what fails is Apply, not its file.
	d.config.Descriptors = 3
	answer := d.apply(s)
	t.Logf("apply without descriptors: %s", answer)
	if !strings.Contains(answer, "too many open files") || strings.Contains(answer, d.file) {
		t.Errorf("apply without descriptors: %s", answer)
	}
	d.config.Descriptors = 0
	r.more(3)
	if err := unix.Prlimit(d.process.PID(), unix.RLIMIT_NOFILE, &before, nil); err != nil {
		t.Fatal(err)
	}
	if answer := d.apply(s); answer != "<nil>" {
		t.Errorf("apply afterwards: %s", answer)
	}
	r.more(3)
	r.wantNothingLost()
}

// Everything around the connections changes a thousand times: services, rules, backends, endpoints, networks.
func TestReconfiguration_ThousandApplies_NothingLost(t *testing.T) {
	for name, o := range hooks {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, o)
			r.open()
			r.load(load.Options{})
			applies := 1000
			if name != "tcx" {
				applies = 250 // what is written is the same
			}
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			draw := rand.New(rand.NewPCG(seed, 0))
			begin := time.Now()
			for i := range applies {
				s := changed(r.state, draw)
				s.Revision = uint64(i + 2)
				if _, err := r.d.Apply(context.Background(), s); err != nil {
					t.Fatalf("apply %d: %v", i, err)
				}
			}
			t.Logf("%v an apply", (time.Since(begin) / time.Duration(applies)).Round(time.Microsecond))
			if err := settle(r.d, r.state); err != nil {
				t.Fatal(err)
			}
			r.more(3)
			r.wantNothingLost()
		})
	}
}

// changed is the State with things added that the rig's own connections have nothing to do with, and with
// the parts of its own that established flows do not mind.
func changed(s dataplane.State, draw *rand.Rand) dataplane.State {
	s.Networks = append([]dataplane.Network(nil), s.Networks...)
	s.Pools = append([]dataplane.Pool(nil), s.Pools...)
	s.RuleSets = append([]dataplane.RuleSet(nil), s.RuleSets...)
	s.Links = append([]dataplane.Link(nil), s.Links...)
	backend := netip.MustParseAddr(backendIP)
	own := s.RuleSets[0]
	own.Rules = append([]dataplane.Rule(nil), own.Rules...)
	own.Rules[0].Distribution = dataplane.Distribution(draw.IntN(3))
	own.Rules[0].TCPReset = draw.IntN(2) == 0
	own.Rules[0].IdleTCP = 100 + draw.Uint32N(300)
	for i := range draw.IntN(3) {
		own.Rules = append(own.Rules, dataplane.Rule{Key: fmt.Sprint("rule", i), Protocol: dataplane.ProtocolTCP,
			Port: uint16(100 + draw.IntN(3)*10 + i), BackendPort: uint16(draw.IntN(2) * 443), IdleTCP: 300, IdleUDP: 300, Targets: own.Rules[0].Targets})
	}
	for i := range draw.IntN(2) {
		own.Sources = append(own.Sources[:1:1], dataplane.Source{Addr: netip.AddrFrom4([4]byte{10, 0, 0, byte(101 + i)}), Draining: draw.IntN(2) == 0})
	}
	s.RuleSets[0] = own
	for i := range draw.IntN(4) {
		pool, set, network := fmt.Sprint("pool", i), fmt.Sprint("service", i), fmt.Sprint("network", i)
		s.Pools = append(s.Pools, dataplane.Pool{Key: pool, Members: []netip.Addr{backend}})
		s.Networks = append(s.Networks, dataplane.Network{Key: network})
		s.RuleSets = append(s.RuleSets, dataplane.RuleSet{
			Key: set, Network: "web", Sources: []dataplane.Source{{Addr: netip.AddrFrom4([4]byte{10, 0, 0, byte(110 + i)})}},
			Rules: []dataplane.Rule{{Key: "udp", Protocol: dataplane.ProtocolUDP, Port: 53, IdleTCP: 300, IdleUDP: 300,
				Targets: []dataplane.Target{{Pool: pool, Addr: backend, Weight: uint16(1 + draw.IntN(9)), Healthy: draw.IntN(2) == 0}}}},
		})
		s.Links = append(s.Links, dataplane.Link{Key: "endpoint in " + network, ID: uint32(0x30000000 + i), Network: network,
			Addr: netip.AddrFrom4([4]byte{10, 0, 3, byte(draw.IntN(4))}), RuleSet: set, State: dataplane.LinkState(1 + draw.IntN(4)), Epoch: draw.Uint32N(3)})
	}
	return s
}

// The times an operator waits, with 1,000 endpoints, on a machine that does nothing else. What is compared with
// them is the processor time, so that a busy machine fails nobody.
const (
	startLimit = 2 * time.Second
	adoptLimit = time.Second
	probing    = 400 * time.Millisecond // of new addresses: three probes and a wait
)

func TestStart_ThousandEndpoints_IsQuick(t *testing.T) {
	r := newRig(t, rigOptions{})
	for i := range 1000 {
		r.state.Links = append(r.state.Links, dataplane.Link{Key: fmt.Sprint("endpoint ", i), ID: uint32(0x30000000 + i), Network: "c1",
			Addr: netip.AddrFrom4([4]byte{10, 0, byte(100 + i/250), byte(i % 250)}), RuleSet: "service", State: dataplane.LinkApproved, Epoch: 1})
	}
	d := r.newDaemon()
	d.start()
	t.Logf("start: loaded after %v, forwarding after %v, of which %v processor time", d.opened, d.ready, d.busy)
	if d.busy+probing > startLimit {
		t.Errorf("it took %v and %v of probing to forward, limit %v", d.busy, probing, startLimit)
	}
	d.process.Kill()
	d.start()
	t.Logf("adopt: programs replaced after %v, State applied after %v, of which %v processor time", d.opened, d.ready, d.busy)
	if d.busy > adoptLimit {
		t.Errorf("it took %v to adopt, limit %v", d.busy, adoptLimit)
	}
}
