package api

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Validate checks a load balancer: frontends, pools, probes and rules, and the references between them.
func (r *LoadBalancer) Validate(id ID) error {
	p := problems{}
	p.completeRefs(r, id)
	p.meta(&r.Envelope, id)
	props := &r.Properties
	p.sku(r)
	if props.Scope != "" {
		enum(&p, "properties.scope", &props.Scope, "Private")
	}
	frontends := p.frontends(props.FrontendIPConfigurations)
	pools := p.pools(props.BackendAddressPools)
	probes := p.probes(props.Probes)
	p.count("properties.loadBalancingRules", len(props.LoadBalancingRules)+len(props.InboundNATRules), MaxRules, "rules")
	taken := &portsTaken{}
	p.rules(props.LoadBalancingRules, id, frontends, pools, probes, taken)
	p.natRules(props.InboundNATRules, id, frontends, pools, taken)
	return p.err()
}

func (p *problems) sku(r *LoadBalancer) {
	if r.SKU == nil {
		r.SKU = &SKU{}
	}
	for _, field := range []struct {
		path    string
		value   *string
		allowed string
	}{{"sku.name", &r.SKU.Name, "Standard"}, {"sku.tier", &r.SKU.Tier, "Regional"}} {
		if *field.value != "" && !equalFold(*field.value, field.allowed) {
			p.add(NewError(400, CodeUnsupportedProperty, field.path, "%s is not supported, only %s", *field.value, field.allowed))
		}
		*field.value = field.allowed
	}
}

func (p *problems) frontends(list []FrontendIPConfiguration) []string {
	const path = "properties.frontendIPConfigurations"
	p.count(path, len(list), MaxFrontends, "frontend IP configurations")
	names := p.parts(path, len(list), func(i int) *string { return &list[i].Name })
	for i := range list {
		here := at(path, i) + ".properties"
		f := &list[i].Properties
		p.address(here, &f.PrivateIPAllocationMethod, &f.PrivateIPAddress, &f.PrivateIPAddressVersion)
		p.ref(here+".subnet", f.Subnet, VirtualNetworks, Subnets)
	}
	return names
}

func (p *problems) pools(list []BackendAddressPool) []string {
	const path = "properties.backendAddressPools"
	p.count(path, len(list), MaxPools, "backend pools")
	names := p.parts(path, len(list), func(i int) *string { return &list[i].Name })
	for i := range list {
		here := at(path, i) + ".properties"
		pool := &list[i].Properties
		if pool.DrainPeriodInSeconds != nil {
			p.within(here+".drainPeriodInSeconds", int64(*pool.DrainPeriodInSeconds), 0, MaxDrainSeconds)
		}
		if pool.SyncMode != "" {
			enum(p, here+".syncMode", &pool.SyncMode, "Automatic", "Manual")
		}
		if pool.VirtualNetwork != nil && pool.VirtualNetwork.ID != "" {
			p.ref(here+".virtualNetwork", pool.VirtualNetwork, VirtualNetworks, "")
		}
		p.members(here+".loadBalancerBackendAddresses", pool.LoadBalancerBackendAddresses)
	}
	return names
}

func (p *problems) members(path string, list []BackendAddress) {
	p.count(path, len(list), MaxPoolMembers, "backend addresses")
	names := p.parts(path, len(list), func(i int) *string { return &list[i].Name })
	seen := map[netip.Addr]string{}
	for i := range list {
		here := at(path, i) + ".properties"
		m := &list[i].Properties
		if m.IPAddress != "" {
			a := p.addr(here+".ipAddress", m.IPAddress)
			if other, ok := seen[a]; ok && a.IsValid() {
				p.invalid(here+".ipAddress", "%s is the address of %s already", a, other)
			}
			seen[a] = names[i]
			if a.IsValid() {
				m.IPAddress = a.String()
			}
		}
		enum(p, here+".adminState", &m.AdminState, AdminNone, AdminUp, AdminDown, AdminDrain)
		if m.AdminState == AdminDrain {
			m.AdminState = AdminDown
		}
		if w, ok := m.Weight.Get(); ok {
			p.within(here+".weight", int64(w), 1, MaxWeight)
		}
		if m.Subnet != nil && m.Subnet.ID != "" {
			p.ref(here+".subnet", m.Subnet, VirtualNetworks, Subnets)
		}
		if m.VirtualNetwork != nil && m.VirtualNetwork.ID != "" {
			p.ref(here+".virtualNetwork", m.VirtualNetwork, VirtualNetworks, "")
		}
	}
}

