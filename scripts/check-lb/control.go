package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/client"
	"github.com/privlink/privlink/pkg/lab"
)

// perSubscription is how many services each of two subscriptions has: one may not have all.
const perSubscription = manyServices / 2

// crowd is a daemon with many services or a large pool. Each of its networks has a machine with all addresses of backends, which
// serves port 80 of each, and the first has a client.
type crowd struct {
	name   string
	daemon *lab.Daemon
	api    *client.Client
	client *lab.Namespace
}

func newCrowd(ctx context.Context, l *lab.Lab, name string, networks int) (*crowd, error) {
	gateway := l.Namespace(name)
	c := &crowd{name: name}
	for n := range networks {
		backends, err := manyAddresses(ctx, l, gateway, fmt.Sprint(name, "-vm", n))
		if err != nil {
			return nil, err
		}
		listener, err := backends.Listen("tcp4", ":80")
		if err != nil {
			return nil, err
		}
		l.OnClose(func() { listener.Close() })
		go serveOn(listener, "backend") // until it is closed
	}
	c.client = l.VM(gateway, name+"-in", "10.0.0.5/8", lab.VethOptions{})
	c.daemon = gateway.Daemon(ctx, lab.DaemonOptions{Binary: l.Build(ctx, "./cmd/privlink")})
	var err error
	c.api, err = client.New(client.Options{Socket: c.daemon.Socket})
	return c, err
}

// network is the document of one of its networks.
func (c *crowd) network(n int) string {
	interfaces := fmt.Sprintf("{interface: %s-vm%d, mode: tc}", c.name, n)
	if n == 0 {
		interfaces += fmt.Sprintf(", {interface: %s-in, mode: tc}", c.name)
	}
	return strings.NewReplacer("SUBSCRIPTION", fmt.Sprint("provider", n), "INTERFACES", interfaces).Replace(network)
}

// balancer makes a load balancer of provider n, with one frontend, whose pool has many addresses, and waits until all of them
// are found. It returns the frontend's address.
func (c *crowd) balancer(ctx context.Context, n int, name string, backends int) (id api.ID, at string, err error) {
	if id, err = api.ParseID("loadBalancers/"+name, api.ID{Subscription: fmt.Sprint("provider", n), ResourceGroup: "default"}); err != nil {
		return id, "", err
	}
	made, err := client.Put[api.LoadBalancer](ctx, c.api, id, largeBalancer(name, backends, false), client.Conditions{})
	if err != nil {
		return id, "", err
	}
	return id, made.Properties.FrontendIPConfigurations[0].Properties.PrivateIPAddress + ":80", c.resolved(ctx, id, backends)
}

func (c *crowd) close() {
	c.api.Close()
	c.daemon.Stop()
}

// applied waits until the kernel agrees with the store.
func (c *crowd) applied(ctx context.Context, limit time.Duration) error {
	for end := time.Now().Add(limit); ; time.Sleep(time.Millisecond) {
		var s api.Status
		if _, err := c.api.Call(ctx, http.MethodGet, "/privlink/status", nil, nil, nil, &s); err != nil {
			return err
		}
		if s.AppliedRevision >= s.WantedRevision {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("revision %d is wanted, the kernel has %d after %v", s.WantedRevision, s.AppliedRevision, limit)
		}
	}
}

const network = `
type: Microsoft.Network/virtualNetworks
name: datacenter
subscription: SUBSCRIPTION
location: local
properties:
  addressSpace: {addressPrefixes: [10.0.0.0/8]}
  subnets: [{name: fronts, properties: {addressPrefix: 10.8.0.0/16}}, {name: backs, properties: {addressPrefix: 10.9.0.0/16}}]
  attachments: [INTERFACES]
`

