package main

import (
	"context"
	"fmt"
	"os"

	"github.com/urfave/cli/v2"

	"github.com/privlink/privlink/pkg/demo"
)

func demoCommand(env *environment) *cli.Command {
	return verb{
		name: "demo", usage: "show the main job in network namespaces made and removed by itself (root)",
		description: "A provider's web and SSH servers behind one private link service, two consumers with the same\n" +
			"addresses: requests by alias, approval, traffic, rejection. Every step is checked; the first that\n" +
			"is not as it should be ends the demo with the reason. Takes less than 30 seconds.",
		flags: []cli.Flag{
			&cli.BoolFlag{Name: "keep", Usage: "leave it up with both consumers approved and say how to enter it (-o json: as one object in the last line)"},
			&cli.StringFlag{Name: "mode", Usage: "`tc|xdp`: TC alone, or XDP in front of TC", Value: "tc"},
			&cli.StringFlag{Name: "down", Usage: "remove the kept demo with this `ID` and do nothing else"},
		},
		offline: true,
		run:     runDemo,
	}.command(env)
}

func runDemo(ctx context.Context, c *call) error {
	if id := c.String("down"); id != "" {
		return demo.Down(id)
	}
	if mode := c.String("mode"); mode != "tc" && mode != "xdp" {
		return usageErrorf("flag --mode: %q is not one of tc, xdp%s", mode, suggestion(mode, []string{"tc", "xdp"}))
	}
	binary, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find the privlink executable: %w", err)
	}
	return demo.Run(ctx, demo.Options{
		Binary: binary,
		Mode:   c.String("mode"),
		Keep:   c.Bool("keep"),
		JSON:   !c.out.human(),
		Out:    c.env.stdout,
	})
}
