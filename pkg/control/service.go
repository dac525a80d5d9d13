package control

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/privlink/privlink/pkg/api"
)

// prepareService checks a service's load balancer and frontends, gives it NAT IPs and an alias, and lets NAT
// IPs that it lost drain.
func (t *tx) prepareService(id api.ID, doc, old *api.PrivateLinkService, k *kept) error {
	lbRec, lb, err := t.checkServiceFrontends(id, doc)
	if err != nil {
		return err
	}
	if err := t.checkServicePorts("properties.loadBalancerFrontendIpConfigurations", doc, lb); err != nil {
		return err
	}
	if old == nil {
		n := 0
		for _, rec := range t.view.records {
			if rec.resource.Kind() == api.PrivateLinkServices && strings.EqualFold(rec.id.Subscription, id.Subscription) {
				n++
			}
		}
		if n >= api.MaxServices {
			return api.OverLimit("", "subscription %s has %d private link services, at most %d allowed", id.Subscription, n, api.MaxServices)
		}
	}
	network := t.view.records[t.view.networkOf(lb)]
	if doc.Location != lbRec.resource.Meta().Location {
		return api.Invalid("location", "%s is not the location of %s, %s", doc.Location, lbRec.id.Short(), lbRec.resource.Meta().Location)
	}
	if err := t.claimNATIPs(id, doc, old, network); err != nil {
		return err
	}
	t.drain(doc, old, k)
	if k.Alias == "" {
		for {
			k.Alias = makeAlias(id.Name, newGUID(), doc.Location, t.suffix)
			if _, taken := t.view.aliases[strings.ToLower(k.Alias)]; !taken {
				break
			}
		}
	}
	return nil
}

func (t *tx) checkServiceFrontends(id api.ID, doc *api.PrivateLinkService) (*record, *api.LoadBalancer, error) {
	const target = "properties.loadBalancerFrontendIpConfigurations"
	var lbRec *record
	var lb *api.LoadBalancer
	for i, ref := range doc.Properties.LoadBalancerFrontendIPConfigurations {
		lbRec, lb = find[*api.LoadBalancer](t.view, ref.ID)
		frontend, _ := api.ParseID(ref.ID, api.ID{})
		if lbRec == nil || lb.Frontend(frontend.Child) == nil {
			return nil, nil, missing(at(target, i)+".id", ref.ID)
		}
		for _, user := range t.view.users(frontend.Key(), api.PrivateLinkServices) {
			if user.key != id.Key() {
				return nil, nil, api.Refused(api.CodeConflict, at(target, i)+".id", "%s is used by %s", frontend.Short(), user.id.Short())
			}
		}
	}
	others := 0
	for _, user := range t.view.users(lbRec.key, api.PrivateLinkServices) {
		if user.key != id.Key() {
			others++
		}
	}
	if others >= api.MaxServicesPerLoadBalancer {
		return nil, nil, api.OverLimit(target, "%s has %d private link services, at most %d allowed",
			lbRec.id.Short(), others, api.MaxServicesPerLoadBalancer)
	}
	return lbRec, lb, nil
}

func (t *tx) claimNATIPs(id api.ID, doc, old *api.PrivateLinkService, network *record) error {
	const target = "properties.ipConfigurations"
	list := doc.Properties.IPConfigurations
	claims := t.claimer(id)
	was := map[string]string{}
	if old != nil {
		for i := range old.Properties.IPConfigurations {
			c := &old.Properties.IPConfigurations[i]
			was[strings.ToLower(c.Name)] = c.Properties.PrivateIPAddress
		}
	}
	address := func(c *api.NATIPConfiguration) string {
		if c.Properties.PrivateIPAllocationMethod == api.Static {
			return c.Properties.PrivateIPAddress
		}
		return was[strings.ToLower(c.Name)]
	}
	for i := range list {
		claims.reserve(list[i].Name, list[i].Properties.Subnet, address(&list[i]))
	}
	for i := range list {
		c := &list[i]
		here := at(target, i) + ".properties"
		rec, s := t.view.subnet(c.Properties.Subnet)
		switch {
		case s == nil:
			return missing(here+".subnet.id", c.Properties.Subnet.ID)
		case network == nil || rec.key != network.key:
			return api.BadReference(here+".subnet.id", "%s is not the virtual network of the load balancer's frontends", rec.id.Short())
		case strings.EqualFold(s.Properties.ServiceNetworkPolicies, "Enabled"):
			return api.Refused("PrivateLinkServiceCannotBeCreatedInSubnetThatHasNetworkPoliciesEnabled", here+".subnet.id",
				"subnet %s has privateLinkServiceNetworkPolicies Enabled (set it to Disabled)", s.Name)
		}
		a, err := claims.claim(here, c.Name, c.Properties.Subnet, c.Properties.PrivateIPAddress, address(c))
		if err != nil {
			return err
		}
		c.Properties.PrivateIPAddress = a
	}
	return nil
}

// drain notes the NAT IPs that old has and doc does not, and forgets those that doc has again.
func (t *tx) drain(doc, old *api.PrivateLinkService, k *kept) {
	now := map[string]bool{}
	for i := range doc.Properties.IPConfigurations {
		now[doc.Properties.IPConfigurations[i].Properties.PrivateIPAddress] = true
	}
	var list []draining
	for _, d := range k.Draining {
		if !now[d.Address.String()] {
			list = append(list, d)
		}
	}
	if old != nil {
		period := time.Duration(doc.Properties.NATDrainPeriodInSeconds.Or(api.DefaultDrain)) * time.Second
		for i := range old.Properties.IPConfigurations {
			c := &old.Properties.IPConfigurations[i].Properties
			a, err := netip.ParseAddr(c.PrivateIPAddress)
			network, _ := t.view.subnet(c.Subnet)
			if err == nil && network != nil && !now[c.PrivateIPAddress] && period > 0 && !t.shunned(place{network.key, a}) {
				list = append(list, draining{Address: a, Subnet: c.Subnet.ID, Until: t.now.Add(period)})
			}
		}
	}
	k.Draining = list
}

// endDrains ends the drains of NAT IPs and backends whose time is over, and those of NAT IPs without flows (by service), and
// returns when the next one's time is over.
func (t *tx) endDrains(dry map[string][]draining) (next time.Time, err error) {
	soonest := func(at time.Time) {
		if !at.IsZero() && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	for _, rec := range t.view.records {
		if len(rec.kept.Draining)+len(rec.kept.Leaving) == 0 {
			continue
		}
		k := rec.kept
		k.Draining = nil
		for _, d := range rec.kept.Draining {
			if t.now.Before(d.Until) && !slices.Contains(dry[rec.key], d) {
				k.Draining = append(k.Draining, d)
				soonest(d.Until)
			}
		}
		rest, at := endLeaving(k.Leaving, t.now)
		k.Leaving = rest
		soonest(at)
		if len(k.Draining) == len(rec.kept.Draining) && slices.Equal(k.Leaving, rec.kept.Leaving) {
			continue
		}
		fresh, err := newRecord(rec.resource, k)
		if err != nil {
			return next, err
		}
		t.set(fresh)
	}
	return next, nil
}
