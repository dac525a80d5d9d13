package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/client"
	"github.com/privlink/privlink/pkg/lab"
)

const (
	services      = 100
	endpoints     = 1000
	subscription  = "00000000-0000-0000-0000-000000000001" // of privlink apply
	resourceGroup = "default"
	// Within these a step must end; they are no promises.
	settleWithin = 30 * time.Second
	port         = "7"
)

// world is a daemon with many endpoints, all of which lead to one machine that echoes.
type world struct {
	daemon      *lab.Daemon
	consumer    *lab.Namespace
	api         *client.Client
	http        http.Client // the same socket, for answers that are only to be read
	connections []api.ID
	address     string // of the first endpoint, which stays approved
	turn        int
}

func newWorld(ctx context.Context, l *lab.Lab) (*world, error) {
	gw := l.Namespace("gw")
	provider := l.VM(gw, "provider", "10.9.0.4/8", lab.VethOptions{})
	w := &world{consumer: l.VM(gw, "consumer", "10.0.0.4/8", lab.VethOptions{})}
	provider.EchoServer("10.9.0.4:" + port)
	w.daemon = gw.Daemon(ctx, lab.DaemonOptions{Binary: l.Build(ctx, "./cmd/privlink")})
	var err error
	if w.api, err = client.New(client.Options{Socket: w.daemon.Socket}); err != nil {
		return nil, err
	}
	w.http.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", w.daemon.Socket)
	}}
	if _, err := w.daemon.CLIInput(ctx, providerDocuments(), "apply", "-f", "-"); err != nil {
		return nil, err
	}
	published, err := client.List[api.PrivateLinkService](ctx, w.api, client.Collection(subscription, resourceGroup, api.PrivateLinkServices), nil)
	if err != nil {
		return nil, err
	}
	if _, err := w.daemon.CLIInput(ctx, endpointDocuments(published), "apply", "-f", "-"); err != nil {
		return nil, err
	}
	if err := w.find(ctx); err != nil {
		return nil, err
	}
	if _, err := w.decide(ctx, w.connections[0], api.Approved); err != nil {
		return nil, err
	}
	w.connections = w.connections[1:]
	return w, w.settled(ctx)
}

func (w *world) close() {
	w.api.Close()
	w.http.CloseIdleConnections()
	w.daemon.Stop()
}

func providerDocuments() string {
	var b strings.Builder
	b.WriteString(`
type: Microsoft.Network/virtualNetworks
name: dc
location: local
properties:
  addressSpace: {addressPrefixes: [10.0.0.0/8]}
  subnets: [{name: fronts, properties: {addressPrefix: 10.8.0.0/16}}, {name: backs, properties: {addressPrefix: 10.9.0.0/16}}]
  attachments: [{interface: provider, mode: tc}]
---
type: Microsoft.Network/virtualNetworks
name: home
location: local
properties:
  addressSpace: {addressPrefixes: [10.0.0.0/8]}
  subnets: [{name: default, properties: {addressPrefix: 10.1.0.0/16}}, {name: vms, properties: {addressPrefix: 10.0.0.0/16}}]
  attachments: [{interface: consumer, mode: tc}]
`)
	for lb := range (services + api.MaxServicesPerLoadBalancer - 1) / api.MaxServicesPerLoadBalancer {
		var fronts, rules, published strings.Builder
		for i := lb * api.MaxServicesPerLoadBalancer; i < min((lb+1)*api.MaxServicesPerLoadBalancer, services); i++ {
			fmt.Fprintf(&fronts, "\n  - {name: f%d, properties: {subnet: {id: virtualNetworks/dc/subnets/fronts}}}", i)
			fmt.Fprintf(&rules, "\n  - {name: r%d, properties: {protocol: Udp, frontendPort: %s, frontendIPConfiguration: {id: loadBalancers/lb%d/frontendIPConfigurations/f%d}, "+
				"backendAddressPool: {id: loadBalancers/lb%d/backendAddressPools/pool}}}", i, port, lb, i, lb)
			fmt.Fprintf(&published, `
---
type: Microsoft.Network/privateLinkServices
name: s%03d
location: local
properties:
  visibility: {subscriptions: ['*']}
  loadBalancerFrontendIpConfigurations: [{id: loadBalancers/lb%d/frontendIPConfigurations/f%d}]
  ipConfigurations: [{name: nat, properties: {subnet: {id: virtualNetworks/dc/subnets/fronts}}}]
`, i, lb, i)
		}
		fmt.Fprintf(&b, `
---
type: Microsoft.Network/loadBalancers
name: lb%d
location: local
sku: {name: Standard}
properties:
  frontendIPConfigurations:%s
  backendAddressPools: [{name: pool, properties: {loadBalancerBackendAddresses: [{name: m, properties: {ipAddress: 10.9.0.4}}]}}]
  loadBalancingRules:%s
%s`, lb, &fronts, &rules, &published)
	}
	return b.String()
}

