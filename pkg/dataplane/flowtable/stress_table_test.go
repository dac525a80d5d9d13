package flowtable

import (
	"fmt"
	"testing"
	"time"

	"github.com/cilium/ebpf"
)

// How often a run is repeated whose workers were held up for too long to judge it.
const attempts = 5

// tableSetup makes a stress of single entries: `private` keys of each worker, `shared` ones of all,
// times in ticks of about a millisecond.
func tableSetup(homes, private, shared, grace, rest uint32) setup {
	return setup{
		name:         fmt.Sprintf("%d_homes_%d_and_%d_keys", homes, private, shared),
		homes:        homes,
		expected:     "expectations",
		expectedSize: maxWorkers * private,
		constants: map[string]uint32{
			"private_keys": private,
			"shared_keys":  shared,
			"stress_idle":  200,
			"stress_grace": grace,
			"stress_rest":  rest,
		},
	}
}

// pairSetup makes a stress of pairs: `clients` that share `ports` NAT ports.
func pairSetup(homes, clients, ports, rest uint32) setup {
	return setup{
		name:         fmt.Sprintf("%d_homes_%d_clients_%d_ports_rest_%d", homes, clients, ports, rest),
		homes:        homes,
		expected:     "ended_ports",
		expectedSize: ports,
		constants: map[string]uint32{
			"clients":     clients,
			"ports":       ports,
			"stress_idle": 50,
			// An ended entry keeps its slot for as long as a port rests, and never less than the
			// holder of a slot number needs.
			"stress_grace": max(rest, 20),
			"stress_rest":  rest,
			"orphan_age":   2000,
		},
	}
}

// judge runs a setup, again if the machine was too busy for it to prove anything.
func judge(t *testing.T, s setup, load func() (*ebpf.CollectionSpec, error), duration time.Duration, enough func(run) bool) run {
	t.Helper()
	for attempt := 1; ; attempt++ {
		spec, err := load()
		if err != nil {
			t.Fatalf("read stress object: %v", err)
		}
		r := stress(t, s, spec, duration, enough)
		t.Logf("%s: %s", s, r)
		if !r.heldUp(s) || attempt == attempts {
			return r
		}
		t.Logf("%s: held up for %d ticks, once more", s, r.counts.HeldUp)
	}
}

// all gives each setup fast and slow, on alternating hooks.
func all(setups ...setup) []setup {
	var list []setup
	for i, s := range setups {
		for _, pause := range []uint32{0, 400} {
			s.pause = pause
			s.tc = (pause > 0) == (i%2 == 0)
			list = append(list, s)
		}
	}
	return list
}

func TestStressTable_AllSizes_NoError(t *testing.T) {
	setups := all(
		tableSetup(1, 4, 6, 0, 0),
		tableSetup(1, 20, 20, 10, 5),
		tableSetup(16, 8, 8, 0, 0),
		tableSetup(256, 64, 32, 20, 10),
		tableSetup(4096, 1024, 256, 0, 0),
		tableSetup(65536, 8192, 4096, 20, 20),
		tableSetup(1<<20, 65536, 65536, 50, 0),
	)
	each := stressTime(t) * 60 / 100 / time.Duration(len(setups))
	for _, s := range setups {
		t.Run(s.String(), func(t *testing.T) {
			r := judge(t, s, loadTable, each, nil)
			for _, found := range r.errors() {
				t.Error(found)
			}
			if !r.proves() {
				t.Errorf("proves nothing: %s", r)
			}
		})
	}
}

func TestStressPairs_WithPorts_NoError(t *testing.T) {
	setups := all(
		pairSetup(16, 10, 24, 0),
		pairSetup(1024, 16, 512, 5),
		pairSetup(65536, 8192, 16384, 0),
		pairSetup(65536, 8192, 16384, 150),
	)
	each := stressTime(t) * 40 / 100 / time.Duration(len(setups))
	for _, s := range setups {
		t.Run(s.String(), func(t *testing.T) {
			r := judge(t, s, loadPair, each, nil)
			for _, found := range r.errors() {
				t.Error(found)
			}
			if !r.proves() {
				t.Errorf("proves nothing: %s", r)
			}
		})
	}
}
