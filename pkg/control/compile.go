package control

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/dataplane"
)

// snapshot is what there is at one revision. The records in it never change.
type snapshot struct {
	revision    uint64
	records     []*record     // in the order of their keys
	connections []*connection // in the order of their keys
}

func (v *view) snapshot() snapshot {
	return snapshot{revision: v.revision, records: slices.Clone(v.recordList), connections: slices.Clone(v.connectionList)}
}

// compile translates resources into what the kernel has to know. It is a pure function: the same snapshot and
// health give the same State and probes, whatever order things were made in.
func compile(s snapshot, health Health) (dataplane.State, []Probe) {
	c := &compiler{health: health, probes: map[string]Probe{}, owners: map[string]bool{}, records: make(map[string]*record, len(s.records)), members: map[string][]member{},
		nats: map[string][]member{}, peers: map[string][]string{}, connections: make(map[string]*connection, len(s.connections)), held: make(map[place]bool, len(s.records)), reserved: map[string][]netip.Addr{}}
	for _, r := range s.records {
		c.records[r.key] = r
		for _, h := range r.holds {
			c.held[place{h.network, h.addr}] = true
			if r.resource.Kind() == api.NetworkInterfaces {
				c.reserved[h.network] = append(c.reserved[h.network], h.addr)
			}
		}
		switch resource := r.resource.(type) {
		case *api.NetworkInterface:
			c.addNIC(r, resource)
		case *api.PrivateLinkService:
			for _, ref := range resource.Properties.LoadBalancerFrontendIPConfigurations {
				c.owners[strings.ToLower(ref.ID)] = true
			}
		}
	}
	for _, r := range s.records {
		if network, ok := r.resource.(*api.VirtualNetwork); ok {
			c.addPeers(r, network)
		}
	}
	for _, x := range s.connections {
		c.connections[x.endpointKey] = x
	}
	state := dataplane.State{Revision: s.revision}
	for _, r := range s.records {
		switch resource := r.resource.(type) {
		case *api.VirtualNetwork:
			state.Networks = append(state.Networks, c.network(r, resource))
		case *api.LoadBalancer:
			c.frontends(&state, r, resource)
		case *api.PrivateLinkService:
			state.RuleSets = append(state.RuleSets, c.service(r, resource))
		case *api.PrivateEndpoint:
			state.Links = append(state.Links, c.endpoint(r, resource))
		}
	}
	return state, c.sortedProbes()
}

type compiler struct {
	health      Health
	records     map[string]*record
	members     map[string][]member // of pools, by NIC
	nats        map[string][]member // of inbound NAT rules, by NIC
	peers       map[string][]string // networks whose clients reach a network's endpoints
	connections map[string]*connection
	probes      map[string]Probe
	owners      map[string]bool // frontends that have a service
	held        map[place]bool
	reserved    map[string][]netip.Addr // addresses of NICs, by network
}

func (c *compiler) addNIC(r *record, nic *api.NetworkInterface) {
	for i := range nic.Properties.IPConfigurations {
		config := &nic.Properties.IPConfigurations[i]
		a, err := netip.ParseAddr(config.Properties.PrivateIPAddress)
		if err != nil {
			continue
		}
		m := member{id: r.id.Sub(api.IPConfigurations, config.Name).String(), name: nic.Name, addr: a}
		for _, ref := range config.Properties.LoadBalancerBackendAddressPools {
			c.members[strings.ToLower(ref.ID)] = append(c.members[strings.ToLower(ref.ID)], m)
		}
		for _, ref := range config.Properties.LoadBalancerInboundNATRules {
			c.nats[strings.ToLower(ref.ID)] = append(c.nats[strings.ToLower(ref.ID)], m)
		}
	}
}

