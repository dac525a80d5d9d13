package fuzz

import (
	"bufio"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// A short run of new seeds; `make fuzz` is the long one.
func TestRun_RandomPacketsAndEvents_ProgramsAndModelAgree(t *testing.T) {
	agree(t, Options{Packets: 5 * EraPackets, Seed: 1})
}

func TestRun_SeedsThatOnceFailed_AgreeNow(t *testing.T) {
	f, err := os.Open("../../../testdata/fuzz/seeds")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		word, what, _ := strings.Cut(lines.Text(), " ")
		if word == "#" {
			continue
		}
		seed, err := strconv.ParseUint(word, 10, 64)
		if err != nil {
			t.Fatalf("seed %q: %v", word, err)
		}
		t.Run(what, func(t *testing.T) { agree(t, Options{Packets: EraPackets, Seed: seed}) })
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
}

func agree(t *testing.T, o Options) {
	t.Helper()
	var log strings.Builder
	o.Log = &log
	result, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if result.Differences != 0 {
		t.Errorf("%d differences:\n%s", result.Differences, log.String())
	}
	if result.Packets != o.Packets {
		t.Errorf("%d packets, want %d", result.Packets, o.Packets)
	}
}

// The same seed gives the same packets and events, or nothing could be replayed.
func TestRun_SameSeed_SameCoverage(t *testing.T) {
	var first Coverage
	for i := range 2 {
		result, err := Run(t.Context(), Options{Packets: 3000, Seed: 42, Log: os.Stderr})
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			first = result.Coverage
		} else if result.Coverage.Reasons != first.Reasons || result.Coverage.Phases != first.Phases || result.Coverage.Hits != first.Hits {
			t.Errorf("second run %+v, first %+v", result.Coverage, first)
		}
	}
}

// Every fault that bpf/ can compile in is listed here, and the other way round.
func TestMutants_ListAndSources_NameTheSameNumbers(t *testing.T) {
	number := regexp.MustCompile(`MUTANT\((\d+)\)`)
	files, err := filepath.Glob("../../../bpf/*.h")
	if err != nil || len(files) == 0 {
		t.Fatalf("headers of bpf/: %d found, %v", len(files), err)
	}
	there := make(map[uint32]bool)
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range number.FindAllStringSubmatch(string(text), -1) {
			n, err := strconv.ParseUint(m[1], 10, 32)
			if err != nil {
				t.Fatal(err)
			}
			there[uint32(n)] = true
		}
	}
	for _, m := range Mutants {
		if !there[m.Number] {
			t.Errorf("mutant %d (%s) is not in bpf/", m.Number, m.Fault)
		}
		delete(there, m.Number)
	}
	for n := range there {
		t.Errorf("mutant %d of bpf/ is not listed", n)
	}
	if len(Mutants) < 25 {
		t.Errorf("%d mutants, want 25 at least", len(Mutants))
	}
}

// One fault of each kind is found; `make fuzz-mutants` runs all.
func TestMutants_SomeFaults_Found(t *testing.T) {
	for _, n := range []uint32{1, 7, 15, 23} {
		result, err := Run(t.Context(), Options{Packets: 4 * EraPackets, Seed: 1, Mutant: n, First: true, Log: new(strings.Builder)})
		if err != nil {
			t.Fatal(err)
		}
		if result.Differences == 0 {
			t.Errorf("mutant %d survived %d packets", n, result.Packets)
		}
	}
}
