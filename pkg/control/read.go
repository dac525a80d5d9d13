package control

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/auth"
)

// Scope is where a list looks: a resource group, or a whole subscription with an empty ResourceGroup, or
// everywhere with an empty Subscription.
type Scope struct {
	Subscription, ResourceGroup string
}

func (s Scope) path() string {
	if s.Subscription == "" {
		return auth.Everything
	}
	return auth.GroupScope(s.Subscription, s.ResourceGroup)
}

func (s Scope) holds(id api.ID) bool {
	return (s.Subscription == "" || strings.EqualFold(s.Subscription, id.Subscription)) &&
		(s.ResourceGroup == "" || strings.EqualFold(s.ResourceGroup, id.ResourceGroup))
}

// at is the path of an element of a list.
func at(path string, i int) string { return fmt.Sprintf("%s[%d]", path, i) }

// Get reads one resource. The result is the caller's own copy.
func (c *Controller) Get(_ context.Context, who auth.Actor, id api.ID) (api.Resource, error) {
	if err := who.Check(auth.Read, id.Parent()); err != nil {
		return nil, err
	}
	c.mu.RLock()
	defer c.mu.RUnlock()
	if rec := c.view.records[id.Parent().Key()]; rec != nil {
		return c.present(c.view, rec), nil
	}
	if o := c.view.ownerOfNIC(id.Parent()); o != nil {
		return c.presentOwnedNIC(o), nil
	}
	return nil, api.NotFound(id)
}

// List reads all resources of a kind in a scope that the actor may read, in the order of their ids in
// lower case.
func (c *Controller) List(_ context.Context, who auth.Actor, kind api.Kind, scope Scope) ([]api.Resource, error) {
	if err := checkScope(who, scope); err != nil {
		return nil, err
	}
	c.mu.RLock()
	defer c.mu.RUnlock()
	list := []api.Resource{}
	keys := map[api.Resource]string{}
	for key, rec := range c.view.records {
		if !scope.holds(rec.id) || !who.May(auth.Read, rec.id.String()) {
			continue
		}
		if rec.resource.Kind() == kind {
			r := c.present(c.view, rec)
			keys[r] = key
			list = append(list, r)
		}
		if kind == api.NetworkInterfaces && ownedNIC(rec) != nil {
			r := c.presentOwnedNIC(rec)
			keys[r] = strings.ToLower(r.Meta().ID)
			list = append(list, r)
		}
	}
	slices.SortFunc(list, func(a, b api.Resource) int { return strings.Compare(keys[a], keys[b]) })
	return list, nil
}

// present is a record as a caller reads it: with everything that is computed. Called under mu.
func (c *Controller) present(v *view, rec *record) api.Resource {
	r := api.Clone(rec.resource)
	r.Meta().Etag = etag(rec)
	state, why := c.provisioning(v, rec)
	*r.State() = state
	switch r := r.(type) {
	case *api.VirtualNetwork:
		r.Properties.FailureReason = why
		v.fillNetwork(rec, r)
	case *api.LoadBalancer:
		r.Properties.FailureReason = why
		v.fillLoadBalancer(rec, r)
	case *api.PrivateLinkService:
		r.Properties.FailureReason = why
		c.fillService(v, rec, r)
	case *api.PrivateEndpoint:
		r.Properties.FailureReason = why
		v.fillEndpoint(rec, r, state)
	}
	api.FillParts(r)
	return r
}

func (c *Controller) presentOwnedNIC(owner *record) *api.NetworkInterface {
	nic := ownedNIC(owner)
	nic.Etag = etag(owner)
	nic.Properties.ProvisioningState, _ = c.provisioning(c.view, owner)
	if owner.resource.Kind() == api.PrivateEndpoints {
		if names := c.view.fqdns(owner); names != nil {
			nic.Properties.IPConfigurations[0].Properties.PrivateLinkConnectionProperties = &api.PrivateLinkConnection{FQDNs: names}
		}
	}
	api.FillParts(nic)
	return nic
}

