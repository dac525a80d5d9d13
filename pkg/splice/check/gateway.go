package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"net/rpc"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"

	"github.com/sirupsen/logrus"

	"github.com/privlink/privlink/pkg/control"
	"github.com/privlink/privlink/pkg/dataplane"
	"github.com/privlink/privlink/pkg/probe"
	"github.com/privlink/privlink/pkg/splice"
	"github.com/privlink/privlink/pkg/splice/inner"
)

// setup is what the gateway's process is told, as JSON on its command line.
type setup struct {
	Socket    string // where it answers calls
	BPFFS     string
	Namespace string // of the inner VNet
	Pairs     uint32
}

const innerNetwork = "inner"

// runGateway is a daemon without a control plane: it applies the States it is given.
func runGateway(text string) error {
	var o setup
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		return fmt.Errorf("read setup: %w", err)
	}
	debug.SetGCPercent(control.GCPercent) // memory is measured
	log := logrus.New()
	log.SetLevel(logrus.DebugLevel)
	ctx := context.Background()

	network, err := inner.Setup(inner.Config{Namespace: o.Namespace})
	if err != nil {
		return err
	}
	server, err := splice.New(network, splice.Config{}, log.WithField("part", "splice"))
	if err != nil {
		return err
	}
	plane, err := dataplane.Open(ctx, dataplane.Options{
		BPFFS: o.BPFFS, Pairs: o.Pairs, Log: log.WithField("part", "dataplane"),
		Inner: dataplane.Inner{Network: innerNetwork, Interface: network.Interface(), Listen: inner.Listen(), Sources: inner.Sources()},
	})
	if err != nil {
		return err
	}
	dialer, err := inner.NewDialer(network, plane, inner.MaxDialers-1)
	if err != nil {
		return err
	}
	g := &gateway{plane: plane, splice: server}
	g.prober = probe.New(probe.Through(dialer), func(probe.Result) {}, log.WithField("part", "probe"))
	go g.prober.Run(ctx)
	go func() {
		if err := server.Run(ctx, plane); err != nil {
			log.WithError(err).Error("splice ended")
		}
	}()

	calls := rpc.NewServer()
	if err := calls.RegisterName("Gateway", g); err != nil {
		return err
	}
	_ = os.Remove(o.Socket) // of the process before
	listener, err := net.Listen("unix", o.Socket)
	if err != nil {
		return err
	}
	calls.Accept(listener)
	return nil
}

// gateway answers calls of the checking process.
type gateway struct {
	plane  *dataplane.Dataplane
	splice *splice.Server
	prober *probe.Prober

	mu    sync.Mutex
	state dataplane.State
}

// Empty is an argument or answer that says nothing.
type Empty struct{}

// Apply gives a State to the dataplane; proxied connections of links that are not approved are cut.
func (g *gateway) Apply(state dataplane.State, _ *Empty) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, err := g.plane.Apply(context.Background(), state); err != nil {
		return err
	}
	g.splice.CutRevoked()
	g.state = state
	return nil
}

// Ready fails while the kernel does not agree, or a backend has not answered.
func (g *gateway) Ready(revision uint64, _ *Empty) error {
	r := g.plane.Result()
	for _, a := range r.Attachments {
		if a.Err != nil {
			return a.Err
		}
	}
	if r.Revision != revision || !r.Settled() || len(r.Unresolved) > 0 {
		return fmt.Errorf("revision %d of %d, pending %v, unresolved %v", r.Revision, revision, r.Pending, r.Unresolved)
	}
	return nil
}

// Numbers are what must not leak, and what is stated.
type Numbers struct {
	Splice      splice.Stats
	Capacity    splice.Capacity
	Descriptors int   // without those of pipes and sockets that are kept ready
	RSS         int64 // bytes
	Slab        int64 // bytes of the whole kernel's small objects, sockets among them
	Flows       int   // pairs, all phases
	Ports       uint32
	Resting     uint32
	PID         int
	Reasons     map[string]uint64
}

// Numbers counts.
func (g *gateway) Numbers(_ Empty, n *Numbers) error {
	n.Splice, n.Capacity, n.PID = g.splice.Stats(), g.splice.Capacity(), os.Getpid()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	n.Descriptors = len(list) - 2*int(n.Splice.Pipes) - int(n.Splice.Sockets)
	if n.RSS, err = residentBytes(); err != nil {
		return err
	}
	if n.Slab, err = slabBytes(); err != nil {
		return err
	}
	if err := g.plane.Flows(context.Background(), func(dataplane.Flow) bool { n.Flows++; return true }); err != nil {
		return err
	}
	ports, err := g.plane.Ports()
	if err != nil {
		return err
	}
	for _, p := range ports {
		n.Ports += p.Used
		n.Resting += p.Resting
	}
	reasons, err := g.plane.ReasonStats()
	if err != nil {
		return err
	}
	n.Reasons = make(map[string]uint64)
	for _, r := range reasons {
		if r.Packets > 0 {
			n.Reasons[r.Label] = r.Packets
		}
	}
	return nil
}

// Audit compares ports and quotas with the flows, and fails when they disagree.
func (g *gateway) Audit(_ Empty, _ *Empty) error {
	leaks, err := g.plane.Audit(context.Background())
	if err == nil && len(leaks) > 0 {
		err = fmt.Errorf("the audit finds %v", leaks)
	}
	return err
}

// residentBytes is this process's RSS.
func residentBytes() (int64, error) {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0, err
	}
	pages, err := strconv.ParseInt(strings.Fields(string(text))[1], 10, 64)
	return pages * int64(os.Getpagesize()), err
}

// slabBytes is what the kernel's small objects take.
func slabBytes() (int64, error) {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	_, after, _ := strings.Cut(string(text), "\nSlab:")
	var kilobytes int64
	if _, err := fmt.Sscan(after, &kilobytes); err != nil {
		return 0, fmt.Errorf("read /proc/meminfo: %w", err)
	}
	return kilobytes << 10, nil
}

// Flows lists them.
func (g *gateway) Flows(_ Empty, list *[]dataplane.Flow) error {
	return g.plane.Flows(context.Background(), func(f dataplane.Flow) bool { *list = append(*list, f); return true })
}

// Probe replaces the checks.
func (g *gateway) Probe(checks []probe.Check, _ *Empty) error {
	g.prober.Set(checks)
	return nil
}

// Results are the probes'.
func (g *gateway) Results(_ Empty, results *map[string]probe.Result) error {
	*results = g.prober.Results()
	return nil
}

func mustAddr(s string) netip.Addr { return netip.MustParseAddr(s) }
