package fuzz

import (
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/privlink/privlink/pkg/model"
)

// Coverage is what a run got to.
type Coverage struct {
	Packets, Hits int // packets, and those that matched a live entry
	Actions       [6]int
	Reasons       [model.ReasonCount]uint64
	Phases        [5]int // TCP, of the flows that packets hit
	Events        map[string]int
}

func newCoverage() Coverage {
	c := Coverage{Events: make(map[string]int)}
	for _, e := range events {
		c.Events[e.name] = 0
	}
	return c
}

// Unreachable are the reasons that no frame on one CPU can get; named tests reach them.
var Unreachable = []model.Reason{model.None, model.TableBusy, model.Helper}

func (c *Coverage) before(m *model.Machine, in model.Input) {
	c.Packets++
	if s := m.Hit(in); s != nil {
		c.Hits++
		if s.RW.Flags&model.FlagTCP != 0 {
			c.Phases[s.RW.Flags&7]++
		}
	}
}

func (c *Coverage) addReasons(before, after *[model.ReasonCount]model.ReasonStats) {
	for r := range c.Reasons {
		c.Reasons[r] += after[r].Packets - before[r].Packets
	}
}

// Missing is what the run should have got to and did not.
func (c *Coverage) Missing() []string {
	var missing []string
	for _, a := range []model.Action{model.ActionPass, model.ActionDrop, model.ActionRedirect, model.ActionAnswer} {
		if c.Actions[a] == 0 {
			missing = append(missing, "verdict "+a.String())
		}
	}
	for r, n := range c.Reasons {
		if n == 0 && !slices.Contains(Unreachable, model.Reason(r)) {
			missing = append(missing, "reason "+model.Reason(r).String())
		}
	}
	for p, n := range c.Phases {
		if n == 0 {
			missing = append(missing, "TCP state "+phases[p])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Events)) {
		if c.Events[name] == 0 {
			missing = append(missing, "event "+name)
		}
	}
	if c.Hits*100 < c.Packets*30 {
		missing = append(missing, fmt.Sprintf("30 %% hits (only %d of %d)", c.Hits, c.Packets))
	}
	return missing
}

var phases = [5]string{"half-open", "established", "closing", "reset", "ended"}

// Print writes how often each was reached.
func (c *Coverage) Print(w io.Writer) {
	fmt.Fprintf(w, "packets %d, hit a flow %d (%.1f %%)\n", c.Packets, c.Hits, 100*float64(c.Hits)/float64(max(c.Packets, 1)))
	for a, n := range c.Actions {
		if n > 0 {
			fmt.Fprintf(w, "  verdict   %-22s %9d\n", model.Action(a), n)
		}
	}
	for r, n := range c.Reasons {
		if model.Reason(r) != model.None {
			fmt.Fprintf(w, "  reason    %-22s %9d\n", model.Reason(r), n)
		}
	}
	for p, n := range c.Phases {
		fmt.Fprintf(w, "  TCP state %-22s %9d\n", phases[p], n)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Events)) {
		fmt.Fprintf(w, "  event     %-22s %9d\n", name, c.Events[name])
	}
}
