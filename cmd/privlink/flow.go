package main

import (
	"context"
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
	)
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
		query.Set("client", c.String("client"))
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
