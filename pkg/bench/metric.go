package bench

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
)

// Metric is one line of bench.json. Value is made of minima (of times) or maxima (of
// rates); Min and Max are the range over single rounds.
type Metric struct {
	Name   string  `json:"name"`
	Value  float64 `json:"value"`
	Unit   string  `json:"unit"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
	Rounds int     `json:"rounds"`
}

// Limit is what a metric has to reach.
type Limit struct {
	AtMost  float64 // used unless AtLeast is set
	AtLeast float64
}

// Met says whether a value keeps the limit.
func (l Limit) Met(value float64) bool {
	if l.AtLeast != 0 {
		return value >= l.AtLeast
	}
	return value <= l.AtMost
}

// String is the limit as a table shows it.
func (l Limit) String() string {
	if l.AtLeast != 0 {
		return fmt.Sprintf(">= %g", l.AtLeast)
	}
	return fmt.Sprintf("<= %g", l.AtMost)
}

// Limits of the metrics that have one. The first three groups say whether the reference
// is a reference and how close to it the dataplane has to be.
var Limits = map[string]Limit{
	"xdp.reference_vs_redirect.flows_1":    {AtMost: 1.8},
	"xdp.reference_vs_redirect.flows_100k": {AtMost: 5.5},
	"tc.reference_vs_redirect.flows_1":     {AtMost: 1.3},

	"xdp.cost_vs_reference.flows_1":    {AtMost: 1.05},
	"xdp.cost_vs_reference.flows_100k": {AtMost: 0.95},
	"scale.cost_vs_reference.flows_4m": {AtMost: 0.9},
	"tc.cost_vs_reference.flows_1":     {AtMost: 1.05},
	"tc.cost_vs_reference.flows_100k":  {AtMost: 1.0},

	"xdp.nftables_cost_vs_ours.flows_1":             {AtLeast: 7},
	"xdp.nftables_cost_vs_ours.flows_100k":          {AtLeast: 4.5},
	"xdp.new_flow_cost_vs_reference.flows_500k":     {AtMost: 1.8},
	"xdp.nftables_new_flow_cost_vs_ours.flows_500k": {AtLeast: 8},

	"fill.lost":               {AtMost: 0},
	"fill.seconds_over_setup": {AtMost: 1},
	"fill.cost_99_vs_10":      {AtMost: 3},
	"sweep.cost_vs_opening":   {AtMost: 0.5},
	"sweep.longest_slice_ms":  {AtMost: 5},
	"memory.bytes_per_flow":   {AtMost: 320},
	"load.ms":                 {AtMost: 1000},

	"tcp.bulk_vs_bare_tc": {AtLeast: 0.95},
	"tcp.crr_vs_nftables": {AtLeast: 1.1},
	"tcp.crr_vs_bare_tc":  {AtLeast: 0.93},

	"proxy.bulk_vs_haproxy":               {AtLeast: 1.1},
	"proxy.cps_vs_haproxy":                {AtLeast: 0.8},
	"proxy.latency_vs_haproxy":            {AtMost: 1},
	"proxy.rss_bytes_per_idle_connection": {AtMost: 8192},
}

// Required are the names that a full run has to report.
var Required = []string{
	"xdp.reference_vs_redirect.flows_1", "tc.reference_vs_redirect.flows_1",
	"xdp.cost_vs_reference.flows_1", "xdp.cost_vs_reference.flows_100k",
	"tc.cost_vs_reference.flows_1", "tc.cost_vs_reference.flows_100k",
	"xdp.nftables_cost_vs_ours.flows_1", "xdp.nftables_cost_vs_ours.flows_100k",
	"xdp.new_flow_cost_vs_reference.flows_500k", "xdp.nftables_new_flow_cost_vs_ours.flows_500k",
	"fill.lost", "fill.seconds_over_setup", "fill.cost_99_vs_10",
	"scale.cost_vs_reference.flows_4m", "sweep.cost_vs_opening", "sweep.longest_slice_ms",
	"tcp.bulk_vs_bare_tc", "tcp.crr_vs_nftables", "tcp.crr_vs_bare_tc",
	"xdp.reference_vs_redirect.flows_100k",
	"proxy.bulk_vs_haproxy", "proxy.cps_vs_haproxy", "proxy.latency_vs_haproxy",
	"proxy.rss_bytes_per_idle_connection", "memory.bytes_per_flow", "load.ms",
	"control.approve_to_packet_p99_ms",
}

// WriteJSON writes metrics to a file, sorted as they came. A number that is none is an error:
// it would be a measurement that did not happen.
func WriteJSON(path string, metrics []Metric) error {
	for _, m := range metrics {
		for _, v := range []float64{m.Value, m.Min, m.Max} {
			if math.IsNaN(v) || math.IsInf(v, 0) {
				return fmt.Errorf("write %s: %s is %v", path, m.Name, v)
			}
		}
	}
	data, err := json.MarshalIndent(metrics, "", "  ")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return os.WriteFile(path, append(data, '\n'), 0o644)
}
