package dataplane

import (
	"context"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The clock of the wall jumps a day ahead and two back under a connection: nothing that privlink does goes by it.
func TestClock_SteppedBothWays_FlowsStayAndNewOnesOpen(t *testing.T) {
	if !emulated() {
		t.Skip("the clock of this machine is everybody's: make test-kernels steps that of a machine of its own")
	}
	g, consumer, provider, s := newPair(t)
	g.open()
	echo(t, provider, "10.0.1.4:8080")
	g.apply(s)
	c, err := dial(consumer, "10.0.1.10:80")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, step := range []time.Duration{24 * time.Hour, -48 * time.Hour, 24 * time.Hour} {
		var now unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_REALTIME, &now); err != nil {
			t.Fatal(err)
		}
		now.Sec += int64(step / time.Second)
		if err := unix.ClockSettime(unix.CLOCK_REALTIME, &now); err != nil {
			t.Fatal(err)
		}
		_, sweeps, _ := g.d.Sweep()
		g.Wait("two sweeps", 20*time.Second, func() error {
			if _, now, _ := g.d.Sweep(); now < sweeps+2 {
				return context.DeadlineExceeded
			}
			return nil
		})
		if err := say(c, "still there?\n"); err != nil {
			t.Fatalf("after a step of %v: %v", step, err)
		}
		g.apply(s)
		fresh, err := dial(consumer, "10.0.1.10:80")
		if err != nil {
			t.Fatalf("after a step of %v: %v", step, err)
		}
		if err := say(fresh, "and new ones?\n"); err != nil {
			t.Fatalf("after a step of %v: %v", step, err)
		}
		fresh.Close()
		err = g.d.Flows(context.Background(), func(f Flow) bool {
			if f.Age > 60 {
				t.Errorf("after a step of %v a flow is %d s old", step, f.Age)
			}
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
