package vm

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestConsole_WholeRun_EveryOutcome(t *testing.T) {
	console := strings.ReplaceAll(`boot noise
@@begin {"name":"a","exit":0}
=== RUN   TestX
--- PASS: TestX (0.00s)

@@end {"name":"a","exit":0,"seconds":1.5}

@@begin {"name":"b","exit":0}
panic: no
@@end {"name":"b","exit":2,"seconds":0.5}
@@kernel {"exit":0,"text":"WARNING: CPU: 0"}
@@done {"exit":0,"seconds":9,"text":"6.1.192"}
[    9.1] reboot: Power down
`, "\n", "\r\n")
	result, done, err := parseConsole(strings.NewReader(console))
	if err != nil || !done || result.Version != "6.1.192" {
		t.Fatalf("done %v, version %q, error %v", done, result.Version, err)
	}
	want := []Outcome{
		{Name: "a", Ended: true, Time: 1500 * time.Millisecond, Output: "=== RUN   TestX\n--- PASS: TestX (0.00s)\n\n"},
		{Name: "b", Ended: true, Exit: 2, Time: 500 * time.Millisecond, Output: "panic: no\n"},
	}
	for i, o := range result.Outcomes {
		if o != want[i] {
			t.Errorf("outcome %d: %+v, want %+v", i, o, want[i])
		}
	}
	if len(result.Outcomes) != len(want) || !slices.Equal(result.Warnings, []string{"WARNING: CPU: 0"}) {
		t.Errorf("%d outcomes, warnings %q", len(result.Outcomes), result.Warnings)
	}
}

func TestConsole_MachineStopsInside_NotEnded(t *testing.T) {
	result, done, err := parseConsole(strings.NewReader("@@begin {\"name\":\"a\"}\r\nKernel panic - not syncing"))
	if err != nil || done {
		t.Fatalf("done %v, error %v", done, err)
	}
	if len(result.Outcomes) != 1 || result.Outcomes[0].Ended || !strings.Contains(result.Outcomes[0].Output, "panic") {
		t.Errorf("outcomes %+v", result.Outcomes)
	}
}

func TestCount_Subtests_CountedOnce(t *testing.T) {
	output := `=== RUN   TestA
--- PASS: TestA (0.00s)
=== RUN   TestB
--- FAIL: TestB (0.00s)
    --- PASS: TestB/one (0.00s)
    --- FAIL: TestB/two (0.00s)
--- SKIP: TestC (0.00s)
--- PASS: TestD (0.00s)
    --- PASS: TestD/x (0.00s)
        --- PASS: TestD/x/y (0.00s)
--- FAIL: TestE (0.00s)
    --- PASS: TestE/x (0.00s)
FAIL
`
	c := Count(output)
	if c.Passed != 4 || c.Failed != 2 || c.Skipped != 1 {
		t.Errorf("%d passed, %d failed, %d skipped", c.Passed, c.Failed, c.Skipped)
	}
	if !slices.Equal(c.FailedTests, []string{"TestB/two", "TestE"}) || !slices.Equal(c.SkippedTests, []string{"TestC"}) {
		t.Errorf("failed %q, skipped %q", c.FailedTests, c.SkippedTests)
	}
}
