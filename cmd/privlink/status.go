package main

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/privlink/privlink/pkg/api"
)

func statusCommand(env *environment) *cli.Command {
	return verb{
		name: "status", usage: "how the daemon and its dataplane are; exit code 1 when degraded",
		run: func(ctx context.Context, c *call) error {
			var status api.Status
			if _, err := c.api.Call(ctx, http.MethodGet, "/privlink/status", nil, nil, nil, &status); err != nil {
				return err
			}
			if err := c.out.value(status, func(t *columns) { describeStatus(t, &status) }); err != nil {
				return err
			}
			if status.Degraded {
				return silentError{exitFailed}
			}
			return nil
		},
	}.command(env)
}

func describeStatus(t *columns, s *api.Status) {
	condition := "ok"
	if s.Degraded {
		condition = "degraded"
	}
	t.field("Status", condition)
	t.field("Version", s.Version)
	t.field("Revision", fmt.Sprintf("%d applied, %d wanted", s.AppliedRevision, s.WantedRevision))
	t.field("Flows", strconv.FormatUint(s.Flows, 10))
	proxied := fmt.Sprintf("%d of %d connections", s.Proxied.Connections, s.Proxied.Limit)
	if s.Proxied.LinkLimit > 0 {
		proxied += fmt.Sprintf(", %d a link", s.Proxied.LinkLimit)
	}
	t.field("Proxied", proxied)
	t.field("Last sweep", fmt.Sprintf("%.1f s ago", s.SweepAgeSeconds))
	for _, problem := range s.Problems {
		t.field("Problem", problem)
	}
	for _, warning := range s.Warnings {
		t.field("Warning", warning)
	}
	t.line("")
	t.row("INTERFACE", "NETWORK", "HOOK", "MODE", "WHY", "OTHER PROGRAMS", "TROUBLE")
	for _, i := range s.Interfaces {
		name := i.Interface
		if i.VLAN != 0 {
			name += "." + strconv.Itoa(int(i.VLAN))
		}
		trouble := i.Error
		if i.Down {
			trouble = "it is down"
		}
		if trouble == "" {
			trouble = strings.Join(i.Warnings, "; ")
		}
		t.row(name, lastOf(i.Network), i.Hook, i.Mode, i.Why, strings.Join(i.Others, ", "), trouble)
	}
	t.line("")
	t.row("MAP", "USED", "SIZE", "%")
	for _, m := range s.Maps {
		percent := "-"
		if m.Size > 0 {
			percent = strconv.FormatUint(100*m.Used/m.Size, 10)
		}
		t.row(m.Name, strconv.FormatUint(m.Used, 10), strconv.FormatUint(m.Size, 10), percent)
	}
}
