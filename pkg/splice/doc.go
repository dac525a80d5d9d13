// Package splice carries the TCP flows of services that want PROXY protocol headers.
//
// The dataplane steers such a flow to a listener in the inner VNet, as if that were the
// rule's only backend: approval, quota, ports and counters are those of any other flow. The
// splice asks the dataplane who is calling (Gateway.Identify), dials a backend through a
// dial entry, writes the header in one write, and then moves bytes with splice(2).
//
// Invariants:
//   - the identity of a connection comes from the flow table, never from a packet's address alone;
//   - the header is the first thing a backend reads, whole or not at all;
//   - an end of stream is passed on for its direction only, a reset as a reset; until both
//     streams have ended in order, closing a socket resets it, so that the death of the process
//     never looks like a finished answer;
//   - an idle connection holds two descriptors; pipes are held only while they hold data;
//   - a link that asks for much and takes nothing holds a first window for each of its connections and its part of the
//     pipes: what may be under way grows with what was taken, up to the link's share (see limits.go);
//   - an event loop owns its connections: nothing else touches them; none of its system calls blocks, but
//     for some milliseconds that which waits for the next event.
//
// Files: gateway.go what the dataplane must offer, server.go life cycle and limits, loop.go
// the event loop, conn.go a connection's states, dial.go the way to a backend, spare.go sockets for it,
// pump.go moving data, call.go system calls, idle.go timeouts. How servers read the header: SERVERS.md.
//
// The package imports pkg/splice/inner, pkg/splice/header, logrus, client_golang and x/sys. The dataplane
// implements Gateway; splice does not import it. Tests need root: go test ./pkg/splice
package splice
