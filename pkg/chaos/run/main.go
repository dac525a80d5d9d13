package main

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"

	"github.com/privlink/privlink/pkg/chaos"
)

func main() {
	os.Exit(run())
}

func run() int {
	seconds := flag.Int("seconds", 120, "how long")
	seed := flag.Uint64("seed", 0, "order of the faults; 0 = a new one")
	binary := flag.String("privlink", "bin/privlink", "the executable")
	quiet := flag.Bool("quiet", false, "not each fault as it comes")
	only := flag.String("only", "", "strike with this kind of fault alone")
	flag.Parse()
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "chaos: must be root (network namespaces, BPF)")
		return 2
	}
	if *seconds < 10 {
		fmt.Fprintln(os.Stderr, "chaos: at least 10 seconds")
		return 2
	}
	if *seed == 0 {
		*seed = uint64(rand.Uint32())
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	result, err := chaos.Run(ctx, chaos.Options{
		Binary: *binary, Duration: time.Duration(*seconds) * time.Second, Seed: *seed, Out: os.Stdout, Verbose: !*quiet, Only: *only,
	})
	if err != nil {
		fmt.Println(err)
	}
	if result != (chaos.Result{}) {
		fmt.Println(result)
	}
	if err != nil {
		return 1
	}
	return 0
}
