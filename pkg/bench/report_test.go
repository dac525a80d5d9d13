package bench

import (
	"encoding/json"
	"encoding/xml"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestWriteJSON_Metrics_ArrayOfSixFields(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bench.json")
	if err := WriteJSON(path, []Metric{{"load.ms", 12.5, "ms", 11, 14, 3}}); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var got []map[string]any
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"name": "load.ms", "value": 12.5, "unit": "ms", "min": 11.0, "max": 14.0, "rounds": 3.0}
	if len(got) != 1 || len(got[0]) != len(want) {
		t.Fatalf("got %v, want one object %v", got, want)
	}
	for k, v := range want {
		if got[0][k] != v {
			t.Errorf("%s: got %v, want %v", k, got[0][k], v)
		}
	}
}

func TestWriteJSON_NoNumber_Refused(t *testing.T) {
	for _, v := range []float64{math.NaN(), math.Inf(1)} {
		if err := WriteJSON(filepath.Join(t.TempDir(), "bench.json"), []Metric{{Name: "x", Value: v}}); err == nil {
			t.Errorf("%v was written", v)
		}
	}
}

func TestReport_LimitMissedAndMetricAbsent_BothSaid(t *testing.T) {
	var r Report
	r.Add("load.ms", 1500, "ms", 1400, 1600, 3)
	r.Add("fill.lost", 0, "flows", 0, 0, 1)
	r.Add("xdp.nftables_cost_vs_ours.flows_1", 6.9, "ratio", 6, 8, 11)
	if missed := r.Missed(); len(missed) != 2 || missed[0].Name != "load.ms" {
		t.Errorf("missed limits: got %+v", missed)
	}
	if n := len(r.Absent()); n != len(Required)-3 {
		t.Errorf("absent: got %d, want %d", n, len(Required)-3)
	}
	r.costs = []costLine{{section: "established", name: "us, forward", times: Series{150, 170}, base: Series{100, 100}, unit: "ns"}}
	r.NotMeasured("proxy", os.ErrNotExist)
	var out strings.Builder
	if err := r.Print(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"MISSED", "us, forward", "50.0 ns", "50.0..70.0", "proxy: file does not exist", "tcp.crr_vs_bare_tc"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, out.String())
		}
	}
}

func TestLimits_EveryLimit_NamesARequiredMetric(t *testing.T) {
	required := make(map[string]bool)
	for _, name := range Required {
		required[name] = true
	}
	for name := range Limits {
		if !required[name] {
			t.Errorf("limit for %s, which no run has to report", name)
		}
	}
}

func TestPlot_TwoCurves_WellFormedSVG(t *testing.T) {
	svg := Plot{Title: "a < b", Log: true, Curves: []Curve{
		{Name: "one", X: []float64{1, 1000, 4e6}, Y: []float64{50, 60, 90}},
		{Name: "two", X: []float64{1}, Y: []float64{70}},
	}}.SVG()
	lines := 0
	for d := xml.NewDecoder(strings.NewReader(svg)); ; {
		token, err := d.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatalf("%v in:\n%s", err, svg)
		}
		if e, ok := token.(xml.StartElement); ok && e.Name.Local == "polyline" {
			lines++
		}
	}
	if lines != 2 || strings.Contains(svg, "NaN") {
		t.Errorf("got %d curves, want 2, and no NaN:\n%s", lines, svg)
	}
}

func TestProgress_NoTerminal_OneLineInTenSeconds(t *testing.T) {
	var out strings.Builder
	now := time.Unix(1000, 0)
	p := NewProgress(&out, false, func() time.Time { return now })
	for range 21 {
		p.Step("working")
		now = now.Add(time.Second)
	}
	p.Done()
	if got := strings.Count(out.String(), "\n"); got != 3 {
		t.Errorf("got %d lines in 21 s, want 3:\n%s", got, out.String())
	}
}
