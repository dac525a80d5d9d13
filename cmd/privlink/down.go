package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/urfave/cli/v2"

	"github.com/privlink/privlink/pkg/dataplane"
	"github.com/privlink/privlink/pkg/privilege"
	"github.com/privlink/privlink/pkg/splice/inner"
)

func downCommand(env *environment) *cli.Command {
	return verb{
		name: "down", usage: "remove everything privlink put into the kernel",
		description: "Traffic stops. Resources stay in the state folder: the next `privlink run` sets all up again.",
		offline:     true,
		flags:       []cli.Flag{bpffsFlag()},
		run: func(ctx context.Context, c *call) error {
			path := c.own("bpffs")
			// Before anything is removed: a daemon that starts has the inner network before its pins, and one whose pins somebody
			// deleted has it still.
			network, err := inner.Take(innerConfig(path))
			if err == nil {
				defer network.Close()
				err = dataplane.Down(ctx, dataplane.Options{BPFFS: path})
			}
			if err == nil {
				err = network.Remove()
			}
			if errors.Is(err, inner.ErrInUse) || errors.Is(err, dataplane.ErrLocked) {
				return refusedErrorf("%w (stop the daemon first)", err)
			}
			if err != nil {
				return privileges(err)
			}
			return c.out.say("nothing of privlink is left in the kernel (%s)", path)
		},
	}.command(env)
}

func bpffsFlag() cli.Flag {
	return &cli.StringFlag{Name: "bpffs", Usage: "`PATH` of the folder with what is pinned [$PRIVLINK_BPFFS]", DefaultText: defaultBPFFS}
}

// own is a flag of run or down: flag, environment variable or default.
func (c *call) own(name string) string {
	defaults := map[string][2]string{
		"bpffs":     {"PRIVLINK_BPFFS", defaultBPFFS},
		"state-dir": {"PRIVLINK_STATE_DIR", defaultStateDir},
		"config":    {"PRIVLINK_CONFIG", ""},
	}
	if c.IsSet(name) {
		return c.String(name)
	}
	if value := c.env.getenv(defaults[name][0]); value != "" {
		return value
	}
	return defaults[name][1]
}

// privileges explains an error for want of them.
func privileges(err error) error {
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("%w (%s)", err, privilege.Hint())
	}
	return err
}
