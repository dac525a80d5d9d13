package probe

import (
	"strings"
	"testing"
	"time"
)

// replay feeds outcomes ('+' and '-') one interval apart and writes the verdict after each.
func replay(h *history, c *Check, outcomes string) string {
	now := time.Unix(1_000_000, 0)
	if !h.since.IsZero() {
		now = h.since.Add(c.Interval)
	}
	var verdicts strings.Builder
	for _, o := range outcomes {
		h.observe(o == '+', c, now)
		now = now.Add(c.Interval)
		if h.healthy {
			verdicts.WriteByte('U')
		} else {
			verdicts.WriteByte('d')
		}
	}
	return verdicts.String()
}

func TestHistory_Threshold_DecidesAfterTheFirst(t *testing.T) {
	for _, c := range []struct {
		name              string
		threshold         int
		outcomes, verdict string
	}{
		{"first is healthy", 3, "+", "U"},
		{"first is not", 3, "-", "d"},
		{"two failures of three", 3, "+--+", "UUUU"},
		{"three failures", 3, "+---", "UUUd"},
		{"failures not in a row", 2, "+-+-+-", "UUUUUU"},
		{"three successes", 3, "-+++", "dddU"},
		{"threshold one", 1, "+-", "Ud"},
	} {
		check := Check{Interval: time.Second, Threshold: c.threshold}
		if got := replay(&history{}, &check, c.outcomes); got != c.verdict {
			t.Errorf("%s: %s gave %s, want %s", c.name, c.outcomes, got, c.verdict)
		}
	}
}

func TestHistory_Flapping_IsHeldDownLonger(t *testing.T) {
	check := Check{Interval: time.Second, Threshold: 1}
	h := &history{}
	// Each time it goes down soon after it came up, it needs twice as many successes.
	for i, c := range []struct{ outcomes, verdicts string }{
		{"+-", "Ud"}, {"++-", "dUd"}, {"++++-", "dddUd"}, {"++++++++-", "dddddddUd"}, {"++++++++-", "dddddddUd"},
	} {
		if got := replay(h, &check, c.outcomes); got != c.verdicts {
			t.Errorf("step %d: %s gave %s, want %s", i, c.outcomes, got, c.verdicts)
		}
	}
	// Once it stayed up for long, it is trusted again.
	replay(h, &check, strings.Repeat("+", 8+2*stableIntervals)+"-")
	if h.flaps != 0 || h.healthy {
		t.Errorf("after a long time up: %+v", h)
	}
}
