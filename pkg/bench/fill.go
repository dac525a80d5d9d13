package bench

import (
	"context"
	"fmt"

	"github.com/privlink/privlink/pkg/lab"
)

// ports is how many flows one backend port takes over the eight NAT IPs.
const ports = 8 * 64512

// Fill opens one flow for every NAT port there is to one backend port, in segments, and says
// what a flow costs as the ports run out. Each round starts with an empty table.
func Fill(ctx context.Context, net *lab.Lab, core *Core, p Progress, r *Report, rounds, segments int) error {
	base, err := NewLane(net, core, nil, ports)
	if err != nil {
		return err
	}
	defer func() { _ = base.Close() }()
	privlink := NewPrivlink(XDP, 1<<20, 1)
	ours, err := NewLane(net, core, privlink, ports)
	if err != nil {
		return err
	}
	defer func() { _ = ours.Close() }()
	p.Step("fill: verifying %d flows", ports)
	if err := ours.Open(ports); err != nil {
		return err
	}
	costs, bases := make([]Series, segments), make([]Series, segments)
	var lost, over, ratios Series
	for round := range rounds {
		if err := privlink.Forget(); err != nil {
			return err
		}
		var total, refused float64
		for i := range segments {
			if err := ctx.Err(); err != nil {
				return err
			}
			p.Step("fill, round %d of %d: %d %% of the ports used", round+1, rounds, 100*i/segments)
			first, last := uint32(ports*i/segments), uint32(ports*(i+1)/segments)
			plan := Plan{Base: first, Flows: last - first, Packets: uint64(last - first)}
			b, err := base.Run(plan)
			if err != nil {
				return err
			}
			s, err := ours.Run(plan)
			if err != nil {
				return err
			}
			costs[i], bases[i] = append(costs[i], s.NSPerPacket), append(bases[i], b.NSPerPacket)
			total += (s.NSPerPacket - b.NSPerPacket) * float64(s.Sent) / 1e9
			refused += float64(s.Dropped)
		}
		// What the flows would have taken at the cost of those that found the ports one tenth used.
		tenth, last := segments/10, segments-1
		early := costs[tenth][round] - bases[tenth][round]
		lost = append(lost, refused)
		over = append(over, total-early*ports/1e9)
		ratios = append(ratios, (costs[last][round]-bases[last][round])/early)
	}
	for i := range segments {
		r.addPoint("setup", privlink.Name(), float64(100*(i+1))/float64(segments), cost(costs[i], bases[i]))
	}
	for _, share := range []int{10, 50, 90, 99} {
		i := min(segments*share/100, segments-1)
		r.costs = append(r.costs, costLine{
			section: fmt.Sprintf("fill, %d flows over 8 NAT IPs to one backend port: cost of the packet that opens one", ports),
			name:    fmt.Sprintf("%s, %d %% of the ports used", privlink.Name(), share), times: costs[i], base: bases[i], unit: "ns",
		})
	}
	r.AddSeries("fill.lost", lost.Max(), "flows", lost)
	r.AddSeries("fill.seconds_over_setup", over.Median(), "s", over)
	first, last := segments/10, segments-1
	r.AddSeries("fill.cost_99_vs_10", cost(costs[last], bases[last])/cost(costs[first], bases[first]), "ratio", ratios)
	return memoryPerFlow(r, privlink)
}

// memoryPerFlow is what the kernel has set aside for a flow at full load: two entries and the
// free slots that go with them, and its share of the port bitmaps, which the fill has just made.
func memoryPerFlow(r *Report, p *Privlink) error {
	table, err := p.maps["flows_v1"].Info()
	if err != nil {
		return err
	}
	bytes, ok := table.Memlock()
	if !ok {
		r.NotMeasured("memory.bytes_per_flow", fmt.Errorf("the kernel does not say how large maps are (needs 4.10)"))
		return nil
	}
	const bitmap = 8.0 * 8072 / ports
	perFlow := float64(bytes)/float64(p.pairs) + bitmap
	r.Add("memory.bytes_per_flow", perFlow, "bytes", perFlow, perFlow, 1)
	return nil
}