// daemonServices writes many services with backends of their own as one batch of resources for each of two
// subscriptions, and times until the kernel has them: API, store, compile and apply, with every table, as the backends' MACs
// are known. A load balancer that is there before carries traffic meanwhile.
func daemonServices(ctx context.Context, l *lab.Lab) (note string, err error) {
	const subscriptions = 2
	c, err := newCrowd(ctx, l, "crowd", subscriptions)
	if err != nil {
		return "", err
	}
	defer c.close()
	var batches []api.Batch
	var first string
	for n := range subscriptions {
		if _, err := c.daemon.CLIInput(ctx, c.network(n), "apply", "-f", "-"); err != nil {
			return "", err
		}
		_, at, err := c.balancer(ctx, n, "known", distinct)
		if err != nil {
			return "", err
		}
		if n == 0 {
			first = at
		}
		batch, err := batchOf(serviceDocuments(n))
		if err != nil {
			return "", err
		}
		batches = append(batches, batch)
	}
	traffic, err := talk(ctx, c.client, first)
	if err != nil {
		return "", err
	}
	watch, err := start(c.daemon.Process().PID())
	if err != nil {
		return "", err
	}
	for _, batch := range batches {
		if _, err := c.api.Call(ctx, http.MethodPost, "/privlink/batch", nil, nil, batch, nil); err != nil {
			return "", err
		}
	}
	if err := errors.Join(c.applied(ctx, time.Minute), watch.stop()); err != nil {
		return "", err
	}
	carried, lost := traffic.end()
	return joined(fmt.Sprintf("from the request to the kernel %v; %s", series{watch}, carried),
		errors.Join(series{watch}.under(allServices), lost, c.served(ctx)))
}

// batchOf is what the CLI makes of documents: their resources, in one request.
func batchOf(documents string) (batch api.Batch, err error) {
	for _, text := range strings.Split(documents, "\n---\n") {
		if strings.TrimSpace(text) == "" {
			continue
		}
		var d map[string]any
		if err := yaml.Unmarshal([]byte(text), &d); err != nil {
			return batch, fmt.Errorf("read a document: %w", err)
		}
		id := fmt.Sprintf("/subscriptions/%v/resourceGroups/default/providers/%v/%v", d["subscription"], d["type"], d["name"])
		delete(d, "subscription")
		put, err := json.Marshal(d)
		if err != nil {
			return batch, fmt.Errorf("write %s: %w", id, err)
		}
		batch.Steps = append(batch.Steps, api.BatchStep{ID: id, Put: put})
	}
	return batch, nil
}

// served asks a new load balancer, whose table then has its backends.
func (c *crowd) served(ctx context.Context) error {
	id, err := api.ParseID("loadBalancers/lb0", api.ID{Subscription: "provider0", ResourceGroup: "default"})
	if err != nil {
		return err
	}
	lb, err := client.Get[api.LoadBalancer](ctx, c.api, id)
	if err != nil {
		return err
	}
	traffic, err := talk(ctx, c.client, lb.Properties.FrontendIPConfigurations[0].Properties.PrivateIPAddress+":80")
	if err != nil {
		return fmt.Errorf("ask a new load balancer: %w", err)
	}
	traffic.stop()
	return nil
}

// serviceDocuments are load balancers and a service for each frontend of one subscription.
func serviceDocuments(subscription int) string {
	var b strings.Builder
	for lb := range (perSubscription + api.MaxServicesPerLoadBalancer - 1) / api.MaxServicesPerLoadBalancer {
		var fronts, pools, rules, services strings.Builder
		for i := range min(api.MaxServicesPerLoadBalancer, perSubscription-lb*api.MaxServicesPerLoadBalancer) {
			n := lb*api.MaxServicesPerLoadBalancer + i
			fmt.Fprintf(&fronts, "\n  - {name: f%d, properties: {subnet: {id: virtualNetworks/datacenter/subnets/fronts}}}", i)
			var members []string
			for m := range poolSize {
				members = append(members, fmt.Sprintf("{name: m%d, properties: {ipAddress: %s}}", m, backendAddr(((subscription*perSubscription+n)*poolSize+m)%distinct)))
			}
			fmt.Fprintf(&pools, "\n  - {name: p%d, properties: {loadBalancerBackendAddresses: [%s]}}", i, strings.Join(members, ", "))
			fmt.Fprintf(&rules, "\n  - {name: r%d, properties: {protocol: Tcp, frontendPort: 80, frontendIPConfiguration: {id: loadBalancers/lb%d/frontendIPConfigurations/f%d}, "+
				"backendAddressPool: {id: loadBalancers/lb%d/backendAddressPools/p%d}}}", i, lb, i, lb, i)
			fmt.Fprintf(&services, `
---
type: Microsoft.Network/privateLinkServices
name: s%d
subscription: provider%d
location: local
properties:
  loadBalancerFrontendIpConfigurations: [{id: loadBalancers/lb%d/frontendIPConfigurations/f%d}]
  ipConfigurations: [{name: nat, properties: {subnet: {id: virtualNetworks/datacenter/subnets/fronts}}}]
`, n, subscription, lb, i)
		}
		fmt.Fprintf(&b, `
---
type: Microsoft.Network/loadBalancers
name: lb%d
subscription: provider%d
location: local
sku: {name: Standard}
properties:
  frontendIPConfigurations:%s
  backendAddressPools:%s
  loadBalancingRules:%s
%s`, lb, subscription, &fronts, &pools, &rules, &services)
	}
	return b.String()
}

