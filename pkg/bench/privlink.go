package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/sirupsen/logrus"

	"github.com/privlink/privlink/pkg/dataplane"
	"github.com/privlink/privlink/pkg/lab"
)

// Privlink is the product itself: pkg/dataplane with one link, one service, eight NAT IPs
// and some backends on the server.
type Privlink struct {
	hook     Hook
	pairs    uint32
	backends int

	bpffs string
	plane *dataplane.Dataplane
	maps  map[string]*ebpf.Map
	drops []dropReason // of a client's or a server's packets
	state dataplane.State
	opts  dataplane.Options
}

// NewPrivlink makes privlink with a table for so many flows and so many backends, in TC or
// with XDP in front of it.
func NewPrivlink(hook Hook, pairs uint32, backends int) *Privlink {
	return &Privlink{hook: hook, pairs: pairs, backends: backends, maps: make(map[string]*ebpf.Map)}
}

// Name implements Forwarder.
func (p *Privlink) Name() string { return string(p.hook) + " privlink" }

// settle is how long privlink may take to probe its addresses and to find the backends.
const settle = 10 * time.Second

// Up implements Forwarder.
func (p *Privlink) Up(t *Topology) error {
	gateway := t.Gateway()
	for i := range p.backends {
		// The server answers ARP for its backends: that is how privlink finds them.
		t.Server.NS.Addr(t.Server.Name, backendAddress(i).String()+"/16")
	}
	p.bpffs = gateway.Lab().BPFFS(gateway.String())
	quiet := logrus.New()
	quiet.SetOutput(io.Discard)
	p.opts = dataplane.Options{BPFFS: p.bpffs, NetNS: gateway.Path(), Pairs: p.pairs, Log: quiet}
	p.state = p.describe(t)
	if err := p.open(context.Background()); err != nil {
		return err
	}
	return p.openMaps()
}

// open starts the dataplane, applies the state and waits until the network has answered.
func (p *Privlink) open(ctx context.Context) error {
	var err error
	if p.plane, err = dataplane.Open(ctx, p.opts); err != nil {
		return err
	}
	return p.apply(ctx)
}

func (p *Privlink) apply(ctx context.Context) error {
	if _, err := p.plane.Apply(ctx, p.state); err != nil {
		return err
	}
	return lab.Poll(settle, func() error {
		r := p.plane.Result()
		for _, a := range r.Attachments {
			if a.Err != nil {
				return fmt.Errorf("attach %s: %w", a.Attachment.Interface, a.Err)
			}
			if p.hook == XDP && (a.Mode != dataplane.ModeXDP || !a.TakesXDP) {
				return fmt.Errorf("attach %s: no XDP: %s", a.Attachment.Interface, a.Why)
			}
		}
		if !r.Settled() || len(r.Unresolved) > 0 || len(r.Conflicts) > 0 {
			return fmt.Errorf("not settled: pending %v, unresolved %v, conflicts %v", r.Pending, r.Unresolved, r.Conflicts)
		}
		return nil
	})
}

// openMaps opens the pinned maps that are read or emptied from here.
func (p *Privlink) openMaps() error {
	for _, name := range []string{"flows_v1", "table_v1", "usage_v1", "domains_v1", "reasons_v2"} {
		m, err := ebpf.LoadPinnedMap(filepath.Join(p.bpffs, "maps", name), nil)
		if err != nil {
			return fmt.Errorf("open map %s: %w", name, err)
		}
		p.maps[name] = m
	}
	reasons, err := dataplane.Reasons()
	if err != nil {
		return err
	}
	for i, r := range reasons {
		answers := strings.HasSuffix(r.Label, "_reply") || strings.HasSuffix(r.Label, "_sent")
		others := strings.HasPrefix(r.Label, "other_") || r.Label == "multicast" || r.Label == "none"
		if !answers && !others {
			p.drops = append(p.drops, dropReason{uint32(i), r.Label})
		}
	}
	return nil
}

func backendAddress(i int) netip.Addr { return addr(hostOrder(firstServer) + uint32(i)) }

