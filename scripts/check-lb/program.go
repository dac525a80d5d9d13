package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/privlink/privlink/pkg/dataplane"
	"github.com/privlink/privlink/pkg/lab"
)

const (
	manyServices = 1000
	manyBackends = 1000
	allServices  = 2 * time.Second       // for manyServices
	oneBackend   = 20 * time.Millisecond // for a change of one of manyBackends
	rounds       = 21
	// distinct is how many addresses the backends of manyServices have: each is a member of several pools.
	distinct = 2000
)

// kernelRig is a dataplane in this process, with a provider's machine that has every address from 10.9.0.0 on.
type kernelRig struct {
	plane *dataplane.Dataplane
	state dataplane.State
}

func newKernelRig(l *lab.Lab, name string) (*kernelRig, error) {
	gateway := l.Namespace(name)
	if _, err := manyAddresses(context.Background(), l, gateway, name+"-vm"); err != nil {
		return nil, err
	}
	quiet := logrus.New()
	quiet.SetOutput(io.Discard)
	plane, err := dataplane.Open(context.Background(), dataplane.Options{BPFFS: l.BPFFS(name), NetNS: gateway.Path(), Pairs: 1 << 12, Log: quiet})
	if err != nil {
		return nil, err
	}
	return &kernelRig{plane: plane, state: dataplane.State{Networks: []dataplane.Network{{
		Key: "providers", Attachments: []dataplane.Attachment{{Interface: name + "-vm", Mode: dataplane.ModeTC}},
		Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
	}}}}, nil
}

// manyAddresses makes a machine, and an interface of the gateway with its name, that answers ARP for all of 10.9.0.0/16.
func manyAddresses(ctx context.Context, l *lab.Lab, gateway *lab.Namespace, name string) (*lab.Namespace, error) {
	provider := l.VM(gateway, name, "10.0.0.4/8", lab.VethOptions{})
	_, err := provider.Run(ctx, "ip", "route", "add", "local", "10.9.0.0/16", "dev", "lo")
	return provider, err
}

// backendAddr is the n-th address of 10.9.0.0/16.
func backendAddr(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 9, byte(n >> 8), byte(n)}) }

// add puts a service with backends of its own into the state.
func (r *kernelRig) add(n, backends int) {
	key := fmt.Sprintf("service %d", n)
	pool := dataplane.Pool{Key: key}
	rule := dataplane.Rule{Key: key, Protocol: dataplane.ProtocolTCP, Port: 80, IdleTCP: 300, IdleUDP: 300}
	for i := range backends {
		a := backendAddr((n*backends + i) % distinct)
		pool.Members = append(pool.Members, a)
		rule.Targets = append(rule.Targets, dataplane.Target{Pool: key, Addr: a, Weight: 1, Healthy: true})
	}
	r.state.Pools = append(r.state.Pools, pool)
	r.state.RuleSets = append(r.state.RuleSets, dataplane.RuleSet{Key: key, Network: "providers", Rules: []dataplane.Rule{rule},
		Sources: []dataplane.Source{{Addr: netip.AddrFrom4([4]byte{10, 8, byte(n >> 8), byte(n)})}}})
}

func (r *kernelRig) apply(ctx context.Context) (stopwatch, error) {
	r.state.Revision++
	s, err := start(0)
	if err != nil {
		return s, err
	}
	if _, err := r.plane.Apply(ctx, r.state); err != nil {
		return s, err
	}
	return s, s.stop()
}

// settle waits until every backend's MAC is known.
func (r *kernelRig) settle() error {
	return lab.Poll(time.Minute, func() error {
		if got := r.plane.Result(); got.Revision != r.state.Revision || !got.Settled() || len(got.Unresolved) > 0 {
			return fmt.Errorf("wait for the backends: %d addresses pending, %d unresolved", len(got.Pending), len(got.Unresolved))
		}
		return nil
	})
}

// programServices gives the kernel many services at once whose backends' MACs are known, as a restarted node
// knows them, so that all of their tables are built by the one Apply that is measured.
func programServices(ctx context.Context, l *lab.Lab) (note string, err error) {
	r, err := newKernelRig(l, "many")
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, r.plane.Close()) }()
	empty := r.state
	for i := range manyServices {
		r.add(i, poolSize)
	}
	first, err := r.apply(ctx)
	if err != nil {
		return "", err
	}
	if err := r.settle(); err != nil {
		return "", err
	}
	// Other rules with other ports: every table is made anew and every old one dropped; the backends stay.
	for i := range r.state.RuleSets {
		r.state.RuleSets[i].Rules[0].Key += " again"
		r.state.RuleSets[i].Rules[0].Port = 81
	}
	again, err := r.apply(ctx)
	if err != nil {
		return "", err
	}
	r.state.RuleSets, r.state.Pools = empty.RuleSets, empty.Pools
	if _, err := r.apply(ctx); err != nil {
		return "", err
	}
	return joined(fmt.Sprintf("Apply into an empty kernel %v; all rules anew with their tables %v", first, again),
		errors.Join(series{first}.under(allServices), series{again}.under(allServices)))
}

// changeBackend takes one backend of a large pool out and in again.
func changeBackend(ctx context.Context, l *lab.Lab) (note string, err error) {
	r, err := newKernelRig(l, "large")
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, r.plane.Close()) }()
	r.add(0, manyBackends)
	if _, err := r.apply(ctx); err != nil {
		return "", err
	}
	if err := r.settle(); err != nil {
		return "", err
	}
	var all series
	for i := range rounds {
		targets := slices.Clone(r.state.RuleSets[0].Rules[0].Targets)
		targets[manyBackends/2].Healthy = i%2 == 1
		rules := slices.Clone(r.state.RuleSets[0].Rules)
		rules[0].Targets = targets
		sets := slices.Clone(r.state.RuleSets)
		sets[0].Rules = rules
		r.state.RuleSets = sets
		one, err := r.apply(ctx)
		if err != nil {
			return "", err
		}
		all = append(all, one)
	}
	return joined(all.String(), all.under(oneBackend))
}
