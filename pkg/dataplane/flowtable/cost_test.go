package flowtable

import (
	"math/rand/v2"
	"testing"

	"github.com/cilium/ebpf"
)

//go:generate go tool bpf2go -target amd64,arm64 cost ../../../bpf/test/flow_bench.c -- -I../../../bpf

// newCost loads the programs with a table and a HASH that hold the same keys, the table half full.
func newCost(tb testing.TB, keys uint32) *costObjects {
	tb.Helper()
	spec, err := loadCost()
	if err != nil {
		tb.Fatal(err)
	}
	var seed [5]uint64
	for i := range seed {
		seed[i] = rand.Uint64() | 1
	}
	for name, value := range map[string]any{"flow_homes": 2 * keys, "flow_seed": seed, "bench_keys": keys} {
		if err := spec.Variables[name].Set(value); err != nil {
			tb.Fatalf("set %s: %v", name, err)
		}
	}
	spec.Maps["flows_v1"].MaxEntries = 2*keys + window
	spec.Maps["hash"].MaxEntries = keys + 1024
	var o costObjects
	if err := spec.LoadAndAssign(&o, nil); err != nil {
		tb.Fatalf("load programs: %v", err)
	}
	tb.Cleanup(func() { o.Close() })

	filled := uint32(0)
	for range keys / turns(tb, &o) {
		filled += runCost(tb, &o, o.Fill)
	}
	// A full window refuses a few of a million.
	if filled < keys*99/100 {
		tb.Fatalf("filled %d of %d keys", filled, keys)
	}
	return &o
}

// turns is how many operations one run of a program does.
func turns(tb testing.TB, o *costObjects) (n uint32) {
	tb.Helper()
	if err := o.BenchTurns.Get(&n); err != nil {
		tb.Fatalf("read bench_turns: %v", err)
	}
	return n
}

// runCost runs a program once, and returns how many of its turns did what they should.
func runCost(tb testing.TB, o *costObjects, program *ebpf.Program) (done uint32) {
	tb.Helper()
	if _, err := program.Run(&ebpf.RunOptions{Data: make([]byte, 64)}); err != nil {
		tb.Fatalf("run program: %v", err)
	}
	if err := o.BenchDone.Get(&done); err != nil {
		tb.Fatalf("read bench_done: %v", err)
	}
	return done
}

// operations are what is compared.
func operations(o *costObjects) map[string]*ebpf.Program {
	return map[string]*ebpf.Program{
		"find/table": o.FindTable,
		"find/hash":  o.FindHash,
		"open/table": o.OpenTable,
		"open/hash":  o.OpenHash,
	}
}

func TestCost_EveryOperation_DoesWhatIsTimed(t *testing.T) {
	o := newCost(t, 10_000)
	for name, program := range operations(o) {
		if done, want := runCost(t, o, program), turns(t, o)*99/100; done < want {
			t.Errorf("%s: %d turns, at least %d expected", name, done, want)
		}
	}
}

// BenchmarkCost times one find, and one opening with its end, in nanoseconds of kernel time; some of
// it is the loop and the random number. 100,000 keys.
func BenchmarkCost(b *testing.B) {
	o := newCost(b, 100_000)
	for name, program := range operations(o) {
		b.Run(name, func(b *testing.B) {
			n := turns(b, o)
			_, total, err := program.Benchmark(make([]byte, 64), max(b.N/int(n), 1), b.ResetTimer)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(total.Nanoseconds())/float64(n), "kernel-ns/op")
		})
	}
}
