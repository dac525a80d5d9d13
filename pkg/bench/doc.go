// Package bench measures privlink beside what limits it and what it replaces.
//
// The question is what forwarding a packet costs. A generator inside the kernel
// (BPF_PROG_TEST_RUN with live XDP frames) sends packets from a client's namespace
// through a gateway to a sink in a server's namespace, on one core. The time per packet
// less the time of the same generator sending straight into the sink is the cost of
// what stands between. The gateways under comparison (interface Forwarder) are bare
// redirects in XDP and TC, a least-possible NAT in both (Reference), the kernel's
// forwarding, nftables NAT, and privlink. Each has a topology of its own (Lane); all are
// up at once and take turns, round by round.
//
// # Invariants
//
//   - A figure counts only if the packets were right: before the clock runs, a sink checks
//     both checksums and all addresses of a packet of every flow in both directions.
//   - Packets sent = packets received + drops that somebody counted, in every round.
//   - The time is read inside the generator, once in 64 packets: a test run itself takes 20 ms.
//   - Ratios are of minima over the rounds; medians and ranges stand beside them. The worse
//     direction counts. What goes on alike for a while is timed in short windows, and a round's figure
//     is that of its quietest: a host that takes the core away for milliseconds leaves some alone.
//   - Flows are used in another order than they were opened in, 256 per client address.
//   - What was not measured is said, never filled in.
//
// The BPF programs are in bpf/bench. LOG.md tells what was tried and what it gave.
//
// # Imports
//
// bench may import everything below cmd; nothing imports bench.
//
// # Running
//
// make bench (some minutes) or make bench-quick (under one), as root. Both print one table
// and write bench.json and the plots. Tests, as root: go test ./pkg/bench
package bench
