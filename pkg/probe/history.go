package probe

import "time"

const (
	// A backend that was up for fewer intervals than this before it went down flaps.
	stableIntervals = 20
	// Each flap doubles the successes that bring it back, up to eight times the threshold.
	maxFlaps = 3
)

// history turns single outcomes into a verdict. Time is an input.
type history struct {
	known   bool
	healthy bool
	since   time.Time
	against int // outcomes in a row that contradict the verdict
	flaps   int
}

// observe takes one outcome and says whether the verdict changed. The first outcome is the
// verdict: a new backend need not wait for traffic, nor get any that it cannot serve.
func (h *history) observe(ok bool, c *Check, now time.Time) (changed bool) {
	if !h.known {
		*h = history{known: true, healthy: ok, since: now}
		return true
	}
	if ok == h.healthy {
		h.against = 0
		return false
	}
	h.against++
	if h.against < h.needed(c) {
		return false
	}

	if h.healthy {
		if now.Sub(h.since) < stableIntervals*c.Interval {
			h.flaps = min(h.flaps+1, maxFlaps)
		} else {
			h.flaps = 0
		}
	}
	h.healthy, h.since, h.against = ok, now, 0
	return true
}

// needed is how many outcomes in a row change the verdict.
func (h *history) needed(c *Check) int {
	if h.healthy {
		return c.Threshold
	}
	return c.Threshold << h.flaps
}
