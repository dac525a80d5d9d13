package main

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/client"
)

func serviceCommand(env *environment) *cli.Command {
	return noun(env, "service", "private link services: what a provider publishes",
		verb{
			name: "create", names: "NAME", usage: "publish frontends of a load balancer",
			description: "Ends with what to hand on to consumers: the alias and the resource id.\n" +
				"Without --visibility only those with a role on the service can connect.",
			flags: createFlags(append([]cli.Flag{
				&cli.StringFlag{Name: "lb", Usage: "`NAME` of the load balancer", Required: true},
				&cli.StringSliceFlag{Name: "frontend", Usage: "`NAME` of a frontend of it; may be repeated (default: its only one)"},
			}, serviceFlags()...)...),
			run: createService,
		},
		verb{
			name: "update", names: "NAME", usage: "change a service; what no flag names stays",
			flags: append([]cli.Flag{
				&cli.StringSliceFlag{Name: "frontend", Usage: "`NAME` of a frontend, in place of those it has; may be repeated"},
			}, serviceFlags()...),
			run: updateService,
		},
		showVerb(api.PrivateLinkServices, showService),
		listVerb(api.PrivateLinkServices, func(t *columns, s *api.PrivateLinkService) {
			t.row(s.Name, s.Properties.Alias, strings.Join(natAddresses(s), ","), countByStatus(s.Properties.PrivateEndpointConnections),
				s.Location, string(s.Properties.ProvisioningState))
		}, "NAME", "ALIAS", "NAT IPS", "CONNECTIONS", "LOCATION", "STATE"),
		deleteVerb(api.PrivateLinkServices, &cli.BoolFlag{Name: "cascade", Usage: "reject its connections first, and let their flows end"}),
	)
}

// serviceFlags are what create and update share.
func serviceFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "nat-subnet", Usage: "`NAME` of the subnet for NAT IPs (default: that of the first frontend)"},
		&cli.IntFlag{Name: "nat-ip-count", Usage: "take `N` free addresses of it as NAT IPs, 1..8", DefaultText: "those of --nat-ip"},
		&cli.StringSliceFlag{Name: "nat-ip", Usage: "this `IP` as a NAT IP; may be repeated"},
		&cli.StringSliceFlag{Name: "visibility", Usage: "`SUBSCRIPTION` that may ask for a connection, or '*' for anyone with the alias; may be repeated"},
		&cli.StringSliceFlag{Name: "auto-approval", Usage: "`SUBSCRIPTION` that needs no approval, or '*'; may be repeated"},
		&cli.BoolFlag{Name: "proxy-protocol", Usage: "tell backends the consumer's address and LinkID by a PROXY v2 header"},
		&cli.StringSliceFlag{Name: "fqdn", Usage: "`NAME` that consumers should resolve to their endpoint; may be repeated"},
		&cli.StringFlag{Name: "proxy-tlv", Usage: "form of the identity in the header, `azure|aws|gcp|none`", DefaultText: "new: azure"},
		&cli.IntFlag{Name: "idle-timeout", Usage: "end flows idle for `SECONDS`, 10..86400", DefaultText: "new: the rule's, else 300"},
		&cli.BoolFlag{Name: "tcp-reset", Usage: "reset both ends when a TCP flow becomes idle"},
		&cli.Int64Flag{Name: "max-flows-per-endpoint", Usage: "flows one endpoint may have open, `N`", DefaultText: "new: a quarter of the table's pairs, at most 32256 for each NAT IP"},
		&cli.IntFlag{Name: "nat-drain", Usage: "`SECONDS` that flows have left on a NAT IP taken out, 0..86400; the service is Updating meanwhile", DefaultText: "new: 300"},
	}
}