func (v *view) fillNetwork(rec *record, r *api.VirtualNetwork) {
	for i := range r.Properties.Subnets {
		s := &r.Properties.Subnets[i]
		for _, user := range v.users(rec.id.Sub(api.Subnets, s.Name).Key(), api.Kinds()...) {
			switch user.resource.Kind() {
			case api.PrivateEndpoints:
				s.Properties.PrivateEndpoints = append(s.Properties.PrivateEndpoints, api.SubResource{ID: user.id.String()})
			case api.NetworkInterfaces:
				for _, h := range user.holds {
					s.Properties.IPConfigurations = append(s.Properties.IPConfigurations,
						api.SubResource{ID: user.id.Sub(api.IPConfigurations, h.part).String()})
				}
			}
		}
	}
	for i := range r.Properties.VirtualNetworkPeerings {
		p := &r.Properties.VirtualNetworkPeerings[i]
		state, remote := v.peeringState(rec.id.String(), p)
		p.Properties.PeeringState, p.Properties.PeeringSyncLevel = state, "FullyInSync"
		if remote != nil {
			p.Properties.RemoteAddressSpace = &api.AddressSpace{AddressPrefixes: slices.Clone(remote.Properties.AddressSpace.AddressPrefixes)}
		} else {
			p.Properties.PeeringSyncLevel = "RemoteNotInSync"
		}
	}
}

func (v *view) fillLoadBalancer(rec *record, r *api.LoadBalancer) {
	frontends, pools, probes := map[string]*api.FrontendIPConfigurationProperties{}, map[string]*api.BackendAddressPoolProperties{}, map[string]*api.ProbeProperties{}
	for i := range r.Properties.FrontendIPConfigurations {
		f := &r.Properties.FrontendIPConfigurations[i]
		frontends[rec.id.Sub(api.FrontendIPConfigurations, f.Name).Key()] = &f.Properties
	}
	for i := range r.Properties.Probes {
		p := &r.Properties.Probes[i]
		probes[rec.id.Sub(api.Probes, p.Name).Key()] = &p.Properties
	}
	for i := range r.Properties.BackendAddressPools {
		p := &r.Properties.BackendAddressPools[i]
		id := rec.id.Sub(api.BackendAddressPools, p.Name)
		pools[id.Key()] = &p.Properties
	}
	for i := range r.Properties.LoadBalancingRules {
		rule := &r.Properties.LoadBalancingRules[i]
		ref := api.SubResource{ID: rec.id.Sub(api.LoadBalancingRules, rule.Name).String()}
		if f := frontends[lower(rule.Properties.FrontendIPConfiguration)]; f != nil {
			f.LoadBalancingRules = append(f.LoadBalancingRules, ref)
		}
		if p := pools[lower(rule.Pool())]; p != nil {
			p.LoadBalancingRules = append(p.LoadBalancingRules, ref)
		}
		if p := probes[lower(rule.Properties.Probe)]; p != nil {
			p.LoadBalancingRules = append(p.LoadBalancingRules, ref)
		}
	}
	r.Properties.Warnings = v.natWarnings(rec, r, nil)
	for i := range r.Properties.BackendAddressPools {
		v.fillMembers(rec, r, &r.Properties.BackendAddressPools[i])
	}
	for i := range r.Properties.InboundNATRules {
		rule := &r.Properties.InboundNATRules[i]
		id := rec.id.Sub(api.InboundNATRules, rule.Name)
		if f := frontends[lower(rule.Properties.FrontendIPConfiguration)]; f != nil {
			f.InboundNATRules = append(f.InboundNATRules, api.SubResource{ID: id.String()})
		}
		if p := pools[lower(rule.Properties.BackendAddressPool)]; p != nil {
			p.InboundNATRules = append(p.InboundNATRules, api.SubResource{ID: id.String()})
		}
		for _, nic := range v.users(id.Key(), api.NetworkInterfaces) {
			for _, config := range nic.resource.(*api.NetworkInterface).Properties.IPConfigurations {
				if has(config.Properties.LoadBalancerInboundNATRules, id.String()) {
					rule.Properties.BackendIPConfiguration = &api.SubResource{ID: nic.id.Sub(api.IPConfigurations, config.Name).String()}
				}
			}
		}
	}
}

func lower(ref *api.SubResource) string {
	if ref == nil {
		return ""
	}
	return strings.ToLower(ref.ID)
}

// member is a NIC's IP configuration in a pool.
type member struct {
	id   string // of the IP configuration
	name string // of the NIC
	addr netip.Addr
}

