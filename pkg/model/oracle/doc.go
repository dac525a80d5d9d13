// Package oracle holds the same conversations through privlink and through the kernel's own NAT
// (nftables, SNAT and DNAT) in the same topology and compares how each ends: what real TCP and UDP
// stacks make of the translation is judged by an implementation that is not ours.
//
// Where the two differ on purpose stands in DIFFERENCES.md beside this file; the test reads it and
// fails for any other difference, and for one that is written down and does not happen.
//
// Tests only. They need root and nft: go test ./pkg/model/oracle. The comparison is logged, and written to the
// file that ORACLE_REPORT names; make test prints it.
package oracle