func (p *problems) probes(list []Probe) []string {
	const path = "properties.probes"
	p.count(path, len(list), MaxProbes, "probes")
	names := p.parts(path, len(list), func(i int) *string { return &list[i].Name })
	for i := range list {
		here := at(path, i) + ".properties"
		probe := &list[i].Properties
		if probe.Protocol == "" {
			p.invalid(here+".protocol", "is required")
		} else {
			enum(p, here+".protocol", &probe.Protocol, ProbeTCP, ProbeHTTP, ProbeHTTPS)
		}
		p.within(here+".port", int64(probe.Port), 1, MaxPort)
		switch {
		case probe.Protocol == ProbeTCP && probe.RequestPath != "":
			p.invalid(here+".requestPath", "is for protocols Http and Https")
		case probe.Protocol == ProbeHTTP || probe.Protocol == ProbeHTTPS:
			if !strings.HasPrefix(probe.RequestPath, "/") || strings.ContainsFunc(probe.RequestPath, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
				p.invalid(here+".requestPath", "%q is not a path (must begin with '/', visible ASCII characters)", probe.RequestPath)
			}
			p.text(here+".requestPath", probe.RequestPath, 2048)
		}
		if probe.IntervalInSeconds != nil {
			p.within(here+".intervalInSeconds", int64(*probe.IntervalInSeconds), MinProbeInterval, MaxProbeInterval)
		}
		if probe.NumberOfProbes != nil {
			p.within(here+".numberOfProbes", int64(*probe.NumberOfProbes), 1, MaxProbeCount)
		}
		if probe.ProbeThreshold != nil {
			p.within(here+".probeThreshold", int64(*probe.ProbeThreshold), 1, MaxProbeCount)
		}
		if probe.NoHealthyBackendsBehavior != "" {
			enum(p, here+".noHealthyBackendsBehavior", &probe.NoHealthyBackendsBehavior, AllProbedDown, AllProbedUp)
		}
	}
	return names
}

// protocol checks a required protocol of a rule. Quic is ARM's and refused by name.
func (p *problems) protocol(path string, v *TransportProtocol) {
	switch {
	case *v == "":
		p.invalid(path, "is required")
	case equalFold(string(*v), "Quic"):
		p.add(NewError(400, CodeUnsupportedProperty, path, "Quic is not supported (a rule for Udp carries it)"))
	default:
		enum(p, path, v, TransportTCP, TransportUDP, TransportAll)
	}
}

func (p *problems) rules(list []LoadBalancingRule, id ID, frontends, pools, probes []string, taken *portsTaken) {
	const path = "properties.loadBalancingRules"
	p.parts(path, len(list), func(i int) *string { return &list[i].Name })
	for i := range list {
		here := at(path, i) + ".properties"
		rule := &list[i].Properties
		p.own(here+".frontendIPConfiguration", rule.FrontendIPConfiguration, id, FrontendIPConfigurations, frontends)
		switch pool := list[i].Pool(); {
		case len(rule.BackendAddressPools) > 1:
			p.add(NewError(400, CodeUnsupportedProperty, here+".backendAddressPools", "only one backend pool is supported"))
		case pool == nil:
			p.invalid(here+".backendAddressPool.id", "is required")
		default:
			p.own(here+".backendAddressPool", pool, id, BackendAddressPools, pools)
		}
		if rule.Probe != nil && rule.Probe.ID != "" {
			p.own(here+".probe", rule.Probe, id, Probes, probes)
		}
		p.protocol(here+".protocol", &rule.Protocol)
		p.within(here+".frontendPort", int64(rule.FrontendPort), 0, MaxFrontendPort)
		p.within(here+".backendPort", int64(rule.BackendPort), 0, MaxPort)
		switch {
		case rule.Protocol == TransportAll && (rule.FrontendPort != 0 || rule.BackendPort != 0):
			p.invalid(here+".frontendPort", "protocol All needs frontendPort and backendPort 0")
		case rule.Protocol != TransportAll && rule.Protocol != "" && rule.FrontendPort == 0:
			p.invalid(here+".frontendPort", "0 (every port) needs protocol All")
		}
		enum(p, here+".loadDistribution", &rule.LoadDistribution, DistributeDefault, DistributeSourceIP, DistributeSourceIPProtocol)
		if rule.IdleTimeoutInMinutes != nil {
			p.within(here+".idleTimeoutInMinutes", int64(*rule.IdleTimeoutInMinutes), MinIdleMinutes, MaxIdleMinutes)
		}
		if rule.FrontendIPConfiguration != nil {
			p.take(taken, here+".frontendPort", list[i].Name, rule.FrontendIPConfiguration.ID, rule.Protocol, rule.FrontendPort, rule.FrontendPort)
		}
	}
}

