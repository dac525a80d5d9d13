package control

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/privlink/privlink/pkg/api"
)

// A pool's members come and go with two kinds of resources: the load balancer names addresses, NICs name the
// pool. What has to be remembered of them stands with the load balancer: who is leaving, and which port of an
// inbound NAT rule each has.

// leaving is a member that takes no new flows and whose flows end at a time.
type leaving struct {
	Pool    string     `json:"pool"` // name in lower case
	Address netip.Addr `json:"address"`
	Until   time.Time  `json:"until"`
	// Down says that it is still a member, with adminState Down; else it was taken out.
	Down bool `json:"down,omitempty"`
	// Over says that its flows have ended. Only of one that is Down: others are forgotten then.
	Over bool `json:"over,omitempty"`
}

// natPort is the port that a pool's member has in an inbound NAT rule.
type natPort struct {
	Rule    string     `json:"rule"` // name in lower case
	Address netip.Addr `json:"address"`
	Port    uint16     `json:"port"`
}

// poolMember is a member as far as its pool's memory goes.
type poolMember struct {
	addr netip.Addr
	down bool
}

// membersOf are the members of a load balancer's pools, by name in lower case, in the order of addresses.
func membersOf(lb *api.LoadBalancer, nics func(pool string) []member, id api.ID) map[string][]poolMember {
	all := map[string][]poolMember{}
	for i := range lb.Properties.BackendAddressPools {
		p := &lb.Properties.BackendAddressPools[i]
		byAddr := poolAddresses(p, nics(id.Sub(api.BackendAddressPools, p.Name).Key()))
		list := make([]poolMember, 0, len(byAddr))
		for a, m := range byAddr {
			list = append(list, poolMember{addr: a, down: m.AdminState == api.AdminDown})
		}
		slices.SortFunc(list, func(a, b poolMember) int { return a.addr.Compare(b.addr) })
		all[strings.ToLower(p.Name)] = list
	}
	return all
}

// poolAddresses joins a pool's members by NIC and by address. An entry without an address says something of the NIC
// with its name.
func poolAddresses(p *api.BackendAddressPool, nics []member) map[netip.Addr]*api.BackendAddressProperties {
	byAddr := map[netip.Addr]*api.BackendAddressProperties{}
	byName := map[string]netip.Addr{}
	for _, m := range nics {
		byAddr[m.addr] = &api.BackendAddressProperties{}
		byName[strings.ToLower(m.name)] = m.addr
	}
	for i := range p.Properties.LoadBalancerBackendAddresses {
		m := &p.Properties.LoadBalancerBackendAddresses[i]
		a, err := netip.ParseAddr(m.Properties.IPAddress)
		if err != nil {
			known, ok := byName[strings.ToLower(m.Name)]
			if !ok {
				continue
			}
			a = known
		}
		byAddr[a] = &m.Properties
	}
	return byAddr
}

// balancersOf are the load balancers whose pools a write of an id may change: the one itself, or those whose pools
// a NIC is in.
func (v *view) balancersOf(id api.ID) []string {
	rec := v.records[id.Key()]
	if rec == nil {
		return nil
	}
	switch r := rec.resource.(type) {
	case *api.LoadBalancer:
		return []string{rec.key}
	case *api.NetworkInterface:
		var list []string
		for i := range r.Properties.IPConfigurations {
			for _, ref := range r.Properties.IPConfigurations[i].Properties.LoadBalancerBackendAddressPools {
				if pool, err := api.ParseID(ref.ID, api.ID{}); err == nil && !slices.Contains(list, pool.Parent().Key()) {
					list = append(list, pool.Parent().Key())
				}
			}
		}
		return list
	}
	return nil
}

// poolsBefore is what balancersOf had before a step.
type poolsBefore map[string]map[string][]poolMember

func (t *tx) poolsBefore(id api.ID) poolsBefore {
	before := poolsBefore{}
	for _, key := range t.view.balancersOf(id) {
		if rec := t.view.records[key]; rec != nil {
			before[key] = membersOf(rec.resource.(*api.LoadBalancer), t.view.nicMembers, rec.id)
		}
	}
	return before
}

// poolsAfter lets members that a step took out or down drain, and gives new ones their ports.
func (t *tx) poolsAfter(id api.ID, before poolsBefore) error {
	keys := t.view.balancersOf(id)
	for key := range before {
		if !slices.Contains(keys, key) {
			keys = append(keys, key)
		}
	}
	for _, key := range keys {
		rec := t.view.records[key]
		if rec == nil {
			continue // deleted by this step
		}
		lb := rec.resource.(*api.LoadBalancer)
		now := membersOf(lb, t.view.nicMembers, rec.id)
		k := rec.kept
		k.Leaving = t.leaving(lb, k.Leaving, before[key], now)
		k.NATPorts = givePorts(lb, k.NATPorts, now)
		if slices.Equal(k.Leaving, rec.kept.Leaving) && slices.Equal(k.NATPorts, rec.kept.NATPorts) {
			continue
		}
		fresh, err := newRecord(rec.resource, k)
		if err != nil {
			return err
		}
		t.set(fresh)
	}
	return nil
}