// addPeers notes the networks that a network lets in: those peered in both directions with access allowed
// by both.
func (c *compiler) addPeers(r *record, network *api.VirtualNetwork) {
	for i := range network.Properties.VirtualNetworkPeerings {
		p := &network.Properties.VirtualNetworkPeerings[i].Properties
		remote := c.records[lower(p.RemoteVirtualNetwork)]
		if remote == nil || !allows(p) {
			continue
		}
		back, ok := remote.resource.(*api.VirtualNetwork)
		if !ok {
			continue
		}
		for j := range back.Properties.VirtualNetworkPeerings {
			q := &back.Properties.VirtualNetworkPeerings[j].Properties
			if lower(q.RemoteVirtualNetwork) == r.key && allows(q) {
				c.peers[r.key] = append(c.peers[r.key], remote.key)
			}
		}
	}
	slices.Sort(c.peers[r.key])
}

func allows(p *api.PeeringProperties) bool {
	return p.AllowVirtualNetworkAccess == nil || *p.AllowVirtualNetworkAccess
}

func (c *compiler) network(r *record, network *api.VirtualNetwork) dataplane.Network {
	n := dataplane.Network{Key: r.key, Reserved: c.reserved[r.key]}
	slices.SortFunc(n.Reserved, netip.Addr.Compare)
	answers := false
	for _, a := range network.Properties.Attachments.Or(nil) {
		n.Attachments = append(n.Attachments, attachmentOf(&a))
		answers = answers || a.AnswerGateway
	}
	for i := range network.Properties.Subnets {
		p := prefixOf(&network.Properties.Subnets[i])
		n.Prefixes = append(n.Prefixes, p)
		if g := gateway(p); answers && p.Bits() < 31 && !c.held[place{r.key, g}] {
			n.Gateways = append(n.Gateways, g)
		}
	}
	return n
}

// frontends makes every frontend reachable from its own network: a rule set, and a link without an id.
func (c *compiler) frontends(state *dataplane.State, r *record, lb *api.LoadBalancer) {
	for i := range lb.Properties.FrontendIPConfigurations {
		f := &lb.Properties.FrontendIPConfigurations[i]
		a, err := netip.ParseAddr(f.Properties.PrivateIPAddress)
		subnet, err2 := api.ParseID(lowerID(f.Properties.Subnet), api.ID{})
		if err != nil || err2 != nil {
			continue
		}
		network := subnet.Parent().Key()
		key := r.id.Sub(api.FrontendIPConfigurations, f.Name).Key()
		set := dataplane.RuleSet{Key: key, Network: network, Sources: []dataplane.Source{{Addr: a, Frontend: true}}}
		set.Rules = c.rules(ruleSet{key: key, published: c.owners[key]}, r, lb, []api.SubResource{{ID: key}})
		state.RuleSets = append(state.RuleSets, set)
		state.Links = append(state.Links, dataplane.Link{Key: key, Network: network, Addr: a, Frontend: true, Peers: c.peers[network],
			RuleSet: key, State: dataplane.LinkApproved})
	}
}

func lowerID(ref *api.SubResource) string {
	if ref == nil {
		return ""
	}
	return ref.ID
}

func (c *compiler) service(r *record, service *api.PrivateLinkService) dataplane.RuleSet {
	set := dataplane.RuleSet{Key: r.key}
	for _, primary := range []bool{true, false} {
		for i := range service.Properties.IPConfigurations {
			p := &service.Properties.IPConfigurations[i].Properties
			if a, err := netip.ParseAddr(p.PrivateIPAddress); err == nil && (p.Primary != nil && *p.Primary) == primary {
				set.Sources = append(set.Sources, dataplane.Source{Addr: a})
			}
		}
	}
	for _, d := range r.kept.Draining {
		set.Sources = append(set.Sources, dataplane.Source{Addr: d.Address, Draining: true})
	}
	if len(r.holds) > 0 {
		set.Network = r.holds[0].network
	}
	frontends := service.Properties.LoadBalancerFrontendIPConfigurations
	if len(frontends) == 0 {
		return set
	}
	id, _ := api.ParseID(frontends[0].ID, api.ID{})
	rec := c.records[id.Parent().Key()]
	if rec == nil {
		return set
	}
	if lb, ok := rec.resource.(*api.LoadBalancer); ok {
		set.Rules = c.rules(ruleSet{key: r.key, service: service}, rec, lb, frontends)
	}
	return set
}

