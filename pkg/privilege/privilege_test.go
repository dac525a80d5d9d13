package privilege

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

const childVariable = "PRIVILEGE_CHILD"

// Set, the test binary confines itself and says what every thread has.
func TestMain(m *testing.M) {
	if os.Getenv(childVariable) == "" {
		os.Exit(m.Run())
	}
	if err := Confine(); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	for _, thread := range threads {
		status, err := os.ReadFile("/proc/self/task/" + thread.Name() + "/status")
		if err != nil {
			continue // it ended
		}
		for line := range strings.Lines(string(status)) {
			if strings.HasPrefix(line, "CapPrm") || strings.HasPrefix(line, "CapEff") || strings.HasPrefix(line, "CapBnd") {
				fmt.Print(line)
			}
		}
	}
}

func TestConfine_Root_EveryThreadHasExactlyWhatIsNeeded(t *testing.T) {
	held, err := Held()
	if err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() != 0 || held&^needed() == 0 {
		t.Fatal("the test needs root with all capabilities")
	}
	child := exec.Command("/proc/self/exe")
	child.Env = append(os.Environ(), childVariable+"=1")
	out, err := child.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(lines) < 3 {
		t.Fatalf("the child said %s", out)
	}
	want := fmt.Sprintf("%016x", needed()&held)
	for _, line := range lines {
		if _, set, _ := strings.Cut(line, ":\t"); set != want {
			t.Errorf("%s, want %s", line, want)
		}
	}
}

// The unit of the service manager names the same capabilities.
func TestNeeded_SystemdUnit_HasTheSameList(t *testing.T) {
	unit, err := os.ReadFile("../../scripts/privlink.service")
	if err != nil {
		t.Fatal(err)
	}
	if want := "\nCapabilityBoundingSet=" + Names(Needed) + "\n"; !strings.Contains(string(unit), want) {
		t.Errorf("the unit lacks %q", want)
	}
	for _, c := range Needed {
		if c.Why == "" {
			t.Errorf("%s has no reason", c.Name)
		}
	}
}
