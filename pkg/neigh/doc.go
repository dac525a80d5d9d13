// Package neigh speaks ARP for addresses that no host's network stack knows: it finds out
// where backends and next hops are (Resolver), whether an address is free before privlink
// answers for it, and makes it known afterwards (Prober, RFC 5227).
//
// The two are state machines without threads, clocks or sockets of their own: the owner calls
// Tick when the time they asked for has come and Heard with what the network said, and
// gives them a Transmit to send frames with. Answers are seen by the packet programs, which
// report them; Socket only sends.
//
// Invariants: an address is never announced before it was probed on every port of its
// network; a neighbour that stops answering keeps its last MAC, as a wrong "gone" would
// end its flows.
//
// It imports nothing of privlink. Tests: go test ./pkg/neigh/
package neigh