func endpointDocuments(published []api.PrivateLinkService) string {
	var b strings.Builder
	for i := range endpoints {
		fmt.Fprintf(&b, `
---
type: Microsoft.Network/privateEndpoints
name: pe%04d
location: local
properties:
  subnet: {id: virtualNetworks/home/subnets/default}
  manualPrivateLinkServiceConnections:
  - {name: c, properties: {privateLinkServiceId: %s, requestMessage: please}}
`, i, published[i%len(published)].Properties.Alias)
	}
	return b.String()
}

// find looks for the connections, in the order of their endpoints' names, and the first endpoint's address.
func (w *world) find(ctx context.Context) error {
	list, err := client.List[api.PrivateEndpoint](ctx, w.api, client.Collection(subscription, resourceGroup, api.PrivateEndpoints), nil)
	if err != nil {
		return err
	}
	if len(list) != endpoints {
		return fmt.Errorf("%d endpoints were made, not %d", len(list), endpoints)
	}
	w.address = net.JoinHostPort(list[0].Properties.IPAddress, port)
	published, err := client.List[api.PrivateLinkService](ctx, w.api, client.Collection(subscription, resourceGroup, api.PrivateLinkServices), nil)
	if err != nil {
		return err
	}
	byEndpoint := map[string]api.ID{}
	for _, s := range published {
		for _, c := range s.Properties.PrivateEndpointConnections {
			byEndpoint[strings.ToLower(c.Properties.PrivateEndpoint.ID)] = api.IDOf(&s).Sub(api.PrivateEndpointConnections, c.Name)
		}
	}
	for i := range list {
		w.connections = append(w.connections, byEndpoint[strings.ToLower(list[i].ID)])
	}
	return nil
}

func (w *world) decide(ctx context.Context, connection api.ID, status api.ConnectionStatus) (*api.PrivateEndpointConnection, error) {
	decision, answer := &api.PrivateEndpointConnection{}, &api.PrivateEndpointConnection{}
	decision.Properties.PrivateLinkServiceConnectionState = &api.ConnectionState{Status: status}
	_, err := w.api.Call(ctx, http.MethodPut, client.Path(connection), nil, nil, decision, answer)
	return answer, err
}

func (w *world) status(ctx context.Context) (s api.Status, err error) {
	_, err = w.api.Call(ctx, http.MethodGet, "/privlink/status", nil, nil, nil, &s)
	return s, err
}

// settled waits until the kernel agrees with the store.
func (w *world) settled(ctx context.Context) error {
	for end := time.Now().Add(settleWithin); ; time.Sleep(time.Millisecond) {
		s, err := w.status(ctx)
		if err == nil && s.AppliedRevision >= s.WantedRevision && s.AppliedRevision > 0 {
			return nil
		}
		if time.Now().After(end) {
			return errors.Join(fmt.Errorf("revision %d is wanted, the kernel has %d after %v", s.WantedRevision, s.AppliedRevision, settleWithin), err)
		}
	}
}
