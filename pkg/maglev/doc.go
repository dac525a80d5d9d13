// Package maglev builds the lookup tables from which the dataplane chooses a
// backend for a new flow.
//
// A table is a permutation-filled array as in "Maglev: A Fast and Reliable
// Software Network Load Balancer" (NSDI 2016), section 3.4: every backend walks
// the places in an order of its own, derived from its name and a seed, and takes
// the next free one whenever it is its turn. Turns are as frequent as weights say.
//
// Invariants:
//   - the same names, weights, size and seed give the same table on every machine,
//     in whatever order the names are passed;
//   - a backend's share of the places differs from its share of the weights by less
//     than one turn;
//   - a backend that goes or comes moves little more than its own share.
//
// The package is pure: no I/O, no clock, no randomness. It imports the standard
// library only. Tests: go test ./pkg/maglev
package maglev
