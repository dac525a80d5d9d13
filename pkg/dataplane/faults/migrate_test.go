package faults

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/privlink/privlink/pkg/lab"
	"github.com/privlink/privlink/pkg/lab/load"
)

// A daemon that asks for another size of the flow table carries all flows over.
func TestUpgrade_OtherTableSize_NothingLost(t *testing.T) {
	for name, o := range hooks {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, o)
			d := r.newDaemon()
			d.start()
			r.load(load.Options{})
			for range 2 {
				d.process.Kill()
				d.config.Pairs ^= 1<<15 | 1<<16
				d.start()
				r.more(1)
			}
			r.wantNothingLost()
		})
	}
}

// Killed in the middle of that, or of a start that makes the configuration anew, at moments from the first sign of it on.
func TestUpgrade_KilledWhileReplacingMaps_NothingLost(t *testing.T) {
	for name, other := range map[string]func(*daemon) error{
		"flow table": func(d *daemon) error {
			d.config.Pairs ^= 1<<15 | 1<<16
			return nil
		},
		"configuration": func(d *daemon) error {
			if _, err := os.Stat(filepath.Join(d.r.bpffs, "next")); err == nil {
				return nil // the last one has still to come to its end
			}
			return lab.HalveArray(filepath.Join(d.r.bpffs, "maps", "services_v1"), "name")
		},
	} {
		t.Run(name, func(t *testing.T) { testKilledWhileReplacing(t, other) })
	}
}

func testKilledWhileReplacing(t *testing.T, other func(*daemon) error) {
	r := newRig(t, rigOptions{consumers: 2})
	d := r.newDaemon()
	d.start()
	r.load(load.Options{})
	d.process.Stop()
	under := filepath.Join(r.bpffs, "next")
	const most = 20
	caught := 0
	for i := range most {
		if err := other(d); err != nil {
			t.Fatal(err)
		}
		p := d.launch()
		var begin time.Time
		r.Wait("the moment to kill it", 20*time.Second, func() error {
			if begin.IsZero() {
				if _, err := os.Stat(filepath.Join(under, "switch")); err != nil {
					return err
				}
				begin = time.Now()
			}
			if time.Since(begin) < time.Duration(i)*5*time.Millisecond {
				return errEarly
			}
			return nil
		})
		p.Kill()
		if _, err := os.Stat(under); err == nil {
			caught++
		}
	}
	if caught < most/4 {
		t.Errorf("killed in the middle %d times of %d", caught, most)
	}
	t.Logf("killed in the middle %d times of %d", caught, most)
	d.start()
	r.more(3)
	r.wantNothingLost()
}
