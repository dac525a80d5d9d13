package control

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/dataplane"
)

// Health is what probes have found out.
type Health interface {
	// Probe is the last word of a probe, by Probe.Key; known is false before the first, and healthy then says whether
	// the backend may take flows meanwhile.
	Probe(key string) (healthy, known bool)
}

// Probe is one question to one backend. Rules that would ask the same share it.
type Probe struct {
	// Key is unique and stable: load balancer's probe, backend, and whether a header is sent.
	Key string
	// Group is shared by the questions about a pool that are asked in the same way.
	Group string
	// LoadBalancer is the one that asks, its id in lower case.
	LoadBalancer string
	// RuleSet and Rule are keys of the State: the probe goes out from a source of this rule set. Of several
	// rules that share the probe it is the first.
	RuleSet, Rule string
	Protocol      api.ProbeProtocol
	Target        netip.AddrPort
	Path          string // of Http and Https
	Interval      time.Duration
	// Threshold is how many answers in a row change the verdict, 1..100.
	Threshold int
	// Header sends a PROXY LOCAL header first; Expects says that the traffic to the backend has headers.
	Header, Expects bool
}

// probe notes what a rule asks of one backend and returns the key of what judges it. A frontend's own clients send no
// header, so that it is judged without one whatever its service sends; the question goes out as the service's do.
func (c *compiler) probe(set ruleSet, rule string, id api.ID, p *api.ProbeProperties, backend netip.Addr) string {
	seconds, threshold := int32(api.DefaultInterval), int32(1)
	if p.IntervalInSeconds != nil {
		seconds = *p.IntervalInSeconds
	}
	switch {
	case p.ProbeThreshold != nil:
		threshold = *p.ProbeThreshold
	case p.NumberOfProbes != nil:
		threshold = *p.NumberOfProbes
	}
	ask := Probe{Key: id.Key() + "|" + backend.String(), Group: id.Key(), LoadBalancer: id.Parent().Key(), RuleSet: set.key, Rule: rule, Protocol: p.Protocol,
		Target: netip.AddrPortFrom(backend, uint16(p.Port)), Path: p.RequestPath, Interval: time.Duration(seconds) * time.Second, Threshold: int(threshold)}
	if set.service == nil && set.published {
		return ask.Key // the service's rule set notes it
	}
	c.note(ask)
	if set.service == nil || !set.service.Properties.EnableProxyProtocol {
		return ask.Key
	}
	kind := "|expects"
	if ask.Expects, ask.Header = true, set.service.Properties.ProxyProbes.Or(true); ask.Header {
		kind = "|proxy"
	}
	ask.Key += kind
	ask.Group += kind
	c.note(ask)
	return ask.Key
}

// note keeps a question, of several rules that ask it that of the first.
func (c *compiler) note(p Probe) {
	if known, ok := c.probes[p.Key]; !ok || p.Rule < known.Rule {
		c.probes[p.Key] = p
	}
}

func (c *compiler) sortedProbes() []Probe {
	list := make([]Probe, 0, len(c.probes))
	for _, p := range c.probes {
		list = append(list, p)
	}
	slices.SortFunc(list, func(a, b Probe) int { return strings.Compare(a.Key, b.Key) })
	return list
}

// judge sets the targets' health. While nothing at all is known of a rule's targets, all take flows: a daemon that
// has just started must not take anybody out. A target that is new among known ones waits for its first probe, unless
// Health lets it take flows.
func (c *compiler) judge(set ruleSet, rule string, lb *api.LoadBalancer, list []dataplane.Target, members map[netip.Addr]*api.BackendAddressProperties, ref *api.SubResource) {
	id, err := api.ParseID(ref.ID, api.ID{})
	probe := lb.Probe(id.Child)
	if err != nil || probe == nil {
		return
	}
	anyKnown, anyUp := false, false
	for i := range list {
		key := c.probe(set, rule, id, &probe.Properties, list[i].Addr)
		list[i].Probe = key
		if c.health == nil {
			continue
		}
		up, known := c.health.Probe(key)
		anyKnown = anyKnown || known
		list[i].Healthy = up
	}
	for i := range list {
		if !anyKnown || members[list[i].Addr].AdminState == api.AdminUp {
			list[i].Healthy = true
		}
		anyUp = anyUp || list[i].Healthy && !list[i].NoNew
	}
	if !anyUp && probe.Properties.NoHealthyBackendsBehavior == api.AllProbedUp {
		for i := range list {
			list[i].Healthy = true
		}
	}
}
