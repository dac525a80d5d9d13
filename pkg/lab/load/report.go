package load

import (
	"fmt"
	"slices"
	"time"
)

// Broken is a connection that did not go well.
type Broken struct {
	From, To time.Time // from when on it was not known to be well, and when the failure showed
	Client   string    // its namespace
	Kind     string
	Err      error
}

// Report is what became of the traffic.
type Report struct {
	Packets     int         // datagrams sent
	Lost        []time.Time // when those were sent whose echo did not come
	Connections int         // that ended, or are checked by the end
	Broken      []Broken
}

// Add puts the reports of several clients together.
func (r *Report) Add(other Report) {
	r.Packets += other.Packets
	r.Lost = append(r.Lost, other.Lost...)
	r.Connections += other.Connections
	r.Broken = append(r.Broken, other.Broken...)
}

// Window is a time in which losses are somebody's doing.
type Window struct{ From, To time.Time }

// Outside leaves only what was lost or broke outside of all windows.
func (r Report) Outside(windows []Window) Report {
	r.Lost = slices.DeleteFunc(slices.Clone(r.Lost), func(t time.Time) bool {
		return slices.ContainsFunc(windows, func(w Window) bool { return !t.Before(w.From) && !t.After(w.To) })
	})
	r.Broken = slices.DeleteFunc(slices.Clone(r.Broken), func(b Broken) bool {
		return slices.ContainsFunc(windows, func(w Window) bool { return !b.From.After(w.To) && !b.To.Before(w.From) })
	})
	return r
}

// String says it in one line, with the first failures.
func (r Report) String() string {
	s := fmt.Sprintf("%d packets and %d connections checked, %d packets lost, %d connections broken",
		r.Packets, r.Connections, len(r.Lost), len(r.Broken))
	for i, b := range r.Broken {
		if i == 3 {
			return s + " ..."
		}
		s += fmt.Sprintf("; %s of %s from %s to %s: %v", b.Kind, b.Client, clock(b.From), clock(b.To), b.Err)
	}
	return s
}

func clock(t time.Time) string { return t.Format("15:04:05.000") }

// Gaps are the times in which datagrams were lost: losses less than 100 ms apart are one gap.
func (r Report) Gaps() []Window {
	var gaps []Window
	lost := slices.Clone(r.Lost)
	slices.SortFunc(lost, time.Time.Compare)
	for _, t := range lost {
		if n := len(gaps); n > 0 && t.Sub(gaps[n-1].To) < 100*time.Millisecond {
			gaps[n-1].To = t
			continue
		}
		gaps = append(gaps, Window{t, t})
	}
	return gaps
}
