package api

import (
	"fmt"
	"net/netip"
	"strings"
)

// Validate checks a virtual network: prefixes, subnets, peerings and attachments.
func (r *VirtualNetwork) Validate(id ID) error {
	p := problems{}
	p.completeRefs(r, id)
	p.meta(&r.Envelope, id)
	props := &r.Properties
	if props.EndpointVNetPolicies != "" {
		enum(&p, "properties.privateEndpointVNetPolicies", &props.EndpointVNetPolicies, "Disabled", "Basic")
	}
	spaces := p.space("properties.addressSpace.addressPrefixes", props.AddressSpace.AddressPrefixes)
	p.subnets(props.Subnets, spaces)
	p.peerings(props.VirtualNetworkPeerings, id)
	if list, ok := props.Attachments.Get(); ok {
		p.attachments("properties.attachments", list)
		props.Attachments = Set(list)
	}
	return p.err()
}

func (p *problems) space(path string, prefixes []string) []netip.Prefix {
	if len(prefixes) == 0 {
		p.invalid(path, "is required")
	}
	p.count(path, len(prefixes), MaxPrefixes, "address prefixes")
	var list []netip.Prefix
	for i, s := range prefixes {
		x := p.prefix(at(path, i), s)
		for j, other := range list {
			if x.IsValid() && other.IsValid() && x.Overlaps(other) {
				p.invalid(at(path, i), "%s overlaps %s (%s)", x, other, at(path, j))
			}
		}
		list = append(list, x)
	}
	return list
}

func (p *problems) subnets(subnets []Subnet, spaces []netip.Prefix) {
	const path = "properties.subnets"
	p.count(path, len(subnets), MaxSubnets, "subnets")
	names := p.parts(path, len(subnets), func(i int) *string { return &subnets[i].Name })
	var list []netip.Prefix
	for i := range subnets {
		props := &subnets[i].Properties
		here := at(path, i) + ".properties"
		written := subnets[i].Prefix()
		switch {
		case written == "":
			p.invalid(here+".addressPrefix", "is required")
		case len(props.AddressPrefixes) > 1,
			len(props.AddressPrefixes) == 1 && props.AddressPrefix != "" && props.AddressPrefixes[0] != props.AddressPrefix:
			p.invalid(here+".addressPrefixes", "a subnet has one prefix")
		}
		x := netip.Prefix{}
		if written != "" {
			x = p.prefix(here+".addressPrefix", written)
		}
		if x.IsValid() {
			if !inside(x, spaces) {
				p.invalid(here+".addressPrefix", "%s is not within the address space of the virtual network", x)
			}
			for j, other := range list {
				if other.IsValid() && x.Overlaps(other) {
					p.invalid(here+".addressPrefix", "%s overlaps %s of subnet %s", x, other, names[j])
				}
			}
		}
		list = append(list, x)
		if props.EndpointNetworkPolicies != "" {
			enum(p, here+".privateEndpointNetworkPolicies", &props.EndpointNetworkPolicies,
				"Disabled", "Enabled", "NetworkSecurityGroupEnabled", "RouteTableEnabled")
		}
		if props.ServiceNetworkPolicies != "" {
			enum(p, here+".privateLinkServiceNetworkPolicies", &props.ServiceNetworkPolicies, "Disabled", "Enabled")
		}
	}
}

func inside(x netip.Prefix, spaces []netip.Prefix) bool {
	for _, s := range spaces {
		if s.IsValid() && s.Bits() <= x.Bits() && s.Contains(x.Addr()) {
			return true
		}
	}
	return false
}

func (p *problems) peerings(peerings []VirtualNetworkPeering, self ID) {
	const path = "properties.virtualNetworkPeerings"
	p.count(path, len(peerings), MaxPeerings, "peerings")
	names := p.parts(path, len(peerings), func(i int) *string { return &peerings[i].Name })
	seen := map[string]string{}
	for i := range peerings {
		props := &peerings[i].Properties
		here := at(path, i) + ".properties"
		remote := p.ref(here+".remoteVirtualNetwork", props.RemoteVirtualNetwork, VirtualNetworks, "")
		if remote.IsZero() {
			continue
		}
		if remote.Equal(self) {
			p.add(BadReference(here+".remoteVirtualNetwork.id", "a virtual network cannot be peered with itself"))
		} else if other, ok := seen[remote.Key()]; ok {
			p.add(BadReference(here+".remoteVirtualNetwork.id", "%s is the remote network of peering %s already", remote.Short(), other))
		}
		seen[remote.Key()] = names[i]
		if props.UseRemoteGateways || props.AllowGatewayTransit {
			p.add(NewError(400, CodeUnsupportedProperty, here, "useRemoteGateways and allowGatewayTransit are not supported: there are no gateways"))
		}
	}
}

// maxInterfaceName is IFNAMSIZ without the terminating zero.
const maxInterfaceName = 15

func (p *problems) attachments(path string, list []Attachment) {
	p.count(path, len(list), MaxAttachments, "attachments")
	seen := map[string]bool{}
	for i := range list {
		a := &list[i]
		here := at(path, i)
		switch {
		case a.Interface == "":
			p.invalid(here+".interface", "is required")
		case len(a.Interface) > maxInterfaceName, a.Interface == ".", a.Interface == "..",
			strings.ContainsFunc(a.Interface, func(r rune) bool { return r <= ' ' || r == '/' || r == ':' || r >= 0x7f }):
			p.invalid(here+".interface", "%q is not an interface name (1..%d visible ASCII characters, no '/' or ':')", a.Interface, maxInterfaceName)
		}
		p.within(here+".vlan", int64(a.VLAN), 0, MaxVLAN)
		enum(p, here+".mode", &a.Mode, AttachAuto, AttachTC, AttachXDP)
		if a.PassOther && a.Exclusive {
			p.invalid(here+".exclusive", "passOther and exclusive exclude each other")
		}
		if a.NextHop != "" {
			if hop := p.addr(here+".nextHop", a.NextHop); hop.IsValid() {
				a.NextHop = hop.String()
			}
		}
		key := fmt.Sprintf("%s/%d", a.Interface, a.VLAN)
		if seen[key] {
			p.invalid(here, "interface %s, vlan %d appears twice", a.Interface, a.VLAN)
		}
		seen[key] = true
	}
}