// leaving is who leaves after a step: those who left already and have not come back, and those who do now.
func (t *tx) leaving(lb *api.LoadBalancer, list []leaving, before, now map[string][]poolMember) []leaving {
	find := func(members []poolMember, a netip.Addr) *poolMember {
		for i := range members {
			if members[i].addr == a {
				return &members[i]
			}
		}
		return nil
	}
	var next []leaving
	known := map[string]bool{}
	for _, x := range list {
		m := find(now[x.Pool], x.Address)
		if _, exists := now[x.Pool]; !exists || m != nil && !m.down || m == nil && x.Over {
			continue // the pool is gone, it came back, or it was taken out when nothing was left
		}
		x.Down = m != nil
		next = append(next, x)
		known[x.Pool+" "+x.Address.String()] = true
	}
	for pool, members := range before {
		period := time.Duration(0)
		if p := lb.Pool(pool); p != nil && p.Properties.DrainPeriodInSeconds != nil {
			period = time.Duration(*p.Properties.DrainPeriodInSeconds) * time.Second
		}
		for _, was := range members {
			m := find(now[pool], was.addr)
			if period == 0 || m != nil && !m.down || known[pool+" "+was.addr.String()] || was.down {
				continue
			}
			next = append(next, leaving{Pool: pool, Address: was.addr, Until: t.now.Add(period), Down: m != nil})
		}
	}
	slices.SortFunc(next, func(a, b leaving) int {
		if c := strings.Compare(a.Pool, b.Pool); c != 0 {
			return c
		}
		return a.Address.Compare(b.Address)
	})
	return next
}

// endLeaving ends the time of members whose time is over, and returns when the next one's is.
func endLeaving(list []leaving, now time.Time) (rest []leaving, next time.Time) {
	for _, x := range list {
		switch {
		case x.Over:
		case now.Before(x.Until):
			if next.IsZero() || x.Until.Before(next) {
				next = x.Until
			}
		case x.Down:
			x.Over = true
		default:
			continue
		}
		rest = append(rest, x)
	}
	return rest, next
}

// givePorts gives each member of a pool one port of each inbound NAT rule for the pool. Who has one keeps it as
// long as it is in the rule's range; a new member gets the lowest free one, or none if all are taken.
func givePorts(lb *api.LoadBalancer, had []natPort, now map[string][]poolMember) []natPort {
	var list []natPort
	for i := range lb.Properties.InboundNATRules {
		r := &lb.Properties.InboundNATRules[i]
		if r.Properties.BackendAddressPool == nil {
			continue
		}
		pool, err := api.ParseID(r.Properties.BackendAddressPool.ID, api.ID{})
		if err != nil {
			continue
		}
		rule, members := strings.ToLower(r.Name), now[strings.ToLower(pool.Child)]
		low, high := r.Properties.FrontendPortRangeStart, r.Properties.FrontendPortRangeEnd
		port, taken := map[netip.Addr]uint16{}, map[uint16]bool{}
		for _, x := range had {
			in := slices.ContainsFunc(members, func(m poolMember) bool { return m.addr == x.Address })
			if x.Rule == rule && in && int32(x.Port) >= low && int32(x.Port) <= high {
				port[x.Address], taken[x.Port] = x.Port, true
			}
		}
		next := low
		for _, m := range members {
			if port[m.addr] == 0 {
				for next <= high && taken[uint16(next)] {
					next++
				}
				if next > high {
					continue
				}
				port[m.addr], taken[uint16(next)] = uint16(next), true
			}
			list = append(list, natPort{Rule: rule, Address: m.addr, Port: port[m.addr]})
		}
	}
	return list
}

// joined tells whether a load-balancing rule joins the frontend and the pool of an inbound NAT rule: without one
// the rule's ports are not offered through private links.
func joined(lb *api.LoadBalancer, r *api.InboundNATRule) bool {
	for i := range lb.Properties.LoadBalancingRules {
		rule := &lb.Properties.LoadBalancingRules[i]
		if lower(rule.Properties.FrontendIPConfiguration) == lower(r.Properties.FrontendIPConfiguration) &&
			lower(rule.Pool()) == lower(r.Properties.BackendAddressPool) {
			return true
		}
	}
	return false
}
