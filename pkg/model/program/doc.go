// Package program runs the real packet programs on single frames, with the kernel's
// BPF_PROG_TEST_RUN, as pkg/model runs its specification: the same configuration in,
// decision, frame, table and counters out.
//
// Invariants:
//   - Nothing is attached or pinned, no frame leaves: the programs run on memory. What they
//     decided they record themselves, as the kernel shows no redirect target.
//   - Time and randomness come from the caller (test_mode in bpf/clock.h).
//   - With Options.XDP a frame goes to XDP first and, when that passes it up, to TC, as on
//     an interface that carries both.
//   - The devices that frames come in on stand in a network namespace without a name; it
//     goes with the goroutine that made it.
//
// What cannot be fed: frames under 34 bytes or over a page, partial checksums.
//
// It imports pkg/model, pkg/dataplane (objects and layouts) and netlink; only tests and the
// fuzzer import it. Tests: go test ./pkg/model/... as root.
package program
