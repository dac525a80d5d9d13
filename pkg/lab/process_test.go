package lab

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"
)

func goexit() { runtime.Goexit() }

func TestProcessRun_ExitStatus_IsInTheErrorWithStderr(t *testing.T) {
	n := New(t).Namespace("a")
	out, err := n.Run(t.Context(), "sh", "-c", "echo some; echo reason >&2; exit 7")
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 7 || !strings.Contains(err.Error(), "reason") {
		t.Errorf("error %v", err)
	}
	if out != "some\n" {
		t.Errorf("stdout %q", out)
	}
}

func TestProcessRun_ContextEnds_KillsTheWholeGroup(t *testing.T) {
	n := New(t).Namespace("a")
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	begin := time.Now()
	_, err := n.Run(ctx, "sh", "-c", "sleep 1000 & wait")
	if !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) > 5*time.Second {
		t.Errorf("after %v: %v", time.Since(begin), err)
	}
}

func TestProcessStart_RunsInsideAndSeesOurMounts(t *testing.T) {
	l := New(t)
	n := l.Namespace("a")
	pins := l.BPFFS("a")
	if err := os.Mkdir(pins, 0o755); err != nil {
		t.Fatal(err)
	}
	p := n.Start(t.Context(), "sh", "-c", "readlink /proc/self/ns/net; ls -d "+pins)
	if err := p.Wait(t.Context()); err != nil {
		t.Fatalf("%v: %s", err, p.Output())
	}
	var inside string
	if err := n.Do(func() error { inside = currentNamespace(t); return nil }); err != nil {
		t.Fatal(err)
	}
	if want := inside + "\n" + pins + "\n"; p.Output() != want {
		t.Errorf("output %q, want %q", p.Output(), want)
	}
}

func TestProcessStop_IgnoresSIGTERM_IsKilled(t *testing.T) {
	n := New(t).Namespace("a")
	p := n.Start(t.Context(), "sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done")
	n.Lab().Wait("the trap", 5*time.Second, func() error {
		if !strings.Contains(p.Output(), "ready") {
			return errors.New("no output yet")
		}
		return nil
	})
	begin := time.Now()
	p.Stop()
	if took := time.Since(begin); took < stopGrace || took > stopGrace+2*time.Second {
		t.Errorf("took %v, want %v", took, stopGrace)
	}
	if running(p.PID()) {
		t.Error("process is still there")
	}
}

func TestLabClose_ProcessWithOwnSession_IsKilled(t *testing.T) {
	n := New(t).Namespace("a")
	p := n.Start(t.Context(), "sh", "-c", "setsid sh -c 'echo $$; exec sleep 1000' & wait")
	var escaped int
	n.Lab().Wait("the escaped process", 5*time.Second, func() (err error) {
		escaped, err = parsePID(p.Output())
		return err
	})
	if err := n.Lab().Close(); err != nil {
		t.Fatal(err)
	}
	if running(escaped) {
		t.Errorf("process %d is still there", escaped)
	}
}
