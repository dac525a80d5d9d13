package faults

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/privlink/privlink/pkg/dataplane"
	"github.com/privlink/privlink/pkg/lab"
	"github.com/privlink/privlink/pkg/lab/load"
	"github.com/sirupsen/logrus"
)

// The rig's addresses: every network uses 10.0.0.0/16, and the same ones in it.
const (
	clientIP   = "10.0.1.4"
	endpointIP = "10.0.1.10"
	backendIP  = "10.0.0.4"
	natIP      = "10.0.0.100"
	firstLink  = 0x20000001
)

type rigOptions struct {
	consumers int // 0 = 1
	mode      dataplane.Mode
	wire      lab.VethOptions
	pairs     uint32
	noTCX     bool
}

// wire makes a veth look like a cable: complete checksums, no segmentation, a sender that waits while the other
// end is busy, and ends that take XDP frames.
func wire() lab.VethOptions {
	return lab.VethOptions{B: lab.EndOptions{
		Off: []string{"tx-checksum-ip-generic", "tx-tcp-segmentation", "tx-generic-segmentation"}, On: []string{"rx-gro"}, Queue: true,
	}}
}

// rig is a gateway, consumers c1.. in networks of their own, and a provider "web" that answers all of pkg/lab/load.
type rig struct {
	*lab.Lab
	t         *testing.T
	o         rigOptions
	bpffs     string
	gw        *lab.Namespace
	consumers []*lab.Namespace
	backend   *lab.Namespace
	state     dataplane.State
	inner     dataplane.Inner // zero = no splice path
	d         *dataplane.Dataplane
	clients   []*load.Client
}

// newRig builds the networks and the State, in which every link is approved and every port of the endpoint goes
// to the same port of the backend. Nothing is opened yet.
func newRig(t *testing.T, o rigOptions) *rig {
	t.Helper()
	o.consumers = max(o.consumers, 1)
	if o.mode == "" {
		o.mode = dataplane.ModeTC
	}
	if o.pairs == 0 {
		o.pairs = 1 << 15
	}
	l := lab.New(t)
	r := &rig{Lab: l, t: t, o: o, gw: l.Namespace("gw"), bpffs: l.BPFFS("pins")}
	r.backend = l.VM(r.gw, "web", backendIP+"/16", o.wire)
	if err := load.Serve(r.backend, backendIP); err != nil {
		t.Fatal(err)
	}
	prefixes := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16")}
	network := func(name string) dataplane.Network {
		return dataplane.Network{Key: name, Prefixes: prefixes, Attachments: []dataplane.Attachment{{Interface: name, Mode: o.mode}}}
	}
	backend := netip.MustParseAddr(backendIP)
	r.state = dataplane.State{
		Revision: 1,
		Networks: []dataplane.Network{network("web")},
		Pools:    []dataplane.Pool{{Key: "pool", Members: []netip.Addr{backend}}},
		RuleSets: []dataplane.RuleSet{{
			Key: "service", Network: "web", Sources: []dataplane.Source{{Addr: netip.MustParseAddr(natIP)}},
			Rules: []dataplane.Rule{{Key: "all", Protocol: dataplane.ProtocolAll, IdleTCP: 300, IdleUDP: 300,
				Targets: []dataplane.Target{{Pool: "pool", Addr: backend, Weight: 1, Healthy: true}}}},
		}},
	}
	for i := range o.consumers {
		name := fmt.Sprintf("c%d", i+1)
		r.consumers = append(r.consumers, l.VM(r.gw, name, clientIP+"/16", o.wire))
		r.state.Networks = append(r.state.Networks, network(name))
		r.state.Links = append(r.state.Links, dataplane.Link{Key: "endpoint of " + name, ID: firstLink + uint32(i), Network: name,
			Addr: netip.MustParseAddr(endpointIP), RuleSet: "service", State: dataplane.LinkApproved, Epoch: 1})
	}
	return r
}

// open opens the dataplane in this process and applies the State.
func (r *rig) open() {
	r.t.Helper()
	log := logrus.New()
	log.SetOutput(r.t.Output())
	d, err := dataplane.Open(context.Background(), dataplane.Options{
		BPFFS: r.bpffs, NetNS: r.gw.Path(), Pairs: r.o.pairs, NoTCX: r.o.noTCX, Inner: r.inner, Log: log,
	})
	if err != nil {
		r.t.Fatal(err)
	}
	r.d = d
	r.t.Cleanup(func() { d.Close() })
	if err := settle(d, r.state); err != nil {
		r.t.Fatal(err)
	}
}

// load begins traffic from every consumer, and waits until it flows.
func (r *rig) load(o load.Options) {
	r.t.Helper()
	r.clients = nil
	for i, n := range r.consumers {
		o.Seed = uint64(i + 1)
		c, err := load.Start(context.Background(), n, endpointIP, o)
		if err != nil {
			r.t.Fatal(err)
		}
		r.clients = append(r.clients, c)
	}
	r.more(3)
}

// more waits until every client has checked some more connections, by which time traffic has met whatever
// happened before.
func (r *rig) more(connections int) {
	r.t.Helper()
	for _, c := range r.clients {
		want := c.Report().Connections + connections
		r.Wait("connections to be checked", 30*time.Second, func() error {
			if have := c.Report().Connections; have < want {
				return fmt.Errorf("%d of %d", have, want)
			}
			return nil
		})
	}
}

// mark is when a fault begins that comes now: packets sent later may be under way.
func (r *rig) mark() time.Time {
	at := time.Now()
	for _, c := range r.clients {
		if known := c.Known(); known.Before(at) {
			at = known
		}
	}
	return at
}

// end stops the traffic and says what became of all of it.
func (r *rig) end() load.Report {
	var all load.Report
	for _, c := range r.clients {
		all.Add(c.Stop())
	}
	r.clients = nil
	return all
}

// wantNothingLost ends the traffic and fails for what was lost outside of the windows.
func (r *rig) wantNothingLost(windows ...load.Window) load.Report {
	r.t.Helper()
	all := r.end()
	r.t.Log("all: ", all)
	if out := all.Outside(windows); len(out.Lost) > 0 || len(out.Broken) > 0 {
		r.t.Errorf("outside of what may be lost: %v", out)
		for _, g := range out.Gaps() {
			r.t.Errorf("gap from %s to %s", g.From.Format("15:04:05.000"), g.To.Format("15:04:05.000"))
		}
	}
	return all
}

// attachment is the present status of an interface.
func (r *rig) attachment(name string) dataplane.AttachmentStatus {
	for _, a := range r.d.Result().Attachments {
		if a.Attachment.Interface == name {
			return a
		}
	}
	return dataplane.AttachmentStatus{}
}
