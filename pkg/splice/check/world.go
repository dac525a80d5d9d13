package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"net/rpc"
	"os"
	"os/exec"
	"time"

	"github.com/privlink/privlink/pkg/dataplane"
	"github.com/privlink/privlink/pkg/lab"
	"github.com/privlink/privlink/pkg/splice"
)

// Addresses: every network is 10.0.0.0/16, consumers have the same ones in it.
const (
	clientIP  = "10.0.1.4"
	backendIP = "10.0.0.4"
	secondIP  = "10.0.0.5"
	firstNAT  = 100 // 10.0.0.100..: one NAT IP per service
	firstLink = 0x20000001
	pairs     = 1 << 18
)

// service is a private link service of the provider.
type service struct {
	name  string
	proxy bool
	tlv   string
	sum   bool
}

// All stand on one provider, as frontends of one load balancer do.
var services = []service{
	{name: "azure", proxy: true, tlv: "azure"},
	{name: "aws", proxy: true, tlv: "aws", sum: true},
	{name: "gcp", proxy: true, tlv: "gcp"},
	{name: "none", proxy: true, tlv: "none"},
	{name: "plain"},
}

// endpoint is a service's private endpoint, the same address in every consumer's network.
func endpoint(name string) string {
	for i, s := range services {
		if s.name == name {
			return fmt.Sprintf("10.0.1.%d", 10+i)
		}
	}
	panic("no service " + name)
}

// nat is the address from which a service's consumers reach the backends.
func nat(name string) string {
	for i, s := range services {
		if s.name == name {
			return fmt.Sprintf("10.0.0.%d", firstNAT+i)
		}
	}
	panic("no service " + name)
}

// linkID is the LinkID of a consumer's endpoint.
func linkID(consumer int, name string) uint32 {
	for i, s := range services {
		if s.name == name {
			return firstLink + uint32(consumer*len(services)+i)
		}
	}
	panic("no service " + name)
}

func linkKey(consumer int, name string) string { return fmt.Sprintf("c%d to %s", consumer+1, name) }

// world is the laboratory: gateway, two consumers, a provider.
type world struct {
	lab       *lab.Lab
	gw        *lab.Namespace
	consumers [2]*lab.Namespace
	backend   *lab.Namespace
	second    *lab.Namespace
	servers   *servers
	setup     setup
	process   *lab.Process
	calls     *rpc.Client
	state     dataplane.State
}

func newWorld(ctx context.Context, l *lab.Lab) (*world, error) {
	w := &world{lab: l, gw: l.Namespace("gw")}
	w.backend = l.VM(w.gw, "web", backendIP+"/16", lab.VethOptions{})
	w.second = l.VM(w.gw, "web2", secondIP+"/16", lab.VethOptions{})
	for i := range w.consumers {
		name := fmt.Sprintf("c%d", i+1)
		w.consumers[i] = l.VM(w.gw, name, clientIP+"/16", lab.VethOptions{})
	}
	var err error
	if w.servers, err = startServers(ctx, w); err != nil {
		return nil, err
	}
	w.setup = setup{Socket: l.Path("gateway.sock"), BPFFS: l.BPFFS("pins"), Namespace: w.gw.Name + "-inner", Pairs: pairs}
	w.state = w.newState()
	if err := w.start(ctx); err != nil {
		return nil, err
	}
	return w, nil
}

func (w *world) close() {
	if w.calls != nil {
		w.calls.Close()
	}
	w.servers.close()
}

