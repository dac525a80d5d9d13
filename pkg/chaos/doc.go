// Package chaos breaks things at random while mixed traffic runs through a real daemon, and counts
// what that traffic lost: it shows that privlink is never in the way for longer than its table of
// fault windows says.
//
// The arena is a gateway with a daemon, a provider whose services are plain and with a PROXY header,
// and two consumers with the same addresses. Faults come one after the other, in an order drawn from
// a seed, each kind once before any comes again.
//
// # Invariants
//
//   - What may be lost is written in one table (see Kinds), for plain traffic and for proxied
//     connections apart; a window begins with what was under way when the fault came.
//   - Connections that exist must survive every fault; windows excuse only packets, and new
//     connections that failed. Proxied connections end with the daemon that carries them, and only
//     the kinds that end it excuse that.
//   - A window is no longer than its kind's Most, however long the repair is waited for.
//   - Windows cover at most a quarter of the run, of plain traffic and of proxied connections each.
//
// Not among the faults: a full flow table, which would fill up for minutes (see TestTable_Full in
// pkg/dataplane/faults), and a stepped clock, which is the whole machine's.
//
// # Imports
//
// pkg/lab and pkg/lab/load; it knows privlink by its command line only.
//
// # Running
//
// make chaos CHAOS_SECONDS=120, as root; CHAOS_SEED repeats an order. go test ./pkg/chaos runs a short one.
package chaos
