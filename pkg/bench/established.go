package bench

import (
	"context"
	"fmt"
	"slices"
)

// timings are the rounds of each lane and direction.
type timings map[*Lane]*[2]Series

func (t timings) add(l *Lane, d Direction, ns float64) {
	if t[l] == nil {
		t[l] = new([2]Series)
	}
	t[l][d] = append(t[l][d], ns)
}

// Comparison runs forwarders against each other, round by round.
type Comparison struct {
	Base   *Lane   // generator to sink
	Lanes  []*Lane // forwarders
	Rounds int
}

// all are the lanes with the base first.
func (c *Comparison) all() []*Lane { return append([]*Lane{c.Base}, c.Lanes...) }

// lane finds a forwarder by name; nil if it is not in this comparison.
func (c *Comparison) lane(name string) *Lane {
	i := slices.IndexFunc(c.Lanes, func(l *Lane) bool { return l.Name == name })
	if i < 0 {
		return nil
	}
	return c.Lanes[i]
}

// established opens flows on every lane, verifies them, and times packets of theirs in hash order.
func (c *Comparison) established(ctx context.Context, p Progress, flows uint32, packets uint64) (timings, error) {
	for _, l := range c.all() {
		p.Step("opening %s flows: %s", count(float64(flows)), l.Name)
		if err := l.Open(flows); err != nil {
			return nil, err
		}
	}
	times := make(timings)
	for round := range c.Rounds {
		lanes := c.all()
		for i := range lanes {
			// Another order each round: nobody always follows the same one.
			l := lanes[(i+round)%len(lanes)]
			for _, d := range Directions {
				if err := ctx.Err(); err != nil {
					return nil, err
				}
				p.Step("%s flows, round %d of %d: %s %s", count(float64(flows)), round+1, c.Rounds, l.Name, d)
				s, err := l.Run(Plan{Direction: d, Flows: flows, Packets: packets, Warmup: max(packets/2, min(uint64(flows), 1<<16)), Scatter: true, Window: true})
				if err != nil {
					return nil, err
				}
				if s.Dropped > 0 {
					return nil, fmt.Errorf("%s %s: %d packets of %d established flows were dropped%s", l.Name, d, s.Dropped, flows, l.explain())
				}
				times.add(l, d, s.NSPerPacket)
			}
		}
	}
	return times, nil
}

// report puts the costs of all forwarders into the table and returns the worse direction's by name.
func (c *Comparison) report(r *Report, section string, times timings) {
	for _, d := range Directions {
		base := times[c.Base][d]
		if len(base) == 0 {
			continue
		}
		r.costs = append(r.costs, costLine{section: section, name: c.Base.Name + ", " + d.String(), times: base, unit: "ns", note: "subtracted below"})
	}
	for _, l := range c.Lanes {
		for _, d := range Directions {
			if t := times[l][d]; len(t) > 0 {
				line := costLine{section: section, name: l.Name + ", " + d.String(), times: t, base: times[c.Base][d], unit: "ns"}
				if l.Refused > 0 && d == Forward {
					line.note = fmt.Sprintf("%d flows refused at first", l.Refused)
				}
				r.costs = append(r.costs, line)
			}
		}
	}
}

// ratio records the cost of one forwarder over another's: the largest of the directions,
// or the smallest if large is good.
func (c *Comparison) ratio(r *Report, metric string, times timings, a, b string, largeIsGood bool) {
	la, lb := c.lane(a), c.lane(b)
	if la == nil || lb == nil {
		return
	}
	var worst *Metric
	for _, d := range Directions {
		base := times[c.Base][d]
		if len(base) == 0 || len(times[la][d]) == 0 {
			continue
		}
		value, low, high := costRatio(times[la][d], times[lb][d], base)
		if worst == nil || (value > worst.Value) != largeIsGood {
			worst = &Metric{metric, value, "ratio", low, high, len(base)}
		}
	}
	if worst != nil {
		r.Metrics = append(r.Metrics, *worst)
	}
}

// Names of the forwarders, as their Name methods give them.
const (
	nameXDPRedirect  = "xdp redirect"
	nameTCRedirect   = "tc redirect"
	nameXDPReference = "xdp reference"
	nameTCReference  = "tc reference"
	nameKernel       = "kernel forwarding"
	nameNftables     = "nftables"
	nameXDPPrivlink  = "xdp privlink"
	nameTCPrivlink   = "tc privlink"
)

