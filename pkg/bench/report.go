package bench

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
)

// Report collects what a run measured.
type Report struct {
	Metrics []Metric
	// Machine says where: kernel, CPU and what was set for the run.
	Machine []string
	// Missing says what was not measured, and why, by name or by part.
	Missing []string

	costs  []costLine
	curves []Curve
}

// costLine is one forwarder, direction and number of flows in the table of costs.
type costLine struct {
	section string
	name    string
	times   Series // as measured
	base    Series // the generator's own; nil if times are already costs
	unit    string
	note    string
	largest bool // the best is the largest: rates
}

// Add records a metric.
func (r *Report) Add(name string, value float64, unit string, low, high float64, rounds int) {
	r.Metrics = append(r.Metrics, Metric{name, value, unit, low, high, rounds})
}

// AddSeries records a metric whose value is given, with the range of its rounds.
func (r *Report) AddSeries(name string, value float64, unit string, rounds Series) {
	r.Add(name, value, unit, rounds.Min(), rounds.Max(), len(rounds))
}

// NotMeasured says that something is missing and why.
func (r *Report) NotMeasured(what string, why error) {
	r.Missing = append(r.Missing, fmt.Sprintf("%s: %v", what, why))
}

// mark remembers how much was measured; rollBack forgets what came after.
func (r *Report) mark() [3]int { return [3]int{len(r.Metrics), len(r.costs), len(r.curves)} }

func (r *Report) rollBack(to [3]int) {
	r.Metrics, r.costs, r.curves = r.Metrics[:to[0]], r.costs[:to[1]], r.curves[:to[2]]
}

// addPoint adds a point to a plot's curve, which it begins if there is none.
func (r *Report) addPoint(plot, name string, x, y float64) {
	i := slices.IndexFunc(r.curves, func(c Curve) bool { return c.Plot == plot && c.Name == name })
	if i < 0 {
		i = len(r.curves)
		r.curves = append(r.curves, Curve{Plot: plot, Name: name})
	}
	r.curves[i].X, r.curves[i].Y = append(r.curves[i].X, x), append(r.curves[i].Y, y)
}

// Missed are the metrics that do not keep their limit.
func (r *Report) Missed() []Metric {
	return slices.DeleteFunc(slices.Clone(r.Metrics), func(m Metric) bool {
		limit, ok := Limits[m.Name]
		return !ok || limit.Met(m.Value)
	})
}

// Absent are the required names without a metric.
func (r *Report) Absent() []string {
	return slices.DeleteFunc(slices.Clone(Required), func(name string) bool {
		return slices.ContainsFunc(r.Metrics, func(m Metric) bool { return m.Name == name })
	})
}

// Print writes the one table of a run.
func (r *Report) Print(w io.Writer) error {
	for _, line := range r.Machine {
		_, _ = fmt.Fprintln(w, line)
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	section := ""
	for _, l := range r.costs {
		if l.section != section {
			section = l.section
			_, _ = fmt.Fprintf(tw, "\n%s\tbest\tmedian\trange\trounds\t\n", section)
		}
		value, times := l.times.Min(), l.times
		if l.largest {
			value = l.times.Max()
		}
		if l.base != nil {
			value, times = cost(l.times, l.base), l.times.Above(Series{l.base.Min()}.repeat(len(l.times)))
		}
		_, _ = fmt.Fprintf(tw, "  %s\t%s %s\t%s\t%s..%s\t%d\t%s\n", l.name,
			short(value), l.unit, short(times.Median()), short(times.Min()), short(times.Max()), len(times), l.note)
	}
	_, _ = fmt.Fprintf(tw, "\nmetric\tvalue\tlimit\t\tsingle rounds\trounds\t\n")
	for _, m := range r.Metrics {
		limit, verdict := "", ""
		if l, ok := Limits[m.Name]; ok {
			limit, verdict = l.String(), "ok"
			if !l.Met(m.Value) {
				verdict = "MISSED"
			}
		}
		_, _ = fmt.Fprintf(tw, "  %s\t%s %s\t%s\t%s\t%s..%s\t%d\t\n", m.Name, short(m.Value), m.Unit, limit, verdict,
			short(m.Min), short(m.Max), m.Rounds)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	if len(r.Missing) > 0 {
		_, _ = fmt.Fprintf(w, "\nnot measured:\n  %s\n", strings.Join(r.Missing, "\n  "))
	}
	if absent := r.Absent(); len(absent) > 0 {
		_, _ = fmt.Fprintf(w, "\nnot in this run: %s\n", strings.Join(absent, ", "))
	}
	return nil
}

func (s Series) repeat(n int) Series { return slices.Repeat(s, n) }

// short prints a number with three or four digits that say something.
func short(v float64) string {
	switch abs := max(v, -v); {
	case abs >= 100:
		return fmt.Sprintf("%.0f", v)
	case abs >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}
