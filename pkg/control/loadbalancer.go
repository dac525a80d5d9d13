package control

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/privlink/privlink/pkg/api"
)

// networkOf is the key of the network that a load balancer's frontends are in; "" without frontends.
func (v *view) networkOf(lb *api.LoadBalancer) string {
	for i := range lb.Properties.FrontendIPConfigurations {
		if rec, _ := v.subnet(lb.Properties.FrontendIPConfigurations[i].Properties.Subnet); rec != nil {
			return rec.key
		}
	}
	return ""
}

// prepareLoadBalancer checks a load balancer's network and what uses its parts, and gives its frontends addresses.
func (t *tx) prepareLoadBalancer(id api.ID, doc, old *api.LoadBalancer) error {
	if err := t.claimFrontends(id, doc, old); err != nil {
		return err
	}
	dropShownMembers(doc)
	network := t.view.networkOf(doc)
	if err := t.checkBackends(doc, network); err != nil {
		return err
	}
	if old != nil {
		if err := t.checkPartsGone(id, doc, old); err != nil {
			return err
		}
	}
	for _, user := range t.view.users(id.Key(), api.PrivateLinkServices) {
		service := user.resource.(*api.PrivateLinkService)
		if err := t.checkServicePorts("properties.loadBalancingRules", service, doc); err != nil {
			return err
		}
		for i := range service.Properties.IPConfigurations {
			if rec, _ := t.view.subnet(service.Properties.IPConfigurations[i].Properties.Subnet); rec != nil && rec.key != network {
				return api.Refused(api.CodeConflict, "properties.frontendIPConfigurations",
					"the frontends cannot move to another virtual network while %s has its NAT IPs in %s", user.id.Short(), rec.id.Short())
			}
		}
	}
	for i := range doc.Properties.BackendAddressPools {
		pool := id.Sub(api.BackendAddressPools, doc.Properties.BackendAddressPools[i].Name)
		for _, nic := range t.view.users(pool.Key(), api.NetworkInterfaces) {
			c := &nic.resource.(*api.NetworkInterface).Properties.IPConfigurations[0]
			if rec, _ := t.view.subnet(c.Properties.Subnet); rec != nil && network != "" && rec.key != network {
				return api.Refused(api.CodeConflict, "properties.frontendIPConfigurations",
					"the frontends cannot be in another virtual network than %s, which is in pool %s", nic.id.Short(), pool.Child)
			}
		}
	}
	return nil
}

// dropShownMembers takes out entries of pools that say nothing but a name: a read shows one for each member by NIC.
func dropShownMembers(doc *api.LoadBalancer) {
	for i := range doc.Properties.BackendAddressPools {
		p := &doc.Properties.BackendAddressPools[i].Properties
		p.LoadBalancerBackendAddresses = slices.DeleteFunc(p.LoadBalancerBackendAddresses, func(m api.BackendAddress) bool {
			_, weighted := m.Properties.Weight.Get()
			return m.Properties.IPAddress == "" && m.Properties.AdminState == api.AdminNone && !weighted
		})
	}
}

