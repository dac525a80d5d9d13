package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/client"
)

func endpointCommand(env *environment) *cli.Command {
	return noun(env, "endpoint", "private endpoints: the consumer's IPs for services",
		verb{
			name: "create", names: "NAME", usage: "ask for a service and get an IP for it",
			description: "The endpoint is Pending until the provider approves it (endpoint wait --for Approved),\n" +
				"unless the service approves this subscription by itself.",
			flags: createFlags(
				&cli.StringFlag{Name: "vnet", Usage: "`NAME` of the virtual network", Required: true},
				&cli.StringFlag{Name: "subnet", Usage: "`NAME` of its subnet", Value: "default"},
				&cli.StringFlag{Name: "ip", Usage: "the endpoint's `IP` (default: the lowest free)"},
				&cli.StringFlag{Name: "service", Usage: "`ALIAS|ID` of the service", Required: true},
				&cli.StringFlag{Name: "request-message", Usage: "`TEXT` for the provider, 140 characters at most"},
				&cli.BoolFlag{Name: "approved", Usage: "ask by id as one who may approve: approved at once, or refused"},
			),
			run: createEndpoint,
		},
		showVerb(api.PrivateEndpoints, showEndpoint),
		listVerb(api.PrivateEndpoints, func(t *columns, e *api.PrivateEndpoint) {
			t.row(e.Name, ownerName(e.Properties.Subnet), e.Properties.IPAddress, string(endpointState(e).Status), e.Properties.LinkIdentifier,
				endpointService(e), string(e.Properties.ProvisioningState))
		}, "NAME", "NETWORK", "IP", "STATUS", "LINKID", "SERVICE", "STATE"),
		deleteVerb(api.PrivateEndpoints),
		verb{
			name: "wait", names: "NAME", usage: "wait until an endpoint has a status",
			flags: []cli.Flag{
				&cli.StringFlag{Name: "for", Usage: "`STATUS` to wait for: Pending, Approved, Rejected or Disconnected", Value: string(api.Approved)},
				&cli.DurationFlag{Name: "timeout", Usage: "give up after this `TIME` (such as 90s or 10m)", Value: 5 * time.Minute},
			},
			run: waitEndpoint,
		},
		verb{
			name: "reconnect", names: "NAME", usage: "ask again after the provider rejected or removed the connection",
			flags: []cli.Flag{&cli.StringFlag{Name: "request-message", Usage: "`TEXT` for the provider, in place of the earlier one"}},
			run:   reconnectEndpoint,
		},
	)
}

func createEndpoint(ctx context.Context, c *call) error {
	id, err := c.resource(api.PrivateEndpoints, c.Args().First())
	if err != nil {
		return err
	}
	network, subnet, err := c.subnet(ctx, c.String("vnet"), c.String("subnet"))
	if err != nil {
		return err
	}
	endpoint := &api.PrivateEndpoint{}
	endpoint.Location = c.location(network.Location)
	if endpoint.Tags, err = c.tags(); err != nil {
		return err
	}
	p := &endpoint.Properties
	p.Subnet = ref(subnet)
	if c.IsSet("ip") {
		ip := api.EndpointIPConfiguration{}
		ip.Name = "ipconfig"
		ip.Properties.PrivateIPAddress = c.String("ip")
		p.IPConfigurations = []api.EndpointIPConfiguration{ip}
	}
	connection := api.ServiceConnection{}
	connection.Name = id.Name
	connection.Properties.PrivateLinkServiceID = c.String("service")
	if !strings.ContainsAny(c.String("service"), "./") {
		return usageErrorf("flag --service: %q is a name: say the alias or the resource id, with which the provider's `privlink service show` ends", c.String("service"))
	}
	if strings.Contains(c.String("service"), "/") {
		service, err := c.resource(api.PrivateLinkServices, c.String("service"))
		if err != nil {
			return err
		}
		connection.Properties.PrivateLinkServiceID = service.String()
	}
	connection.Properties.RequestMessage = c.String("request-message")
	if c.Bool("approved") {
		p.PrivateLinkServiceConnections = []api.ServiceConnection{connection}
	} else {
		p.ManualPrivateLinkServiceConnections = []api.ServiceConnection{connection}
	}
	stored, err := client.Put[api.PrivateEndpoint](ctx, c.api, id, endpoint, client.Conditions{})
	if err != nil {
		return err
	}
	return showEndpoint(ctx, c, id, stored)
}

