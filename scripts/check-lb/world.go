package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/client"
	"github.com/privlink/privlink/pkg/lab"
)

const (
	poolSize = 8
	endpoint = "10.0.1.10:80"
	// The probe's: the shortest interval, and one failure takes a backend out.
	interval = 5 * time.Second
	// drain is the pool's drainPeriodInSeconds.
	drain = 10 * time.Second
)

// world is a daemon with a provider's network of 16 machines and a consumer's of one.
type world struct {
	lab      *lab.Lab
	daemon   *lab.Daemon
	consumer *lab.Namespace
	machines []*machine
	api      *client.Client
	lb       api.ID
}

// machine is one that a backend's process runs on; its name is its interface's at the gateway.
type machine struct {
	*lab.Namespace
	name, ip string
	process  *lab.Process // nil while it does not run
}

func (m *machine) start(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	m.process = m.Start(ctx, self, "backend", m.ip+":8080", m.name)
	return lab.Poll(20*time.Second, func() error {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		conn, err := m.Dial(ctx, "tcp4", "", m.ip+":8080")
		if err != nil {
			return fmt.Errorf("start backend %s: %w", m.name, err)
		}
		return conn.Close()
	})
}

func (m *machine) kill() {
	m.process.Kill()
	m.process = nil
}

// silence lets nothing answer for the machine any more, as if its power were off behind a switch: it has no address. (A link that
// goes down is noticed by its carrier, at once.)
func (m *machine) silence(ctx context.Context) error {
	_, err := m.Run(ctx, "ip", "address", "del", m.ip+"/16", "dev", "eth0")
	return err
}

// revive ends what kill or silence did.
func (m *machine) revive(ctx context.Context) error {
	if m.process == nil {
		return m.start(ctx)
	}
	_, err := m.Run(ctx, "ip", "address", "add", m.ip+"/16", "dev", "eth0")
	return err
}

func newWorld(ctx context.Context, l *lab.Lab) (*world, error) {
	gateway := l.Namespace("gateway")
	w := &world{lab: l, consumer: l.VM(gateway, "home", "10.0.1.4/16", lab.VethOptions{})}
	var attachments []string
	for i := range 2 * poolSize {
		m := &machine{name: fmt.Sprintf("b%d", i+1), ip: fmt.Sprintf("10.0.0.%d", 11+i)}
		m.Namespace = l.VM(gateway, m.name, m.ip+"/16", lab.VethOptions{})
		w.machines = append(w.machines, m)
		attachments = append(attachments, fmt.Sprintf("{interface: %s, mode: tc}", m.name))
	}
	for _, m := range w.machines[:poolSize] {
		if err := m.start(ctx); err != nil {
			return nil, err
		}
	}
	w.daemon = gateway.Daemon(ctx, lab.DaemonOptions{Binary: l.Build(ctx, "./cmd/privlink")})
	var err error
	if w.api, err = client.New(client.Options{Socket: w.daemon.Socket}); err != nil {
		return nil, err
	}
	networks := strings.ReplaceAll(`
type: Microsoft.Network/virtualNetworks
name: datacenter
location: local
properties:
  addressSpace: {addressPrefixes: [10.0.0.0/16]}
  subnets: [{name: servers, properties: {addressPrefix: 10.0.0.0/24}}]
  attachments: [ATTACHMENTS]
---
type: Microsoft.Network/virtualNetworks
name: home
location: local
properties:
  addressSpace: {addressPrefixes: [10.0.0.0/16]}
  subnets: [{name: default, properties: {addressPrefix: 10.0.1.0/24}}]
  attachments: [{interface: home, mode: tc}]
`, "ATTACHMENTS", strings.Join(attachments, ", "))
	if err := w.apply(ctx, networks); err != nil {
		return nil, err
	}
	if err := w.pool(ctx, w.machines[:poolSize]); err != nil {
		return nil, err
	}
	var made struct{ ID string }
	out, err := w.daemon.CLI(ctx, "lb", "show", "web", "-o", "json")
	if err == nil {
		err = json.Unmarshal([]byte(out), &made)
	}
	if err != nil {
		return nil, err
	}
	if w.lb, err = api.ParseID(made.ID, api.ID{}); err != nil {
		return nil, err
	}
	out, err = w.daemon.CLI(ctx, "service", "create", "shop", "--lb", "web", "--nat-subnet", "servers", "--nat-ip-count", "2",
		"--visibility", "*", "--auto-approval", "*", "-o", "json")
	if err == nil {
		err = json.Unmarshal([]byte(out), &made)
	}
	if err != nil {
		return nil, err
	}
	if _, err := w.daemon.CLI(ctx, "endpoint", "create", "to-shop", "--vnet", "home", "--subnet", "default", "--ip", "10.0.1.10", "--service", made.ID); err != nil {
		return nil, err
	}
	if err := w.up(ctx, w.machines[:poolSize]...); err != nil {
		return nil, err
	}
	return w, lab.Poll(30*time.Second, func() error {
		c, err := w.call(ctx)
		if err == nil {
			err = c.conn.Close()
		}
		return err
	})
}

