// Command fuzz runs the differential test of pkg/model/fuzz for as many packets as asked, or once for
// each fault that can be compiled into the programs. Root only.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"github.com/privlink/privlink/pkg/model/fuzz"
)

func main() {
	packets := flag.Int("packets", 200_000, "packets to send; with -mutants for each of them")
	seed := flag.Uint64("seed", 1, "where the eras' seeds begin")
	mutants := flag.Bool("mutants", false, "compile in one fault after the other: each has to be found")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	run := fuzzOnce
	if *mutants {
		run = fuzzMutants
	}
	if err := run(ctx, *packets, *seed); err != nil {
		fmt.Fprintln(os.Stderr, "fuzz:", err)
		stop()
		os.Exit(1)
	}
}

func fuzzOnce(ctx context.Context, packets int, seed uint64) error {
	result, err := fuzz.Run(ctx, fuzz.Options{Packets: packets, Seed: seed, Log: os.Stdout, Every: packets <= fuzz.EraPackets})
	if err != nil {
		return err
	}
	result.Coverage.Print(os.Stdout)
	missing := result.Coverage.Missing()
	for _, what := range missing {
		fmt.Println("never reached:", what)
	}
	fmt.Printf("%.1f s, %.1f us a packet\n", result.Elapsed.Seconds(), result.Elapsed.Seconds()*1e6/float64(result.Packets))
	fmt.Printf("%d packets, %d differences\n", result.Packets, result.Differences)
	if result.Differences > 0 || len(missing) > 0 && packets >= 200_000 {
		return fmt.Errorf("%d differences, %d things never reached", result.Differences, len(missing))
	}
	return nil
}

func fuzzMutants(ctx context.Context, packets int, seed uint64) error {
	killed := 0
	for _, m := range fuzz.Mutants {
		result, err := fuzz.Run(ctx, fuzz.Options{Packets: packets, Seed: seed, Mutant: m.Number, First: true, Log: io.Discard})
		if err != nil {
			return fmt.Errorf("mutant %d: %w", m.Number, err)
		}
		word := "SURVIVED"
		if result.Differences > 0 {
			killed++
			word = "killed"
		}
		fmt.Printf("mutant %2d %-8s within %6d packets: %s\n", m.Number, word, result.Packets, m.Fault)
	}
	fmt.Printf("%d mutants, %d killed\n", len(fuzz.Mutants), killed)
	if killed < len(fuzz.Mutants) {
		return fmt.Errorf("%d mutants survived", len(fuzz.Mutants)-killed)
	}
	return nil
}