// label is the last part of a metric's name.
func label(flows uint32) string {
	switch {
	case flows%1_000_000 == 0:
		return fmt.Sprintf("flows_%dm", flows/1_000_000)
	case flows%1000 == 0:
		return fmt.Sprintf("flows_%dk", flows/1000)
	default:
		return fmt.Sprintf("flows_%d", flows)
	}
}

// only is the comparison of some of the forwarders.
func (c *Comparison) only(names ...string) *Comparison {
	some := &Comparison{Base: c.Base, Rounds: c.Rounds}
	for _, l := range c.Lanes {
		if slices.Contains(names, l.Name) {
			some.Lanes = append(some.Lanes, l)
		}
	}
	return some
}

// Established measures what a packet of an established flow costs.
func (c *Comparison) Established(ctx context.Context, p Progress, r *Report, flows uint32, packets uint64) error {
	times, err := c.established(ctx, p, flows, packets)
	if err != nil {
		return err
	}
	c.report(r, "established, "+count(float64(flows))+" flows: cost of a packet", times)
	at := "." + label(flows)
	c.ratio(r, "xdp.reference_vs_redirect"+at, times, nameXDPReference, nameXDPRedirect, false)
	c.ratio(r, "tc.reference_vs_redirect"+at, times, nameTCReference, nameTCRedirect, false)
	c.ratio(r, "xdp.cost_vs_reference"+at, times, nameXDPPrivlink, nameXDPReference, false)
	c.ratio(r, "tc.cost_vs_reference"+at, times, nameTCPrivlink, nameTCReference, false)
	c.ratio(r, "xdp.nftables_cost_vs_ours"+at, times, nameNftables, nameXDPPrivlink, true)
	c.ratio(r, "tc.nftables_cost_vs_ours"+at, times, nameNftables, nameTCPrivlink, true)
	c.ratio(r, "xdp.nftables_cost_vs_reference"+at, times, nameNftables, nameXDPReference, true)
	for _, l := range c.Lanes {
		r.addPoint("cost", l.Name, float64(flows), cost(times[l][Forward], times[c.Base][Forward]))
	}
	return nil
}

// verified is how many flows are opened and looked at before opening is timed: nftables would need minutes for all.
const verified = 100_000

// NewFlows measures what a packet costs that opens a flow. Every round starts with no flows.
func (c *Comparison) NewFlows(ctx context.Context, p Progress, r *Report, flows uint32) error {
	for _, l := range c.all() {
		p.Step("verifying %s flows: %s", count(float64(min(flows, verified))), l.Name)
		if err := l.Open(min(flows, verified)); err != nil {
			return err
		}
	}
	times := make(timings)
	lost := make(map[*Lane]Series)
	for round := range c.Rounds {
		lanes := c.all()
		for i := range lanes {
			if err := ctx.Err(); err != nil {
				return err
			}
			l := lanes[(i+round)%len(lanes)]
			p.Step("%s new flows, round %d of %d: %s", count(float64(flows)), round+1, c.Rounds, l.Name)
			if l.Forwarder != nil {
				if err := l.Forwarder.Forget(); err != nil {
					return err
				}
			}
			s, err := l.Run(Plan{Direction: Forward, Flows: flows, Packets: uint64(flows)})
			if err != nil {
				return err
			}
			times.add(l, Forward, s.NSPerPacket)
			lost[l] = append(lost[l], float64(s.Dropped)/float64(s.Sent))
		}
	}
	c.report(r, count(float64(flows))+" new flows: cost of the packet that opens one", times)
	for i := range r.costs {
		line := &r.costs[i]
		for l, share := range lost {
			if share.Max() > 0 && len(line.times) > 0 && &line.times[0] == &times[l][Forward][0] {
				line.note = fmt.Sprintf("%.2f %% lost", 100*share.Max())
			}
		}
	}
	at := "." + label(flows)
	c.ratio(r, "xdp.new_flow_cost_vs_reference"+at, times, nameXDPPrivlink, nameXDPReference, false)
	c.ratio(r, "tc.new_flow_cost_vs_reference"+at, times, nameTCPrivlink, nameTCReference, false)
	c.ratio(r, "xdp.nftables_new_flow_cost_vs_ours"+at, times, nameNftables, nameXDPPrivlink, true)
	c.ratio(r, "xdp.nftables_new_flow_cost_vs_reference"+at, times, nameNftables, nameXDPReference, true)
	return nil
}

// Close takes all lanes down.
func (c *Comparison) Close() {
	for _, l := range c.all() {
		if l != nil {
			_ = l.Close()
		}
	}
}