func (w *world) close() { w.api.Close() }

func (w *world) apply(ctx context.Context, documents string) error {
	out, err := w.daemon.CLIInput(ctx, documents, "apply", "-f", "-")
	if err != nil {
		return fmt.Errorf("apply: %w\n%s", err, out)
	}
	return nil
}

// pool makes the load balancer's pool these machines.
func (w *world) pool(ctx context.Context, members []*machine) error {
	var addresses []string
	for _, m := range members {
		addresses = append(addresses, fmt.Sprintf("{name: %s, properties: {ipAddress: %s, virtualNetwork: {id: virtualNetworks/datacenter}}}", m.name, m.ip))
	}
	return w.apply(ctx, strings.NewReplacer("ADDRESSES", strings.Join(addresses, ", "), "DRAIN", fmt.Sprint(drain.Seconds()),
		"INTERVAL", fmt.Sprint(interval.Seconds())).Replace(`
type: Microsoft.Network/loadBalancers
name: web
location: local
sku: {name: Standard}
properties:
  frontendIPConfigurations:
  - {name: front, properties: {privateIPAddress: 10.0.0.100, privateIPAllocationMethod: Static, subnet: {id: virtualNetworks/datacenter/subnets/servers}}}
  backendAddressPools:
  - {name: pool, properties: {drainPeriodInSeconds: DRAIN, loadBalancerBackendAddresses: [ADDRESSES]}}
  probes:
  - {name: alive, properties: {protocol: Tcp, port: 8080, intervalInSeconds: INTERVAL, probeThreshold: 1}}
  loadBalancingRules:
  - name: web
    properties:
      protocol: Tcp
      frontendPort: 80
      backendPort: 8080
      frontendIPConfiguration: {id: loadBalancers/web/frontendIPConfigurations/front}
      backendAddressPool: {id: loadBalancers/web/backendAddressPools/pool}
      probe: {id: loadBalancers/web/probes/alive}
`))
}

// health is what the daemon says of the backends, by address.
func (w *world) health(ctx context.Context) (map[string]api.BackendHealth, error) {
	list, err := client.List[api.BackendHealth](ctx, w.api, client.Path(w.lb)+"/backendHealth", nil)
	all := make(map[string]api.BackendHealth, len(list))
	for _, b := range list {
		all[b.Address] = b
	}
	return all, err
}

// up waits until the daemon says that backends are up by their probes' results.
func (w *world) up(ctx context.Context, members ...*machine) error {
	return lab.Poll(2*time.Minute, func() error {
		all, err := w.health(ctx)
		if err != nil {
			return err
		}
		for _, m := range members {
			if b := all[m.ip]; b.State != api.BackendUp || strings.Contains(b.Reason, "not probed") {
				return fmt.Errorf("backend %s is %s: %s", m.name, b.State, b.Reason)
			}
		}
		return nil
	})
}

// call connects to the endpoint and has one request answered.
func (w *world) call(ctx context.Context) (*caller, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := w.consumer.Dial(ctx, "tcp4", "", endpoint)
	if err != nil {
		return nil, err
	}
	c := newCaller(conn)
	if err := c.ask(); err != nil {
		conn.Close()
		return nil, err
	}
	return c, nil
}