func (p *problems) natRules(list []InboundNATRule, id ID, frontends, pools []string, taken *portsTaken) {
	const path = "properties.inboundNatRules"
	p.parts(path, len(list), func(i int) *string { return &list[i].Name })
	for i := range list {
		here := at(path, i) + ".properties"
		rule := &list[i].Properties
		p.own(here+".frontendIPConfiguration", rule.FrontendIPConfiguration, id, FrontendIPConfigurations, frontends)
		p.protocol(here+".protocol", &rule.Protocol)
		if rule.Protocol == TransportAll {
			p.invalid(here+".protocol", "an inbound NAT rule is for Tcp or Udp")
		}
		p.within(here+".backendPort", int64(rule.BackendPort), 1, MaxPort)
		low, high := rule.FrontendPort, rule.FrontendPort
		if rule.BackendAddressPool != nil && rule.BackendAddressPool.ID != "" {
			p.own(here+".backendAddressPool", rule.BackendAddressPool, id, BackendAddressPools, pools)
			low, high = rule.FrontendPortRangeStart, rule.FrontendPortRangeEnd
			if rule.FrontendPort != 0 {
				p.invalid(here+".frontendPort", "with backendAddressPool, use frontendPortRangeStart and frontendPortRangeEnd")
			}
			p.within(here+".frontendPortRangeStart", int64(low), 1, MaxFrontendPort)
			p.within(here+".frontendPortRangeEnd", int64(high), max(int64(low), 1), MaxFrontendPort)
		} else {
			if rule.FrontendPortRangeStart != 0 || rule.FrontendPortRangeEnd != 0 {
				p.invalid(here+".frontendPortRangeStart", "a range of ports needs backendAddressPool")
			}
			p.within(here+".frontendPort", int64(low), 1, MaxFrontendPort)
		}
		if rule.IdleTimeoutInMinutes != nil {
			p.within(here+".idleTimeoutInMinutes", int64(*rule.IdleTimeoutInMinutes), MinIdleMinutes, MaxIdleMinutes)
		}
		if rule.FrontendIPConfiguration != nil {
			p.take(taken, here+".frontendPort", list[i].Name, rule.FrontendIPConfiguration.ID, rule.Protocol, low, high)
		}
	}
}

// portsTaken are the ports of frontends that rules have so far.
type portsTaken struct {
	list []portRange
}

type portRange struct {
	rule, frontend string
	protocol       TransportProtocol
	low, high      int32
}

// take notes a rule's ports and reports the rule that has one of them already. A rule for every port
// stands beside rules for single ones, which go first.
func (p *problems) take(t *portsTaken, path, rule, frontend string, protocol TransportProtocol, low, high int32) {
	r := portRange{rule: rule, frontend: strings.ToLower(frontend), protocol: protocol, low: low, high: high}
	i := slices.IndexFunc(t.list, func(o portRange) bool {
		return o.frontend == r.frontend && o.protocol == r.protocol && o.low <= r.high && r.low <= o.high
	})
	if i >= 0 {
		p.invalid(path, "%s is used by rule %s of the same frontend", r.ports(), t.list[i].rule)
	}
	t.list = append(t.list, r)
}

func (r portRange) ports() string {
	switch {
	case r.protocol == TransportAll:
		return "every port"
	case r.low == r.high:
		return fmt.Sprintf("port %d %s", r.low, r.protocol)
	}
	return fmt.Sprintf("a port of %d..%d %s", r.low, r.high, r.protocol)
}
