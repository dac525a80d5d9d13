package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// scenarioEnv makes a copy of this test binary a program that has a lab and meets its end in the way named.
const scenarioEnv = "PRIVLINK_LAB_TEST_SCENARIO"

// furnish puts one of everything into a lab and prints its id and the pid of a process in it.
func furnish(ctx context.Context, l *Lab) {
	a, b := l.Namespace("a"), l.Namespace("b")
	l.Veth(a, "eth0", b, "eth0", VethOptions{})
	if err := os.Mkdir(l.BPFFS("a"), 0o755); err != nil {
		panic(err)
	}
	p := a.Start(ctx, "sleep", "1000")
	fmt.Printf("lab %s %d\n", l.ID(), p.PID())
}

func runScenario(scenario string) {
	err := Run(context.Background(), Options{Keep: scenario == "keep"}, func(ctx context.Context, l *Lab) error {
		furnish(ctx, l)
		switch scenario {
		case "keep": // ends by itself, when told
			_, err := io.Copy(io.Discard, os.Stdin)
			return err
		case "panic":
			panic("as asked")
		}
		select {} // until killed
	})
	fmt.Println("returned", err)
	os.Exit(0)
}

// TestScenario_InAChildProcess_MeetsItsEnd is the scenarios that begin with "test": a test of a binary whose TestMain is
// Main. In the parent it has nothing to do.
func TestScenario_InAChildProcess_MeetsItsEnd(t *testing.T) {
	scenario := os.Getenv(scenarioEnv)
	if !strings.HasPrefix(scenario, "test") {
		return
	}
	l := New(t)
	furnish(t.Context(), l)
	switch scenario {
	case "test fails":
		t.Fatal("as asked")
	case "test fails to build":
		l.Namespace("c").Up("nosuch0")
	case "test fails inside a namespace":
		_ = l.Namespace("c").Do(func() error {
			t.Fatal("as asked")
			return nil
		})
	case "test panics":
		panic("as asked")
	case "test panics elsewhere":
		go panic("as asked")
	}
	select {}
}

// scenarioProcess is a running scenario; closing tell ends the one that ends by itself.
type scenarioProcess struct {
	*exec.Cmd
	tell io.Closer
}

// child starts a scenario and returns when its lab stands.
func child(t *testing.T, scenario string) (c *scenarioProcess, id string, sleeper int) {
	cmd := exec.Command(os.Args[0], "-test.run=^TestScenario_InAChildProcess_MeetsItsEnd$")
	cmd.Env = append(os.Environ(), scenarioEnv+"="+scenario)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	tell, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for id == "" && lines.Scan() {
		_, _ = fmt.Sscanf(lines.Text(), "lab %s %d", &id, &sleeper)
	}
	if id == "" {
		t.Fatalf("scenario %s made no lab: %v", scenario, cmd.Wait())
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if err := Remove(id); err != nil {
			t.Error(err)
		}
	})
	return &scenarioProcess{cmd, tell}, id, sleeper
}

// left lists what still has the lab's id in its name.
func left(id string) []string {
	var paths []string
	for _, root := range []string{netnsDir, bpffsRoot, os.TempDir()} {
		found, err := filepath.Glob(filepath.Join(root, prefix+id+"*"))
		if err != nil {
			panic(err)
		}
		paths = append(paths, found...)
	}
	return paths
}

// running says whether the process exists and is no zombie, which nobody may ever wait for.
func running(pid int) bool {
	_, err := startTime(pid)
	return err == nil
}

func assertNothingLeft(t *testing.T, id string) {
	t.Helper()
	if paths := left(id); len(paths) > 0 {
		t.Errorf("left behind: %v", paths)
	}
}

