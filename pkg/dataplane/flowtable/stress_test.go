package flowtable

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

//go:generate go tool bpf2go -target amd64,arm64 -type counts -type flow_key table ../../../bpf/test/flow_table_stress.c -- -I../../../bpf
//go:generate go tool bpf2go -target amd64,arm64 -type counts -type flow_key pair ../../../bpf/test/flow_pair_stress.c -- -I../../../bpf

// Slots of the window behind a home, and the bits of the home word that stand for them.
const (
	window   = 30
	homeBits = 1<<window - 1
)

// The most workers that the stress programs keep apart (STRESS_WORKERS).
const maxWorkers = 8

// setup is one stress: a size, and the constants of the program by their names in C.
type setup struct {
	name  string
	homes uint32
	tc    bool
	// Longest delay inside a critical section, in turns of about a nanosecond.
	pause uint32
	fault tableFault
	// Entries of the map that holds what the program expects, and its name.
	expected     string
	expectedSize uint32
	constants    map[string]uint32
}

// run is what came of it.
type run struct {
	counts tableCounts
	// Entries that the reader copied through mmap, and those of them that were of two.
	read, torn uint64
	// What was wrong with the table after the workers had stopped.
	damage []string
}

// errors lists what must not have happened.
func (r run) errors() []string {
	var found []string
	add := func(n uint64, what string) {
		if n > 0 {
			found = append(found, fmt.Sprintf("%d %s", n, what))
		}
	}
	c := r.counts
	add(c.Foreign, "foreign or torn rewrites")
	add(c.Missing, "live entries not found")
	add(c.Ghosts, "ended entries found")
	add(c.Duplicates, "second live entries of a key")
	add(c.SameStates, "claims without a new sequence")
	add(c.StaleBits, "bits of a home for a freed slot")
	add(c.LoneHalves, "forward halves without their reverse half")
	add(r.torn, "torn entries read through mmap")
	// A worker that the machine held up used its old clock: a port cannot be better than that.
	if c.Early > c.HeldUp+1 {
		add(c.Early, "ticks too early a port was used again")
	}
	return append(found, r.damage...)
}

// proves says whether everything happened that could have gone wrong.
func (r run) proves() bool {
	c := r.counts
	return c.Hits > 0 && c.Inserted > 0 && c.Ended > 0 && c.Freed+c.Revived > 0 && r.read > 0
}

// heldUp says that a worker stood still for so long that `missing` proves nothing: its old clock may
// have made an entry look idle that was not.
func (r run) heldUp(s setup) bool {
	return r.counts.Missing > 0 && r.counts.HeldUp+2 >= uint64(s.constants["stress_idle"])/2
}

func (r run) String() string {
	c := r.counts
	return fmt.Sprintf("%d operations, %d hits, %d inserted (%d revived), %d existing, %d resting, %d locked, %d full, %d ended, %d freed, %d overtaken; %d read; held up %d ticks",
		c.Operations, c.Hits, c.Inserted, c.Revived, c.Existing, c.Resting, c.Locked, c.Full, c.Ended, c.Freed, c.Overtaken, r.read, c.HeldUp)
}

// stressTime is how long the table is stressed as it is, all setups together. What looks for faults comes on
// top of it.
func stressTime(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv("PRIVLINK_STRESS_SECONDS")
	if text == "" {
		return time.Minute
	}
	seconds, err := strconv.ParseUint(text, 10, 20)
	if err != nil || seconds == 0 {
		t.Fatalf("PRIVLINK_STRESS_SECONDS=%s: not a number of seconds above 0", text)
	}
	return time.Duration(seconds) * time.Second
}

// cpus returns the CPUs to work on: those this process may use, each a worker of its own.
func cpus(t *testing.T) []int {
	t.Helper()
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		t.Fatalf("get cpu affinity: %v", err)
	}
	var list []int
	taken := map[int]bool{}
	for cpu := range len(set) * bits.UintSize {
		if set.IsSet(cpu) && !taken[cpu%maxWorkers] {
			taken[cpu%maxWorkers] = true
			list = append(list, cpu)
		}
	}
	return list
}

