package bench

import (
	"math"
	"slices"
)

// Series is one number per round, in the order of the rounds.
type Series []float64

// Min is the smallest, NaN for none. Of times it is what the machine can do when nothing
// disturbs it, and so what ratios are made of.
func (s Series) Min() float64 {
	if len(s) == 0 {
		return math.NaN()
	}
	return slices.Min(s)
}

// Max is the largest, NaN for none.
func (s Series) Max() float64 {
	if len(s) == 0 {
		return math.NaN()
	}
	return slices.Max(s)
}

// Median is the middle one (of an even number the mean of the two in the middle), NaN for none.
func (s Series) Median() float64 {
	if len(s) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(s))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// Above subtracts the base of the same round from each number: what is left is the cost.
func (s Series) Above(base Series) Series {
	out := make(Series, min(len(s), len(base)))
	for i := range out {
		out[i] = s[i] - base[i]
	}
	return out
}

// Over divides each number by the other's of the same round.
func (s Series) Over(other Series) Series {
	out := make(Series, min(len(s), len(other)))
	for i := range out {
		out[i] = s[i] / other[i]
	}
	return out
}

// cost is the minimum of a forwarder's rounds less the minimum of the generator's own.
func cost(s, base Series) float64 { return s.Min() - base.Min() }

// costRatio compares two forwarders by their costs. The range is that of single rounds.
func costRatio(a, b, base Series) (ratio, low, high float64) {
	rounds := a.Above(base).Over(b.Above(base))
	return cost(a, base) / cost(b, base), rounds.Min(), rounds.Max()
}
