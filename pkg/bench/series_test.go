package bench

import (
	"math"
	"testing"
)

func TestSeries_OddEvenEmpty_MinMedianMax(t *testing.T) {
	for _, c := range []struct {
		s                Series
		low, middle, top float64
	}{
		{Series{3, 1, 2}, 1, 2, 3},
		{Series{4, 1, 2, 3}, 1, 2.5, 4},
		{Series{7}, 7, 7, 7},
	} {
		if c.s.Min() != c.low || c.s.Median() != c.middle || c.s.Max() != c.top {
			t.Errorf("%v: got %v %v %v, want %v %v %v", c.s, c.s.Min(), c.s.Median(), c.s.Max(), c.low, c.middle, c.top)
		}
	}
	if !math.IsNaN(Series(nil).Min()) || !math.IsNaN(Series(nil).Median()) || !math.IsNaN(Series(nil).Max()) {
		t.Error("an empty series has a minimum, median or maximum")
	}
	if s := (Series{3, 1, 2}); s.Median() != 2 || s[0] != 3 {
		t.Error("the median reorders the rounds")
	}
}

func TestCostRatio_NoisyRounds_UsesMinimaAndGivesTheRangeOfRounds(t *testing.T) {
	base := Series{100, 110, 100}
	a := Series{300, 260, 900}
	b := Series{250, 210, 200}
	ratio, low, high := costRatio(a, b, base)
	if want := 160.0 / 100; ratio != want {
		t.Errorf("ratio of minima: got %v, want %v", ratio, want)
	}
	if low != 200.0/150 || high != 8 {
		t.Errorf("range: got %v..%v, want %v..8", low, high, 200.0/150)
	}
}

func TestComparison_TwoDirections_TheWorseCounts(t *testing.T) {
	base, ours, theirs := &Lane{Name: "base"}, &Lane{Name: "ours"}, &Lane{Name: "theirs"}
	c := &Comparison{Base: base, Lanes: []*Lane{ours, theirs}}
	times := make(timings)
	for d, ns := range map[Direction][3]float64{Forward: {100, 150, 200}, Reverse: {100, 180, 200}} {
		times.add(base, d, ns[0])
		times.add(ours, d, ns[1])
		times.add(theirs, d, ns[2])
	}
	var r Report
	c.ratio(&r, "cost", times, "ours", "theirs", false)
	c.ratio(&r, "gain", times, "theirs", "ours", true)
	c.ratio(&r, "absent", times, "ours", "nobody", false)
	if len(r.Metrics) != 2 || r.Metrics[0].Value != 0.8 || r.Metrics[1].Value != 1.25 {
		t.Errorf("got %+v, want cost 0.8 and gain 1.25", r.Metrics)
	}
}