// load makes the maps of a setup and loads its program.
func load(t *testing.T, s setup, spec *ebpf.CollectionSpec) *ebpf.Collection {
	t.Helper()
	set := func(name string, value any) {
		t.Helper()
		if err := spec.Variables[name].Set(value); err != nil {
			t.Fatalf("set %s: %v", name, err)
		}
	}
	set("flow_homes", s.homes)
	var seed [5]uint64
	for i := range seed {
		seed[i] = rand.Uint64() | 1
	}
	set("flow_seed", seed)
	set("stress_fault", uint32(s.fault))
	set("stress_pause", s.pause)
	for name, value := range s.constants {
		set(name, value)
	}
	spec.Maps["flows_v1"].MaxEntries = s.homes + window
	spec.Maps[s.expected].MaxEntries = s.expectedSize

	unwanted := "stress_tc"
	if s.tc {
		unwanted = "stress_xdp"
	}
	delete(spec.Programs, unwanted)
	coll, err := ebpf.NewCollection(spec)
	if err != nil {
		var verifier *ebpf.VerifierError
		if errors.As(err, &verifier) {
			t.Fatalf("load stress program: %+v", verifier)
		}
		t.Fatalf("load stress program: %v", err)
	}
	t.Cleanup(coll.Close)
	return coll
}

// stress runs one setup for a time, or until `enough` says so.
func stress(t *testing.T, s setup, spec *ebpf.CollectionSpec, duration time.Duration, enough func(run) bool) run {
	t.Helper()
	coll := load(t, s, spec)
	table, err := Open[tableFlow](coll.Maps["flows_v1"])
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()

	for i := range uint32(maxWorkers) {
		w := tableWorker{Random: rand.Uint64() | 1, Cursor: rand.Uint32N(table.Slots())}
		if err := coll.Maps["workers"].Put(i, w); err != nil {
			t.Fatalf("set worker %d: %v", i, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), duration)
	defer cancel()

	program := coll.Programs["stress_xdp"]
	if s.tc {
		program = coll.Programs["stress_tc"]
	}
	var wg sync.WaitGroup
	list := cpus(t)
	failures := make(chan error, len(list))
	for _, cpu := range list {
		wg.Go(func() {
			if err := work(ctx, program, cpu); err != nil {
				failures <- fmt.Errorf("worker on cpu %d: %w", cpu, err)
				cancel()
			}
		})
	}
	var r run
	readers := make(chan [2]uint64, 1)
	go func() { readers <- read(ctx, table) }()

	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-ticker.C:
			if r.counts = sum(t, coll); enough != nil && enough(r) {
				cancel()
			}
		}
	}
	wg.Wait()
	seen := <-readers
	close(failures)
	for err := range failures {
		t.Error(err)
	}
	r.read, r.torn = seen[0], seen[1]
	r.counts = sum(t, coll)
	r.damage = inspect(table, s, r.counts)
	return r
}

// work runs the program again and again on one CPU until the context ends.
func work(ctx context.Context, program *ebpf.Program, cpu int) error {
	// Never unlocked: the thread ends with the goroutine, and its affinity with it.
	runtime.LockOSThread()
	var set unix.CPUSet
	set.Set(cpu)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("set cpu affinity: %w", err)
	}
	packet := make([]byte, 64)
	for ctx.Err() == nil {
		if _, err := program.Run(&ebpf.RunOptions{Data: packet}); err != nil {
			return fmt.Errorf("run program: %w", err)
		}
	}
	return nil
}

// read reads the table through mmap until the context ends: entries read, and torn ones.
func read(ctx context.Context, table *Table[tableFlow]) (seen [2]uint64) {
	for slot := uint32(0); ; slot++ {
		if slot == table.Slots() {
			slot = 0
		}
		if slot&0xfff == 0 && ctx.Err() != nil {
			return seen
		}
		e, state, ok := table.Read(slot)
		if !ok || state.Slot() != Live {
			continue
		}
		seen[0]++
		if !whole(e) {
			seen[1]++
		}
	}
}

