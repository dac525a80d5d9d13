package control

import (
	"strings"

	"github.com/privlink/privlink/pkg/api"
)

// prepareNIC checks a network interface's subnets and pools and gives it addresses.
func (t *tx) prepareNIC(id api.ID, doc, old *api.NetworkInterface) error {
	const target = "properties.ipConfigurations"
	configs := doc.Properties.IPConfigurations
	claims := t.claimer(id)
	was := map[string]string{}
	if old != nil {
		for i := range old.Properties.IPConfigurations {
			c := &old.Properties.IPConfigurations[i]
			was[strings.ToLower(c.Name)] = c.Properties.PrivateIPAddress
		}
	}
	address := func(c *api.NICIPConfiguration) string {
		if c.Properties.PrivateIPAllocationMethod == api.Static {
			return c.Properties.PrivateIPAddress
		}
		return was[strings.ToLower(c.Name)]
	}
	for i := range configs {
		claims.reserve(configs[i].Name, configs[i].Properties.Subnet, address(&configs[i]))
	}
	network := ""
	for i := range configs {
		c := &configs[i]
		here := at(target, i) + ".properties"
		a, err := claims.claim(here, c.Name, c.Properties.Subnet, c.Properties.PrivateIPAddress, address(c))
		if err != nil {
			return err
		}
		c.Properties.PrivateIPAddress = a
		rec, _ := t.view.subnet(c.Properties.Subnet)
		if network != "" && rec.key != network {
			return api.BadReference(here+".subnet.id", "%s is another virtual network than that of the first IP configuration", rec.id.Short())
		}
		network = rec.key
		if err := t.checkMembership(id, here, configs[:i], c, network); err != nil {
			return err
		}
	}
	return nil
}

// checkMembership checks the pools and inbound NAT rules that a NIC joins with one of its IP configurations; configs are those
// before it.
func (t *tx) checkMembership(id api.ID, here string, configs []api.NICIPConfiguration, c *api.NICIPConfiguration, network string) error {
	for j, ref := range c.Properties.LoadBalancerBackendAddressPools {
		target := at(here+".loadBalancerBackendAddressPools", j) + ".id"
		rec, lb := find[*api.LoadBalancer](t.view, ref.ID)
		pool, _ := api.ParseID(ref.ID, api.ID{})
		if rec == nil || lb.Pool(pool.Child) == nil {
			return missing(target, ref.ID)
		}
		if of := t.view.networkOf(lb); of != "" && of != network {
			return api.BadReference(target, "%s is in another virtual network than this network interface", rec.id.Short())
		}
	}
	for j, ref := range c.Properties.LoadBalancerInboundNATRules {
		target := at(here+".loadBalancerInboundNatRules", j) + ".id"
		rec, lb := find[*api.LoadBalancer](t.view, ref.ID)
		if rec == nil {
			return missing(target, ref.ID)
		}
		rule, _ := api.ParseID(ref.ID, api.ID{})
		found := false
		for i := range lb.Properties.InboundNATRules {
			r := &lb.Properties.InboundNATRules[i]
			if !strings.EqualFold(r.Name, rule.Child) {
				continue
			}
			found = true
			if lower(r.Properties.BackendAddressPool) != "" {
				return api.BadReference(target, "%s is for the members of a pool; join the pool instead", rule.Short())
			}
		}
		if !found {
			return missing(target, ref.ID)
		}
		if of := t.view.networkOf(lb); of != "" && of != network {
			return api.BadReference(target, "%s is in another virtual network than this network interface", rec.id.Short())
		}
		for _, other := range configs {
			if has(other.Properties.LoadBalancerInboundNATRules, ref.ID) {
				return api.Refused(api.CodeConflict, target, "%s steers to IP configuration %s already", rule.Short(), other.Name)
			}
		}
		for _, user := range t.view.users(rule.Key(), api.NetworkInterfaces) {
			if user.key != id.Key() {
				return api.Refused(api.CodeConflict, target, "%s steers to %s already", rule.Short(), user.id.Short())
			}
		}
	}
	return nil
}

func has(list []api.SubResource, id string) bool {
	for _, r := range list {
		if api.SameID(r.ID, id) {
			return true
		}
	}
	return false
}

// ownedNIC is the network interface that a service or endpoint owns. It is made when it is read.
func ownedNIC(rec *record) *api.NetworkInterface {
	nic := &api.NetworkInterface{}
	ref := &api.SubResource{ID: rec.id.String()}
	var name string
	switch r := rec.resource.(type) {
	case *api.PrivateEndpoint:
		if name = r.Properties.CustomNetworkInterfaceName; name == "" {
			name = r.Name + ".nic." + rec.kept.GUID
		}
		primary := true
		nic.Properties.PrivateEndpoint = ref
		nic.Properties.IPConfigurations = []api.NICIPConfiguration{{Part: api.Part{Name: "privateEndpointIpConfig"},
			Properties: api.NICIPConfigurationProperties{PrivateIPAddress: r.Properties.IPAddress, PrivateIPAllocationMethod: api.Dynamic,
				PrivateIPAddressVersion: api.IPVersion4, Subnet: r.Properties.Subnet, Primary: &primary}}}
		if len(r.Properties.IPConfigurations) > 0 {
			nic.Properties.IPConfigurations[0].Properties.PrivateIPAllocationMethod = api.Static
		}
	case *api.PrivateLinkService:
		name = r.Name + ".nic." + aliasGUID(rec.kept.Alias)
		nic.Properties.PrivateLinkService = ref
		for i := range r.Properties.IPConfigurations {
			c := &r.Properties.IPConfigurations[i]
			nic.Properties.IPConfigurations = append(nic.Properties.IPConfigurations, api.NICIPConfiguration{Part: api.Part{Name: c.Name},
				Properties: api.NICIPConfigurationProperties{PrivateIPAddress: c.Properties.PrivateIPAddress,
					PrivateIPAllocationMethod: c.Properties.PrivateIPAllocationMethod, PrivateIPAddressVersion: api.IPVersion4,
					Subnet: c.Properties.Subnet, Primary: c.Properties.Primary}})
		}
	default:
		return nil
	}
	nic.ID, nic.Name, nic.Type = rec.id.Sibling(api.NetworkInterfaces, name).String(), name, api.NetworkInterfaces.Type()
	nic.Location = rec.resource.Meta().Location
	return nic
}

// aliasGUID is the guid of an alias, wherever its prefix has put it.
func aliasGUID(alias string) string {
	labels := strings.Split(alias, ".")
	for i := len(labels) - 1; i >= 0; i-- {
		if len(labels[i]) == len("00000000-0000-0000-0000-000000000000") && strings.Count(labels[i], "-") == 4 {
			return labels[i]
		}
	}
	return ""
}

// ownerOfNIC is the service or endpoint that owns the network interface of an id, or nil.
func (v *view) ownerOfNIC(id api.ID) *record {
	if id.Type != string(api.NetworkInterfaces) || v.records[id.Key()] != nil {
		return nil
	}
	for _, rec := range v.records {
		if !strings.EqualFold(rec.id.ResourceGroup, id.ResourceGroup) || !strings.EqualFold(rec.id.Subscription, id.Subscription) {
			continue
		}
		if nic := ownedNIC(rec); nic != nil && strings.EqualFold(nic.ID, id.String()) {
			return rec
		}
	}
	return nil
}

func readOnlyNIC(id api.ID, owner *record) error {
	return api.Refused(api.CodeReadOnly, "", "%s belongs to %s and cannot be changed by itself", id.Short(), owner.id.Short())
}
