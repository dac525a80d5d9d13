package flowtable

import (
	"testing"
	"time"

	"github.com/cilium/ebpf"
)

// TestStressFaults_EachOne_Seen proves that the stress can fail: it runs with one rule of the table
// broken at a time, and each must show as an error of the kind that rule prevents.
func TestStressFaults_EachOne_Seen(t *testing.T) {
	table := tableSetup(16, 8, 8, 0, 0)
	crowded := tableSetup(4, 4, 8, 0, 0)
	pairs := pairSetup(1024, 16, 512, 5)
	ports := pairSetup(65536, 8192, 16384, 150)
	damaged := func(r run) bool { return len(r.damage) > 0 }

	tests := []struct {
		name  string
		fault tableFault
		load  func() (*ebpf.CollectionSpec, error)
		setup setup
		pause uint32
		seen  func(run) bool
	}{
		{"lookup without second look at the state", tableFaultFAULT_NO_RECHECK, loadTable, table, 2000, func(r run) bool { return r.counts.Foreign > 0 }},
		{"insert without lock", tableFaultFAULT_NO_LOCK, loadTable, table, 2000, func(r run) bool { return r.counts.Duplicates > 0 }},
		{"claim without new sequence", tableFaultFAULT_SAME_SEQUENCE, loadTable, table, 2000, func(r run) bool { return r.counts.SameStates > 0 }},
		{"live before written", tableFaultFAULT_EARLY_LIVE, loadTable, table, 2000, func(r run) bool { return r.counts.Foreign+r.counts.Ghosts+r.torn > 0 }},
		{"bit after live", tableFaultFAULT_BIT_LATE, loadTable, crowded, 0, func(r run) bool { return r.counts.StaleBits > 0 }},
		{"bit stays", tableFaultFAULT_BIT_STAYS, loadTable, table, 2000, damaged},
		{"end without compare", tableFaultFAULT_BLIND_END, loadTable, table, 2000, func(r run) bool { return r.counts.Missing > 0 && !r.heldUp(table) || damaged(r) }},
		{"port without rest", tableFaultFAULT_NO_REST, loadPair, ports, 2000, func(r run) bool { return r.counts.Early > r.counts.HeldUp+1 }},
		{"end keeps the old stamp", tableFaultFAULT_LATE_STAMP, loadPair, ports, 2000, func(r run) bool { return r.counts.Early > r.counts.HeldUp+1 }},
		{"reverse half ended first", tableFaultFAULT_REVERSE_FIRST, loadPair, pairs, 2000, func(r run) bool { return r.counts.LoneHalves > 0 }},
	}
	if len(tests) != int(tableFaultFAULT_REVERSE_FIRST) {
		t.Errorf("%d of %d faults tested", len(tests), tableFaultFAULT_REVERSE_FIRST)
	}
	// Most show within a tenth of a second. What only an idle table shows needs the run's end.
	limit := max(stressTime(t)*25/100/time.Duration(len(tests)), 500*time.Millisecond)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := test.setup
			s.fault = test.fault
			s.pause = test.pause
			for attempt := range attempts {
				r := judge(t, s, test.load, limit, test.seen)
				if test.seen(r) {
					t.Logf("seen: %v", r.errors())
					return
				}
				t.Logf("attempt %d: not seen, but %v", attempt+1, r.errors())
			}
			t.Errorf("%s: not seen", test.name)
		})
	}
}
