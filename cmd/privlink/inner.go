package main

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/control"
	"github.com/privlink/privlink/pkg/dataplane"
	"github.com/privlink/privlink/pkg/probe"
	"github.com/privlink/privlink/pkg/splice"
	"github.com/privlink/privlink/pkg/splice/inner"
)

// innerKey is the inner VNet's key in the dataplane; resources have ids that begin with a slash.
const innerKey = "inner"

// innerConfig names the inner VNet of the daemon with these pins: several daemons on one machine have
// several.
func innerConfig(bpffs string) inner.Config {
	bpffs = filepath.Clean(bpffs)
	if bpffs == filepath.Clean(defaultBPFFS) {
		return inner.Config{}
	}
	sum := fnv.New32a()
	_, _ = sum.Write([]byte(bpffs)) // never fails
	return inner.Config{Namespace: filepath.Base(bpffs) + "-inner", Interface: fmt.Sprintf("pli-%08x", sum.Sum32())}
}

// inside is what the daemon runs in the inner VNet: the splice, and the prober.
type inside struct {
	log     logrus.FieldLogger
	network *inner.Network
	splice  *splice.Server
	dialer  *inner.Dialer
	prober  *probe.Prober

	mu     sync.Mutex
	state  dataplane.State // applied last
	before map[string]bool // verdicts of the daemon before, by probe, until this one has its own
}

// openInside makes the network and listens: programs of an earlier daemon bring connections at once, which wait.
func openInside(bpffs string, limits splice.Config, log logrus.FieldLogger) (*inside, error) {
	network, err := inner.Setup(innerConfig(bpffs))
	if err != nil {
		return nil, fmt.Errorf("set up the inner network: %w", privileges(err))
	}
	server, err := splice.New(network, limits, log.WithField("part", "splice"))
	if err != nil {
		return nil, errors.Join(err, network.Abandon())
	}
	return &inside{log: log, network: network, splice: server}, nil
}

// options are what the dataplane has to know of the inner VNet.
func (in *inside) options() dataplane.Inner {
	return dataplane.Inner{Network: innerKey, Interface: in.network.Interface(), Listen: inner.Listen(), Sources: inner.Sources()}
}

// join makes the prober, which goes out through the dataplane; changed is called when a verdict has.
func (in *inside) join(plane *dataplane.Dataplane, changed func()) (err error) {
	if in.dialer, err = inner.NewDialer(in.network, plane, inner.MaxDialers-1); err != nil {
		return err
	}
	in.prober = probe.New(probe.Through(in.dialer), func(probe.Result) { changed() }, in.log.WithField("part", "probe"))
	return nil
}

// run serves until ctx ends.
func (in *inside) run(ctx context.Context, plane *dataplane.Dataplane) error {
	var group sync.WaitGroup
	group.Go(func() { in.prober.Run(ctx) })
	group.Go(func() { in.guard(ctx) })
	err := in.splice.Run(ctx, plane)
	group.Wait()
	return err
}

// guardInner is how often the inner network's interface is looked for. What somebody took away is repaired as fast as a pin is.
const guardInner = time.Second

// guard makes the interface anew when somebody deletes it, until ctx ends: all probes go through it, and backends that cannot be asked
// would soon take no flows. The dataplane attaches the new one as any other.
func (in *inside) guard(ctx context.Context) {
	tick := time.NewTicker(guardInner)
	defer tick.Stop()
	said := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		restored, err := in.network.Restore()
		log := in.log.WithField("interface", in.network.Interface())
		switch {
		case err == nil:
			said = ""
		case err.Error() != said: // once, not every second
			said = err.Error()
			log.WithError(err).Error("restoring privlink's own interface (PROXY services and probes do not work without it)")
		}
		if restored {
			log.Warn("made privlink's own interface anew: somebody took it away")
		}
	}
}

// close releases handles; network and namespace stay for the next daemon if this one has served, or if they are an earlier
// one's.
func (in *inside) close(served bool) error {
	if in.dialer != nil {
		in.dialer.Close()
	}
	if !served {
		return in.network.Abandon()
	}
	return in.network.Close()
}

