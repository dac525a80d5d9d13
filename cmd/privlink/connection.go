package main

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/client"
)

func connectionCommand(env *environment) *cli.Command {
	which := []cli.Flag{
		&cli.StringFlag{Name: "service", Usage: "`NAME` of the service", Required: true},
		&cli.StringFlag{Name: "name", Usage: "`NAME` of the connection, or of its endpoint where only one has it", Required: true},
	}
	description := &cli.StringFlag{Name: "description", Usage: "`TEXT` that the consumer sees"}
	return noun(env, "connection", "connections of consumers: the provider's inbox and decisions",
		verb{
			name: "list", usage: "list connections: the inbox over all services, or those of one",
			flags: []cli.Flag{
				&cli.StringFlag{Name: "service", Usage: "only of the service `NAME`"},
				&cli.StringFlag{Name: "status", Usage: "only with this status, `Pending|Approved|Rejected|Disconnected`"},
			},
			run: listConnections,
		},
		verb{name: "show", usage: "show a connection", flags: which, run: func(ctx context.Context, c *call) error {
			id, connection, err := c.connection(ctx)
			if err != nil {
				return err
			}
			return showConnection(c, id, connection)
		}},
		verb{name: "approve", usage: "let a connection's traffic pass", flags: append(which, description), run: decide(api.Approved)},
		verb{name: "reject", usage: "refuse a connection; open flows are reset", flags: append(which, description), run: decide(api.Rejected)},
		verb{name: "remove", usage: "end a connection for good; the endpoint becomes Disconnected", flags: which, run: removeConnection},
	)
}

// inboxEntry is a connection with the service it belongs to.
type inboxEntry struct {
	Service string `json:"service"` // resource id
	api.PrivateEndpointConnection
}

func listConnections(ctx context.Context, c *call) error {
	status, err := c.statusFlag("status")
	if err != nil {
		return err
	}
	services, err := c.servicesAsked(ctx)
	if err != nil {
		return err
	}
	entries := []inboxEntry{}
	for _, service := range services {
		for _, connection := range service.Properties.PrivateEndpointConnections {
			if status == "" || connectionState(&connection).Status == status {
				entries = append(entries, inboxEntry{service.ID, connection})
			}
		}
	}
	return c.out.value(entries, func(t *columns) {
		t.row("SERVICE", "CONNECTION", "STATUS", "SUBSCRIPTION", "ENDPOINT", "LINKID", "AGE", "MESSAGE")
		for i := range entries {
			p := &entries[i].Properties
			t.row(lastOf(entries[i].Service), entries[i].Name, string(connectionState(&entries[i].PrivateEndpointConnection).Status), p.Subscription,
				lastName(p.PrivateEndpoint), p.LinkIdentifier, age(c.env.now(), p.RequestTime), p.RequestMessage)
		}
	})
}

// servicesAsked are the service of --service, or all of the subscription.
func (c *call) servicesAsked(ctx context.Context) ([]api.PrivateLinkService, error) {
	if !c.IsSet("service") {
		return client.List[api.PrivateLinkService](ctx, c.api, client.Collection(c.setting("subscription"), "", api.PrivateLinkServices), url.Values{})
	}
	id, err := c.resource(api.PrivateLinkServices, c.String("service"))
	if err != nil {
		return nil, err
	}
	service, err := client.Get[api.PrivateLinkService](ctx, c.api, id)
	if err != nil {
		return nil, err
	}
	return []api.PrivateLinkService{*service}, nil
}

// statusFlag reads a connection status in any case; empty stays empty.
func (c *call) statusFlag(name string) (api.ConnectionStatus, error) {
	text := c.String(name)
	known := []api.ConnectionStatus{api.Pending, api.Approved, api.Rejected, api.Disconnected}
	var names []string
	for _, status := range known {
		if strings.EqualFold(text, string(status)) {
			return status, nil
		}
		names = append(names, string(status))
	}
	if text == "" {
		return "", nil
	}
	return "", usageErrorf("flag --%s: %q is not one of %s%s", name, text, strings.Join(names, ", "), suggestion(text, names))
}

