// Package flowtable reads the flow table of the packet programs while they use it, and holds the
// tests of that table.
//
// The table is a mmapable ARRAY of 64-byte entries (bpf/flowtable.h says what stands in them and who
// may write it). Table maps it read-only; nothing in this package writes an entry.
//
// Invariants: an entry is returned only if its state word was the same before and after it was
// copied, so it is never put together of two. What is returned may be out of date at once.
//
// The package knows the layout of the state word, and nothing of the rest: the type of an entry is
// the caller's, as bpf2go generated it from bpf/types.h.
//
// It may import the standard library, cilium/ebpf and golang.org/x/sys.
//
// Tests: `go test ./pkg/dataplane/flowtable`, as root. The stress (TestStress...) compiles
// bpf/test/flow_table_stress.c and flow_pair_stress.c against bpf/flowtable.h and runs them on all
// CPUs, up to eight, for PRIVLINK_STRESS_SECONDS (default 60). Every fault of enum fault in bpf/faults.h
// that is of the table is compiled in by a constant, one at a time, and must be seen: up to a quarter more.
// `-bench Cost` puts a find and an opening beside those of a preallocated HASH (bpf/test/flow_bench.c).
package flowtable