// Probe implements control.Health.
func (in *inside) Probe(key string) (healthy, known bool) {
	r, known := in.prober.Result(key)
	if known {
		return r.Healthy, true
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	if healthy, known := in.before[key]; known {
		return healthy, true
	}
	return r.Healthy, false
}

// ask takes what the control plane wants to be probed.
func (in *inside) ask(probes []control.Probe) {
	checks := make([]probe.Check, len(probes))
	kinds := map[api.ProbeProtocol]probe.Kind{api.ProbeTCP: probe.TCP, api.ProbeHTTP: probe.HTTP, api.ProbeHTTPS: probe.HTTPS}
	for i, p := range probes {
		checks[i] = probe.Check{
			Key: p.Key, Group: p.Group, Owner: p.LoadBalancer, Kind: kinds[p.Protocol], To: inner.Destination{RuleSet: p.RuleSet, Rule: p.Rule, Target: p.Target},
			Path: p.Path, Header: p.Header, Expects: p.Expects, Interval: p.Interval, Threshold: p.Threshold,
		}
	}
	in.prober.Set(checks)
}

// applier gives States to the dataplane and cuts the proxied connections of links that are no longer approved.
type applier struct {
	plane  *dataplane.Dataplane
	inside *inside
}

// Apply implements control.Applier.
func (a applier) Apply(ctx context.Context, s dataplane.State) (dataplane.Result, error) {
	result, err := a.plane.Apply(ctx, s)
	if err != nil {
		return result, err
	}
	a.inside.mu.Lock()
	a.inside.state = s
	a.inside.mu.Unlock()
	if n := a.inside.splice.CutRevoked(); n > 0 {
		a.inside.log.WithField("connections", n).Info("proxied connections cut")
	}
	return result, nil
}

// applied is the State that was applied last.
func (in *inside) applied() dataplane.State {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.state
}

// backends are those of a load balancer's rules: each once, as the service sees it if there is one. Where the service sends
// a PROXY header and the frontend's own clients see something else, that is told too.
func (in *inside) backends(loadBalancer string, unresolved []dataplane.Unresolved) []api.BackendHealth {
	state := in.applied()
	silent := make(map[dataplane.Address]string, len(unresolved))
	for _, x := range unresolved {
		silent[x.Address] = x.Why
	}
	balancer := strings.ToLower(loadBalancer) + "/"
	type place struct{ rule, address string }
	seen := make(map[place]int)
	list := []api.BackendHealth{}
	for _, frontends := range []bool{false, true} {
		for _, set := range state.RuleSets {
			if strings.HasPrefix(set.Key, balancer) != frontends {
				continue
			}
			for _, rule := range set.Rules {
				name, ok := strings.CutPrefix(rule.Key, set.Key+"|"+balancer+strings.ToLower(api.LoadBalancingRules)+"/")
				if !ok {
					continue
				}
				for _, t := range rule.Targets {
					b := in.backend(name, t, silent[dataplane.Address{Network: set.Network, Addr: t.Addr}])
					at := place{name, b.Address}
					i, ok := seen[at]
					if !ok {
						seen[at] = len(list)
						list = append(list, b)
					} else if b.State != list[i].State {
						list[i].Reason += fmt.Sprintf("; without a PROXY header, for its own network, %s: %s", b.State, b.Reason)
					}
				}
			}
		}
	}
	slices.SortStableFunc(list, func(a, b api.BackendHealth) int { return strings.Compare(a.Rule, b.Rule) })
	return list
}

func (in *inside) backend(rule string, t dataplane.Target, silent string) api.BackendHealth {
	b := api.BackendHealth{Rule: rule, Pool: t.Pool[strings.LastIndexByte(t.Pool, '/')+1:], Address: t.Addr.String(), State: api.BackendUp}
	result, known := in.prober.Result(t.Probe)
	switch {
	case t.Probe == "":
		b.Reason = "no probe"
	case !known:
		b.Reason = "not probed yet"
	default:
		b.Reason = result.Reason
	}
	switch {
	case silent != "":
		b.State, b.Reason = api.BackendUnresolved, silent
	case t.NoNew:
		b.State, b.Reason = api.BackendDown, "adminState Down; "+b.Reason
	case !t.Healthy, known && !result.Healthy:
		b.State = api.BackendDown
	}
	return b
}

// Pairs implements control.TableSizer.
func (a applier) Pairs() uint32 { return a.plane.Pairs() }

// CheckAttachment implements control.AttachmentChecker.
func (a applier) CheckAttachment(x dataplane.Attachment) error { return a.plane.CheckAttachment(x) }
