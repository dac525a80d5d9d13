package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/client"
)

// Names of the parts that lb create makes.
const (
	poolName  = "backends"
	probeName = "probe"
)

func lbCommand(env *environment) *cli.Command {
	return noun(env, "lb", "load balancers: frontends, rules and backends behind a service",
		verb{
			name: "create", names: "NAME", usage: "create a load balancer, or change one",
			description: "Makes one backend pool, \"backends\", for all rules; network interfaces join it with\n" +
				"nic create --pool NAME/backends. What this cannot say, apply -f can.",
			flags: createFlags(
				&cli.StringFlag{Name: "vnet", Usage: "`NAME` of the virtual network", Required: true},
				&cli.StringFlag{Name: "subnet", Usage: "`NAME` of its subnet for the frontends", Value: "default"},
				&cli.StringSliceFlag{Name: "frontend", Usage: "a frontend, `NAME[=IP]` (without IP the lowest free); may be repeated", Value: cli.NewStringSlice("frontend")},
				&cli.StringSliceFlag{Name: "rule", Usage: "what is served, `[FRONTEND/]PROTOCOL:PORT[:BACKENDPORT]`, such as tcp:80 or udp:53:5353 or all:0; may be repeated", Required: true},
				&cli.StringSliceFlag{Name: "backend", Usage: "`IP` of a backend; may be repeated"},
				&cli.StringFlag{Name: "probe", Usage: "health probe of all rules, `tcp:PORT`, http:PORT/PATH or https:PORT/PATH"},
				&cli.StringFlag{Name: "distribution", Usage: "`Default|SourceIP|SourceIPProtocol`", Value: string(api.DistributeDefault)},
				&cli.IntFlag{Name: "idle-timeout", Usage: "idle timeout of TCP flows in `MINUTES`, 4..30", DefaultText: "300 seconds"},
				&cli.BoolFlag{Name: "tcp-reset", Usage: "reset both ends when a TCP flow becomes idle"},
			),
			run: createLB,
		},
		showVerb(api.LoadBalancers, showLB),
		listVerb(api.LoadBalancers, func(t *columns, lb *api.LoadBalancer) {
			var frontends, rules []string
			for _, f := range lb.Properties.FrontendIPConfigurations {
				frontends = append(frontends, f.Name+"="+f.Properties.PrivateIPAddress)
			}
			for _, r := range lb.Properties.LoadBalancingRules {
				rules = append(rules, describeRule(&r))
			}
			t.row(lb.Name, strings.Join(frontends, ","), strings.Join(rules, ","), lb.Location, string(lb.Properties.ProvisioningState))
		}, "NAME", "FRONTENDS", "RULES", "LOCATION", "STATE"),
		deleteVerb(api.LoadBalancers),
	)
}

func createLB(ctx context.Context, c *call) error {
	id, err := c.resource(api.LoadBalancers, c.Args().First())
	if err != nil {
		return err
	}
	network, subnet, err := c.subnet(ctx, c.String("vnet"), c.String("subnet"))
	if err != nil {
		return err
	}
	lb := &api.LoadBalancer{SKU: &api.SKU{Name: "Standard"}}
	lb.Location = c.location(network.Location)
	if lb.Tags, err = c.tags(); err != nil {
		return err
	}
	pool := api.BackendAddressPool{}
	pool.Name = poolName
	for i, address := range c.StringSlice("backend") {
		member := api.BackendAddress{Name: fmt.Sprintf("backend-%d", i+1)}
		member.Properties.IPAddress = address
		member.Properties.VirtualNetwork = ref(subnet.Parent())
		pool.Properties.LoadBalancerBackendAddresses = append(pool.Properties.LoadBalancerBackendAddresses, member)
	}
	lb.Properties.BackendAddressPools = []api.BackendAddressPool{pool}
	var probe *api.SubResource
	if text := c.String("probe"); text != "" {
		p, err := readProbe(text)
		if err != nil {
			return err
		}
		lb.Properties.Probes = []api.Probe{p}
		probe = ref(id.Sub(api.Probes, probeName))
	}
	var frontends []string
	for _, word := range c.StringSlice("frontend") {
		name, address, _ := strings.Cut(word, "=")
		frontend := api.FrontendIPConfiguration{}
		frontend.Name = name
		frontend.Properties.PrivateIPAddress = address
		frontend.Properties.Subnet = ref(subnet)
		lb.Properties.FrontendIPConfigurations = append(lb.Properties.FrontendIPConfigurations, frontend)
		frontends = append(frontends, name)
	}
	for _, word := range c.StringSlice("rule") {
		rules, err := c.readRule(id, word, frontends)
		if err != nil {
			return err
		}
		for i := range rules {
			rules[i].Properties.Probe = probe
		}
		lb.Properties.LoadBalancingRules = append(lb.Properties.LoadBalancingRules, rules...)
	}
	stored, err := client.Put[api.LoadBalancer](ctx, c.api, id, lb, client.Conditions{})
	if err != nil {
		return err
	}
	return showLB(ctx, c, id, stored)
}