// nicMembers are the IP configurations of NICs that name a pool, in the order of their ids.
func (v *view) nicMembers(pool string) []member {
	var list []member
	for _, nic := range v.users(pool, api.NetworkInterfaces) {
		configs := nic.resource.(*api.NetworkInterface).Properties.IPConfigurations
		for i := range configs {
			a, err := netip.ParseAddr(configs[i].Properties.PrivateIPAddress)
			if err == nil && has(configs[i].Properties.LoadBalancerBackendAddressPools, pool) {
				list = append(list, member{id: nic.id.Sub(api.IPConfigurations, configs[i].Name).String(), name: nic.id.Name, addr: a})
			}
		}
	}
	return list
}

func (c *Controller) fillService(v *view, rec *record, r *api.PrivateLinkService) {
	r.Properties.Alias = rec.kept.Alias
	r.Properties.NetworkInterfaces = []api.SubResource{{ID: ownedNIC(rec).ID}}
	for _, x := range v.ofService(rec.key) {
		r.Properties.PrivateEndpointConnections = append(r.Properties.PrivateEndpointConnections, *c.presentConnection(v, x))
	}
	for _, d := range rec.kept.Draining {
		r.Properties.DrainingIPs = append(r.Properties.DrainingIPs, api.DrainingIP{Address: d.Address.String(), Until: d.Until})
	}
	r.Properties.Warnings = v.serviceWarnings(r)
}

// presentConnection is a connection as its provider reads it. Called under mu.
func (c *Controller) presentConnection(v *view, x *connection) *api.PrivateEndpointConnection {
	id, s := x.id(), x.State
	p := &api.PrivateEndpointConnection{Part: api.Part{
		ID: id.String(), Name: x.Name, Type: api.PrivateLinkServices.Type() + "/" + api.PrivateEndpointConnections,
		Etag: etagOf(x.revision),
	}}
	p.Properties.PrivateLinkServiceConnectionState = &s
	p.Properties.LinkIdentifier = strconv.FormatUint(uint64(x.LinkID), 10)
	p.Properties.PrivateEndpoint = &api.SubResource{ID: x.Endpoint}
	p.Properties.PrivateEndpointLocation = x.Location
	p.Properties.ProvisioningState = c.reached(x.revision)
	p.Properties.MaxFlows = x.MaxFlows
	p.Properties.ConnectionReport = api.ConnectionReport{
		RequestMessage: x.RequestMessage, Subscription: x.Subscription, Tenant: x.Tenant,
		RequestTime: x.Requested, DecisionTime: x.Decided, DecidedBy: x.DecidedBy, Alias: x.Alias,
	}
	return p
}

// fillEndpoint shows the consumer the state of its connection, and nothing of the provider but that and the
// names it published.
func (v *view) fillEndpoint(rec *record, r *api.PrivateEndpoint, state api.ProvisioningState) {
	r.Properties.ResourceGUID = rec.kept.GUID
	r.Properties.NetworkInterfaces = []api.SubResource{{ID: ownedNIC(rec).ID}}
	asked, _ := r.Connection()
	asked.ID, asked.Properties.ProvisioningState = "", state
	if s := rec.kept.Disconnected; s != nil {
		shown := *s
		asked.Properties.PrivateLinkServiceConnectionState = &shown
		return
	}
	x := v.byEndpoint[rec.key]
	if x == nil {
		return
	}
	shown := x.State
	asked.Properties.PrivateLinkServiceConnectionState = &shown
	r.Properties.LinkIdentifier = strconv.FormatUint(uint64(x.LinkID), 10)
	for _, name := range v.fqdns(rec) {
		r.Properties.CustomDNSConfigs = append(r.Properties.CustomDNSConfigs, api.DNSConfig{FQDN: name, IPAddresses: []string{r.Properties.IPAddress}})
	}
}

// fqdns are the names that the service of an endpoint published; none before the connection is approved.
func (v *view) fqdns(rec *record) []string {
	x := v.byEndpoint[rec.key]
	if x == nil || x.State.Status != api.Approved {
		return nil
	}
	service := v.records[x.serviceKey]
	if service == nil {
		return nil
	}
	return service.resource.(*api.PrivateLinkService).Properties.FQDNs
}

