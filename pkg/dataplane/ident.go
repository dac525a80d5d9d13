package dataplane

import (
	"hash/fnv"
	"strconv"
)

// ident is the hash by which a restarted daemon finds a slot again: FNV-64a over the parts,
// each preceded by its length so that ("ab","c") and ("a","bc") differ. Never 0, which means
// that a slot is nobody's.
func ident(parts ...string) uint64 {
	h := fnv.New64a()
	for _, p := range parts {
		// Writes to a hash cannot fail.
		_, _ = h.Write([]byte(strconv.Itoa(len(p))))
		_, _ = h.Write([]byte{':'})
		_, _ = h.Write([]byte(p))
	}
	if sum := h.Sum64(); sum != 0 {
		return sum
	}
	return 1
}
