package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/privlink/privlink/pkg/lab"
	"github.com/privlink/privlink/pkg/lab/load"
)

// Every network is 10.0.0.0/16; the two consumers have the very same addresses.
const (
	backendIP   = "10.0.0.4"
	clientIP    = "10.0.1.4"
	plainIP     = "10.0.1.10"
	proxiedIP   = "10.0.1.11"
	proxiedPort = 7010
)

// resources are the provider's network and load balancer and the consumers' networks, as `privlink apply` takes them.
const resources = `
type: Microsoft.Network/virtualNetworks
name: provider
location: local
properties:
  addressSpace: {addressPrefixes: [10.0.0.0/16]}
  subnets: [{name: servers, properties: {addressPrefix: 10.0.0.0/24}}]
  attachments: [{interface: web, mode: tc}]
---
type: Microsoft.Network/virtualNetworks
name: c1
location: local
properties:
  addressSpace: {addressPrefixes: [10.0.0.0/16]}
  subnets: [{name: default, properties: {addressPrefix: 10.0.1.0/24}}]
  attachments: [{interface: c1, mode: tc}]
---
type: Microsoft.Network/virtualNetworks
name: c2
location: local
properties:
  addressSpace: {addressPrefixes: [10.0.0.0/16]}
  subnets: [{name: default, properties: {addressPrefix: 10.0.1.0/24}}]
  attachments: [{interface: c2, mode: tc}]
---
type: Microsoft.Network/loadBalancers
name: balancer
location: local
sku: {name: Standard}
properties:
  frontendIPConfigurations:
  - {name: plain, properties: {privateIPAddress: 10.0.0.100, privateIPAllocationMethod: Static, subnet: {id: virtualNetworks/provider/subnets/servers}}}
  - {name: proxied, properties: {privateIPAddress: 10.0.0.101, privateIPAllocationMethod: Static, subnet: {id: virtualNetworks/provider/subnets/servers}}}
  backendAddressPools:
  - name: pool
    properties:
      loadBalancerBackendAddresses:
      - {name: web, properties: {ipAddress: 10.0.0.4, virtualNetwork: {id: virtualNetworks/provider}}}
  loadBalancingRules:
  - {name: datagrams, properties: {protocol: Udp, frontendPort: 7007, backendPort: 7007, frontendIPConfiguration: {id: loadBalancers/balancer/frontendIPConfigurations/plain}, backendAddressPool: {id: loadBalancers/balancer/backendAddressPools/pool}}}
  - {name: echo, properties: {protocol: Tcp, frontendPort: 7008, backendPort: 7008, frontendIPConfiguration: {id: loadBalancers/balancer/frontendIPConfigurations/plain}, backendAddressPool: {id: loadBalancers/balancer/backendAddressPools/pool}}}
  - {name: bulk, properties: {protocol: Tcp, frontendPort: 7009, backendPort: 7009, frontendIPConfiguration: {id: loadBalancers/balancer/frontendIPConfigurations/plain}, backendAddressPool: {id: loadBalancers/balancer/backendAddressPools/pool}}}
  - {name: proxied, properties: {protocol: Tcp, frontendPort: 7010, backendPort: 7008, frontendIPConfiguration: {id: loadBalancers/balancer/frontendIPConfigurations/proxied}, backendAddressPool: {id: loadBalancers/balancer/backendAddressPools/pool}}}
`

// arena is what faults and traffic share.
type arena struct {
	*lab.Lab
	gw, web   *lab.Namespace
	consumers []*lab.Namespace
	daemon    *lab.Daemon
	names     []string // of the gateway's interfaces: web, c1, c2
	plain     []*load.Client
	proxied   []*load.Client
	serial    int    // of what faults make
	object    string // what the last fault was done to, for the log
}

// vm is the machine at the other end of an interface of the gateway, and its address.
func (a *arena) vm(name string) (*lab.Namespace, string) {
	switch name {
	case "c1":
		return a.consumers[0], clientIP
	case "c2":
		return a.consumers[1], clientIP
	}
	return a.web, backendIP
}

