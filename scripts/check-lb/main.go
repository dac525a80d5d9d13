// Check-lb puts the load balancer of a real daemon under load: backends that are killed and restarted at random, a
// thousand services and a pool of a thousand backends programmed in time, and the rolling replacement of a whole
// pool. It prints one line per check and ends with "rolling replacement: R requests, F failed". It needs root.
//
// CHECK_LB_SECONDS is how long backends are killed: 120, or 30 where CI=true. CHECK_LB_SEED repeats an order of kills.
// CHECK_LB_ONLY is a regular expression: checks whose names it does not match are left out.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"strconv"
	"syscall"
	"time"

	"github.com/privlink/privlink/pkg/lab"
)

func main() {
	if len(os.Args) == 4 && os.Args[1] == "backend" {
		fmt.Fprintln(os.Stderr, "check-lb:", serve(os.Args[2], os.Args[3]))
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	o, err := readOptions(os.Getenv)
	if err != nil {
		fmt.Fprintln(os.Stderr, "check-lb:", err)
		os.Exit(2)
	}
	failed := 0
	err = lab.Run(ctx, lab.Options{Name: "check-lb", Log: os.Stderr}, func(ctx context.Context, l *lab.Lab) error {
		failed = checkAll(ctx, l, o, os.Stdout)
		return ctx.Err()
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, "check-lb:", err)
		failed++
	}
	if failed > 0 {
		os.Exit(1)
	}
}

// leastKilling holds a death of each kind, and their victims.
const leastKilling = 30 * time.Second

// options of a run.
type options struct {
	killing time.Duration // how long backends are killed
	seed    uint64        // of who is killed when
	only    *regexp.Regexp
}

func readOptions(getenv func(string) string) (options, error) {
	o := options{killing: 2 * time.Minute, seed: uint64(time.Now().UnixNano())}
	if getenv("CI") == "true" {
		o.killing = leastKilling
	}
	if text := getenv("CHECK_LB_SECONDS"); text != "" {
		seconds, err := strconv.ParseUint(text, 10, 16)
		if err != nil || time.Duration(seconds)*time.Second < leastKilling {
			return o, fmt.Errorf("CHECK_LB_SECONDS: %q is no number of seconds, 30..65535: less does not hold a death of each kind", text)
		}
		o.killing = time.Duration(seconds) * time.Second
	}
	if text := getenv("CHECK_LB_SEED"); text != "" {
		seed, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			return o, fmt.Errorf("CHECK_LB_SEED: %q is no number", text)
		}
		o.seed = seed
	}
	var err error
	if o.only, err = regexp.Compile(getenv("CHECK_LB_ONLY")); err != nil {
		return o, fmt.Errorf("CHECK_LB_ONLY: %w", err)
	}
	return o, nil
}

// checkAll prints one line per check and returns how many failed. The rolling replacement comes last and its line
// is of the form that others read.
func checkAll(ctx context.Context, l *lab.Lab, o options, out io.Writer) (failed int) {
	check := func(name string, run func() (string, error)) {
		if !o.only.MatchString(name) {
			return
		}
		note, err := run()
		if err != nil {
			failed++
			fmt.Fprintf(out, "FAIL  %s: %s%v\n", name, note, err)
			return
		}
		fmt.Fprintf(out, "ok    %s: %s\n", name, note)
	}
	check("1,000 services x 8 backends", func() (string, error) { return programServices(ctx, l) })
	check("one backend of 1,000 changes", func() (string, error) { return changeBackend(ctx, l) })
	check("1,000 services x 8 backends through the daemon", func() (string, error) { return daemonServices(ctx, l) })
	check("one backend of 1,000 changes through the daemon", func() (string, error) { return daemonChange(ctx, l) })
	const killing, rolling = "backends killed at random", "rolling replacement"
	if !o.only.MatchString(killing) && !o.only.MatchString(rolling) {
		return failed
	}
	w, err := newWorld(ctx, l)
	if err != nil {
		fmt.Fprintf(out, "FAIL  build the laboratory: %v\n", err)
		return failed + 1
	}
	defer w.close()
	check(killing, func() (string, error) {
		note, err := w.kill(ctx, o)
		return fmt.Sprintf("for %v (seed %d): %s", o.killing, o.seed, note), err
	})
	if !o.only.MatchString(rolling) {
		return failed
	}
	r, err := w.replace(ctx)
	if err != nil {
		failed++
		fmt.Fprintf(out, "FAIL  %s: %v\n", rolling, err)
	}
	failed += r.failed
	fmt.Fprintf(out, "%s: %d requests, %d failed\n", rolling, r.requests, r.failed)
	return failed
}

// joined is a note that an error is to follow.
func joined(note string, err error) (string, error) {
	if err != nil {
		note += ": "
	}
	return note, err
}
