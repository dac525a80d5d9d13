package main

import (
	"context"
	"net/http"
	"slices"

	"github.com/urfave/cli/v2"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/client"
	"github.com/privlink/privlink/pkg/doctor"
)

func doctorCommand(env *environment) *cli.Command {
	return verb{
		name: "doctor", usage: "find what is wrong on this machine, and what to do; exit code 1 when something is",
		description: "Looks at kernel, daemon, interfaces and their offloads, MTUs, neighbours, pins, modes of files, and\n" +
			"how full tables and NAT ports are. Run it as root where the daemon runs, in its network namespace.\n" +
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

// patient is what doctor looks at; a daemon that does not answer is a finding, no error.
func patient(ctx context.Context, c *call) doctor.Subject {
	s := doctor.Subject{BPFFS: c.own("bpffs"), StateDir: c.own("state-dir"), Socket: c.setting("socket")}
	var status api.Status
	if _, err := c.api.Call(ctx, http.MethodGet, "/privlink/status", nil, nil, nil, &status); err != nil {
		s.StatusError = err
		return s
	}
	s.Status = &status
	services, err := client.List[api.PrivateLinkService](ctx, c.api, client.Collection(c.setting("subscription"), "", api.PrivateLinkServices), nil)
	if err != nil {
		s.Status, s.StatusError = nil, err
		return s
	}
	for _, service := range services {
		id, err := api.ParseID(service.ID, api.ID{})
		if err != nil {
			continue // the daemon's own ids parse
		}
		var ports api.NATPortUsage
		if _, err := c.api.Call(ctx, http.MethodGet, client.Path(id)+"/natPortUsage", nil, nil, nil, &ports); err == nil {
			s.Ports = append(s.Ports, ports.Value...) // else removed meanwhile
		}
	}
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
		case f.Repairable:
			t.field("do", f.Do+" (or: privlink doctor --fix)")
		default:
			t.field("do", f.Do)
		}
	}
}
