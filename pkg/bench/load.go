package bench

import (
	"context"
	"time"

	"github.com/privlink/privlink/pkg/dataplane"
	"github.com/privlink/privlink/pkg/lab"
)

// Load measures how long the kernel takes to accept all programs, in processor time as the test of the
// verifier's budgets does, and how long a daemon's start takes in all when maps and flows of before are
// there.
func Load(ctx context.Context, net *lab.Lab, p Progress, r *Report, rounds int) error {
	t := NewTopology(net, "load", takesXDP)
	privlink := NewPrivlink(TC, 1<<18, 1)
	defer func() { _ = privlink.Close() }()
	if err := privlink.Up(t); err != nil {
		return err
	}
	var programs, start Series
	rounds = min(rounds, 5) // compared with a limit of its own, not with others
	for round := range rounds {
		p.Step("load, round %d of %d", round+1, rounds)
		costs, err := dataplane.ProgramCosts()
		if err != nil {
			return err
		}
		var all time.Duration
		for _, c := range costs {
			all += c.Time
		}
		programs = append(programs, all.Seconds()*1000)
		if err := privlink.plane.Close(); err != nil {
			return err
		}
		begin := time.Now()
		if privlink.plane, err = dataplane.Open(ctx, privlink.opts); err != nil {
			return err
		}
		start = append(start, time.Since(begin).Seconds()*1000)
	}
	r.costs = append(r.costs,
		costLine{section: "start", name: "all programs loaded, processor time", times: programs, unit: "ms"},
		costLine{section: "start", name: "daemon started, maps adopted", times: start, unit: "ms"})
	r.AddSeries("load.ms", programs.Min(), "ms", programs)
	return nil
}
