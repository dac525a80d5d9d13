// Check-scale measures what an operator waits for on a node with 1,000 endpoints on 100 services: lists, approvals, the
// start of the daemon. It prints one line per figure, with what is promised, and ends with "N figures, F over their limit".
// It runs a real daemon in network namespaces and needs root, and a machine that has nothing else to do. On one that has, -busy
// judges by the processor time of the daemon, which waiting does not show in, and says so in every line.
package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"github.com/privlink/privlink/pkg/lab"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var o options
	flag.BoolVar(&o.busy, "busy", false, "judge by the daemon's processor time, on a machine that has other things to do")
	flag.BoolVar(&o.short, "short", false, "measure fewer times, in half a minute")
	flag.Parse()
	over := 0
	err := lab.Run(ctx, lab.Options{Name: "check-scale", Log: os.Stderr}, func(ctx context.Context, l *lab.Lab) (err error) {
		over, err = measure(ctx, l, os.Stdout, o)
		return err
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, "check-scale:", err)
	}
	if err != nil || over > 0 {
		os.Exit(1)
	}
}

// options are how it measures and judges.
type options struct{ busy, short bool }

// rank is which of the times measured a promise is about.
type rank struct {
	name string
	of   func([]sample) sample // in order, the shortest first
}

var (
	median = rank{"median", func(s []sample) sample { return s[len(s)/2] }}
	p99    = rank{"p99", func(s []sample) sample { return s[(len(s)*99+99)/100-1] }}
	worst  = rank{"longest", func(s []sample) sample { return s[len(s)-1] }}
)

// figure is a time that is promised.
type figure struct {
	name     string
	limit    time.Duration
	promised rank
	run      func(context.Context, *world) (sample, error)
	// times it is measured, and for a short run.
	times, few int
}

func figures() []figure {
	return []figure{
		{"list of 1,000 endpoints", 50 * time.Millisecond, median, listEndpoints, 21, 11},
		{"list of 100 services with their connections", 50 * time.Millisecond, median, listServices, 21, 11},
		{"approval, from request to kernel", 20 * time.Millisecond, p99, approve, 300, 100},
		{"restart in order, until API and kernel agree", 2 * time.Second, worst, restart, 5, 2},
		{"adopting after kill -9, until API and kernel agree", time.Second, worst, adopt, 5, 2},
		{"start with an empty kernel, until a packet is forwarded", 2 * time.Second, worst, forward, 5, 2},
	}
}

// sample is how long something took, and what it cost the daemon.
type sample struct{ passed, processor time.Duration }

// took is what is judged.
func (s sample) took(busy bool) time.Duration {
	if busy {
		return s.processor
	}
	return s.passed
}

func (s sample) String() string {
	return fmt.Sprintf("%v (processor %v)", rounded(s.passed), rounded(s.processor))
}

// measure prints every figure and returns how many are over their limit.
func measure(ctx context.Context, l *lab.Lab, out io.Writer, o options) (over int, err error) {
	w, err := newWorld(ctx, l)
	if err != nil {
		return 0, err
	}
	defer w.close()
	judged := "time"
	if o.busy {
		judged = "processor time"
	}
	all := figures()
	for _, f := range all {
		times := f.times
		if o.short {
			times = f.few
		}
		var took []sample
		for range times {
			one, err := f.run(ctx, w)
			if err != nil {
				return over, fmt.Errorf("%s: %w", f.name, err)
			}
			took = append(took, one)
		}
		slices.SortFunc(took, func(a, b sample) int { return cmp.Compare(a.took(o.busy), b.took(o.busy)) })
		verdict := "ok  "
		if f.promised.of(took).took(o.busy) > f.limit {
			verdict = "FAIL"
			over++
		}
		fmt.Fprintf(out, "%s  %s: median %v, p99 %v, longest %v of %d; promised %v by %s %s\n",
			verdict, f.name, median.of(took), p99.of(took), worst.of(took), len(took), f.limit, f.promised.name, judged)
	}
	fmt.Fprintf(out, "%d figures, %d over their limit by %s\n", len(all), over, judged)
	return over, nil
}

func rounded(d time.Duration) time.Duration { return d.Round(100 * time.Microsecond) }