func assertRemovedSoon(t *testing.T, id string, sleeper int) {
	t.Helper()
	err := Poll(10*time.Second, func() error {
		if paths := left(id); len(paths) > 0 {
			return fmt.Errorf("left behind: %v", paths)
		}
		if running(sleeper) {
			return fmt.Errorf("process %d is still there", sleeper)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestRemoval_OwnerDies_NothingIsLeft(t *testing.T) {
	for _, c := range []struct {
		scenario string
		signal   unix.Signal // 0: ends by itself
		code     int         // the exit status, where the process itself removes; 0: its guardian does
	}{
		{"panic", 0, 0},
		{"wait", unix.SIGKILL, 0},
		{"wait", unix.SIGTERM, 0},
		{"test", unix.SIGKILL, 0},
		{"test", unix.SIGTERM, 128 + int(unix.SIGTERM)},
		{"test fails", 0, 1},
		{"test fails to build", 0, 1},
		{"test fails inside a namespace", 0, 1},
		{"test panics", 0, 2},
		{"test panics elsewhere", 0, 0},
	} {
		t.Run(fmt.Sprintf("%s, %v", c.scenario, c.signal), func(t *testing.T) {
			t.Parallel()
			cmd, id, sleeper := child(t, c.scenario)
			if c.signal != 0 {
				if len(left(id)) != 4 { // two namespaces, a bpffs folder, a temporary one
					t.Errorf("lab has only %v", left(id))
				}
				if err := cmd.Process.Signal(c.signal); err != nil {
					t.Fatal(err)
				}
			}
			_ = cmd.Wait()
			if c.code != 0 {
				// The test's cleanup or Main removes before the process ends; nothing to wait for.
				assertNothingLeft(t, id)
				if code := cmd.ProcessState.ExitCode(); code != c.code {
					t.Errorf("exit status %d, want %d", code, c.code)
				}
			}
			assertRemovedSoon(t, id, sleeper)
		})
	}
}

func TestRemoval_GuardianKilledAsWell_FindsTheOrphan(t *testing.T) {
	cmd, id, sleeper := child(t, "wait")
	guardian := guardianOf(t, cmd.Process.Pid)
	for _, pid := range []int{guardian, cmd.Process.Pid} {
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	_ = cmd.Wait()
	// Only our orphan: somebody's kept demo is not for a test to remove.
	orphan := func(found string, o owner) bool { return found == id && !o.alive() }
	ids, err := find(orphan)
	if err != nil || !slices.Equal(ids, []string{id}) {
		t.Fatalf("found %v (error: %v), want %s", ids, err, id)
	}
	if err := removeAll(ids); err != nil {
		t.Error(err)
	}
	assertRemovedSoon(t, id, sleeper)
}

func TestRemoval_OwnerAlive_IsNoOrphan(t *testing.T) {
	l := New(t)
	l.Namespace("a")
	ids, err := find(func(_ string, o owner) bool { return !o.alive() })
	if err != nil || slices.Contains(ids, l.ID()) {
		t.Errorf("orphans %v (error: %v)", ids, err)
	}
}

func TestRemoval_Kept_StaysUntilRemoved(t *testing.T) {
	cmd, id, sleeper := child(t, "keep")
	guardian := guardianOf(t, cmd.Process.Pid)
	cmd.tell.Close()
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	err := Poll(10*time.Second, func() error {
		if running(guardian) {
			return errors.New("guardian is still there")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if !running(sleeper) {
		t.Error("the process of a kept lab has ended")
	}
	if len(left(id)) != 4 {
		t.Errorf("of a kept lab there is only %v", left(id))
	}
	if err := Remove(id); err != nil {
		t.Fatal(err)
	}
	assertRemovedSoon(t, id, sleeper)
}

// guardianOf finds the guardian among the children of a process; it may have been adopted, when the
// parent is gone.
func guardianOf(t *testing.T, parent int) int {
	commands, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range commands {
		env, err := os.ReadFile(path)
		if err != nil || !strings.Contains(string(env), fmt.Sprintf("%s=%d-", guardEnv, parent)) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			t.Fatal(err)
		}
		return pid
	}
	t.Fatalf("process %d has no guardian", parent)
	return 0
}

func parsePID(output string) (int, error) {
	return strconv.Atoi(strings.TrimSpace(output))
}

func TestName_Parse_OnlyWhatALabMade(t *testing.T) {
	me := owner{pid: 4711, start: 123456}
	for _, c := range []struct {
		name, id string
	}{
		{prefix + me.String() + "-00ff-gw", me.String() + "-00ff"},
		{prefix + me.String() + "-00ff", me.String() + "-00ff"},
		{prefix + me.String() + "-00ff0", ""},
		{"plab-gw", ""},
		{"plab-x-1-00ff-gw", ""},
		{"other-" + me.String() + "-00ff-gw", ""},
	} {
		id, o, ok := parseName(c.name)
		if ok != (c.id != "") || ok && (id != c.id || o != me) {
			t.Errorf("%s: id %q, owner %v, %v", c.name, id, o, ok)
		}
	}
}