// endpointState is the consumer's view of the connection's state; never nil.
func endpointState(e *api.PrivateEndpoint) *api.ConnectionState {
	if connection, _ := e.Connection(); connection != nil && connection.Properties.PrivateLinkServiceConnectionState != nil {
		return connection.Properties.PrivateLinkServiceConnectionState
	}
	return &api.ConnectionState{}
}

// endpointService is what the endpoint asked for: alias or id.
func endpointService(e *api.PrivateEndpoint) string {
	if connection, _ := e.Connection(); connection != nil {
		return connection.Properties.PrivateLinkServiceID
	}
	return ""
}

func showEndpoint(_ context.Context, c *call, _ api.ID, e *api.PrivateEndpoint) error {
	return c.out.value(e, func(t *columns) {
		p := &e.Properties
		state := endpointState(e)
		t.field("Endpoint", e.Name)
		t.field("Id", e.ID)
		t.field("Location", e.Location)
		t.field("IP", e.Properties.IPAddress+" in "+ownerName(p.Subnet)+"/"+lastName(p.Subnet))
		t.field("Status", string(state.Status))
		t.field("LinkID", p.LinkIdentifier)
		t.field("Service", endpointService(e))
		if connection, _ := e.Connection(); connection != nil {
			t.field("Request message", connection.Properties.RequestMessage)
		}
		t.field("Provider says", state.Description)
		t.field("State", string(p.ProvisioningState))
		t.field("Reason", p.FailureReason)
		for _, name := range p.CustomDNSConfigs {
			if name.FQDN != "" {
				t.field("Name", name.FQDN+" "+strings.Join(name.IPAddresses, ", "))
			}
		}
		for _, warning := range p.Warnings {
			t.field("Warning", warning)
		}
	})
}

func waitEndpoint(ctx context.Context, c *call) error {
	id, err := c.resource(api.PrivateEndpoints, c.Args().First())
	if err != nil {
		return err
	}
	wanted, err := c.statusFlag("for")
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, c.Duration("timeout"))
	defer cancel()
	said := api.ConnectionStatus("")
	for {
		endpoint, err := client.Get[api.PrivateEndpoint](ctx, c.api, id)
		if err != nil {
			if ctx.Err() != nil {
				return fmt.Errorf("wait for endpoint %s to be %s: %w (it is %s)", id.Name, wanted, ctx.Err(), said)
			}
			return err
		}
		status := endpointState(endpoint).Status
		if status == wanted && (status != api.Approved || endpoint.Properties.ProvisioningState == api.Succeeded) {
			return showEndpoint(ctx, c, id, endpoint)
		}
		if status != said {
			said = status
			fmt.Fprintf(c.env.stderr, "endpoint %s is %s, waiting for %s\n", id.Name, status, wanted)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for endpoint %s to be %s: %w (it is %s)", id.Name, wanted, ctx.Err(), said)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func reconnectEndpoint(ctx context.Context, c *call) error {
	id, err := c.resource(api.PrivateEndpoints, c.Args().First())
	if err != nil {
		return err
	}
	for {
		endpoint, err := client.Get[api.PrivateEndpoint](ctx, c.api, id)
		if err != nil {
			return err
		}
		connection, _ := endpoint.Connection()
		if connection == nil {
			return fmt.Errorf("reconnect endpoint %s: it has no connection", id.Name)
		}
		switch status := endpointState(endpoint).Status; status {
		case api.Approved, api.Pending:
			return refusedErrorf("reconnect endpoint %s: its connection is %s; there is nothing to ask again", id.Name, status)
		}
		if c.IsSet("request-message") {
			connection.Properties.RequestMessage = c.String("request-message")
		}
		connection.Properties.PrivateLinkServiceConnectionState = &api.ConnectionState{Status: api.Pending}
		stored, err := client.Put[api.PrivateEndpoint](ctx, c.api, id, endpoint, client.Conditions{IfMatch: endpoint.Etag})
		if overtaken(err) {
			continue
		}
		if err != nil {
			return err
		}
		return showEndpoint(ctx, c, id, stored)
	}
}