func (t *tx) claimFrontends(id api.ID, doc, old *api.LoadBalancer) error {
	const target = "properties.frontendIPConfigurations"
	list := doc.Properties.FrontendIPConfigurations
	claims := t.claimer(id)
	address := func(f *api.FrontendIPConfiguration) string {
		if f.Properties.PrivateIPAllocationMethod == api.Dynamic && old != nil {
			if was := old.Frontend(f.Name); was != nil {
				return was.Properties.PrivateIPAddress
			}
		}
		return f.Properties.PrivateIPAddress
	}
	for i := range list {
		claims.reserve(list[i].Name, list[i].Properties.Subnet, address(&list[i]))
	}
	// A dynamic frontend gets no address that a pool of the same document names; a static one is refused later.
	if first, _ := t.view.subnet(firstSubnet(list)); first != nil {
		for _, place := range backendsOf(doc, first.key) {
			if claims.taken[place] == "" {
				claims.taken[place] = backendName
			}
		}
	}
	var network *record
	for i := range list {
		f := &list[i]
		here := at(target, i) + ".properties"
		a, err := claims.claim(here, f.Name, f.Properties.Subnet, f.Properties.PrivateIPAddress, address(f))
		if err != nil {
			return err
		}
		f.Properties.PrivateIPAddress = a
		rec, _ := t.view.subnet(f.Properties.Subnet)
		switch {
		case network != nil && network.key != rec.key:
			return api.BadReference(here+".subnet.id", "%s is another virtual network than %s of the first frontend", rec.id.Short(), network.id.Short())
		case rec.resource.Meta().Location != doc.Location:
			return api.Invalid("location", "%s is not the location of %s, %s", doc.Location, rec.id.Short(), rec.resource.Meta().Location)
		}
		network = rec
	}
	return nil
}

// backendName stands for a backend by address among the names of frontends; no frontend can have it.
const backendName = "a backend"

func firstSubnet(list []api.FrontendIPConfiguration) *api.SubResource {
	if len(list) == 0 {
		return nil
	}
	return list[0].Properties.Subnet
}

// checkBackends checks the backends that pools name by address.
func (t *tx) checkBackends(doc *api.LoadBalancer, network string) error {
	for i := range doc.Properties.BackendAddressPools {
		pool := &doc.Properties.BackendAddressPools[i]
		here := at("properties.backendAddressPools", i) + ".properties"
		if err := t.checkPoolNetwork(here+".virtualNetwork.id", pool.Properties.VirtualNetwork, network); err != nil {
			return err
		}
		for j := range pool.Properties.LoadBalancerBackendAddresses {
			m := &pool.Properties.LoadBalancerBackendAddresses[j].Properties
			there := at(here+".loadBalancerBackendAddresses", j) + ".properties"
			if err := t.checkPoolNetwork(there+".virtualNetwork.id", m.VirtualNetwork, network); err != nil {
				return err
			}
			if m.Subnet != nil && m.Subnet.ID != "" {
				if rec, s := t.view.subnet(m.Subnet); s == nil {
					return missing(there+".subnet.id", m.Subnet.ID)
				} else if network != "" && rec.key != network {
					return api.BadReference(there+".subnet.id", "%s is not the virtual network of the frontends", rec.id.Short())
				}
			}
			a, err := netip.ParseAddr(m.IPAddress)
			if err != nil {
				continue
			}
			if o, ok := t.view.held[network][a]; ok && o.record.resource.Kind() != api.NetworkInterfaces {
				return api.Refused(api.CodeAddressInUse, there+".ipAddress", "%s is the address of %s and cannot be a backend", a, o)
			}
			for k := range doc.Properties.FrontendIPConfigurations {
				if f := &doc.Properties.FrontendIPConfigurations[k]; f.Properties.PrivateIPAddress == m.IPAddress {
					return api.Refused(api.CodeAddressInUse, there+".ipAddress", "%s is the address of frontend %s and cannot be a backend", a, f.Name)
				}
			}
		}
	}
	return nil
}

func (t *tx) checkPoolNetwork(target string, ref *api.SubResource, network string) error {
	if ref == nil || ref.ID == "" {
		return nil
	}
	rec, _ := find[*api.VirtualNetwork](t.view, ref.ID)
	if rec == nil {
		return missing(target, ref.ID)
	}
	if network != "" && rec.key != network {
		return api.BadReference(target, "%s is not the virtual network of the frontends", rec.id.Short())
	}
	return nil
}

