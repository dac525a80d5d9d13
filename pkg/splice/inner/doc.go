// Package inner makes and serves the inner VNet: the network between the dataplane
// and the daemon's own sockets, over which proxied connections and health probes go.
//
// It is one veth pair. The gateway's end is an attached interface like any other; the
// other end is alone in a network namespace, so that no other interface reaches the
// sockets in it and the host's firewall, routes and port range do not interfere. There is
// no ARP: both ends have the same MAC address, and every address of Prefix is on the link.
// What the dataplane in TC sends in never enters the gateway's end: it is received at the other
// one at once (bpf_redirect_peer), which saves a queue and a softirq for each packet.
//
// What leaves the inner VNet needs a dial entry (Door), or belongs to a flow that the
// dataplane brought in. Nothing else gets out.
//
// Invariants:
//   - Setup is idempotent and adopts what a killed daemon left, so that the interface, and
//     with it the dataplane's attachment, outlives a restart;
//   - Restore makes an interface anew that somebody took away, around sockets that go on; nobody removes a network that a
//     process has;
//   - a socket keeps the namespace it was made in; no thread stays in it by accident.
//
// It imports netlink, netns and the standard library, nothing of privlink. Tests need
// root: go test ./pkg/splice/inner
package inner
