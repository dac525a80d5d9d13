package api

import "net"

// Validate checks a network interface and its IP configurations.
func (r *NetworkInterface) Validate(id ID) error {
	p := problems{}
	p.completeRefs(r, id)
	p.meta(&r.Envelope, id)
	props := &r.Properties
	if props.MACAddress != "" {
		if mac, err := net.ParseMAC(props.MACAddress); err != nil || len(mac) != 6 || mac[0]&1 != 0 {
			p.invalid("properties.macAddress", "%q is not a unicast MAC address", props.MACAddress)
		} else {
			props.MACAddress = mac.String()
		}
	}
	const path = "properties.ipConfigurations"
	configs := props.IPConfigurations
	if len(configs) == 0 {
		p.invalid(path, "at least one is required")
	}
	p.count(path, len(configs), MaxIPConfigurations, "IP configurations")
	p.parts(path, len(configs), func(i int) *string { return &configs[i].Name })
	p.primary(path, len(configs), func(i int) **bool { return &configs[i].Properties.Primary })
	for i := range configs {
		here := at(path, i) + ".properties"
		c := &configs[i].Properties
		p.address(here, &c.PrivateIPAllocationMethod, &c.PrivateIPAddress, &c.PrivateIPAddressVersion)
		p.ref(here+".subnet", c.Subnet, VirtualNetworks, Subnets)
		for j := range c.LoadBalancerBackendAddressPools {
			p.ref(at(here+".loadBalancerBackendAddressPools", j), &c.LoadBalancerBackendAddressPools[j], LoadBalancers, BackendAddressPools)
		}
		for j := range c.LoadBalancerInboundNATRules {
			p.ref(at(here+".loadBalancerInboundNatRules", j), &c.LoadBalancerInboundNATRules[j], LoadBalancers, InboundNATRules)
		}
	}
	return p.err()
}

// primary checks that one configuration at most says primary, and says it for the first if none does.
func (p *problems) primary(path string, n int, flag func(int) **bool) {
	first := -1
	for i := range n {
		if f := *flag(i); f != nil && *f {
			if first >= 0 {
				p.invalid(at(path, i)+".properties.primary", "exactly one may be primary, and %s is", at(path, first))
			} else {
				first = i
			}
		}
	}
	if first < 0 {
		first = 0
	}
	for i := range n {
		is := i == first
		*flag(i) = &is
	}
}