// natWarnings tell of the inbound NAT rules for pools, of some frontends or (nil) of all, what does not work: those that
// private links do not offer, and those with fewer ports than their pool has members.
func (v *view) natWarnings(rec *record, lb *api.LoadBalancer, frontends []api.SubResource) []string {
	var list []string
	for i := range lb.Properties.InboundNATRules {
		r := &lb.Properties.InboundNATRules[i]
		if lower(r.Properties.BackendAddressPool) == "" || frontends != nil && !has(frontends, lowerID(r.Properties.FrontendIPConfiguration)) {
			continue
		}
		pool, _ := api.ParseID(r.Properties.BackendAddressPool.ID, api.ID{})
		if !joined(lb, r) {
			list = append(list, fmt.Sprintf("inbound NAT rule %s is inactive through private links: no load-balancing rule joins its frontend and pool %s", r.Name, pool.Child))
		}
		p := lb.Pool(pool.Child)
		if p == nil {
			continue
		}
		without := poolAddresses(p, v.nicMembers(pool.Key()))
		members := len(without)
		for _, x := range rec.kept.NATPorts {
			if x.Rule == strings.ToLower(r.Name) {
				delete(without, x.Address)
			}
		}
		if len(without) > 0 {
			first := slices.MinFunc(slices.Collect(maps.Keys(without)), netip.Addr.Compare)
			list = append(list, fmt.Sprintf("inbound NAT rule %s has %s for %s of pool %s: %s has none%s", r.Name,
				plural(int(r.Properties.FrontendPortRangeEnd-r.Properties.FrontendPortRangeStart+1), "port"), plural(members, "member"), pool.Child, first,
				map[bool]string{true: ", nor have others"}[len(without) > 1]))
		}
	}
	return list
}

// fillMembers shows the members that a pool has by NIC beside those that the load balancer names, and all members' ports of
// inbound NAT rules. An entry of a NIC's that says nothing more is not kept when it is written back.
func (v *view) fillMembers(rec *record, lb *api.LoadBalancer, p *api.BackendAddressPool) {
	props := &p.Properties
	index, names := map[netip.Addr]int{}, map[string]int{}
	for i := range props.LoadBalancerBackendAddresses {
		m := &props.LoadBalancerBackendAddresses[i]
		names[strings.ToLower(m.Name)] = i
		if a, err := netip.ParseAddr(m.Properties.IPAddress); err == nil {
			index[a] = i
		}
	}
	for _, nic := range v.nicMembers(rec.id.Sub(api.BackendAddressPools, p.Name).Key()) {
		props.BackendIPConfigurations = append(props.BackendIPConfigurations, api.SubResource{ID: nic.id})
		i, ok := index[nic.addr]
		if !ok {
			if i, ok = names[strings.ToLower(nic.name)]; ok && props.LoadBalancerBackendAddresses[i].Properties.IPAddress != "" {
				ok = false // another backend's name
			}
		}
		if !ok || props.LoadBalancerBackendAddresses[i].Properties.NetworkInterfaceIPConfiguration != nil {
			name := nic.name
			for n := 2; ; n++ {
				if _, taken := names[strings.ToLower(name)]; !taken {
					break
				}
				name = fmt.Sprintf("%s-%d", nic.name, n)
			}
			i = len(props.LoadBalancerBackendAddresses)
			names[strings.ToLower(name)] = i
			m := api.BackendAddress{Name: name}
			m.Properties.AdminState = api.AdminNone
			props.LoadBalancerBackendAddresses = append(props.LoadBalancerBackendAddresses, m)
		}
		index[nic.addr] = i
		props.LoadBalancerBackendAddresses[i].Properties.NetworkInterfaceIPConfiguration = &api.SubResource{ID: nic.id}
	}
	for i := range lb.Properties.InboundNATRules {
		rule := &lb.Properties.InboundNATRules[i]
		if lower(rule.Properties.BackendAddressPool) != rec.id.Sub(api.BackendAddressPools, p.Name).Key() {
			continue
		}
		for _, x := range rec.kept.NATPorts {
			at, ok := index[x.Address]
			if !ok || x.Rule != strings.ToLower(rule.Name) {
				continue
			}
			m := &props.LoadBalancerBackendAddresses[at].Properties
			m.InboundNATRulesPortMapping = append(m.InboundNATRulesPortMapping,
				api.NATRulePortMapping{InboundNATRuleName: rule.Name, FrontendPort: int32(x.Port), BackendPort: rule.Properties.BackendPort})
		}
	}
}

