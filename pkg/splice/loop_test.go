package splice

import (
	"runtime"
	"testing"
	"time"
)

// TestLoop_GapsOfAnyLength_EveryPieceIsMoved goes back and forth between the two ways of waiting: a change from one to
// the other that loses what happens meanwhile leaves a piece where it is.
func TestLoop_GapsOfAnyLength_EveryPieceIsMoved(t *testing.T) {
	for name, processors := range map[string]int{"all processors": runtime.GOMAXPROCS(0), "one processor": 1} {
		t.Run(name, func(t *testing.T) {
			before := runtime.GOMAXPROCS(processors)
			t.Cleanup(func() { runtime.GOMAXPROCS(before) })
			r := startRig(t, func(c *Config, _ *fakeGateway) { c.Loops = 1 })
			r.stopTimer()
			consumer, server := r.pair()
			for round := range 20 {
				for _, gap := range []time.Duration{0, 0, closely / 2, closely, 2 * closely, tenure, vigil * time.Millisecond, 2 * vigil * time.Millisecond} {
					mustWrite(t, consumer, "request")
					mustRead(t, server, "request")
					mustWrite(t, server, "response")
					mustRead(t, consumer, "response")
					time.Sleep(gap)
				}
				if round%4 == 0 {
					runtime.GC() // interrupts a loop that waits with its processor kept
				}
			}
		})
	}
}
