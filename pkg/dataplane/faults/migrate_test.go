package faults

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
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

// Killed in the middle of that, or of a start that makes the configuration anew, at any moment.
func TestUpgrade_KilledWhileReplacingMaps_NothingLost(t *testing.T) {
	for name, other := range map[string]func(*daemon) error{
		"flow table": func(d *daemon) error {
			d.config.Pairs ^= 1<<15 | 1<<16
			return nil
		},
		"configuration": func(d *daemon) error {
			return lab.HalveArray(filepath.Join(d.r.bpffs, "maps", "services_v1"), "name")
		},
	} {
		for hook, o := range hooks {
			if name == "configuration" && hook != "tcx" {
				continue // how interfaces are switched does not depend on what is replaced
			}
			t.Run(name+" "+hook, func(t *testing.T) { testKilledWhileReplacing(t, o, other) })
		}
	}
}

// jumps says whether interfaces may jump through a switch.
func (r *rig) jumps() bool {
	_, err := os.Stat(filepath.Join(r.bpffs, "next", "switch"))
	return err == nil
}

// stage is how far a start came with replacing maps, as those see it who come after it.
func (r *rig) stage() string {
	r.t.Helper()
	under := filepath.Join(r.bpffs, "next")
	if !r.jumps() {
		return "not begun, or done"
	}
	array, err := ebpf.LoadPinnedMap(filepath.Join(under, "switch"), nil)
	if errors.Is(err, os.ErrNotExist) {
		return "done"
	}
	if err != nil {
		r.t.Fatal(err)
	}
	defer array.Close()
	next, err := ebpf.LoadPinnedProgram(filepath.Join(under, "program"), nil)
	if errors.Is(err, os.ErrNotExist) {
		return before
	}
	if err != nil {
		r.t.Fatal(err)
	}
	defer next.Close()
	info, err := next.Info()
	if err != nil {
		r.t.Fatal(err)
	}
	var target ebpf.ProgramID
	if id, _ := info.ID(); array.Lookup(uint32(0), &target) == nil && target == id {
		return after
	}
	return before
}

// Stages in which a kill leaves something to do.
const (
	before = "before the switch"
	after  = "after the switch"
)

// Each stage is hit some times, at its beginning and a little later; the start after each kill finishes what that one began.
func testKilledWhileReplacing(t *testing.T, o rigOptions, other func(*daemon) error) {
	r := newRig(t, o)
	d := r.newDaemon()
	d.start()
	r.load(load.Options{})
	d.process.Stop()
	const enough, most = 2, 60
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	draw := rand.New(rand.NewPCG(seed, 0))
	for _, target := range []string{before, after} {
		hits, kills := 0, 0
		for ; hits < enough; kills++ {
			if kills == most {
				t.Fatalf("of %d kills %d were %s", kills, hits, target)
			}
			if err := other(d); err != nil {
				t.Fatal(err)
			}
			moment := time.Duration(draw.Int64N(int64(hits)*int64(time.Millisecond) + 1)) // a stage may be as short as that
			p := d.launch()
			var begun time.Time
			for begun.IsZero() || time.Since(begun) < moment {
				if begun.IsZero() && (target == before && r.jumps() || target == after && r.stage() == after) {
					begun = time.Now()
					continue
				}
				select {
				case <-p.Exited():
					t.Fatalf("the daemon ended: %s", p.Output())
				default:
				}
				if strings.Contains(p.Output(), "ready") {
					break // it was too quick for us
				}
			}
			p.Kill()
			if r.stage() == target {
				hits++
			}
			d.start()
			if is := r.stage(); is == before || is == after {
				t.Fatalf("the next start left it %s", is)
			}
			d.process.Stop()
		}
		t.Logf("%d kills of %d were %s", hits, kills, target)
	}
	d.start()
	r.more(3)
	r.wantNothingLost()
}