// serviceWarnings are what a provider should know of a service that works as far as it goes.
func (v *view) serviceWarnings(r *api.PrivateLinkService) []string {
	var list []string
	seen := map[string]bool{}
	for i := range r.Properties.IPConfigurations {
		network, s := v.subnet(r.Properties.IPConfigurations[i].Properties.Subnet)
		if s == nil || seen[s.Name] {
			continue
		}
		seen[s.Name] = true
		if n := v.freeAddresses(network.key, prefixOf(s), api.FewAddresses); n < api.FewAddresses {
			list = append(list, fmt.Sprintf("subnet %s (%s) has %s left for NAT IPs", s.Name, s.Prefix(), plural(n, "free address")))
		}
	}
	return append(list, v.reachWarnings(r)...)
}

// reachWarnings name the NAT IPs that a backend could not answer: those outside of its subnet, where no
// attachment says who routes between them.
func (v *view) reachWarnings(r *api.PrivateLinkService) []string {
	var list []string
	if len(r.Properties.LoadBalancerFrontendIPConfigurations) == 0 {
		return nil
	}
	lbRec, lb := find[*api.LoadBalancer](v, r.Properties.LoadBalancerFrontendIPConfigurations[0].ID)
	if lbRec == nil {
		return nil
	}
	list = append(list, v.natWarnings(lbRec, lb, r.Properties.LoadBalancerFrontendIPConfigurations)...)
	network := v.records[v.networkOf(lb)]
	if network == nil {
		return list
	}
	vnet := network.resource.(*api.VirtualNetwork)
	for _, a := range vnet.Properties.Attachments.Or(nil) {
		if a.AnswerGateway || a.NextHop != "" {
			return list
		}
	}
	subnetOf := func(a netip.Addr) string {
		for i := range vnet.Properties.Subnets {
			if prefixOf(&vnet.Properties.Subnets[i]).Contains(a) {
				return vnet.Properties.Subnets[i].Name
			}
		}
		return ""
	}
	backends := v.backendsOf(lb, r)
	for i := range r.Properties.IPConfigurations {
		nat, err := netip.ParseAddr(r.Properties.IPConfigurations[i].Properties.PrivateIPAddress)
		if err != nil {
			continue
		}
		for _, b := range backends {
			if s := subnetOf(b); s != subnetOf(nat) {
				if s != "" {
					s = " in subnet " + s
				}
				list = append(list, fmt.Sprintf("NAT IP %s is outside of the subnet of backend %s%s, which could not answer it "+
					"(attach with --answer-gateway or --next-hop, or use a NAT IP of that subnet)", nat, b, s))
				break
			}
		}
	}
	return list
}

// backendsOf are the addresses of the backends behind a service's rules.
func (v *view) backendsOf(lb *api.LoadBalancer, service *api.PrivateLinkService) []netip.Addr {
	var list []netip.Addr
	seen := map[string]bool{}
	for i := range lb.Properties.LoadBalancingRules {
		rule := &lb.Properties.LoadBalancingRules[i]
		pool := rule.Pool()
		if pool == nil || seen[lower(pool)] || rule.Properties.FrontendIPConfiguration == nil ||
			!has(service.Properties.LoadBalancerFrontendIPConfigurations, rule.Properties.FrontendIPConfiguration.ID) {
			continue
		}
		seen[lower(pool)] = true
		id, _ := api.ParseID(pool.ID, api.ID{})
		for _, m := range v.nicMembers(id.Key()) {
			list = append(list, m.addr)
		}
		if p := lb.Pool(id.Child); p != nil {
			for j := range p.Properties.LoadBalancerBackendAddresses {
				if a, err := netip.ParseAddr(p.Properties.LoadBalancerBackendAddresses[j].Properties.IPAddress); err == nil {
					list = append(list, a)
				}
			}
		}
	}
	slices.SortFunc(list, netip.Addr.Compare)
	return list
}
