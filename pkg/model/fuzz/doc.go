// Package fuzz sends random packets and events through the real programs and through the model of
// pkg/model, and compares what they do: decision, frame, output, flow table, port bitmaps, usage and
// counters. TC alone and XDP in front of TC both have to do what the model does.
//
// A run is cut into eras of EraPackets. Each has a topology of its own and depends on nothing but
// its seed, so the era that failed is replayed with its seed alone:
//
//	make fuzz FUZZ_SEED=S FUZZ_PACKETS=10000
//
// Invariants:
//   - the same seed gives the same packets and events;
//   - what a run has to reach (decisions, reasons, TCP phases, events, hits) is checked too: a
//     fuzzer that no longer gets anywhere fails.
//
// It imports pkg/model and pkg/model/program. Tests need root: go test ./pkg/model/fuzz
package fuzz
