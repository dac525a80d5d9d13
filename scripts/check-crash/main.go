// Check-crash kills a real daemon (SIGKILL) again and again while several writers change resources: at random moments,
// while it syncs its store, while it renames a file, while it applies, while it starts. After each restart the store must
// open, everything that was acknowledged must be there and nothing half, and the kernel's maps must be what the store
// says. It prints where the kills fell and ends with
// "K kills, W acknowledged writes, L of them lost, D differences between kernel and store". It needs root.
//
// CRASH_KILLS is the number of kills, 200 if not set. CRASH_SEED repeats an order of writes and moments.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/privlink/privlink/pkg/lab"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	o, err := readOptions(os.Getenv)
	if err != nil {
		fmt.Fprintln(os.Stderr, "check-crash:", err)
		os.Exit(2)
	}
	var t tally
	err = lab.Run(ctx, lab.Options{Name: "check-crash", Log: os.Stderr}, func(ctx context.Context, l *lab.Lab) (err error) {
		t, err = crash(ctx, l, o, os.Stdout)
		return err
	})
	if err == nil {
		err = t.verdict()
	}
	if err != nil {
		fmt.Println("FAIL ", err)
	}
	fmt.Println(t)
	if err != nil {
		os.Exit(1)
	}
}

// options of a run.
type options struct {
	kills int
	seed  uint64
}

func readOptions(getenv func(string) string) (options, error) {
	o := options{kills: 200, seed: uint64(time.Now().UnixNano())}
	if text := getenv("CRASH_KILLS"); text != "" {
		n, err := strconv.ParseUint(text, 10, 16)
		if err != nil || n == 0 {
			return o, fmt.Errorf("CRASH_KILLS: %q is no number of kills, 1..65535", text)
		}
		o.kills = int(n)
	}
	if text := getenv("CRASH_SEED"); text != "" {
		seed, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			return o, fmt.Errorf("CRASH_SEED: %q is no number", text)
		}
		o.seed = seed
	}
	return o, nil
}

// tally is what a run counted.
type tally struct {
	kills, writes, lost, differences int
	// doubtful writes were not acknowledged when the daemon died; kept is how many of them the store has.
	doubtful, kept int
	// up is how long writers wrote.
	up time.Duration
	// fell is where kills fell, by moment.
	fell map[moment]int
	// restarts are the times from the start of a killed daemon's successor until it answered.
	restarts []time.Duration
}

// String is the last line, in the form that others read.
func (t tally) String() string {
	return fmt.Sprintf("%d kills, %d acknowledged writes, %d of them lost, %d differences between kernel and store", t.kills, t.writes, t.lost, t.differences)
}

// leastRate is the writes a second, acknowledged, below which kills would hit an idle daemon.
const leastRate = 100

// manyKills is from how many on every moment must have been hit.
const manyKills = 100

// rate is the acknowledged writes per second of writing.
func (t tally) rate() float64 { return float64(t.writes) / t.up.Seconds() }

// verdict is why the run failed, or nil.
func (t tally) verdict() error {
	switch {
	case t.lost > 0:
		return fmt.Errorf("%d acknowledged writes were lost", t.lost)
	case t.differences > 0:
		return fmt.Errorf("the kernel differed from the store %d times", t.differences)
	case t.rate() < leastRate:
		return fmt.Errorf("%.0f acknowledged writes a second, at least %d are needed for the kills to mean something", t.rate(), leastRate)
	}
	for _, m := range moments() {
		if t.kills >= manyKills && t.fell[m] == 0 {
			return fmt.Errorf("no kill fell on the moment %q", m)
		}
	}
	return nil
}

// crash is the whole run.
func crash(ctx context.Context, l *lab.Lab, o options, out io.Writer) (tally, error) {
	w, err := newWorld(ctx, l, o.seed)
	if err != nil {
		return tally{}, err
	}
	defer w.close()
	fmt.Fprintf(out, "%d kills, %d writers, seed %d\n", o.kills, len(w.writers), o.seed)
	for w.tally.kills < o.kills {
		if err := w.round(ctx); err != nil {
			return w.tally, fmt.Errorf("after %d kills (seed %d): %w", w.tally.kills, o.seed, err)
		}
		w.say(out)
	}
	err = w.told(ctx)
	w.say(out)
	w.summary(out)
	return w.tally, err
}