// daemonChange writes a load balancer whose pool is large, with one backend changed each time, and times until the kernel
// has it. It carries traffic meanwhile.
func daemonChange(ctx context.Context, l *lab.Lab) (note string, err error) {
	c, err := newCrowd(ctx, l, "pool", 1)
	if err != nil {
		return "", err
	}
	defer c.close()
	if _, err := c.daemon.CLIInput(ctx, c.network(0), "apply", "-f", "-"); err != nil {
		return "", err
	}
	id, at, err := c.balancer(ctx, 0, "large", manyBackends)
	if err != nil {
		return "", err
	}
	traffic, err := talk(ctx, c.client, at)
	if err != nil {
		return "", err
	}
	var all series
	for i := range rounds {
		body := largeBalancer("large", manyBackends, i%2 == 0)
		watch, err := start(c.daemon.Process().PID())
		if err != nil {
			return "", err
		}
		if _, err := c.api.Call(ctx, http.MethodPut, client.Path(id), nil, nil, body, nil); err != nil {
			return "", err
		}
		if err := errors.Join(c.applied(ctx, 10*time.Second), watch.stop()); err != nil {
			return "", err
		}
		all = append(all, watch)
	}
	carried, lost := traffic.end()
	return joined(fmt.Sprintf("%v; %s", all, carried), errors.Join(all.under(oneBackend), lost))
}

// largeBalancer has one frontend, whose port 80 goes to many backends, one of which may be down.
func largeBalancer(name string, backends int, down bool) *api.LoadBalancer {
	lb := &api.LoadBalancer{SKU: &api.SKU{Name: "Standard"}}
	lb.Location = "local"
	front := api.FrontendIPConfiguration{}
	front.Name = "front"
	front.Properties.Subnet = &api.SubResource{ID: "virtualNetworks/datacenter/subnets/fronts"}
	pool := api.BackendAddressPool{}
	pool.Name = "pool"
	for i := range backends {
		m := api.BackendAddress{Name: fmt.Sprint("m", i)}
		m.Properties.IPAddress = backendAddr(i).String()
		if down && i == backends/2 {
			m.Properties.AdminState = api.AdminDown
		}
		pool.Properties.LoadBalancerBackendAddresses = append(pool.Properties.LoadBalancerBackendAddresses, m)
	}
	rule := api.LoadBalancingRule{}
	rule.Name = "rule"
	rule.Properties = api.LoadBalancingRuleProperties{Protocol: api.TransportTCP, FrontendPort: 80,
		FrontendIPConfiguration: &api.SubResource{ID: "loadBalancers/" + name + "/frontendIPConfigurations/front"},
		BackendAddressPool:      &api.SubResource{ID: "loadBalancers/" + name + "/backendAddressPools/pool"}}
	lb.Properties.FrontendIPConfigurations = []api.FrontendIPConfiguration{front}
	lb.Properties.BackendAddressPools = []api.BackendAddressPool{pool}
	lb.Properties.LoadBalancingRules = []api.LoadBalancingRule{rule}
	return lb
}

// resolved waits until all backends of a load balancer are up.
func (c *crowd) resolved(ctx context.Context, lb api.ID, backends int) error {
	return lab.Poll(time.Minute, func() error {
		list, err := client.List[api.BackendHealth](ctx, c.api, client.Path(lb)+"/backendHealth", nil)
		if err != nil {
			return err
		}
		up := 0
		for _, b := range list {
			if b.State == api.BackendUp {
				up++
			}
		}
		if up != backends {
			return fmt.Errorf("wait for the backends: %d of %d are up", up, backends)
		}
		return nil
	})
}