func createService(ctx context.Context, c *call) error {
	id, err := c.resource(api.PrivateLinkServices, c.Args().First())
	if err != nil {
		return err
	}
	lbID, err := c.resource(api.LoadBalancers, c.String("lb"))
	if err != nil {
		return err
	}
	lb, err := client.Get[api.LoadBalancer](ctx, c.api, lbID)
	if err != nil {
		return err
	}
	service := &api.PrivateLinkService{}
	service.Location = c.location(lb.Location)
	if service.Tags, err = c.tags(); err != nil {
		return err
	}
	frontends := c.StringSlice("frontend")
	if len(frontends) == 0 {
		if len(lb.Properties.FrontendIPConfigurations) != 1 {
			return usageErrorf("flag --frontend is missing: load balancer %s has %s", lb.Name, strings.Join(frontendNames(lb), ", "))
		}
		frontends = frontendNames(lb)
	}
	if err := setFrontends(service, lb, frontends); err != nil {
		return err
	}
	if !c.IsSet("nat-ip") && !c.IsSet("nat-ip-count") {
		return usageErrorf("NAT IPs are missing: --nat-ip-count N for N free ones of the subnet, or --nat-ip IP")
	}
	if err := c.changeService(ctx, service, lb); err != nil {
		return err
	}
	stored, err := client.Put[api.PrivateLinkService](ctx, c.api, id, service, client.Conditions{})
	if err != nil {
		return err
	}
	return showService(ctx, c, id, stored)
}

func updateService(ctx context.Context, c *call) error {
	id, err := c.resource(api.PrivateLinkServices, c.Args().First())
	if err != nil {
		return err
	}
	for {
		service, err := client.Get[api.PrivateLinkService](ctx, c.api, id)
		if err != nil {
			return err
		}
		if len(service.Properties.LoadBalancerFrontendIPConfigurations) == 0 {
			return fmt.Errorf("update service %s: it has no frontend", id.Name)
		}
		frontend, err := api.ParseID(service.Properties.LoadBalancerFrontendIPConfigurations[0].ID, id)
		if err != nil {
			return err
		}
		lb, err := client.Get[api.LoadBalancer](ctx, c.api, frontend.Parent())
		if err != nil {
			return err
		}
		if c.IsSet("frontend") {
			if err := setFrontends(service, lb, c.StringSlice("frontend")); err != nil {
				return err
			}
		}
		if err := c.changeService(ctx, service, lb); err != nil {
			return err
		}
		stored, err := client.Put[api.PrivateLinkService](ctx, c.api, id, service, client.Conditions{IfMatch: service.Etag})
		if overtaken(err) {
			continue
		}
		if err != nil {
			return err
		}
		return showService(ctx, c, id, stored)
	}
}

func frontendNames(lb *api.LoadBalancer) []string {
	var names []string
	for _, f := range lb.Properties.FrontendIPConfigurations {
		names = append(names, f.Name)
	}
	return names
}

// setFrontends lets the service publish the named frontends of the load balancer.
func setFrontends(service *api.PrivateLinkService, lb *api.LoadBalancer, names []string) error {
	id := api.IDOf(lb)
	service.Properties.LoadBalancerFrontendIPConfigurations = nil
	for _, name := range names {
		if lb.Frontend(name) == nil {
			return notFoundErrorf("load balancer %s has no frontend %q%s", lb.Name, name, suggestion(name, frontendNames(lb)))
		}
		service.Properties.LoadBalancerFrontendIPConfigurations = append(service.Properties.LoadBalancerFrontendIPConfigurations,
			*ref(id.Sub(api.FrontendIPConfigurations, name)))
	}
	return nil
}

// changeService sets what flags say; lb is the service's load balancer.
func (c *call) changeService(ctx context.Context, service *api.PrivateLinkService, lb *api.LoadBalancer) error {
	p := &service.Properties
	if c.IsSet("nat-ip") || c.IsSet("nat-ip-count") || c.IsSet("nat-subnet") {
		configurations, err := c.natIPs(ctx, lb)
		if err != nil {
			return err
		}
		p.IPConfigurations = configurations
	}
	if c.IsSet("visibility") {
		p.Visibility = &api.SubscriptionList{Subscriptions: words(c.StringSlice("visibility"))}
	}
	if c.IsSet("auto-approval") {
		p.AutoApproval = &api.SubscriptionList{Subscriptions: words(c.StringSlice("auto-approval"))}
	}
	if c.IsSet("proxy-protocol") {
		p.EnableProxyProtocol = c.Bool("proxy-protocol")
	}
	if c.IsSet("fqdn") {
		p.FQDNs = words(c.StringSlice("fqdn"))
	}
	if c.IsSet("proxy-tlv") {
		p.ProxyTLV = api.Set(api.ProxyTLV(c.String("proxy-tlv")))
	}
	if c.IsSet("idle-timeout") {
		p.IdleTimeoutInSeconds = api.Set(int32(c.Int("idle-timeout")))
	}
	if c.IsSet("tcp-reset") {
		p.EnableTCPReset = api.Set(c.Bool("tcp-reset"))
	}
	if c.IsSet("max-flows-per-endpoint") {
		p.MaxFlowsPerEndpoint = api.Set(c.Int64("max-flows-per-endpoint"))
	}
	if c.IsSet("nat-drain") {
		p.NATDrainPeriodInSeconds = api.Set(int32(c.Int("nat-drain")))
	}
	return nil
}

