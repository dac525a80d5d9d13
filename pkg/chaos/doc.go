// Package chaos breaks things at random while mixed traffic runs through a real daemon, and counts
// what that traffic lost: it shows that privlink is never in the way for longer than its table of
// fault windows says.
//
// The arena is a gateway with a daemon, a provider whose services are plain and with a PROXY header,
// and two consumers with the same addresses; a crowd of other tenants fills the flow table. Faults
// come one after the other, in an order drawn from a seed, each kind once before any comes again.
//
// # Invariants
//
//   - What may be lost is written in one table (see Kinds), for packets, new connections and new proxied
//     ones apart, with the reason; a window begins with what was under way when the fault came.
//   - Connections that exist must survive every fault; windows excuse only packets, and new
//     connections that failed. Proxied connections end with the daemon that carries them, and only
//     the kinds that end it excuse that.
//   - A window is no longer than its kind's Most, however long the repair is waited for.
//   - Windows cover at most a quarter of the run, those of packets, of new connections and of new proxied ones each.
//
// The only fault an operator may meet that is not among them is a stepped clock, which is the whole machine's; the run
// says so, and which kinds did not come.
//
// # Imports
//
// pkg/lab and pkg/lab/load; it knows privlink by its command line only.
//
// # Running
//
// make chaos CHAOS_SECONDS=120, as root; CHAOS_SEED repeats an order. go test ./pkg/chaos runs a short one.
package chaos