// describe is the State of the benchmark: what Translation promises.
func (p *Privlink) describe(t *Topology) dataplane.State {
	mode := dataplane.ModeTC
	if p.hook == XDP {
		mode = dataplane.ModeXDP
	}
	attach := func(port Port, prefix string) dataplane.Network {
		return dataplane.Network{
			Key:         port.Name,
			Attachments: []dataplane.Attachment{{Interface: port.Name, Mode: mode}},
			Prefixes:    []netip.Prefix{netip.MustParsePrefix(prefix)},
		}
	}
	pool := dataplane.Pool{Key: "pool"}
	var targets []dataplane.Target
	for i := range p.backends {
		pool.Members = append(pool.Members, backendAddress(i))
		targets = append(targets, dataplane.Target{Pool: pool.Key, Addr: backendAddress(i), Weight: 1, Healthy: true})
	}
	rules := dataplane.RuleSet{Key: "service", Network: t.GatewayServer.Name}
	for a := firstNAT; a.Compare(lastNAT) <= 0; a = a.Next() {
		rules.Sources = append(rules.Sources, dataplane.Source{Addr: a})
	}
	for _, r := range []struct {
		protocol dataplane.Protocol
		offset   uint16
	}{{dataplane.ProtocolUDP, 0}, {dataplane.ProtocolTCP, 0}, {dataplane.ProtocolTCP, 1}} {
		rules.Rules = append(rules.Rules, dataplane.Rule{
			Key: fmt.Sprintf("%d/%d", r.protocol, endpoint.Port()+r.offset), Protocol: r.protocol,
			Port: endpoint.Port() + r.offset, BackendPort: backendPort + r.offset,
			IdleTCP: 3600, IdleUDP: 3600, Targets: targets,
		})
	}
	return dataplane.State{
		Revision: 1,
		Networks: []dataplane.Network{attach(t.GatewayClient, "10.0.0.0/8"), attach(t.GatewayServer, "172.16.0.0/12")},
		Pools:    []dataplane.Pool{pool},
		RuleSets: []dataplane.RuleSet{rules},
		Links: []dataplane.Link{{
			Key: "endpoint", ID: 1, Network: t.GatewayClient.Name, Addr: endpoint.Addr(), RuleSet: rules.Key,
			State: dataplane.LinkApproved, Epoch: 1, MaxFlows: p.pairs,
		}},
	}
}

// Translation implements Forwarder.
func (p *Privlink) Translation() *Translation {
	return &Translation{
		FirstSource: firstNAT, LastSource: lastNAT, FirstSourcePort: 1024, LastSourcePort: 65535,
		FirstBackend: firstServer, LastBackend: backendAddress(p.backends - 1), BackendPort: backendPort,
	}
}

// TTL implements Forwarder.
func (*Privlink) TTL() uint8 { return 1 }

// Forget implements Forwarder. It empties the table and the port bitmaps from outside, which is
// possible only while no packet is on its way: ending flows as privlink does lets their ports rest
// for 15 s, which no round can wait for.
func (p *Privlink) Forget() error {
	memory, err := p.maps["flows_v1"].Memory()
	if err != nil {
		return err
	}
	zero := make([]byte, 1<<20)
	for at := 0; at < int(memory.Size()); at += len(zero) {
		if _, err := memory.WriteAt(zero[:min(len(zero), int(memory.Size())-at)], int64(at)); err != nil {
			return fmt.Errorf("empty the flow table: %w", err)
		}
	}
	for _, name := range []string{"table_v1", "usage_v1"} {
		memory, err := p.maps[name].Memory()
		if err != nil {
			return err
		}
		if _, err := memory.WriteAt(make([]byte, memory.Size()), 0); err != nil {
			return fmt.Errorf("empty %s: %w", name, err)
		}
	}
	domains := p.maps["domains_v1"]
	var keys [][]byte
	key, value := make([]byte, domains.KeySize()), make([]byte, domains.ValueSize())
	for all := domains.Iterate(); all.Next(&key, &value); {
		keys = append(keys, slices.Clone(key))
	}
	for _, k := range keys {
		if err := domains.Delete(k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("delete port bitmap: %w", err)
		}
	}
	return nil
}

// dropReason is a number of enum reason and its name.
type dropReason struct {
	number uint32
	label  string
}

// Drops implements Forwarder.
func (p *Privlink) Drops() (uint64, error) {
	counts, err := p.dropsByReason()
	var sum uint64
	for _, n := range counts {
		sum += n
	}
	return sum, err
}

// dropsByReason are the packets dropped so far, by the reason's name.
func (p *Privlink) dropsByReason() (map[string]uint64, error) {
	counts := make(map[string]uint64)
	for _, reason := range p.drops {
		var perCPU []struct{ Packets, Bytes uint64 }
		if err := p.maps["reasons_v2"].Lookup(reason.number, &perCPU); err != nil {
			return nil, fmt.Errorf("read drops: %w", err)
		}
		for _, c := range perCPU {
			if c.Packets > 0 {
				counts[reason.label] += c.Packets
			}
		}
	}
	return counts, nil
}

// Explain says what was dropped and why.
func (p *Privlink) Explain() string {
	counts, err := p.dropsByReason()
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("drops by reason: %v", counts)
}

// Close implements Forwarder.
func (p *Privlink) Close() error {
	for _, m := range p.maps {
		_ = m.Close()
	}
	if p.plane == nil {
		return nil
	}
	return errors.Join(p.plane.Close(), dataplane.Down(context.Background(), p.opts))
}