// ruleSet is for whom rules are compiled.
type ruleSet struct {
	key     string
	service *api.PrivateLinkService // nil: the frontend itself
	// published says that the frontend has a service: its backends are probed from that one's NAT IPs.
	published bool
}

// rules are what the frontends of a load balancer offer, as a service or the frontend itself publishes it.
func (c *compiler) rules(set ruleSet, r *record, lb *api.LoadBalancer, frontends []api.SubResource) []dataplane.Rule {
	var list []dataplane.Rule
	for i := range lb.Properties.LoadBalancingRules {
		p := &lb.Properties.LoadBalancingRules[i]
		if !has(frontends, lowerID(p.Properties.FrontendIPConfiguration)) {
			continue
		}
		rule := dataplane.Rule{
			Key:      set.key + "|" + r.id.Sub(api.LoadBalancingRules, p.Name).Key(),
			Protocol: protocol(p.Properties.Protocol), Port: uint16(p.Properties.FrontendPort), BackendPort: uint16(p.Properties.BackendPort),
			Distribution: distribution(p.Properties.LoadDistribution),
		}
		effective(&rule, set.service, p.Properties.IdleTimeoutInMinutes, p.Properties.EnableTCPReset)
		rule.Targets = c.targets(set, rule.Key, r, lb, lower(p.Pool()), p.Properties.Probe)
		list = append(list, rule)
	}
	for i := range lb.Properties.InboundNATRules {
		p := &lb.Properties.InboundNATRules[i]
		if !has(frontends, lowerID(p.Properties.FrontendIPConfiguration)) {
			continue
		}
		list = append(list, c.natRules(set, r, lb, p)...)
	}
	slices.SortFunc(list, func(a, b dataplane.Rule) int { return strings.Compare(a.Key, b.Key) })
	return list
}

// natRules are the ports of an inbound NAT rule: one for the NIC that names the rule, or one for each member of
// its pool. Those of a pool are offered through a service only if a load-balancing rule joins frontend and pool.
func (c *compiler) natRules(set ruleSet, r *record, lb *api.LoadBalancer, p *api.InboundNATRule) []dataplane.Rule {
	var list []dataplane.Rule
	id := r.id.Sub(api.InboundNATRules, p.Name).Key()
	add := func(key string, port uint16, backend netip.Addr, pool string) {
		rule := dataplane.Rule{Key: set.key + "|" + key, Protocol: protocol(p.Properties.Protocol), Port: port, BackendPort: uint16(p.Properties.BackendPort),
			Targets: []dataplane.Target{{Pool: pool, Addr: backend, Weight: 1, Healthy: true}}}
		effective(&rule, set.service, p.Properties.IdleTimeoutInMinutes, p.Properties.EnableTCPReset)
		list = append(list, rule)
	}
	for _, m := range c.nats[id] {
		add(id, uint16(p.Properties.FrontendPort), m.addr, id)
	}
	if p.Properties.BackendAddressPool == nil || set.service != nil && !joined(lb, p) {
		return list
	}
	for _, x := range r.kept.NATPorts {
		if x.Rule == strings.ToLower(p.Name) {
			add(id+"|"+x.Address.String(), x.Port, x.Address, lower(p.Properties.BackendAddressPool))
		}
	}
	return list
}

// effective sets what a service and a rule decide together: the service's idle timeout if it has one, else
// for TCP the rule's if its request had one, else the default; RST at idle if either says so; PROXY for TCP.
func effective(rule *dataplane.Rule, service *api.PrivateLinkService, minutes *int32, reset bool) {
	rule.IdleTCP, rule.IdleUDP = api.DefaultIdleSeconds, api.DefaultIdleSeconds
	if minutes != nil {
		rule.IdleTCP = uint32(*minutes) * 60
	}
	rule.TCPReset = reset
	if service == nil {
		return
	}
	if seconds, ok := service.Properties.IdleTimeoutInSeconds.Get(); ok {
		rule.IdleTCP, rule.IdleUDP = uint32(seconds), uint32(seconds)
	}
	rule.TCPReset = rule.TCPReset || service.Properties.EnableTCPReset.Or(false)
	rule.ProxyTLV = string(service.Properties.ProxyTLV.Or(api.ProxyTLVAzure))
	rule.ProxyCRC32C = service.Properties.ProxyCRC32C.Or(false)
	rule.Proxy = service.Properties.EnableProxyProtocol && rule.Protocol != dataplane.ProtocolUDP
}