// words leaves out empty ones: an empty value on the command line is the empty list.
func words(list []string) []string {
	kept := []string{}
	for _, word := range list {
		if word = strings.TrimSpace(word); word != "" {
			kept = append(kept, word)
		}
	}
	return kept
}

// natIPs makes the IP configurations that --nat-ip, --nat-ip-count and --nat-subnet ask for. The
// subnet is found in the network of the load balancer.
func (c *call) natIPs(ctx context.Context, lb *api.LoadBalancer) ([]api.NATIPConfiguration, error) {
	addresses := words(c.StringSlice("nat-ip"))
	count := c.Int("nat-ip-count")
	switch {
	case len(addresses) > 0 && c.IsSet("nat-ip-count"):
		return nil, usageErrorf("flags --nat-ip and --nat-ip-count exclude each other")
	case len(addresses) == 0 && !c.IsSet("nat-ip-count"):
		return nil, usageErrorf("flag --nat-subnet goes with --nat-ip-count or --nat-ip")
	case len(addresses) == 0 && (count < 0 || count > 1000):
		return nil, usageErrorf("flag --nat-ip-count: %d is not within 1..%d", count, api.MaxNATIPs)
	}
	if len(lb.Properties.FrontendIPConfigurations) == 0 || lb.Properties.FrontendIPConfigurations[0].Properties.Subnet == nil {
		return nil, notFoundErrorf("load balancer %s has no frontend", lb.Name)
	}
	first, err := api.ParseID(lb.Properties.FrontendIPConfigurations[0].Properties.Subnet.ID, api.IDOf(lb))
	if err != nil {
		return nil, err
	}
	subnet := first
	if word := c.String("nat-subnet"); word != "" {
		if subnet, err = c.part(first.Parent(), api.Subnets, word); err != nil {
			return nil, err
		}
	}
	var configurations []api.NATIPConfiguration
	add := func(address string, in api.ID) {
		configuration := api.NATIPConfiguration{}
		configuration.Name = fmt.Sprintf("nat-%d", len(configurations)+1)
		primary := len(configurations) == 0
		configuration.Properties.Primary = &primary
		configuration.Properties.PrivateIPAddress = address
		configuration.Properties.Subnet = ref(in)
		configurations = append(configurations, configuration)
	}
	for range count {
		add("", subnet)
	}
	if len(addresses) == 0 {
		return configurations, nil
	}
	network, err := client.Get[api.VirtualNetwork](ctx, c.api, subnet.Parent())
	if err != nil {
		return nil, err
	}
	for _, address := range addresses {
		in := subnet
		if c.String("nat-subnet") == "" {
			in = subnetOf(network, address, subnet)
		}
		add(address, in)
	}
	return configurations, nil
}

// subnetOf is the subnet of the network that has the address, or other if none does (the daemon then says so).
func subnetOf(network *api.VirtualNetwork, address string, other api.ID) api.ID {
	ip, err := netip.ParseAddr(address)
	if err != nil {
		return other
	}
	for _, subnet := range network.Properties.Subnets {
		if prefix, err := netip.ParsePrefix(subnet.Prefix()); err == nil && prefix.Contains(ip) {
			return api.IDOf(network).Sub(api.Subnets, subnet.Name)
		}
	}
	return other
}

func natAddresses(s *api.PrivateLinkService) []string {
	var addresses []string
	for _, ip := range s.Properties.IPConfigurations {
		addresses = append(addresses, ip.Properties.PrivateIPAddress)
	}
	return addresses
}

