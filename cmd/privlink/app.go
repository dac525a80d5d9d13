package main

import (
	"context"
	"fmt"

	"github.com/urfave/cli/v2"
)

// version is set by the linker; a build from a checkout says so.
var version = "development"

// newApp is the whole command tree.
func newApp(env *environment) *cli.App {
	app := &cli.App{
		Name:    "privlink",
		Usage:   "private links between networks on Linux",
		Version: version,
		Description: "A provider publishes a TCP or UDP service behind a load balancer (vnet, lb, service).\n" +
			"A consumer gets one IP for it in a network of its own (vnet, endpoint). Once the provider\n" +
			"approves the connection (connection), packets to that IP reach the service.",
		HideHelpCommand: true,
		HideVersion:     true,
		Writer:          env.stdout,
		ErrWriter:       env.stderr,
		Flags:           globalFlags(),
		// Exit codes are run's to decide.
		ExitErrHandler: func(*cli.Context, error) {},
	}
	app.Commands = []*cli.Command{
		vnetCommand(env),
		nicCommand(env),
		lbCommand(env),
		serviceCommand(env),
		connectionCommand(env),
		endpointCommand(env),
		flowCommand(env),
		applyCommand(env),
		deleteCommand(env),
		statusCommand(env),
		eventCommand(env),
		backupCommand(env),
		restoreCommand(env),
		runCommand(env),
		downCommand(env),
		doctorCommand(env),
		demoCommand(env),
		verb{name: "version", usage: "print the version", offline: true, run: printVersion}.command(env),
		completionCommand(env),
	}
	app.Commands = append(app.Commands, accessCommands(env)...)
	app.Commands = append(app.Commands, completeCommand(env, app))
	return app
}

func printVersion(_ context.Context, c *call) error {
	_, err := fmt.Fprintln(c.env.stdout, "privlink", version)
	return err
}
