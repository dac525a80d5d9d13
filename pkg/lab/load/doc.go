// Package load sends mixed traffic between namespaces of a lab and accounts for all of it: UDP
// datagrams with sequence numbers, one connection that never ends, short connections and checked
// bulk transfers. What was lost or broken is reported with its time, so that a test that breaks
// something can tell what it broke from what it must not have.
//
// # Invariants
//
//   - Every datagram and every connection that began is in the report, as good or as lost.
//   - A datagram counts as lost when its echo is not back some time after the stream ended, never
//     because of how long it took.
//   - Receive buffers are as large as several seconds of a stream, so that a busy machine is not
//     taken for a lossy network.
//
// # Imports
//
// pkg/lab and nothing else of privlink.
//
// # Tests
//
// As root: go test ./pkg/lab/load
package load
