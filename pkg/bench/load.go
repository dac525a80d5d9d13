package bench

import (
	"context"
	"time"

	"github.com/privlink/privlink/pkg/dataplane"
	"github.com/privlink/privlink/pkg/lab"
)

// Load measures how long a daemon's start takes when maps and flows of before are there: all
// programs through the verifier, and the maps adopted.
func Load(ctx context.Context, net *lab.Lab, p Progress, r *Report, rounds int) error {
	t := NewTopology(net, "load", takesXDP)
	privlink := NewPrivlink(TC, 1<<18, 1)
	defer func() { _ = privlink.Close() }()
	if err := privlink.Up(t); err != nil {
		return err
	}
	var took Series
	rounds = min(rounds, 5) // compared with a limit of its own, not with others
	for round := range rounds {
		p.Step("load, round %d of %d", round+1, rounds)
		if err := privlink.plane.Close(); err != nil {
			return err
		}
		start := time.Now()
		var err error
		if privlink.plane, err = dataplane.Open(ctx, privlink.opts); err != nil {
			return err
		}
		took = append(took, time.Since(start).Seconds()*1000)
	}
	r.costs = append(r.costs, costLine{section: "start", name: "all programs loaded, maps adopted", times: took, unit: "ms"})
	r.AddSeries("load.ms", took.Min(), "ms", took)
	return nil
}