// countByStatus is "2 Approved, 1 Pending".
func countByStatus(connections []api.PrivateEndpointConnection) string {
	counts := map[string]int{}
	for i := range connections {
		counts[string(connectionState(&connections[i]).Status)]++
	}
	var texts []string
	for status, n := range counts {
		texts = append(texts, strconv.Itoa(n)+" "+status)
	}
	sort.Slice(texts, func(a, b int) bool { return lastWord(texts[a]) < lastWord(texts[b]) })
	return strings.Join(texts, ", ")
}

func lastWord(text string) string { return text[strings.LastIndexByte(text, ' ')+1:] }

func showService(ctx context.Context, c *call, id api.ID, s *api.PrivateLinkService) error {
	if !c.out.human() {
		return c.out.value(s, nil)
	}
	var ports api.NATPortUsage
	if _, err := c.api.Call(ctx, http.MethodGet, client.Path(id)+"/natPortUsage", nil, nil, nil, &ports); err != nil {
		return err
	}
	return c.out.value(s, func(t *columns) {
		p := &s.Properties
		t.field("Service", s.Name)
		t.field("Location", s.Location)
		t.field("State", string(p.ProvisioningState))
		t.field("Reason", p.FailureReason)
		for _, f := range p.LoadBalancerFrontendIPConfigurations {
			t.field("Frontend", ownerName(&f)+"/"+lastName(&f))
		}
		t.field("Visibility", describeVisibility(p.Visibility))
		if p.AutoApproval != nil && len(p.AutoApproval.Subscriptions) > 0 {
			t.field("Auto-approval", strings.Join(p.AutoApproval.Subscriptions, ", "))
		}
		if p.EnableProxyProtocol {
			t.field("PROXY header", "on for TCP, TLV "+string(p.ProxyTLV.Or(api.ProxyTLVAzure))+"; UDP passes plain")
		}
		for _, ip := range p.IPConfigurations {
			text := ip.Properties.PrivateIPAddress + " in " + ownerName(ip.Properties.Subnet) + "/" + lastName(ip.Properties.Subnet) +
				", " + portsUsed(&ports, ip.Properties.PrivateIPAddress)
			if ip.Properties.Primary != nil && *ip.Properties.Primary {
				text += ", primary"
			}
			t.field("NAT IP", text)
			portFields(t, &ports, ip.Properties.PrivateIPAddress)
		}
		for _, ip := range p.DrainingIPs {
			t.field("NAT IP", ip.Address+" draining until "+ip.Until.Format("15:04:05")+", "+portsUsed(&ports, ip.Address))
			portFields(t, &ports, ip.Address)
		}
		for i := range p.PrivateEndpointConnections {
			connection := &p.PrivateEndpointConnections[i]
			state := connectionState(connection)
			text := connection.Name + " " + string(state.Status) + ", LinkID " + connection.Properties.LinkIdentifier + ", subscription " + connection.Properties.Subscription
			if state.Description != "" {
				text += ", " + strconv.Quote(state.Description)
			}
			t.field("Connection", text)
		}
		for _, warning := range p.Warnings {
			t.field("Warning", warning)
		}
		t.field("Alias", p.Alias)
		t.field("Id", s.ID)
	})
}

// portsUsed says how many ports of a NAT IP are taken, to all backends together.
func portsUsed(usage *api.NATPortUsage, address string) string {
	if _, total := usage.Of(address); total != 1 {
		return fmt.Sprintf("%d ports used", total)
	}
	return "1 port used"
}

// portFields writes a line per backend to which a NAT IP has ports taken: each has all of them to give.
func portFields(t *columns, usage *api.NATPortUsage, address string) {
	domains, _ := usage.Of(address)
	slices.SortFunc(domains, func(a, b api.PortUse) int {
		return cmp.Or(cmp.Compare(b.Used, a.Used), cmp.Compare(a.Backend, b.Backend), cmp.Compare(a.Protocol, b.Protocol))
	})
	for _, use := range domains {
		t.field("Ports", fmt.Sprintf("%s to %s %s, %d of %d used", use.Address, use.Protocol, use.Backend, use.Used, use.Size))
	}
}

func describeVisibility(v *api.SubscriptionList) string {
	switch {
	case v == nil || len(v.Subscriptions) == 0:
		return "only who has a role on it"
	case slices.Contains(v.Subscriptions, api.Anyone):
		return "anyone with the alias"
	}
	return strings.Join(v.Subscriptions, ", ")
}
