package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/privlink/privlink/pkg/lab"
)

func TestMain(m *testing.M) { lab.Main(m) }

// output takes what a demo writes, and shows it when the test fails.
func output(t *testing.T) *bytes.Buffer {
	var out bytes.Buffer
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(out.String())
		}
	})
	return &out
}

func TestRun_BothModes_EveryStepIsAsItShouldBe(t *testing.T) {
	binary := lab.New(t).Build(t.Context(), "./cmd/privlink")
	for _, mode := range []string{"tc", "xdp"} {
		t.Run(mode, func(t *testing.T) {
			out := output(t)
			if err := Run(t.Context(), Options{Binary: binary, Mode: mode, Out: out}); err != nil {
				t.Fatal(err)
			}
			if err := inTime(out.String()); err != nil {
				t.Error(err)
			}
		})
	}
}

// inTime reads what a demo that is over says of itself.
func inTime(out string) error {
	_, last, found := strings.Cut(out, "\nAll as it should be, after ")
	var seconds float64
	if _, err := fmt.Sscanf(last, "%f s.\n", &seconds); !found || err != nil {
		return fmt.Errorf("no last line with the time: %w", err)
	}
	if seconds <= 0 || seconds >= 30 {
		return fmt.Errorf("took %.1f s, and should be over in 30 s", seconds)
	}
	return nil
}

func TestRun_Kept_IsUsableAndDownRemovesIt(t *testing.T) {
	l := lab.New(t)
	binary := l.Build(t.Context(), "./cmd/privlink")
	out := output(t)
	if err := Run(t.Context(), Options{Binary: binary, Mode: "tc", Keep: true, JSON: true, Out: out}); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	var kept Kept
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &kept); err != nil {
		t.Fatalf("last line %q: %v", lines[len(lines)-1], err)
	}
	down := strings.Fields(kept.Down)
	here := l.Namespace("here") // the lab's way to run programs; these leave its network at once
	t.Cleanup(func() {
		if _, err := here.Run(context.Background(), down[0], down[1:]...); err != nil {
			t.Error(err)
		}
		for _, c := range kept.Consumers {
			if _, err := os.Stat("/run/netns/" + c.Netns); err == nil {
				t.Errorf("namespace %s is still there after %s", c.Netns, kept.Down)
			}
		}
	})
	if len(kept.Consumers) != 2 {
		t.Fatalf("%d consumers", len(kept.Consumers))
	}
	for _, c := range kept.Consumers {
		body, err := here.Run(t.Context(), "ip", "netns", "exec", c.Netns, "curl", "-sS", "-m", "5", "http://"+c.IP+"/")
		if err != nil || body != page {
			t.Errorf("%s: %q, %v", c.Netns, body, err)
		}
		_, err = here.Run(t.Context(), binary, "connection", "show", "--socket", kept.Socket, "--subscription", kept.Service.Subscription,
			"--resource-group", kept.Service.ResourceGroup, "--service", kept.Service.Name, "--name", c.Connection)
		if err != nil {
			t.Error(err)
		}
	}
}

func TestRun_UnknownMode_IsRefused(t *testing.T) {
	err := Run(t.Context(), Options{Mode: "native", Out: output(t)})
	if err == nil || err.Error() != `run demo: mode "native" is neither tc nor xdp` {
		t.Errorf("got %v", err)
	}
}
