package lab

import (
	"fmt"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

// Main is the TestMain of a package whose tests use labs:
//
//	func TestMain(m *testing.M) { lab.Main(m) }
//
// It removes the labs before the process gives way to SIGTERM, SIGINT or SIGHUP, and fails the run
// when a test left something. (Without it the guardian removes them, shortly after.)
func Main(m interface{ Run() int }) {
	me := self()
	mine := func(_ string, o owner) bool { return o == me }

	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	go func() {
		got := <-signals
		ids, err := find(mine)
		if err == nil {
			err = removeAll(ids)
		}
		fmt.Fprintf(os.Stderr, "lab: %v: removed %d labs (error: %v)\n", got, len(ids), err)
		os.Exit(128 + int(got.(unix.Signal)))
	}()

	code := m.Run()
	if ids, err := find(mine); err != nil || len(ids) > 0 {
		fmt.Fprintf(os.Stderr, "lab: tests left %v (error: %v)\n", ids, err)
		if err := removeAll(ids); err != nil {
			fmt.Fprintf(os.Stderr, "lab: remove %v: %v\n", ids, err)
		}
		code = max(code, 1)
	}
	os.Exit(code)
}
