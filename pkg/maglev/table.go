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
	place  uint32 // where it looks next: the place it took last, but before its first turn
	step   uint32 // 1..size-1
	weight uint32
	credit uint32 // a turn costs the greatest weight
	index  uint32 // in the caller's list
}

// lastPlaces is how many free places are left when it is quicker to ask for each where it stands on a backend's way than
// to walk on: a walk looks at size/left places to find a free one, at half of a large table's looks in all
// for its last hundredth.
const lastPlaces = 192

// Build returns a table of size places, each the index of a name. Weights belong
// to the names by position; a name without one, or a nil list, counts as 1, and
// weight 0 gets no place. size must be a prime (see Size); the seed must be the
// same on all nodes. Build returns nil when no name has a weight.
func Build(names []string, weights []uint16, size uint32, seed [2]uint64) []uint32 {
	walks, greatest := newWalks(names, weights, size, seed)
	if greatest == 0 || size < 2 {
		return nil
	}
	b := &builder{table: make([]uint32, size), taken: make([]uint64, (size+63)/64), size: size}
	for left := size; ; {
		for i := range walks {
			w := &walks[i]
			w.credit += w.weight
			if w.credit < greatest {
				continue
			}
			w.credit -= greatest
			if left > lastPlaces {
				w.place = b.walk(w.place, w.step)
			} else {
				w.place = b.nearest(w, i, len(walks))
			}
			b.taken[w.place/64] |= 1 << (w.place % 64)
			b.table[w.place] = w.index
			if left--; left == 0 {
				return b.table
			}
		}
	}
}

// builder is a table in the making.
type builder struct {
	table []uint32
	// taken has one bit per place: 16 kB for the largest table, so that the many looks at places already taken stay in the
	// first-level cache.
	taken []uint64
	size  uint32
	// free are the last places, from the first call of nearest on, and inverses those of the walks' steps.
	free     []uint32
	inverses []uint32
}

// walk goes on from a place until it finds a free one.
func (b *builder) walk(place, step uint32) uint32 {
	taken, size := b.taken, b.size // in registers
	for taken[place/64]&(1<<(place%64)) != 0 {
		if place += step; place >= size {
			place -= size
		}
	}
	return place
}

// nearest is what walk would find for the walk with an index, by arithmetic: a place p is (p - w.place) / w.step steps
// away, modulo the size.
func (b *builder) nearest(w *walk, index, walks int) uint32 {
	if b.free == nil {
		b.inverses = make([]uint32, walks)
		for place := range b.size {
			if b.taken[place/64]&(1<<(place%64)) == 0 {
				b.free = append(b.free, place)
			}
		}
	}
	if b.inverses[index] == 0 {
		b.inverses[index] = inverse(w.step, b.size)
	}
	factor, size := uint64(b.inverses[index]), uint64(b.size)
	least, at := size, 0
	for i, place := range b.free {
		if steps := (uint64(place) + size - uint64(w.place)) * factor % size; steps < least {
			least, at = steps, i
		}
	}
	place := b.free[at]
	b.free[at] = b.free[len(b.free)-1]
	b.free = b.free[:len(b.free)-1]
	return place
}

// inverse is 1/step modulo a prime (Fermat: step^(prime-2)).
func inverse(step, prime uint32) uint32 {
	result, base, p := uint64(1), uint64(step), uint64(prime)
	for e := prime - 2; e > 0; e >>= 1 {
		if e&1 == 1 {
			result = result * base % p
		}
		base = base * base % p
	}
	return uint32(result)
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
		walks = append(walks, walk{index: uint32(i), weight: weight, place: place, step: step})
	}
	slices.SortStableFunc(walks, func(a, b walk) int { return cmp.Compare(names[a.index], names[b.index]) })
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
