package faults

import (
	"slices"
	"testing"
	"time"

	"github.com/privlink/privlink/pkg/dataplane"
	"github.com/privlink/privlink/pkg/lab"
	"github.com/privlink/privlink/pkg/lab/load"
	"golang.org/x/sys/unix"
)

// hooks are the ways to be attached.
var hooks = map[string]rigOptions{
	"tcx":    {consumers: 2},
	"clsact": {consumers: 2, noTCX: true},
	"xdp":    {consumers: 2, mode: dataplane.ModeXDP, wire: wire()},
}

func TestRestart_KilledManyTimes_NothingLost(t *testing.T) {
	kills := lab.Times(t, "FAULTS_KILLS", 100)
	for name, o := range hooks {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, o)
			d := r.newDaemon()
			d.start()
			r.load(load.Options{})
			var took []time.Duration
			for range (kills + len(hooks) - 1) / len(hooks) { // at least as many as asked for
				d.process.Kill()
				r.more(1)
				d.start()
				took = append(took, d.opened)
			}
			r.more(3)
			slices.Sort(took)
			t.Logf("%d kills; adopting took %v in the median, %v at worst", len(took), took[len(took)/2], took[len(took)-1])
			r.wantNothingLost()
		})
	}
}

// Killed while it starts, at moments that the test does not choose.
func TestRestart_KilledWhileStarting_NothingLost(t *testing.T) {
	for name, o := range hooks {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, o)
			d := r.newDaemon()
			d.start()
			r.load(load.Options{})
			d.process.Stop()
			for delay := time.Duration(0); delay <= 400*time.Millisecond; delay += 40 * time.Millisecond {
				p := d.launch()
				begin := time.Now()
				r.Wait("the moment to kill it", time.Second, func() error {
					if time.Since(begin) < delay {
						return errEarly
					}
					return nil
				})
				p.Kill()
			}
			d.start()
			r.more(3)
			r.wantNothingLost()
		})
	}
}

func TestUpgrade_ManyTimes_OtherProgramsAndNothingLost(t *testing.T) {
	upgrades := lab.Times(t, "FAULTS_UPGRADES", 20)
	for name, o := range hooks {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, o)
			d := r.newDaemon()
			d.start()
			r.load(load.Options{})
			before := r.programs()
			for range upgrades {
				if err := d.process.Signal(unix.SIGTERM); err != nil {
					t.Fatal(err)
				}
				if err := d.process.Wait(t.Context()); err != nil {
					t.Fatalf("the daemon's end: %v\n%s", err, d.process.Output())
				}
				d.start()
				after := r.programs()
				for on, id := range after {
					if before[on] == id || before[on] == 0 {
						t.Errorf("%s still has program %d", on, id)
					}
				}
				if len(after) != len(before) {
					t.Errorf("attached are %v, before %v", after, before)
				}
				before = after
				r.more(1)
			}
			r.wantNothingLost()
		})
	}
}
