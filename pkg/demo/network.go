package demo

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"github.com/privlink/privlink/pkg/lab"
)

// The addresses are the point of the demo: all three networks are 10.0.0.0/16, and the two consumers
// use the very same client and endpoint addresses.
const (
	prefix     = "10.0.0.0/16"
	webIP      = "10.0.0.4"
	sshIP      = "10.0.0.5"
	frontendIP = "10.0.0.100"
	clientIP   = "10.0.1.4"
	endpointIP = "10.0.1.10"

	serviceName   = "shop"
	resourceGroup = "demo"
	page          = "hello from the provider's web server\n"
	bigFile       = "big" // a download that does not end by itself
)

// account is one party: a subscription of a tenant of its own.
type account struct {
	name         string
	subscription string
	daemon       *lab.Daemon
	// remote are the flags by which it reaches the daemon over TLS, from the gateway. Without them it is root at the socket.
	remote []string
}

// cli runs a command as this party.
func (a *account) cli(ctx context.Context, args ...string) (string, error) {
	return a.input(ctx, "", args...)
}

func (a *account) input(ctx context.Context, stdin string, args ...string) (string, error) {
	args = append(args, "--subscription", a.subscription, "--resource-group", resourceGroup)
	if a.remote == nil {
		return a.daemon.CLIInput(ctx, stdin, args...)
	}
	cmd := exec.Command(a.daemon.Binary, append(args, a.remote...)...)
	cmd.Stdin = strings.NewReader(stdin)
	return a.daemon.Namespace.RunCommand(ctx, cmd)
}

// attach makes an interface part of a network of this party's, which the operator does: it is the host's to give away.
func (a *account) attach(ctx context.Context, network, ifname, mode string) error {
	operator := account{subscription: a.subscription, daemon: a.daemon}
	_, err := operator.cli(ctx, "vnet", "attach", network, "--interface", ifname, "--mode", mode)
	return err
}

// consumer is a party with one VM and one endpoint.
type consumer struct {
	account
	vm         *lab.Namespace
	connection string // as the provider names it
	linkID     string
}

// show is a running demo.
type show struct {
	Options
	lab       *lab.Lab
	begin     time.Time
	flags     []string       // further ones of the daemon
	gateway   *lab.Namespace // where privlink runs, all VMs' interfaces at its other end
	web, ssh  *lab.Namespace
	nginx     *lab.Nginx
	daemon    *lab.Daemon
	provider  account
	consumers []*consumer
	alias     string
	natIPs    []string
	downloads []*download // one of each consumer, between two steps
}

// build makes the machines and starts what runs on them; privlink has no configuration yet.
func (s *show) build(ctx context.Context) {
	l := s.lab
	wire := lab.VethOptions{}
	if s.Mode == "xdp" {
		// A veth end takes frames from XDP only if GRO is on there; physical NICs just do.
		wire.B.On = []string{"gro"}
	}
	s.gateway = l.Namespace("gateway")
	s.web = l.VM(s.gateway, "web", webIP+"/16", wire)
	s.ssh = l.VM(s.gateway, "ssh", sshIP+"/16", wire)
	s.nginx = s.web.Nginx(ctx, lab.NginxOptions{
		Listen: []string{webIP + ":80"},
		Files:  map[string]string{"index.html": page},
		Sparse: map[string]int64{bigFile: 1 << 40},
	})
	s.ssh.Sshd(ctx, sshIP+":22")
	s.daemon = s.gateway.Daemon(ctx, lab.DaemonOptions{Binary: s.Binary, Args: s.flags})

	s.provider = account{name: "provider", subscription: "aaaaaaaa-0000-4000-8000-000000000001", daemon: s.daemon}
	for i, name := range []string{"one", "two"} {
		s.consumers = append(s.consumers, &consumer{
			account: account{
				name: "consumer " + name, daemon: s.daemon,
				subscription: fmt.Sprintf("cccccccc-0000-4000-8000-%012d", i+1),
			},
			vm: l.VM(s.gateway, name, clientIP+"/16", wire),
		})
	}
}

// providerResources is the provider's network with its VMs and their load balancer, as `privlink apply`
// takes it: one frontend, and a rule and a pool for each of the two ports.
func (s *show) providerResources() string {
	return strings.NewReplacer("PREFIX", prefix, "WEB", webIP, "SSH", sshIP, "FRONTEND", frontendIP).Replace(`
type: Microsoft.Network/virtualNetworks
name: datacenter
location: local
properties:
  addressSpace: {addressPrefixes: [PREFIX]}
  subnets:
  - {name: servers, properties: {addressPrefix: 10.0.0.0/24}}
---
type: Microsoft.Network/loadBalancers
name: balancer
location: local
sku: {name: Standard}
properties:
  frontendIPConfigurations:
  - {name: front, properties: {privateIPAddress: FRONTEND, privateIPAllocationMethod: Static, subnet: {id: virtualNetworks/datacenter/subnets/servers}}}
  backendAddressPools:
  - name: web
    properties:
      loadBalancerBackendAddresses:
      - {name: web, properties: {ipAddress: WEB, virtualNetwork: {id: virtualNetworks/datacenter}}}
  - name: ssh
    properties:
      loadBalancerBackendAddresses:
      - {name: ssh, properties: {ipAddress: SSH, virtualNetwork: {id: virtualNetworks/datacenter}}}
  loadBalancingRules:
  - name: web
    properties:
      protocol: Tcp
      frontendPort: 80
      backendPort: 80
      frontendIPConfiguration: {id: loadBalancers/balancer/frontendIPConfigurations/front}
      backendAddressPool: {id: loadBalancers/balancer/backendAddressPools/web}
  - name: ssh
    properties:
      protocol: Tcp
      frontendPort: 22
      backendPort: 22
      frontendIPConfiguration: {id: loadBalancers/balancer/frontendIPConfigurations/front}
      backendAddressPool: {id: loadBalancers/balancer/backendAddressPools/ssh}
`)
}

// reach tries the endpoint from the consumer's VM: a page by curl and the greeting of the SSH server.
func (c *consumer) reach(ctx context.Context) (banner string, err error) {
	body, err := c.vm.Run(ctx, "curl", "-sS", "--connect-timeout", "3", "--max-time", "5", "http://"+endpointIP+"/")
	if err != nil {
		return "", err
	}
	if body != page {
		return "", fmt.Errorf("curl got %q, not the provider's page", body)
	}
	banner, err = greeting(ctx, c.vm, endpointIP+":22")
	if err == nil && !strings.HasPrefix(banner, "SSH-2.0-") {
		err = fmt.Errorf("greeting %q is not that of an SSH server", banner)
	}
	return banner, err
}

// unreachable makes sure that neither port answers: not even refused, since an endpoint that is not
// approved is silent.
func (c *consumer) unreachable(ctx context.Context) error {
	const timedOut = 28 // curl's exit status
	for _, port := range []string{"80", "22"} {
		_, err := c.vm.Run(ctx, "curl", "-sS", "--connect-timeout", "1", "http://"+endpointIP+":"+port+"/")
		if code := exitStatus(err); code != timedOut {
			return fmt.Errorf("%s: port %s of an endpoint without approval is not silent (curl: %w)", c.name, port, errOr(err, "connected"))
		}
	}
	return nil
}

func errOr(err error, text string) error {
	if err == nil {
		return errors.New(text)
	}
	return err
}
