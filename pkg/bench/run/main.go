package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/privlink/privlink/pkg/bench"
)

func main() {
	os.Exit(run())
}

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	if len(os.Args) == 3 && os.Args[1] == "splice" {
		if err := bench.ServeSplice(ctx, os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, "bench: splice:", err)
			return 1
		}
		return 0
	}
	executable, err := os.Executable()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 1
	}
	o := bench.Options{Executable: executable}
	flag.IntVar(&o.CPU, "cpu", runtime.NumCPU()-1, "the core to run on")
	flag.BoolVar(&o.Quick, "quick", false, "under a minute: fewer packets, flows and parts")
	flag.StringVar(&o.Dir, "dir", ".", "folder for bench.json and the plots")
	flag.IntVar(&o.Rounds, "rounds", 0, "rounds of a comparison, 11 at least for figures that mean something (default 11)")
	only := flag.String("only", "", "parts to run, separated by commas: "+strings.Join(bench.Parts(), ","))
	check := flag.Bool("check", false, "fail if a metric misses its limit (one that is absent fails every whole run)")
	var prof bench.ProfileOptions
	flag.StringVar(&prof.Forwarder, "profile", "", `do nothing but say where the time goes in one forwarder, such as "tc privlink" (needs perf)`)
	flows := flag.Uint("profile-flows", 1, "flows for -profile")
	flag.BoolVar(&prof.New, "profile-new", false, "profile the opening of flows")
	flag.BoolVar(&prof.Connections, "profile-connections", false, "profile real connections: connect, request, response, close")
	reverse := flag.Bool("profile-reverse", false, "profile the way from server to client")
	flag.DurationVar(&prof.For, "profile-for", 5*time.Second, "how long to sample")
	flag.Parse()
	if *only != "" {
		o.Only = strings.Split(*only, ",")
	}
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "bench: must be root (network namespaces, BPF)")
		return 2
	}
	if prof.Forwarder != "" {
		prof.Flows = uint32(*flows)
		if *reverse {
			prof.Direction = bench.Reverse
		}
		lines, err := bench.RunProfile(ctx, o.CPU, prof)
		if err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			return 1
		}
		bench.PrintProfile(os.Stdout, lines, 60)
		return 0
	}
	_, err = unix.IoctlGetTermios(int(os.Stderr.Fd()), unix.TCGETS)
	progress := bench.NewProgress(os.Stderr, err == nil, time.Now)
	report, failed := bench.Run(ctx, o, progress)
	progress.Done()
	if report != nil {
		if err := report.Print(os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			return 1
		}
	}
	if failed != nil {
		fmt.Fprintln(os.Stderr, "bench:", failed)
		return 1
	}
	if absent := report.Absent(); len(absent) > 0 && *only == "" && !o.Quick {
		fmt.Fprintf(os.Stderr, "bench: not measured: %s\n", strings.Join(absent, ", "))
		return 1
	}
	if missed := report.Missed(); *check && len(missed) > 0 {
		fmt.Fprintf(os.Stderr, "bench: %d metrics miss their limit\n", len(missed))
		return 1
	}
	return 0
}
