package dataplane

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var update = flag.Bool("update", false, "write testdata/verifier anew for the kernel that runs")

const (
	budgetFolder = "../../testdata/verifier"
	// budgetGrowth is what a program may need beyond its line, in percent.
	budgetGrowth = 10
	// budgetOther is the budget on a kernel without a file, whose verifier counts otherwise: half of what
	// every kernel takes.
	budgetOther = 500_000
	// loadLimit is for all programs together, and what a daemon's start may wait for them.
	loadLimit = time.Second
)

const budgetHead = `# Instructions that the verifier of Linux %s walks through to accept each program, and the processor time
# that loading it last took ("-" in an emulated machine). A test fails for a program that needs a tenth more
# instructions, for one without a line, and for a line without a program; times are not compared.
# Written anew by: go test ./pkg/dataplane -run TestBudget -update (root)
# program instructions ms
`

// emulated says that this machine is slower than any real one.
func emulated() bool { return os.Getenv("PRIVLINK_EMULATED") != "" }

// readBudgets reads a file: instructions by program.
func readBudgets(text string) (map[string]uint32, error) {
	budgets := make(map[string]uint32)
	for n, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		if strings.HasPrefix(line, "#") {
			continue
		}
		var program, ms string
		var instructions uint32
		if _, err := fmt.Sscanf(line, "%s %d %s", &program, &instructions, &ms); err != nil {
			return nil, fmt.Errorf("line %d: %q is not a program, its instructions and milliseconds: %w", n+1, line, err)
		}
		if budgets[program] != 0 || instructions == 0 {
			return nil, fmt.Errorf("line %d: %s stands there twice, or without instructions", n+1, program)
		}
		budgets[program] = instructions
	}
	return budgets, nil
}

func writeBudgets(series string, costs []ProgramCost) string {
	var text strings.Builder
	fmt.Fprintf(&text, budgetHead, series)
	for _, c := range costs {
		ms := "-"
		if !emulated() {
			ms = fmt.Sprintf("%.1f", c.Time.Seconds()*1000)
		}
		fmt.Fprintf(&text, "%s %d %s\n", c.Program, c.Instructions, ms)
	}
	return text.String()
}

// overBudget lists what is wrong: growth in percent is allowed.
func overBudget(costs []ProgramCost, budgets map[string]uint32, growth uint64) []string {
	var wrong []string
	left := make(map[string]bool)
	for program := range budgets {
		left[program] = true
	}
	for _, c := range costs {
		delete(left, c.Program)
		budget := uint64(budgets[c.Program])
		switch {
		case budget == 0:
			wrong = append(wrong, fmt.Sprintf("%s: %d instructions verified, and no line in the file", c.Program, c.Instructions))
		case uint64(c.Instructions)*100 > budget*(100+growth):
			wrong = append(wrong, fmt.Sprintf("%s: %d instructions verified, %d and %d %% allowed: %s",
				c.Program, c.Instructions, budget, growth, strings.Join(strings.Fields(c.Log), " ")))
		}
	}
	for program := range left {
		wrong = append(wrong, fmt.Sprintf("%s: a line in the file, and no such program", program))
	}
	slices.Sort(wrong)
	return wrong
}

// kernelSeries is the version of the kernel that runs, without what its distribution adds: 6.18.
func kernelSeries(t *testing.T) string {
	t.Helper()
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		t.Fatal(err)
	}
	var major, minor int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &major, &minor); err != nil {
		t.Fatalf("version of this kernel: %v", err)
	}
	return fmt.Sprintf("%d.%d", major, minor)
}

// budgetsFor are those of the kernel series, or else the programs of the last file there is.
func budgetsFor(t *testing.T, series string) (file string, budgets map[string]uint32, growth uint64) {
	t.Helper()
	file = filepath.Join(budgetFolder, series)
	text, err := os.ReadFile(file)
	other := errors.Is(err, fs.ErrNotExist)
	if other {
		files, _ := filepath.Glob(filepath.Join(budgetFolder, "*"))
		if len(files) == 0 {
			t.Fatalf("no budgets in %s (-update writes them)", budgetFolder)
		}
		file = files[len(files)-1]
		text, err = os.ReadFile(file)
	}
	if err != nil {
		t.Fatal(err)
	}
	if budgets, err = readBudgets(string(text)); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	if !other {
		return file, budgets, budgetGrowth
	}
	for program := range budgets {
		budgets[program] = budgetOther
	}
	return file, budgets, 0
}

func TestBudget_EveryProgram_WithinItsLine(t *testing.T) {
	costs, err := ProgramCosts()
	if err != nil {
		t.Fatal(err)
	}
	var total time.Duration
	for _, c := range costs {
		total += c.Time
	}
	series := kernelSeries(t)
	t.Logf("all loaded in %v of processor time\n%s", total, writeBudgets(series, costs))
	if *update {
		if err := os.WriteFile(filepath.Join(budgetFolder, series), []byte(writeBudgets(series, costs)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	file, budgets, growth := budgetsFor(t, series)
	for _, line := range overBudget(costs, budgets, growth) {
		t.Errorf("%s: %s", file, line)
	}
	if t.Failed() {
		t.Log("git bisect with this test finds the change. If it is worth that, raise the line: go test ./pkg/dataplane -run TestBudget -update")
	}
	if total > loadLimit && !emulated() {
		t.Errorf("all programs took %v to load, at most %v allowed", total, loadLimit)
	}
}

func TestBudget_TooDearUnknownOrGone_Fails(t *testing.T) {
	costs := []ProgramCost{{Program: "as_before", Instructions: 1100}, {Program: "grown", Instructions: 1101, Log: "processed\n1101 insns"}, {Program: "new", Instructions: 1}}
	text := "# comment\nas_before 1000 0.5\ngrown 1000 0.5\ngone 7 0.1\n"
	budgets, err := readBudgets(text)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"gone: a line in the file, and no such program",
		"grown: 1101 instructions verified, 1000 and 10 % allowed: processed 1101 insns",
		"new: 1 instructions verified, and no line in the file",
	}
	if got := overBudget(costs, budgets, budgetGrowth); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	written, err := readBudgets(writeBudgets("6.1", costs))
	if err != nil {
		t.Fatal(err)
	}
	if got := overBudget(costs, written, 0); got != nil {
		t.Errorf("against what was just written: %q", got)
	}
	for _, bad := range []string{"privlink_tc", "privlink_tc many 1.0", "privlink_tc 1 1\nprivlink_tc 1 1", "privlink_tc 0 1", ""} {
		if _, err := readBudgets(bad); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}
