package maglev

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"slices"
)

// PlacesPerBackend is how many places a table has for each backend, unless the
// limits of Size say otherwise. More places make removals move less.
const PlacesPerBackend = 1000

// sizes are the primes a table may have as its size. A prime makes every step
// width visit every place.
var sizes = [...]uint32{16381, 24571, 32749, 49157, 65521, 98299, 131071}

// Size returns the number of places for a table of that many backends: the
// smallest listed prime of at least PlacesPerBackend each, 16,381..131,071.
func Size(backends int) uint32 {
	for _, size := range sizes {
		if int64(size) >= int64(backends)*PlacesPerBackend {
			return size
		}
	}
	return sizes[len(sizes)-1]
}

// walk is one backend's way through the places.
type walk struct {
	name   string
	index  uint32 // in the caller's list
	weight uint32
	credit uint32 // a turn costs the greatest weight
	place  uint32 // where it looks next
	step   uint32 // 1..size-1
}

// Build returns a table of size places, each the index of a name. Weights belong
// to the names by position; a name without one, or a nil list, counts as 1, and
// weight 0 gets no place. size must be a prime (see Size); the seed must be the
// same on all nodes. Build returns nil when no name has a weight.
func Build(names []string, weights []uint16, size uint32, seed [2]uint64) []uint32 {
	walks, greatest := newWalks(names, weights, size, seed)
	if greatest == 0 || size < 2 {
		return nil
	}

	table := make([]uint32, size)
	// One bit per place: 16 kB for the largest table, so that the many looks at
	// places already taken stay in the first-level cache.
	taken := make([]uint64, (size+63)/64)
	for left := size; ; {
		for i := range walks {
			w := &walks[i]
			w.credit += w.weight
			if w.credit < greatest {
				continue
			}
			w.credit -= greatest

			place := w.place
			for taken[place/64]&(1<<(place%64)) != 0 {
				if place += w.step; place >= size {
					place -= size
				}
			}
			taken[place/64] |= 1 << (place % 64)
			table[place] = w.index
			w.place = place
			if left--; left == 0 {
				return table
			}
		}
	}
}

// newWalks returns the walks in the order of their names, which makes the table
// independent of the caller's order, and the greatest weight.
func newWalks(names []string, weights []uint16, size uint32, seed [2]uint64) ([]walk, uint32) {
	walks := make([]walk, 0, len(names))
	var greatest uint32
	for i, name := range names {
		weight := uint32(1)
		if i < len(weights) {
			weight = uint32(weights[i])
		}
		if weight == 0 || size < 2 {
			continue
		}
		greatest = max(greatest, weight)
		place, step := start(name, size, seed)
		walks = append(walks, walk{name: name, index: uint32(i), weight: weight, place: place, step: step})
	}
	slices.SortStableFunc(walks, func(a, b walk) int { return cmp.Compare(a.name, b.name) })
	return walks, greatest
}

// start derives where a name begins (0..size-1) and how far it steps (1..size-1).
func start(name string, size uint32, seed [2]uint64) (place, step uint32) {
	input := make([]byte, 16, 16+len(name))
	binary.LittleEndian.PutUint64(input[0:], seed[0])
	binary.LittleEndian.PutUint64(input[8:], seed[1])
	sum := sha256.Sum256(append(input, name...))
	place = uint32(binary.LittleEndian.Uint64(sum[0:]) % uint64(size))
	step = uint32(binary.LittleEndian.Uint64(sum[8:])%uint64(size-1)) + 1
	return place, step
}