// checkPartsGone refuses to take out parts that others use.
func (t *tx) checkPartsGone(id api.ID, doc, old *api.LoadBalancer) error {
	for i := range old.Properties.FrontendIPConfigurations {
		name := old.Properties.FrontendIPConfigurations[i].Name
		if doc.Frontend(name) != nil {
			continue
		}
		if user := t.firstUser(id.Sub(api.FrontendIPConfigurations, name)); user != "" {
			return api.Refused(api.CodeInUse, "properties.frontendIPConfigurations", "frontend %s is used by %s", name, user)
		}
	}
	for i := range old.Properties.BackendAddressPools {
		name := old.Properties.BackendAddressPools[i].Name
		if doc.Pool(name) != nil {
			continue
		}
		if user := t.firstUser(id.Sub(api.BackendAddressPools, name)); user != "" {
			return api.Refused(api.CodeInUse, "properties.backendAddressPools", "pool %s is used by %s", name, user)
		}
	}
	for i := range old.Properties.InboundNATRules {
		name := old.Properties.InboundNATRules[i].Name
		kept, pooled := false, false
		for j := range doc.Properties.InboundNATRules {
			if r := &doc.Properties.InboundNATRules[j]; strings.EqualFold(r.Name, name) {
				kept, pooled = true, lower(r.Properties.BackendAddressPool) != ""
			}
		}
		user := t.firstUser(id.Sub(api.InboundNATRules, name))
		switch {
		case user == "":
		case !kept:
			return api.Refused(api.CodeInUse, "properties.inboundNatRules", "rule %s is used by %s", name, user)
		case pooled:
			return api.Refused(api.CodeInUse, "properties.inboundNatRules", "rule %s cannot be for a pool while %s names it (take the rule out of the network interface first)", name, user)
		}
	}
	return nil
}

// servicePorts are ports that a rule offers through a service.
type servicePorts struct {
	rule, frontend string
	protocol       api.TransportProtocol
	low, high      int32
}

// checkServicePorts refuses two rules for one port on different frontends of one service: behind an endpoint
// there is one address. The rules of one frontend were compared when the load balancer was.
func (t *tx) checkServicePorts(target string, service *api.PrivateLinkService, lb *api.LoadBalancer) error {
	var all []servicePorts
	add := func(rule string, frontend *api.SubResource, protocol api.TransportProtocol, low, high int32) error {
		if !has(service.Properties.LoadBalancerFrontendIPConfigurations, lowerID(frontend)) {
			return nil
		}
		r := servicePorts{rule, lower(frontend), protocol, low, high}
		for _, o := range all {
			low, high := max(o.low, r.low), min(o.high, r.high)
			if o.frontend == r.frontend || o.protocol != r.protocol || low > high {
				continue
			}
			ports := fmt.Sprintf("port %d %s", low, r.protocol)
			switch {
			case r.protocol == api.TransportAll:
				ports = "every port"
			case low < high:
				ports = fmt.Sprintf("ports %d to %d %s", low, high, r.protocol)
			}
			return api.Refused(api.CodeConflict, target, "rules %s and %s are both for %s, and %s has both of their frontends",
				o.rule, r.rule, ports, service.Name)
		}
		all = append(all, r)
		return nil
	}
	for i := range lb.Properties.LoadBalancingRules {
		r := &lb.Properties.LoadBalancingRules[i]
		if err := add(r.Name, r.Properties.FrontendIPConfiguration, r.Properties.Protocol, r.Properties.FrontendPort, r.Properties.FrontendPort); err != nil {
			return err
		}
	}
	for i := range lb.Properties.InboundNATRules {
		r := &lb.Properties.InboundNATRules[i]
		low, high := r.Properties.FrontendPort, r.Properties.FrontendPort
		if lower(r.Properties.BackendAddressPool) != "" {
			if !joined(lb, r) {
				continue // a service does not offer it
			}
			low, high = r.Properties.FrontendPortRangeStart, r.Properties.FrontendPortRangeEnd
		}
		if err := add(r.Name, r.Properties.FrontendIPConfiguration, r.Properties.Protocol, low, high); err != nil {
			return err
		}
	}
	return nil
}
