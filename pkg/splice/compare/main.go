package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"

	"github.com/privlink/privlink/pkg/lab"
)

func main() {
	if len(os.Args) > 2 && os.Args[1] == "serve" {
		if err := serve(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, "compare:", err)
			os.Exit(1)
		}
		return
	}
	rounds := flag.Int("rounds", 5, "how often each is measured")
	seconds := flag.Float64("seconds", 2, "time of one measurement")
	cpu := flag.Int("cpu", 0, "core on which everything runs")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	if err := run(ctx, *rounds, time.Duration(*seconds*float64(time.Second)), *cpu, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "compare:", err)
		os.Exit(1)
	}
}

// lane is a way to be measured, and the best of what it showed.
type lane struct {
	name    string
	process *lab.Process
	target  string
	bulk    []float64 // bytes a second
	cpu     []float64 // seconds of the proxy's CPU time per byte
	rate    []float64 // connections a second
	perConn []float64 // seconds of the proxy's CPU time per connection
	latency []float64 // seconds
	failed  []error
}

func run(ctx context.Context, rounds int, each time.Duration, cpu int, out io.Writer) error {
	var set unix.CPUSet
	set.Set(cpu)
	// Threads that the runtime starts later inherit it; those it has are few and idle.
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("pin to core %d: %w", cpu, err)
	}
	return lab.Run(ctx, lab.Options{Name: "compare", Log: os.Stderr}, func(ctx context.Context, l *lab.Lab) error {
		load, lanes, err := build(ctx, l)
		if err != nil {
			return err
		}
		for round := range rounds {
			for i := range lanes {
				load.measure(ctx, lanes[(i+round)%len(lanes)], each)
				if err := ctx.Err(); err != nil {
					return err
				}
			}
		}
		if err := report(out, lanes); err != nil {
			return err
		}
		return judge(out, lanes)
	})
}

func report(out io.Writer, lanes []*lane) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "way\tbulk GB/s\tproxy CPU s/GiB\tconnections/s\tproxy CPU us/connection\trequest us\tfailed\t")
	for _, l := range lanes {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%d\t\n", l.name, best("%.2f", 1e-9, slices.Max, l.bulk), best("%.3f", 1<<30, slices.Min, l.cpu),
			best("%.0f", 1, slices.Max, l.rate), best("%.1f", 1e6, slices.Min, l.perConn), best("%.1f", 1e6, slices.Min, l.latency), len(l.failed))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, l := range lanes {
		for _, err := range l.failed {
			fmt.Fprintf(out, "%s failed: %v\n", l.name, err)
		}
	}
	return nil
}

// judge says how much of the splice's bytes was spliced, which must be nearly all, what sockmap gives instead, and which
// of the two is to be kept by these numbers.
func judge(out io.Writer, lanes []*lane) error {
	byName := make(map[string]*lane)
	for _, l := range lanes {
		byName[l.name] = l
	}
	ours, other := byName["splice"], byName["sockmap"]
	ours.process.Stop()
	text := ours.process.Output()
	var spliced, all uint64
	if _, err := fmt.Sscanf(text[max(0, strings.LastIndex(text, "spliced ")):], splicedLine, &spliced, &all); err != nil {
		return fmt.Errorf("read what the splice says at its end: %w", err)
	}
	fmt.Fprintf(out, "splice: %.1f %% of %.1f GiB were never copied to user space\n", 100*float64(spliced)/float64(all), float64(all)/(1<<30))
	if spliced < all/10*9 {
		return errors.New("the splice copied what it should have spliced")
	}
	if len(ours.bulk) == 0 || len(ours.rate) == 0 || len(ours.latency) == 0 {
		return errors.New("the splice was not measured")
	}
	if len(other.bulk) == 0 || len(other.rate) == 0 || len(other.latency) == 0 {
		fmt.Fprintln(out, "decision: splice(2); there is something that sockmap never got through")
		return nil
	}
	bulk := slices.Max(other.bulk) / slices.Max(ours.bulk)
	rate := slices.Max(other.rate) / slices.Max(ours.rate)
	latency := slices.Min(other.latency) / slices.Min(ours.latency)
	fmt.Fprintf(out, "sockmap over splice: bulk %.2f, connections %.2f, request %.2f, %d measurements failed\n", bulk, rate, latency, len(other.failed))
	switch {
	case len(other.failed) > 0:
		fmt.Fprintln(out, "decision: splice(2); sockmap loses data or connections")
	case bulk > 1 && rate > 1 && latency < 1:
		fmt.Fprintln(out, "decision: by these numbers sockmap, which was better at everything and lost nothing")
	default:
		fmt.Fprintln(out, "decision: splice(2); sockmap is not better at everything")
	}
	return nil
}

// best formats the best of a series, if it has any.
func best(format string, unit float64, of func([]float64) float64, series []float64) string {
	if len(series) == 0 {
		return "-"
	}
	return fmt.Sprintf(format, of(series)*unit)
}