// start starts the gateway's process, for the first time or again.
func (w *world) start(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	text, err := json.Marshal(w.setup)
	if err != nil {
		return err
	}
	w.process = w.gw.StartCommand(ctx, exec.Command(self, "gateway", string(text)))
	err = lab.Poll(10*time.Second, func() error {
		conn, err := net.Dial("unix", w.setup.Socket)
		if err == nil {
			w.calls = rpc.NewClient(conn)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("start gateway: %w\n%s", err, w.process.Output())
	}
	return w.apply(w.state)
}

// apply gives a State to the gateway and waits until the kernel agrees.
func (w *world) apply(state dataplane.State) error {
	state.Revision = w.state.Revision + 1
	w.state = state
	if err := w.calls.Call("Gateway.Apply", state, &Empty{}); err != nil {
		return fmt.Errorf("apply: %w", err)
	}
	return lab.Poll(15*time.Second, func() error { return w.calls.Call("Gateway.Ready", state.Revision, &Empty{}) })
}

func (w *world) numbers() (n Numbers, err error) {
	err = w.calls.Call("Gateway.Numbers", Empty{}, &n)
	return n, err
}

// restart puts a new process in the gateway's place.
func (w *world) restart(ctx context.Context) error {
	w.calls.Close()
	w.process.Stop()
	return w.start(ctx)
}

// rest waits until connections, flows and ports of earlier cases are gone and the audit is content.
func (w *world) rest() (n Numbers, err error) {
	err = lab.Poll(90*time.Second, func() error {
		var err error
		if n, err = w.numbers(); err != nil {
			return err
		}
		if n.Splice.Active != 0 || n.Flows != 0 || n.Ports != 0 || n.Resting != 0 {
			return fmt.Errorf("%d connections, %d flows, %d ports (%d resting) are left", n.Splice.Active, n.Flows, n.Ports, n.Resting)
		}
		return w.calls.Call("Gateway.Audit", Empty{}, &Empty{})
	})
	return n, err
}

// settle waits until no proxied connection of earlier cases is left, and the audit is content.
func (w *world) settle() (n Numbers, err error) {
	err = lab.Poll(20*time.Second, func() error {
		var err error
		if n, err = w.numbers(); err != nil {
			return err
		}
		if n.Splice.Active != 0 {
			return fmt.Errorf("%d connections of earlier cases are left", n.Splice.Active)
		}
		return w.calls.Call("Gateway.Audit", Empty{}, &Empty{})
	})
	return n, err
}

// leaks compares the numbers of two rests.
func leaks(before, after Numbers) error {
	if after.Descriptors != before.Descriptors {
		return fmt.Errorf("%d descriptors, %d before", after.Descriptors, before.Descriptors)
	}
	return nil
}

func (w *world) stats() (splice.Stats, error) {
	n, err := w.numbers()
	return n.Splice, err
}

// change applies the State with one thing changed.
func (w *world) change(fn func(*dataplane.State)) error {
	state := w.newState()
	fn(&state)
	return w.apply(state)
}

// newState is everything approved, every rule at its default.
func (w *world) newState() dataplane.State {
	prefixes := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16")}
	attach := func(names ...string) (list []dataplane.Attachment) {
		for _, name := range names {
			list = append(list, dataplane.Attachment{Interface: name, Mode: dataplane.ModeTC})
		}
		return list
	}
	state := dataplane.State{
		Revision: w.state.Revision,
		Networks: []dataplane.Network{{Key: "provider", Attachments: attach("web", "web2"), Prefixes: prefixes}},
		Pools:    []dataplane.Pool{{Key: "pool", Members: []netip.Addr{mustAddr(backendIP), mustAddr(secondIP)}}},
	}
	for _, s := range services {
		set := dataplane.RuleSet{Key: s.name, Network: "provider", Sources: []dataplane.Source{{Addr: mustAddr(nat(s.name))}}}
		for _, port := range ports {
			set.Rules = append(set.Rules, w.rule(s, dataplane.ProtocolTCP, port))
		}
		udp := w.rule(s, dataplane.ProtocolUDP, portUDP)
		udp.Proxy, udp.IdleUDP = false, 10 // cases wait until nothing is left
		set.Rules = append(set.Rules, udp)
		state.RuleSets = append(state.RuleSets, set)
	}
	for i := range w.consumers {
		name := fmt.Sprintf("c%d", i+1)
		state.Networks = append(state.Networks, dataplane.Network{Key: name, Attachments: attach(name), Prefixes: prefixes})
		for _, s := range services {
			state.Links = append(state.Links, dataplane.Link{
				Key: linkKey(i, s.name), ID: linkID(i, s.name), Network: name, Addr: mustAddr(endpoint(s.name)),
				RuleSet: s.name, State: dataplane.LinkApproved, Epoch: 1, MaxFlows: pairs / 2,
			})
		}
	}
	return state
}

func (w *world) rule(s service, protocol dataplane.Protocol, port uint16) dataplane.Rule {
	r := dataplane.Rule{
		Key: fmt.Sprintf("%s-%d", s.name, port), Protocol: protocol, Port: port, IdleTCP: idleOf(port), IdleUDP: 300,
		Proxy: s.proxy, ProxyTLV: s.tlv, ProxyCRC32C: s.sum,
		Targets: []dataplane.Target{{Pool: "pool", Addr: mustAddr(backendIP), Weight: 1, Healthy: true}},
	}
	if port == portSecond || port == portLate {
		// The first never listens there.
		r.Targets = append(r.Targets, dataplane.Target{Pool: "pool", Addr: mustAddr(secondIP), Weight: 1, Healthy: true})
	}
	return r
}

// dial connects a consumer's client to a service's port.
func (w *world) dial(ctx context.Context, consumer int, local, name string, port uint16) (*net.TCPConn, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	c, err := w.consumers[consumer].Dial(ctx, "tcp4", local, fmt.Sprintf("%s:%d", endpoint(name), port))
	if err != nil {
		return nil, fmt.Errorf("dial %s port %d: %w", name, port, err)
	}
	if err := c.SetDeadline(time.Now().Add(60 * time.Second)); err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

// idleOf is the idle timeout of a port's rules, in seconds.
func idleOf(port uint16) uint32 {
	switch port {
	case portIdleShort:
		return 10
	case portIdleLong:
		return 900
	}
	return 300
}