// whole says whether all fields of a rewrite are of one insert: stress_fill in bpf/test/flow_stress.h.
func whole(e tableFlow) bool {
	rw := e.Rw
	owner := rw.Tag.Of.Link
	mix := (uint64(owner)<<32|uint64(rw.Saddr))*0x9fb21c651e98df25 + uint64(rw.Daddr)
	mix ^= mix >> 29
	via := uint64(rw.Via.Forward.Backend) | uint64(rw.Via.Forward.BackendGen)<<32 | uint64(rw.Via.Forward.Client)<<48
	return rw.Sport == uint16(mix) && rw.Dport == uint16(mix>>16) &&
		rw.L3Delta == uint16(mix>>32) && rw.L4Delta == uint16(mix>>48) &&
		via == mix*0xd6e8feb86659fd93 && rw.Tag.Of.LinkGen == uint16(rw.Saddr)
}

// sum adds up the counters of all workers; of `early` and `held_up` it takes the longest.
func sum(t *testing.T, coll *ebpf.Collection) tableCounts {
	t.Helper()
	var all tableCounts
	for i := range uint32(maxWorkers) {
		var w tableWorker
		if err := coll.Maps["workers"].Lookup(i, &w); err != nil {
			t.Fatalf("read worker %d: %v", i, err)
		}
		c := w.Counts
		all.Operations += c.Operations
		all.Hits += c.Hits
		all.Inserted += c.Inserted
		all.Existing += c.Existing
		all.Resting += c.Resting
		all.Locked += c.Locked
		all.Full += c.Full
		all.Revived += c.Revived
		all.Ended += c.Ended
		all.Freed += c.Freed
		all.Overtaken += c.Overtaken
		all.Foreign += c.Foreign
		all.Missing += c.Missing
		all.Ghosts += c.Ghosts
		all.Duplicates += c.Duplicates
		all.SameStates += c.SameStates
		all.StaleBits += c.StaleBits
		all.LoneHalves += c.LoneHalves
		all.Early = max(all.Early, c.Early)
		all.HeldUp = max(all.HeldUp, c.HeldUp)
	}
	return all
}

// inspect looks at a table that nobody uses any more: home words, locks, states, keys, the balance of
// what was inserted and freed, and of pairs that each half has the other.
func inspect(table *Table[tableFlow], s setup, c tableCounts) []string {
	var damage []string
	complain := func(format string, args ...any) {
		if len(damage) < 8 {
			damage = append(damage, fmt.Sprintf(format, args...))
		}
	}
	bitsOf := make([]uint32, s.homes)
	keys := map[tableFlowKey]uint32{}
	var occupied int64
	for slot := range table.Slots() {
		e, state, ok := table.Read(slot)
		if !ok {
			complain("slot %d: still changing", slot)
		}
		switch state.Slot() {
		case Busy:
			complain("slot %d: left busy", slot)
			continue
		case Free:
			continue
		}
		occupied++
		home := slot - state.Distance()
		if home >= s.homes {
			complain("slot %d: home %d of %d", slot, home, s.homes)
			continue
		}
		bitsOf[home] |= 1 << state.Distance()
		if state.Slot() != Live {
			continue
		}
		if other, twice := keys[e.Key]; twice {
			complain("slots %d and %d: two live entries of one key", other, slot)
		}
		keys[e.Key] = slot
		if s.expected == "ended_ports" {
			if twin, state, _ := table.Read(e.Twin); state.Slot() != Live || twin.Twin != slot || twin.Rw.Tag.Of.Link != e.Rw.Tag.Of.Link {
				complain("slot %d: live without its other half", slot)
			}
		}
	}
	for home, want := range bitsOf {
		e, _, _ := table.Read(uint32(home))
		if e.Home&homeBits != want {
			complain("home %d: bits %#x, should be %#x", home, e.Home, want)
		}
		if e.Home&^homeBits != 0 {
			complain("home %d: left locked", home)
		}
	}
	if balance := int64(c.Inserted) - int64(c.Revived) - int64(c.Freed); balance != occupied {
		complain("%d slots taken, should be %d", occupied, balance)
	}
	return damage
}

// String is the name of the subtest.
func (s setup) String() string {
	words := []string{s.name}
	if s.tc {
		words = append(words, "tc")
	} else {
		words = append(words, "xdp")
	}
	if s.pause > 0 {
		words = append(words, "slow")
	} else {
		words = append(words, "fast")
	}
	return strings.Join(words, "_")
}
