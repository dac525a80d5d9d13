// Package dataplane is everything between the resources and the kernel: it loads the programs
// of bpf/, keeps their maps, programs and links pinned, attaches interfaces, makes the maps
// match a State, sweeps the flow table, resolves neighbours and reads the counters.
//
// It knows nothing of ARM: names are opaque keys (see State).
//
// Invariants:
//
//   - One owner: a lock on the bpffs folder keeps a second daemon out; inside the
//     process Dataplane.mu guards the plan and every write to a map.
//   - Apply is idempotent, and orders its writes so that no packet sees a half-made decision: what
//     is new is complete before anything points to it, what goes is unreachable before it is
//     cleared, and one word decides (the link's, the backend's, the pointer to a Maglev table, or a
//     place of one that keeps its size: see rewriteTable).
//   - A State is everybody's: what of it has no place in the kernel's tables is left out and named
//     (Result.Failed), and keeps nothing else from being applied.
//   - A name keeps its number (link, rule, backend, network, output) over restarts, by the ident
//     hash that stands beside it in the kernel; a number that was given back rests two sweeps.
//   - A flow table of another layout or size, and configuration of another layout, are replaced while packets pass: every flow
//     with its port is carried over, and no program reads configuration that was not filled (migration). A field that only
//     the kernel knows is found by its name, or the start is refused; so it is where ports, quotas or the table's counts
//     would have to change their layout. What becomes of each map is said in one table (layouts).
//   - Closing leaves everything forwarding. Down removes what privlink made, and nothing else.
//
// It imports pkg/neigh (ARP), pkg/maglev (tables) and pkg/splice (whose Gateway it is), and nothing of
// privlink's above itself.
//
// Files: state.go and result.go are the contract; plan.go compiles a State, apply.go writes it,
// interfaces.go and attach.go deal with interfaces, kernel.go and bpffs.go with what is loaded and
// pinned, migrate.go, layout.go and carry.go with maps of another version, run.go with what happens by itself,
// sweep.go and ending.go with flows that end, flows.go, stats.go, audit.go and differ.go read, repair.go puts back what others
// changed, features.go asks what the kernel can do, door.go serves the splice path and the probes, cost.go measures what
// loading the programs takes (testdata/verifier has the budgets).
//
// Tests need root and a kernel of 6.1 or newer: go test ./pkg/dataplane/
package dataplane
