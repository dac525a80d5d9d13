package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/privlink/privlink/pkg/privilege"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, &environment{
		stdin:  os.Stdin,
		stdout: os.Stdout,
		stderr: os.Stderr,
		getenv: os.Getenv,
		now:    time.Now,

		confine: privilege.Confine,
	}, os.Args)
	stop()
	os.Exit(code)
}

// run executes one command line (args[0] is the program's name) and returns the exit code.
func run(ctx context.Context, env *environment, args []string) int {
	app := newApp(env)
	sorted, err := permute(app, args)
	if err == nil {
		err = app.RunContext(ctx, sorted)
	}
	if err == nil {
		return exitOK
	}
	var silent silentError
	if !errors.As(err, &silent) {
		fmt.Fprintf(env.stderr, "privlink: %v%s\n", err, whatThereIs(err))
	}
	return exitCode(err)
}
