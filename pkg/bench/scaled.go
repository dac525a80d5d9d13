package bench

import (
	"context"

	"github.com/privlink/privlink/pkg/lab"
)

// Scale compares privlink with the reference at four million flows, in XDP.
func Scale(ctx context.Context, net *lab.Lab, core *Core, p Progress, r *Report, rounds int) error {
	const flows, pairs, backends = 4_000_000, 4_200_000, 16
	c := &Comparison{Rounds: rounds}
	defer c.Close()
	var err error
	if c.Base, err = NewLane(net, core, nil, flows); err != nil {
		return err
	}
	for _, f := range []Forwarder{NewReference(XDP, pairs), NewPrivlink(XDP, pairs, backends)} {
		p.Step("scale: setting up %s", f.Name())
		l, err := NewLane(net, core, f, flows)
		if err != nil {
			return err
		}
		c.Lanes = append(c.Lanes, l)
	}
	times, err := c.established(ctx, p, flows, 1<<19)
	if err != nil {
		return err
	}
	c.report(r, "established, "+count(flows)+" flows: cost of a packet", times)
	c.ratio(r, "scale.cost_vs_reference.flows_4m", times, nameXDPPrivlink, nameXDPReference, false)
	return nil
}