func protocol(p api.TransportProtocol) dataplane.Protocol {
	switch p {
	case api.TransportTCP:
		return dataplane.ProtocolTCP
	case api.TransportUDP:
		return dataplane.ProtocolUDP
	}
	return dataplane.ProtocolAll
}

func distribution(d api.LoadDistribution) dataplane.Distribution {
	switch d {
	case api.DistributeSourceIP:
		return dataplane.DistributionSourceIP
	case api.DistributeSourceIPProtocol:
		return dataplane.DistributionSourceIPProtocol
	}
	return dataplane.Distribution5Tuple
}

// targets are the members of a pool by NIC and by address, in the order of their addresses, as one rule sees
// them.
func (c *compiler) targets(set ruleSet, rule string, r *record, lb *api.LoadBalancer, pool string, probe *api.SubResource) []dataplane.Target {
	id, err := api.ParseID(pool, api.ID{})
	if err != nil {
		return nil
	}
	p := lb.Pool(id.Child)
	if p == nil {
		return nil
	}
	byAddr := poolAddresses(p, c.members[pool])
	list := make([]dataplane.Target, 0, len(byAddr))
	for a, m := range byAddr {
		list = append(list, dataplane.Target{Pool: pool, Addr: a, Weight: uint16(m.Weight.Or(1)), Healthy: true, NoNew: m.AdminState == api.AdminDown})
	}
	for _, x := range r.kept.Leaving {
		switch {
		case x.Pool != strings.ToLower(id.Child):
		case x.Over:
			list = slices.DeleteFunc(list, func(t dataplane.Target) bool { return t.Addr == x.Address })
		case !x.Down:
			list = append(list, dataplane.Target{Pool: pool, Addr: x.Address, Weight: 1, Healthy: true, NoNew: true})
			byAddr[x.Address] = &api.BackendAddressProperties{AdminState: api.AdminDown}
		}
	}
	slices.SortFunc(list, func(a, b dataplane.Target) int { return a.Addr.Compare(b.Addr) })
	if probe != nil && probe.ID != "" {
		c.judge(set, rule, lb, list, byAddr, probe)
	}
	return list
}

func (c *compiler) endpoint(r *record, e *api.PrivateEndpoint) dataplane.Link {
	link := dataplane.Link{Key: r.key, State: dataplane.LinkDisconnected, ID: r.kept.LastLinkID}
	link.Addr, _ = netip.ParseAddr(e.Properties.IPAddress)
	if len(r.holds) > 0 {
		link.Network = r.holds[0].network
		link.Peers = c.peers[link.Network]
	}
	x := c.connections[r.key]
	if x == nil {
		link.Epoch = epoch(link.ID, 0)
		return link
	}
	link.ID, link.RuleSet, link.Epoch = x.LinkID, x.serviceKey, epoch(x.LinkID, x.Epoch)
	switch x.State.Status {
	case api.Pending:
		link.State = dataplane.LinkPending
	case api.Approved:
		link.State = dataplane.LinkApproved
	case api.Rejected:
		link.State = dataplane.LinkRejected
	}
	limit, ok := x.MaxFlows.Get()
	if service := c.records[x.serviceKey]; !ok && service != nil {
		limit = service.resource.(*api.PrivateLinkService).Properties.MaxFlowsPerEndpoint.Or(0)
	}
	link.MaxFlows = uint32(limit)
	return link
}

// epoch differs for two links that share a key one after the other, and each time a link was rejected.
func epoch(id, count uint32) uint32 { return id*2654435761 + count }
