package main

import (
	"context"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"

	"github.com/urfave/cli/v2"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/client"
)

func flowCommand(env *environment) *cli.Command {
	return noun(env, "flow", "live flows",
		verb{
			name: "list", usage: "list the flows in the table",
			flags: []cli.Flag{
				&cli.StringFlag{Name: "service", Usage: "only to the service `NAME`"},
				&cli.StringFlag{Name: "endpoint", Usage: "only through the endpoint `NAME`"},
				&cli.StringFlag{Name: "client", Usage: "only of the client `IP`"},
			},
			run: listFlows,
		},
		verb{
			name: "audit", usage: "compare NAT ports and quotas with the flows; exit code 1 when they disagree",
			description: "Every port that is taken has to have a flow, live or resting, and every flow its port; so do the\n" +
				"counts of the NAT IPs and the quotas of the endpoints. Reads only, and may run under traffic.",
			run: auditFlows,
		},
	)
}

func auditFlows(ctx context.Context, c *call) error {
	var audit api.Audit
	if _, err := c.api.Call(ctx, http.MethodGet, "/privlink/audit", nil, nil, nil, &audit); err != nil {
		return err
	}
	err := c.out.value(audit, func(t *columns) {
		if len(audit.Disagreements) == 0 {
			t.line("every port and every quota has its flows")
			return
		}
		t.row("WHAT", "NAT", "BACKEND", "PROTOCOL", "ENDPOINT", "IS", "SHOULD BE")
		for _, d := range audit.Disagreements {
			t.row(d.What, d.NAT, d.Backend, d.Protocol, lastOf(d.Endpoint), strconv.FormatUint(uint64(d.Have), 10), strconv.FormatUint(uint64(d.Due), 10))
		}
	})
	if err == nil && len(audit.Disagreements) > 0 {
		return silentError{exitFailed}
	}
	return err
}

func listFlows(ctx context.Context, c *call) error {
	query := url.Values{}
	for _, filter := range []struct {
		flag string
		kind api.Kind
	}{{"service", api.PrivateLinkServices}, {"endpoint", api.PrivateEndpoints}} {
		if !c.IsSet(filter.flag) {
			continue
		}
		id, err := c.resource(filter.kind, c.String(filter.flag))
		if err != nil {
			return err
		}
		query.Set(filter.flag, id.String())
	}
	if c.IsSet("client") {
		ip, err := netip.ParseAddr(c.String("client"))
		if err != nil {
			return usageErrorf("flag --client: %q is not an IP address", c.String("client"))
		}
		query.Set("client", ip.String())
	}
	flows, err := client.List[api.Flow](ctx, c.api, "/privlink/flows", query)
	if err != nil {
		return err
	}
	return c.out.value(flows, func(t *columns) {
		t.row("PROTOCOL", "CLIENT", "ENDPOINT", "LINKID", "NAT", "BACKEND", "STATE", "IDLE")
		for _, f := range flows {
			t.row(f.Protocol, f.Client, f.Endpoint, strconv.FormatUint(uint64(f.LinkID), 10), f.NAT, f.Backend, f.State,
				strconv.FormatUint(uint64(f.IdleSeconds), 10)+"s")
		}
	})
}
