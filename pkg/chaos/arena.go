package chaos

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

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

// networks are the provider's and the consumers', as `privlink apply` takes them. One consumer is behind XDP. The crowd
// and the yard with its server are other tenants, whose flows fill the table that all share.
const networks = `
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
  attachments: [{interface: c2, mode: xdp}]
---
type: Microsoft.Network/virtualNetworks
name: crowd
location: local
properties:
  addressSpace: {addressPrefixes: [10.0.0.0/16]}
  subnets: [{name: default, properties: {addressPrefix: 10.0.1.0/24}}]
  attachments: [{interface: crowd, mode: tc}]
---
type: Microsoft.Network/virtualNetworks
name: yard
location: local
properties:
  addressSpace: {addressPrefixes: [10.0.0.0/16]}
  subnets: [{name: servers, properties: {addressPrefix: 10.0.0.0/24}}]
  attachments: [{interface: yard, mode: tc}]
---
`

// balancer is the load balancer of both services.
const balancer = `
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
	crowd     *lab.Namespace
	daemon    *lab.Daemon
	names     []string // of the gateway's interfaces that carry the traffic: web, c1, c2
	plain     []*load.Client
	proxied   []*load.Client
	config    string // the daemon's configuration file
	flows     int    // size of the flow table it asks for
	serial    int    // of what faults make
	object    string // what the last fault was done to, for the log
	// window is when the last fault began and was over, where that is not all the time that its strike took.
	window load.Window
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

// wires says how an interface of the gateway is wired. Behind XDP a veth has to be as a cable is: complete checksums, no
// segmentation, a sender that waits while the other end is busy, and ends that take XDP frames.
func wires(name string) lab.VethOptions {
	if name == "c1" {
		return lab.VethOptions{}
	}
	return lab.VethOptions{B: lab.EndOptions{
		Off: []string{"tx-checksum-ip-generic", "tx-tcp-segmentation", "tx-generic-segmentation"}, On: []string{"rx-gro"}, Queue: true,
	}}
}

// stateSize is the size of the file system that the store is on: more than it grows to in a day of faults.
const stateSize = "16m"

// folders makes mounts of the arena's own for what the daemon keeps, so that faults concern nobody else's.
func (a *arena) folders() (state, bpffs string, err error) {
	// The lab's name for pins, as the daemon names its inner namespace after it.
	state, bpffs = a.Path("state"), a.Path(filepath.Base(a.BPFFS("gw")))
	if err := errors.Join(os.MkdirAll(state, 0o700), os.MkdirAll(bpffs, 0o700)); err != nil {
		return "", "", err
	}
	if err := unix.Mount("tmpfs", state, "tmpfs", 0, "size="+stateSize+",mode=0700"); err != nil {
		return "", "", fmt.Errorf("mount a file system for the store: %w", err)
	}
	a.OnClose(func() {
		_ = unix.Unmount(state, unix.MNT_DETACH)
		_ = unix.Unmount(bpffs, unix.MNT_DETACH) // the daemon mounted it
	})
	return state, bpffs, nil
}

// configure writes the daemon's configuration, for its next start.
func (a *arena) configure(flows int) error {
	a.flows = flows
	if err := os.WriteFile(a.config, fmt.Appendf(nil, "flows: %d\n", flows), 0o600); err != nil {
		return fmt.Errorf("configure the daemon: %w", err)
	}
	return nil
}

// build makes machines, daemon and resources, and waits until both services answer both consumers.
func build(ctx context.Context, l *lab.Lab, binary string) (*arena, error) {
	a := &arena{Lab: l, gw: l.Namespace("gw"), names: []string{"web", "c1", "c2"}, config: l.Path("config.yaml")}
	a.web = l.VM(a.gw, "web", backendIP+"/16", wires("web"))
	if err := load.Serve(a.web, backendIP); err != nil {
		return nil, err
	}
	for _, name := range a.names[1:] {
		a.consumers = append(a.consumers, l.VM(a.gw, name, clientIP+"/16", wires(name)))
	}
	a.crowd = l.VM(a.gw, "crowd", clientIP+"/16", lab.VethOptions{})
	l.VM(a.gw, "yard", backendIP+"/16", lab.VethOptions{})
	state, bpffs, err := a.folders()
	if err != nil {
		return nil, err
	}
	if err := a.configure(tableSizes[0]); err != nil {
		return nil, err
	}
	a.daemon = a.gw.Daemon(ctx, lab.DaemonOptions{Binary: binary, Args: []string{"--config", a.config}, StateDir: state, BPFFS: bpffs})
	if out, err := a.daemon.CLIInput(ctx, networks+balancer, "apply", "-f", "-"); err != nil {
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
	if err := a.gather(ctx); err != nil {
		return nil, err
	}
	if err := a.answers(ctx, 30*time.Second); err != nil {
		return nil, err
	}
	return a, a.inMode(ctx, "c2", "xdp")
}

// inMode waits until an interface is attached in a mode.
func (a *arena) inMode(ctx context.Context, name, mode string) error {
	return lab.Poll(30*time.Second, func() error {
		all, err := a.interfaces(ctx)
		if err != nil {
			return err
		}
		for _, i := range all {
			if i.Interface == name && i.Mode == mode {
				return nil
			}
		}
		return fmt.Errorf("%s is not in mode %s: %+v", name, mode, all)
	})
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

// attachment is one interface of the daemon's status.
type attachment struct {
	Interface, Hook, Mode, Why, Error, MAC string
}

// status is what this needs of the daemon's.
type status struct {
	Interfaces []attachment
	Flows      int // pairs in the table, until swept
}

// status asks the daemon how it is.
func (a *arena) status(ctx context.Context) (s status, err error) {
	out, err := a.daemon.CLI(ctx, "status", "-o", "json")
	var exit *lab.ExitError
	if err != nil && !(errors.As(err, &exit) && exit.Code == 1) { // 1: degraded, and it says why
		return s, err
	}
	return s, json.Unmarshal([]byte(out), &s)
}

// reasons are the packets that did not simply go through, by reason, since the maps were made.
func (a *arena) reasons(ctx context.Context) (counts map[string]uint64, err error) {
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", a.daemon.Socket)
		},
	}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://privlink/metrics", nil)
	if err != nil {
		return nil, fmt.Errorf("ask for the metrics: %w", err)
	}
	err = lab.Poll(10*time.Second, func() error {
		answer, err := client.Do(request)
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		counts = make(map[string]uint64)
		for lines := bufio.NewScanner(answer.Body); lines.Scan(); {
			rest, found := strings.CutPrefix(lines.Text(), `privlink_packets_by_reason_total{reason="`)
			reason, count, _ := strings.Cut(rest, `"} `)
			if n, err := strconv.ParseFloat(count, 64); found && err == nil {
				counts[reason] = uint64(n)
			}
		}
		if len(counts) == 0 {
			return fmt.Errorf("the metrics have no reasons: %s", answer.Status)
		}
		return nil
	})
	return counts, err
}

// interfaces are those that the daemon has.
func (a *arena) interfaces(ctx context.Context) ([]attachment, error) {
	s, err := a.status(ctx)
	return s.Interfaces, err
}

// attached says whether the daemon has all interfaces attached, with the numbers they have now.
func (a *arena) attached(ctx context.Context) error {
	all, err := a.interfaces(ctx)
	if err != nil {
		return err
	}
	have := make(map[string]bool)
	for _, i := range all {
		if i.Error != "" || i.Hook == "" {
			return fmt.Errorf("%s: %s", i.Interface, i.Error)
		}
		if !strings.EqualFold(i.MAC, a.gw.MAC(i.Interface).String()) {
			return fmt.Errorf("%s: it is still taken for the old one", i.Interface)
		}
		have[i.Interface] = true
	}
	for _, name := range a.names {
		if !have[name] {
			return fmt.Errorf("attached are %v", have)
		}
	}
	return nil
}
