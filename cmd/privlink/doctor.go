package main

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/doctor"
)

func doctorCommand(env *environment) *cli.Command {
	return verb{
		name: "doctor", usage: "find what is wrong on this machine, and what to do; exit code 1 when something is",
		description: "Looks at the kernel and its features, the daemon, interfaces and their offloads, other programs on them, MTUs,\n" +
			"neighbours, whether pins and maps are as the resources say, modes of files, and how full tables and NAT ports\n" +
			"are. Each finding says what to do. Run it as root where the daemon runs, in its network namespace. --bpffs and\n" +
			"--state-dir are for a daemon that does not answer; one that does says where it has them.\n" +
			"--fix repairs what cannot disturb traffic; the exit code is then about what is left. An info may be meant so\n" +
			"(different MTUs, say) and leaves the exit code 0.",
		flags: []cli.Flag{
			bpffsFlag(),
			&cli.StringFlag{Name: "state-dir", Usage: "`DIR` with the resources [$PRIVLINK_STATE_DIR]", DefaultText: defaultStateDir},
			&cli.BoolFlag{Name: "fix", Usage: "repair what can be repaired safely"},
		},
		run: examine,
	}.command(env)
}

// How long the daemon may take before that is a finding: for a word about itself, and for a look at everything that it has in
// the kernel.
const (
	patience = 5 * time.Second
	thorough = time.Minute
)

// patient is what doctor looks at; a daemon that does not answer is a finding, no error.
func patient(ctx context.Context, c *call) doctor.Subject {
	s := doctor.Subject{BPFFS: c.own("bpffs"), StateDir: c.own("state-dir"), Socket: c.setting("socket")}
	s.Scope = strings.ToLower(fmt.Sprintf("/subscriptions/%s/resourceGroups/%s/", c.setting("subscription"), c.setting("resource-group")))
	ask := func(within time.Duration, method, path string, into any) error {
		ctx, cancel := context.WithTimeoutCause(ctx, within, fmt.Errorf("no answer within %v", within))
		defer cancel()
		_, err := c.api.Call(ctx, method, path, nil, nil, nil, into)
		if err != nil && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return err
	}
	var status api.Status
	if s.StatusError = ask(patience, http.MethodGet, "/privlink/status", &status); s.StatusError != nil {
		return s
	}
	if s.StatusError = ask(thorough, http.MethodGet, "/privlink/examination", &s.Kernel); s.StatusError != nil {
		return s
	}
	s.Status, s.BPFFS, s.StateDir = &status, s.Kernel.BPFFS, s.Kernel.StateDir
	s.Mend = func() error { return ask(thorough, http.MethodPost, "/privlink/repair", new(api.Examination)) }
	return s
}

func examine(ctx context.Context, c *call) error {
	found, err := doctor.Examine(patient(ctx, c))
	if err != nil {
		return privileges(err)
	}
	if c.Bool("fix") {
		doctor.Repair(found)
	}
	left := slices.ContainsFunc(found, func(f doctor.Finding) bool { return !f.Repaired && f.Severity != doctor.Info })
	if found == nil {
		found = []doctor.Finding{}
	}
	if err := c.out.value(found, func(t *columns) { describeFindings(t, found) }); err != nil {
		return err
	}
	if left {
		return silentError{exitFailed}
	}
	return nil
}

func describeFindings(t *columns, found []doctor.Finding) {
	if len(found) == 0 {
		t.line("nothing is wrong")
	}
	for i, f := range found {
		if i > 0 {
			t.line("")
		}
		t.field(string(f.Severity), f.Check)
		t.field("object", f.Object)
		t.field("what", f.What)
		switch {
		case f.Repaired:
			t.field("repaired", f.Do)
		case f.Trouble != "":
			t.field("not repaired", f.Trouble)
			t.field("do", f.Do)
		case f.Repairable && !strings.Contains(f.Do, "doctor --fix"):
			t.field("do", f.Do+" (or: privlink doctor --fix)")
		default:
			t.field("do", f.Do)
		}
	}
}