// connectionState is a connection's state; never nil.
func connectionState(c *api.PrivateEndpointConnection) *api.ConnectionState {
	if c.Properties.PrivateLinkServiceConnectionState == nil {
		return &api.ConnectionState{}
	}
	return c.Properties.PrivateLinkServiceConnectionState
}

// connection finds what --service and --name mean: the connection of that name, or the only one whose endpoint is named so.
func (c *call) connection(ctx context.Context) (api.ID, *api.PrivateEndpointConnection, error) {
	services, err := c.servicesAsked(ctx)
	if err != nil {
		return api.ID{}, nil, err
	}
	service, name := services[0], c.String("name")
	id := api.IDOf(&service)
	var found []*api.PrivateEndpointConnection
	var names []string
	for i := range service.Properties.PrivateEndpointConnections {
		connection := &service.Properties.PrivateEndpointConnections[i]
		if strings.EqualFold(connection.Name, lastOf(name)) {
			return id.Sub(api.PrivateEndpointConnections, connection.Name), connection, nil
		}
		if strings.EqualFold(lastName(connection.Properties.PrivateEndpoint), name) {
			found = append(found, connection)
		}
		names = append(names, connection.Name)
	}
	switch len(found) {
	case 0:
		if len(names) == 0 {
			return id, nil, notFoundErrorf("service %s has no connections", id.Name)
		}
		return id, nil, notFoundErrorf("service %s has no connection %q%s (privlink connection list --service %s)", id.Name, name, suggestion(name, names), id.Name)
	case 1:
		return id.Sub(api.PrivateEndpointConnections, found[0].Name), found[0], nil
	}
	names = nil
	for _, connection := range found {
		names = append(names, connection.Name)
	}
	return id, nil, usageErrorf("service %s has %d connections of endpoints named %q: say which of %s", id.Name, len(found), name, strings.Join(names, ", "))
}

func decide(status api.ConnectionStatus) func(context.Context, *call) error {
	return func(ctx context.Context, c *call) error {
		id, connection, err := c.connection(ctx)
		if err != nil {
			return err
		}
		// Only what a decision consists of: the rest is the daemon's.
		decision := &api.PrivateEndpointConnection{}
		decision.Name = connection.Name
		decision.Properties.PrivateLinkServiceConnectionState = &api.ConnectionState{Status: status, Description: c.String("description")}
		stored, err := client.Put[api.PrivateEndpointConnection](ctx, c.api, id, decision, client.Conditions{})
		if err != nil {
			return err
		}
		return showConnection(c, id, stored)
	}
}

func removeConnection(ctx context.Context, c *call) error {
	id, _, err := c.connection(ctx)
	if err != nil {
		return err
	}
	if _, err := c.api.Delete(ctx, id, nil, client.Conditions{}); err != nil {
		return err
	}
	return c.out.say("connection %s removed", id.Child)
}

func showConnection(c *call, id api.ID, connection *api.PrivateEndpointConnection) error {
	return c.out.value(connection, func(t *columns) {
		p := &connection.Properties
		state := connectionState(connection)
		t.field("Connection", connection.Name)
		t.field("Service", id.Name)
		t.field("Status", string(state.Status))
		t.field("Description", state.Description)
		t.field("LinkID", p.LinkIdentifier)
		t.field("Request message", p.RequestMessage)
		t.field("Subscription", p.Subscription)
		t.field("Tenant", p.Tenant)
		if p.PrivateEndpoint != nil {
			t.field("Endpoint", p.PrivateEndpoint.ID)
		}
		t.field("Requested", moment(p.RequestTime))
		t.field("Decided", moment(p.DecisionTime))
		t.field("Decided by", p.DecidedBy)
		if limit, ok := p.MaxFlows.Get(); ok {
			t.field("Flows at most", fmt.Sprint(limit))
		}
	})
}

func moment(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// age is how long ago t was, in the largest unit.
func age(now, t time.Time) string {
	if t.IsZero() {
		return ""
	}
	d := max(now.Sub(t), 0)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}
