package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"time"

	"golang.org/x/sys/unix"

	"github.com/privlink/privlink/pkg/lab"
	"github.com/privlink/privlink/pkg/splice"
)

func main() {
	if len(os.Args) == 3 && os.Args[1] == "gateway" {
		if err := runGateway(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, "check-proxy:", err)
			os.Exit(1)
		}
		return
	}
	var o options
	pattern := flag.String("run", "", "run only cases whose name matches this regular expression")
	flag.BoolVar(&o.quick, "quick", false, "shorten what takes minutes")
	flag.BoolVar(&o.verbose, "v", false, "show the gateway's log at the end")
	flag.Parse()
	var err error
	if o.only, err = regexp.Compile(*pattern); err != nil {
		fmt.Fprintln(os.Stderr, "check-proxy: -run:", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	if err := check(ctx, o, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "check-proxy:", err)
		os.Exit(1)
	}
}

type options struct {
	quick, verbose bool
	only           *regexp.Regexp
}

// errFailed says that cases failed; they were printed.
var errFailed = errors.New("cases failed")

func check(ctx context.Context, o options, out io.Writer) error {
	// The idle connections have both their far ends in this process.
	if _, err := splice.RaiseDescriptors(0); err != nil {
		return err
	}
	return lab.Run(ctx, lab.Options{Name: "check-proxy", Log: os.Stderr}, func(ctx context.Context, l *lab.Lab) error {
		w, err := newWorld(ctx, l)
		if err != nil {
			return err
		}
		defer w.close()
		s := &suite{world: w, options: o, out: out}
		for _, cases := range [][]namedCase{
			headerCases, streamCases, peerCases, probeCases, mismatchCases, linkCases, idleCases, bulkCases, deathCases,
		} {
			for _, c := range cases {
				s.run(ctx, c)
			}
		}
		fmt.Fprintf(out, "%d passed, %d failed\n", s.passed, s.failed)
		if o.verbose {
			fmt.Fprint(os.Stderr, w.process.Output())
		}
		if s.failed > 0 {
			return errFailed
		}
		return nil
	})
}

// namedCase is one line of the output.
type namedCase struct {
	name string
	run  func(context.Context, *suite) (note string, err error)
}

// instead is what a quick run does of cases whose subject is size.
var instead = map[string]string{
	nameUpload:   "64 MiB from the client to the backend, checksums equal",
	nameDownload: "64 MiB from the backend to the client, checksums equal",
	nameShort:    "5,000 short connections leave no descriptor",
	nameIdle:     "800 idle connections at once",
}

const (
	nameUpload   = "1 GiB from the client to the backend, checksums equal"
	nameDownload = "1 GiB from the backend to the client, checksums equal"
	nameShort    = "100,000 short connections leave no descriptor, flow or port"
	nameIdle     = "8,000 idle connections at once: each usable after 330 s with a timeout of 900 s"
)

type suite struct {
	*world
	options
	out            io.Writer
	passed, failed int
	mismatched     Numbers // before the first mismatch
}

func (s *suite) run(ctx context.Context, c namedCase) {
	if !s.only.MatchString(c.name) || ctx.Err() != nil {
		return
	}
	if smaller := instead[c.name]; s.quick && smaller != "" {
		fmt.Fprintf(s.out, "left out  %s: %s instead\n", c.name, smaller)
		c.name = smaller
	}
	start := time.Now()
	note, err := c.run(ctx, s)
	took := time.Since(start).Round(10 * time.Millisecond)
	if note != "" {
		note = ": " + note
	}
	var why leftOut
	if errors.As(err, &why) {
		fmt.Fprintf(s.out, "left out  %s: %v\n", c.name, why)
		return
	}
	if err != nil {
		s.failed++
		fmt.Fprintf(s.out, "FAIL  %s%s: %v (%v)\n", c.name, note, err, took)
		return
	}
	s.passed++
	fmt.Fprintf(s.out, "ok    %s%s (%v)\n", c.name, note, took)
}

// leftOut is the outcome of a case that a quick run cannot have: its subject is time or size.
type leftOut string

func (why leftOut) Error() string { return string(why) }

// pick returns the full size, or the quick one.
func pick[T any](s *suite, full, quick T) T {
	if s.quick {
		return quick
	}
	return full
}
