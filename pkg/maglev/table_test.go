package maglev

import (
	"fmt"
	"math/big"
	"slices"
	"testing"
	"time"
)

var testSeed = [2]uint64{0x70726976, 0x6c696e6b}

func names(n int) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf("10.1.%d.%d:443", i/250, i%250)
	}
	return list
}

// counts returns how many places each of n backends has.
func counts(table []uint32, n int) []int {
	list := make([]int, n)
	for _, index := range table {
		list[index]++
	}
	return list
}

func TestSize_Backends_ReturnsListedPrime(t *testing.T) {
	for _, c := range []struct {
		backends int
		want     uint32
	}{
		{0, 16381}, {1, 16381}, {8, 16381}, {16, 16381}, {17, 24571}, {32, 32749},
		{33, 49157}, {65, 65521}, {98, 98299}, {100, 131071}, {131, 131071}, {100000, 131071},
	} {
		if got := Size(c.backends); got != c.want {
			t.Errorf("Size(%d) = %d, want %d", c.backends, got, c.want)
		}
	}
	for _, size := range sizes {
		if !big.NewInt(int64(size)).ProbablyPrime(20) {
			t.Errorf("size %d is not a prime: a step would not visit every place", size)
		}
	}
}

func TestBuild_NothingToChoose_ReturnsNil(t *testing.T) {
	for name, table := range map[string][]uint32{
		"no names":    Build(nil, nil, 16381, testSeed),
		"all weigh 0": Build(names(2), []uint16{0, 0}, 16381, testSeed),
		"no places":   Build(names(2), nil, 0, testSeed),
	} {
		if table != nil {
			t.Errorf("%s: got a table of %d places, want nil", name, len(table))
		}
	}
}

func TestBuild_EqualWeights_SharesAreEven(t *testing.T) {
	for _, n := range []int{1, 2, 3, 8, 16, 100, 1000} {
		size := Size(n)
		for i, got := range counts(Build(names(n), nil, size, testSeed), n) {
			// A turn more or less is the most that two equal backends can differ by.
			if even := int(size) / n; got < even || got > even+1 {
				t.Errorf("%d backends: number %d has %d places, want %d or one more", n, i, got, even)
			}
		}
	}
}

func TestBuild_Weights_SharesFollow(t *testing.T) {
	for _, weights := range [][]uint16{{1, 3}, {100, 1}, {1, 1, 2, 4, 8}, {7, 0, 5}} {
		total := 0
		for _, w := range weights {
			total += int(w)
		}
		size := Size(len(weights))
		got := counts(Build(names(len(weights)), weights, size, testSeed), len(weights))
		for i, w := range weights {
			want := float64(size) * float64(w) / float64(total)
			if diff := float64(got[i]) - want; diff < -2 || diff > 2 {
				t.Errorf("weights %v: number %d has %d places, want %.1f", weights, i, got[i], want)
			}
		}
	}
}

func TestBuild_SameInputInAnyOrder_SameTable(t *testing.T) {
	list := names(8)
	weights := []uint16{1, 2, 3, 4, 1, 2, 3, 4}
	table := Build(list, weights, 16381, testSeed)
	if again := Build(list, weights, 16381, testSeed); !slices.Equal(table, again) {
		t.Error("the same call gave another table")
	}

	turned, turnedWeights := slices.Clone(list), slices.Clone(weights)
	slices.Reverse(turned)
	slices.Reverse(turnedWeights)
	other := Build(turned, turnedWeights, 16381, testSeed)
	for place := range table {
		if list[table[place]] != turned[other[place]] {
			t.Fatalf("place %d: %s, but %s with the names in another order", place, list[table[place]], turned[other[place]])
		}
	}

	if different := Build(list, weights, 16381, [2]uint64{1, 2}); slices.Equal(table, different) {
		t.Error("another seed gave the same table")
	}
}

