// Package reuse holds packets up at the worst moment: after a packet found its flow and before it is
// rewritten, another CPU ends that flow, lets its ports rest, and opens another tenant's flow in the same
// slots of the table. Whatever then becomes of the packet, it must carry nothing of the other tenant and
// change nothing of his flow.
//
// The programs are the real ones, run by BPF_PROG_TEST_RUN on two threads, each on a CPU of its own; the
// hold (bpf/hold.h) is compiled in behind a constant, and ends when the other thread says so. That it can
// be seen when a rule is broken is a test as well: faults of bpf/faults.h are compiled in one by one.
//
// Tests only. They need root and two CPUs: go test ./pkg/model/reuse.
package reuse