// readRule reads one --rule: a rule for its frontend, or for each if it names none.
func (c *call) readRule(lb api.ID, word string, frontends []string) ([]api.LoadBalancingRule, error) {
	bad := usageErrorf("flag --rule: %q is not [FRONTEND/]PROTOCOL:PORT[:BACKENDPORT], such as tcp:80 or all:0", word)
	text := word
	if name, rest, ok := strings.Cut(word, "/"); ok {
		frontends, text = []string{name}, rest
	}
	parts := strings.Split(text, ":")
	if len(parts) != 2 && len(parts) != 3 {
		return nil, bad
	}
	var protocol api.TransportProtocol
	switch strings.ToLower(parts[0]) {
	case "tcp":
		protocol = api.TransportTCP
	case "udp":
		protocol = api.TransportUDP
	case "all":
		protocol = api.TransportAll
	default:
		return nil, bad
	}
	port, err := strconv.ParseUint(parts[1], 10, 16)
	if err != nil {
		return nil, bad
	}
	backendPort := port
	if len(parts) == 3 {
		if backendPort, err = strconv.ParseUint(parts[2], 10, 16); err != nil {
			return nil, bad
		}
	}
	var rules []api.LoadBalancingRule
	for _, frontend := range frontends {
		rule := api.LoadBalancingRule{}
		rule.Name = fmt.Sprintf("%s-%s-%d", frontend, strings.ToLower(parts[0]), port)
		p := &rule.Properties
		p.FrontendIPConfiguration = ref(lb.Sub(api.FrontendIPConfigurations, frontend))
		p.BackendAddressPool = ref(lb.Sub(api.BackendAddressPools, poolName))
		p.Protocol = protocol
		p.FrontendPort = int32(port)
		p.BackendPort = int32(backendPort)
		p.LoadDistribution = api.LoadDistribution(c.String("distribution"))
		p.EnableTCPReset = c.Bool("tcp-reset")
		if c.IsSet("idle-timeout") {
			minutes := int32(c.Int("idle-timeout"))
			p.IdleTimeoutInMinutes = &minutes
		}
		rules = append(rules, rule)
	}
	return rules, nil
}

// readProbe reads --probe.
func readProbe(text string) (api.Probe, error) {
	probe := api.Probe{}
	probe.Name = probeName
	scheme, rest, _ := strings.Cut(text, ":")
	portText, path, hasPath := strings.Cut(rest, "/")
	port, err := strconv.ParseUint(portText, 10, 16)
	protocol, known := map[string]api.ProbeProtocol{"tcp": api.ProbeTCP, "http": api.ProbeHTTP, "https": api.ProbeHTTPS}[strings.ToLower(scheme)]
	if err != nil || !known || hasPath == (protocol == api.ProbeTCP) {
		return probe, usageErrorf("flag --probe: %q is not tcp:PORT, http:PORT/PATH or https:PORT/PATH", text)
	}
	probe.Properties.Protocol = protocol
	probe.Properties.Port = int32(port)
	if hasPath {
		probe.Properties.RequestPath = "/" + path
	}
	return probe, nil
}

func describeRule(r *api.LoadBalancingRule) string {
	text := fmt.Sprintf("%s:%d", strings.ToLower(string(r.Properties.Protocol)), r.Properties.FrontendPort)
	if r.Properties.BackendPort != 0 && r.Properties.BackendPort != r.Properties.FrontendPort {
		text += fmt.Sprintf(":%d", r.Properties.BackendPort)
	}
	return text
}

func showLB(ctx context.Context, c *call, id api.ID, lb *api.LoadBalancer) error {
	if !c.out.human() {
		return c.out.value(lb, nil)
	}
	health, err := client.List[api.BackendHealth](ctx, c.api, client.Path(id)+"/backendHealth", nil)
	if err != nil {
		return err
	}
	return c.out.value(lb, func(t *columns) {
		p := &lb.Properties
		t.field("Load balancer", lb.Name)
		t.field("Id", lb.ID)
		t.field("Location", lb.Location)
		t.field("State", string(p.ProvisioningState))
		t.field("Reason", p.FailureReason)
		for _, f := range p.FrontendIPConfigurations {
			t.field("Frontend", f.Name+" "+f.Properties.PrivateIPAddress+" in "+ownerName(f.Properties.Subnet)+"/"+lastName(f.Properties.Subnet))
		}
		for _, r := range p.LoadBalancingRules {
			text := lastName(r.Properties.FrontendIPConfiguration) + " " + describeRule(&r) + " to " + lastName(r.Pool())
			if r.Properties.Probe != nil {
				text += ", probe " + lastName(r.Properties.Probe)
			}
			t.field("Rule", text)
		}
		for _, r := range p.InboundNATRules {
			ports := fmt.Sprint(r.Properties.FrontendPort)
			if r.Properties.FrontendPort == 0 {
				ports = fmt.Sprintf("%d-%d", r.Properties.FrontendPortRangeStart, r.Properties.FrontendPortRangeEnd)
			}
			t.field("Inbound NAT rule", fmt.Sprintf("%s %s %s:%s to port %d of %s", r.Name, lastName(r.Properties.FrontendIPConfiguration),
				strings.ToLower(string(r.Properties.Protocol)), ports, r.Properties.BackendPort, ownerName(r.Properties.BackendIPConfiguration)+lastName(r.Properties.BackendAddressPool)))
		}
		for _, pool := range p.BackendAddressPools {
			for _, b := range pool.Properties.LoadBalancerBackendAddresses {
				text := pool.Name + " " + b.Properties.IPAddress
				if nic := b.Properties.NetworkInterfaceIPConfiguration; b.Properties.IPAddress == "" {
					if nic == nil {
						continue // it says something of a network interface that is not in the pool
					}
					text = pool.Name + " interface " + ownerName(nic)
				}
				if b.Properties.AdminState != "" && b.Properties.AdminState != api.AdminNone {
					text += ", admin state " + string(b.Properties.AdminState)
				}
				for _, at := range b.Properties.InboundNATRulesPortMapping {
					text += fmt.Sprintf(", port %d by %s", at.FrontendPort, at.InboundNATRuleName)
				}
				t.field("Backend", text)
			}
		}
		for _, b := range health {
			text := b.Rule + " " + b.Address + " " + string(b.State)
			if b.Reason != "" {
				text += ": " + b.Reason
			}
			t.field("Health", text)
		}
		for _, warning := range p.Warnings {
			t.field("Warning", warning)
		}
	})
}