// TestBuild_KnownInput_StaysTheSame pins the algorithm: nodes of two versions must agree.
func TestBuild_KnownInput_StaysTheSame(t *testing.T) {
	table := Build([]string{"a", "b", "c"}, []uint16{1, 1, 2}, 23, testSeed)
	want := []uint32{2, 2, 2, 2, 1, 0, 2, 2, 0, 0, 2, 1, 0, 1, 0, 1, 2, 2, 2, 1, 0, 1, 2}
	if !slices.Equal(table, want) {
		t.Errorf("table = %v, want %v", table, want)
	}
}

// walked is Build without arithmetic: every backend walks until it finds a free place.
func walked(names []string, weights []uint16, size uint32) []uint32 {
	walks, greatest := newWalks(names, weights, size, testSeed)
	table, taken := make([]uint32, size), make([]bool, size)
	for left := size; ; {
		for i := range walks {
			w := &walks[i]
			if w.credit += w.weight; w.credit < greatest {
				continue
			}
			w.credit -= greatest
			for taken[w.place] {
				w.place = (w.place + w.step) % size
			}
			taken[w.place], table[w.place] = true, w.index
			if left--; left == 0 {
				return table
			}
		}
	}
}

func TestBuild_LastPlaces_AreThoseOfTheWalk(t *testing.T) {
	for _, weights := range [][]uint16{nil, {1, 3, 100, 7, 0, 1}} {
		for _, n := range []int{1, 2, 8, 100, 300} {
			if got := Build(names(n), weights, Size(n), testSeed); !slices.Equal(got, walked(names(n), weights, Size(n))) {
				t.Errorf("%d backends of weights %v: another table", n, weights)
			}
		}
	}
}

// moved is the share of places that name somebody else after one of n backends went.
func moved(n, gone int, weights []uint16, size uint32) float64 {
	before := names(n)
	after := slices.Delete(slices.Clone(before), gone, gone+1)
	var afterWeights []uint16
	if weights != nil {
		afterWeights = slices.Delete(slices.Clone(weights), gone, gone+1)
	}
	a := Build(before, weights, size, testSeed)
	b := Build(after, afterWeights, size, testSeed)
	count := 0
	for place := range a {
		if before[a[place]] != after[b[place]] {
			count++
		}
	}
	return float64(count) / float64(size)
}

func TestBuild_OneBackendRemoved_MovesLittleMoreThanItsShare(t *testing.T) {
	for _, n := range []int{2, 3, 8, 16, 32, 100, 1000} {
		size := Size(n)
		worst := 0.0
		for gone := 0; gone < n; gone += max(1, n/16) {
			worst = max(worst, moved(n, gone, nil, size))
		}
		limit := 1/float64(n) + 0.02
		t.Logf("%4d backends, %6d places: %.4f moved, limit %.4f", n, size, worst, limit)
		if worst >= limit {
			t.Errorf("%d backends: removing one moved %.4f, want under %.4f", n, worst, limit)
		}
	}
}

func TestBuild_WeightedBackendRemoved_MovesLittleMoreThanItsShare(t *testing.T) {
	weights := []uint16{1, 3, 1, 3, 1, 3, 1, 3}
	for gone, weight := range weights {
		limit := float64(weight)/16 + 0.02
		if got := moved(8, gone, weights, Size(8)); got >= limit {
			t.Errorf("removing weight %d of 16 moved %.4f, want under %.4f", weight, got, limit)
		}
	}
}

func TestBuild_ThousandTablesOfEight_WellUnderASecond(t *testing.T) {
	list := names(8)
	start := time.Now()
	for i := range uint64(1000) {
		Build(list, nil, Size(8), [2]uint64{i, 0})
	}
	took := time.Since(start)
	t.Logf("1,000 tables of 8 backends: %v", took)
	// The race detector and a busy machine slow this down; alone it takes about 0.4 s.
	if took > 2*time.Second {
		t.Errorf("1,000 tables took %v, want well under a second", took)
	}
}

func BenchmarkBuild(b *testing.B) {
	for _, n := range []int{8, 100, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			list := names(n)
			for b.Loop() {
				Build(list, nil, Size(n), testSeed)
			}
		})
	}
}