// build makes machines, daemon and resources, and waits until both services answer both consumers.
func build(ctx context.Context, l *lab.Lab, binary string) (*arena, error) {
	a := &arena{Lab: l, gw: l.Namespace("gw"), names: []string{"web", "c1", "c2"}}
	a.web = l.VM(a.gw, "web", backendIP+"/16", lab.VethOptions{})
	if err := load.Serve(a.web, backendIP); err != nil {
		return nil, err
	}
	for _, name := range a.names[1:] {
		a.consumers = append(a.consumers, l.VM(a.gw, name, clientIP+"/16", lab.VethOptions{}))
	}
	a.daemon = a.gw.Daemon(ctx, lab.DaemonOptions{Binary: binary})
	if out, err := a.daemon.CLIInput(ctx, resources, "apply", "-f", "-"); err != nil {
		return nil, fmt.Errorf("make the networks: %w\n%s", err, out)
	}
	for _, service := range []struct {
		name, ip string
		flags    []string
	}{{"plain", plainIP, nil}, {"proxied", proxiedIP, []string{"--proxy-protocol"}}} {
		args := append([]string{"service", "create", service.name, "--lb", "balancer", "--frontend", service.name,
			"--nat-subnet", "servers", "--nat-ip-count", "2", "--visibility", "*", "--auto-approval", "*", "-o", "json"}, service.flags...)
		out, err := a.daemon.CLI(ctx, args...)
		if err != nil {
			return nil, fmt.Errorf("make the service %s: %w", service.name, err)
		}
		var made struct{ ID string }
		if err := json.Unmarshal([]byte(out), &made); err != nil {
			return nil, fmt.Errorf("make the service %s: %w", service.name, err)
		}
		for _, consumer := range a.names[1:] {
			_, err := a.daemon.CLI(ctx, "endpoint", "create", consumer+"-"+service.name, "--vnet", consumer, "--subnet", "default",
				"--ip", service.ip, "--service", made.ID)
			if err != nil {
				return nil, fmt.Errorf("make an endpoint of %s: %w", service.name, err)
			}
		}
	}
	return a, a.answers(ctx, 30*time.Second)
}

// answers waits until every consumer has a new connection to both services.
func (a *arena) answers(ctx context.Context, limit time.Duration) error {
	for _, address := range []string{fmt.Sprintf("%s:%d", plainIP, load.PortEcho), fmt.Sprintf("%s:%d", proxiedIP, proxiedPort)} {
		for _, n := range a.consumers {
			err := lab.Poll(limit, func() error { return reach(ctx, n, address) })
			if err != nil {
				return fmt.Errorf("reach %s from %s: %w", address, n, err)
			}
		}
	}
	return nil
}

func reach(ctx context.Context, n *lab.Namespace, address string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	conn, err := n.Dial(ctx, "tcp4", "", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return err
	}
	const text = "is anybody there?"
	if _, err := conn.Write([]byte(text)); err != nil {
		return err
	}
	back := make([]byte, len(text))
	if _, err := conn.Read(back); err != nil {
		return err
	}
	return nil
}

// start begins the traffic.
func (a *arena) start(ctx context.Context) error {
	for i, n := range a.consumers {
		plain, err := load.Start(ctx, n, plainIP, load.Options{Seed: uint64(2*i + 1), Bulk: 2 << 20, Pause: 200 * time.Millisecond})
		if err != nil {
			return err
		}
		a.plain = append(a.plain, plain)
		proxied, err := load.Start(ctx, n, proxiedIP, load.Options{Datagram: -1, Bulk: -1, Short: 50 * time.Millisecond, PortEcho: proxiedPort})
		if err != nil {
			return err
		}
		a.proxied = append(a.proxied, proxied)
	}
	// The connections that stay are there before the first fault.
	return lab.Poll(30*time.Second, func() error {
		for _, c := range append(a.plain[:len(a.plain):len(a.plain)], a.proxied...) {
			if !c.Steady() {
				return errors.New("the lasting connections are not open")
			}
		}
		return nil
	})
}

// underWay is when a window begins that is opened now: what was sent later may be under way.
func (a *arena) underWay() time.Time {
	at := time.Now()
	for _, c := range a.plain {
		if known := c.Known(); known.Before(at) {
			at = known
		}
	}
	return at
}

// attached says whether the daemon has all interfaces attached, with the numbers they have now.
func (a *arena) attached(ctx context.Context) error {
	out, err := a.daemon.CLI(ctx, "status", "-o", "json")
	var exit *lab.ExitError
	if err != nil && !(errors.As(err, &exit) && exit.Code == 1) { // 1: degraded, and it says why
		return err
	}
	var status struct {
		Interfaces []struct{ Interface, Hook, Error, MAC string }
	}
	if err := json.Unmarshal([]byte(out), &status); err != nil {
		return err
	}
	have := make(map[string]bool)
	for _, i := range status.Interfaces {
		if i.Error != "" || i.Hook == "" {
			return fmt.Errorf("%s: %s", i.Interface, i.Error)
		}
		if !strings.EqualFold(i.MAC, a.gw.MAC(i.Interface).String()) {
			return fmt.Errorf("%s: it is still taken for the old one", i.Interface)
		}
		have[i.Interface] = true
	}
	if len(have) != len(a.names) {
		return fmt.Errorf("attached are %v", have)
	}
	return nil
}
