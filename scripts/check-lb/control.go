package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/client"
	"github.com/privlink/privlink/pkg/lab"
)

// perSubscription is how many services each of two subscriptions has: one may not have all.
const perSubscription = manyServices / 2

// throughDaemon is how much longer than promised the daemon's processor time may be on a machine whose other work takes its
// caches. What is printed is what it was.
const throughDaemon = 2

// crowd is a daemon with many services or a large pool.
type crowd struct {
	daemon *lab.Daemon
	api    *client.Client
}

func newCrowd(ctx context.Context, l *lab.Lab, name string) (*crowd, error) {
	gateway := l.Namespace(name)
	if err := manyAddresses(ctx, l, gateway, name+"-vm"); err != nil {
		return nil, err
	}
	c := &crowd{daemon: gateway.Daemon(ctx, lab.DaemonOptions{Binary: l.Build(ctx, "./cmd/privlink")})}
	var err error
	c.api, err = client.New(client.Options{Socket: c.daemon.Socket})
	return c, err
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
`

// daemonServices writes many services with backends of their own as one batch of resources for each of two
// subscriptions, and times until the kernel has them: API, store, compile and apply.
func daemonServices(ctx context.Context, l *lab.Lab) (note string, err error) {
	c, err := newCrowd(ctx, l, "crowd")
	if err != nil {
		return "", err
	}
	defer c.close()
	var texts []string
	for s := range 2 {
		texts = append(texts, serviceDocuments(s))
	}
	watch, err := start(c.daemon.Process().PID())
	if err != nil {
		return "", err
	}
	for _, text := range texts {
		if _, err := c.daemon.CLIInput(ctx, text, "apply", "-f", "-"); err != nil {
			return "", err
		}
	}
	if err := errors.Join(c.applied(ctx, time.Minute), watch.stop()); err != nil {
		return "", err
	}
	return joined(fmt.Sprintf("from the documents to the kernel %v", watch), watch.under(throughDaemon*allServices, time.Minute))
}

// serviceDocuments are a network, its load balancers and a service for each frontend of one subscription.
func serviceDocuments(subscription int) string {
	var b strings.Builder
	b.WriteString(strings.ReplaceAll(network, "SUBSCRIPTION", fmt.Sprint("provider", subscription)))
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
// has it.
func daemonChange(ctx context.Context, l *lab.Lab) (note string, err error) {
	c, err := newCrowd(ctx, l, "pool")
	if err != nil {
		return "", err
	}
	defer c.close()
	attached := strings.ReplaceAll(network, "SUBSCRIPTION", "provider") + "  attachments: [{interface: pool-vm, mode: tc}]\n"
	if _, err := c.daemon.CLIInput(ctx, attached, "apply", "-f", "-"); err != nil {
		return "", err
	}
	in := api.ID{Subscription: "provider", ResourceGroup: "default"}
	id, err := api.ParseID("loadBalancers/large", in)
	if err != nil {
		return "", err
	}
	document := func(down bool) *api.LoadBalancer {
		lb := &api.LoadBalancer{SKU: &api.SKU{Name: "Standard"}}
		lb.Location = "local"
		front := api.FrontendIPConfiguration{}
		front.Name = "front"
		front.Properties.Subnet = &api.SubResource{ID: "virtualNetworks/datacenter/subnets/fronts"}
		pool := api.BackendAddressPool{}
		pool.Name = "pool"
		for i := range manyBackends {
			m := api.BackendAddress{Name: fmt.Sprint("m", i)}
			m.Properties.IPAddress = backendAddr(i).String()
			if down && i == manyBackends/2 {
				m.Properties.AdminState = api.AdminDown
			}
			pool.Properties.LoadBalancerBackendAddresses = append(pool.Properties.LoadBalancerBackendAddresses, m)
		}
		rule := api.LoadBalancingRule{}
		rule.Name = "rule"
		rule.Properties = api.LoadBalancingRuleProperties{Protocol: api.TransportTCP, FrontendPort: 80,
			FrontendIPConfiguration: &api.SubResource{ID: "loadBalancers/large/frontendIPConfigurations/front"},
			BackendAddressPool:      &api.SubResource{ID: "loadBalancers/large/backendAddressPools/pool"}}
		lb.Properties.FrontendIPConfigurations = []api.FrontendIPConfiguration{front}
		lb.Properties.BackendAddressPools = []api.BackendAddressPool{pool}
		lb.Properties.LoadBalancingRules = []api.LoadBalancingRule{rule}
		return lb
	}
	if _, err := client.Put[api.LoadBalancer](ctx, c.api, id, document(false), client.Conditions{}); err != nil {
		return "", err
	}
	if err := c.resolved(ctx, id); err != nil {
		return "", err
	}
	var all series
	for i := range rounds {
		body := document(i%2 == 0)
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
	return joined(all.String(), all.median().under(throughDaemon*oneBackend, 2*time.Second))
}

// resolved waits until every backend of the large pool is up.
func (c *crowd) resolved(ctx context.Context, lb api.ID) error {
	return lab.Poll(30*time.Second, func() error {
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
		if up != manyBackends {
			return fmt.Errorf("wait for the backends: %d of %d are up", up, manyBackends)
		}
		return nil
	})
}
