package control

import (
	"net/http"
	"net/netip"

	"github.com/privlink/privlink/pkg/api"
)

// place is an address in a network.
type place struct {
	network string // key
	addr    netip.Addr
}

// prefixOf is a subnet's prefix; pkg/api has checked it.
func prefixOf(s *api.Subnet) netip.Prefix {
	p, _ := netip.ParsePrefix(s.Prefix())
	return p
}

// last is the highest address of a prefix.
func last(p netip.Prefix) netip.Addr {
	a := p.Addr().As4()
	for bit := p.Bits(); bit < 32; bit++ {
		a[bit/8] |= 1 << (7 - bit%8)
	}
	return netip.AddrFrom4(a)
}

// gateway is the first address behind a subnet's network address.
func gateway(p netip.Prefix) netip.Addr { return p.Addr().Next() }

// claimer chooses and checks the addresses of one resource. reserve comes before claim, for each of its
// configurations, so that no dynamic one gets what another one has.
type claimer struct {
	t     *tx
	key   string // of the resource
	kind  api.Kind
	taken map[place]string // address -> name of the configuration
}

func (t *tx) claimer(id api.ID) *claimer {
	return &claimer{t: t, key: id.Key(), kind: api.Kind(id.Type), taken: map[place]string{}}
}

// reserve notes the address of a configuration: the static one, or the dynamic one it has had so far.
func (c *claimer) reserve(name string, subnet *api.SubResource, address string) {
	network, _ := c.t.view.subnet(subnet)
	a, err := netip.ParseAddr(address)
	if network == nil || err != nil {
		return
	}
	if at := (place{network.key, a}); c.taken[at] == "" {
		c.taken[at] = name
	}
}

// claim is the address of one configuration: static checked, or else (static is empty) old if it is still
// fit, or else the lowest free one. target is the configuration's properties in the document.
func (c *claimer) claim(target, name string, subnet *api.SubResource, static, old string) (string, error) {
	network, s := c.t.view.subnet(subnet)
	if s == nil {
		return "", missing(target+".subnet.id", subnet.ID)
	}
	prefix := prefixOf(s)
	if static == "" {
		a, err := c.choose(target, name, network.key, s, prefix, old)
		if err != nil {
			return "", err
		}
		c.taken[place{network.key, a}] = name
		return a.String(), nil
	}
	target += ".privateIPAddress"
	a, err := netip.ParseAddr(static)
	if err != nil {
		return "", api.Invalid(target, "%q is not an IPv4 address", static)
	}
	if !prefix.Contains(a) {
		return "", api.NewError(http.StatusBadRequest, api.CodeAddressNotInSubnet, target,
			"%s is not within %s of subnet %s", a, prefix, s.Name)
	}
	if why := reserved(network.resource.(*api.VirtualNetwork), prefix, a); why != "" {
		return "", api.NewError(http.StatusBadRequest, api.CodeAddressReserved, target,
			"%s is the %s of subnet %s (%s)", a, why, s.Name, prefix)
	}
	if o, ok := c.t.view.held[network.key][a]; ok && o.record.key != c.key {
		return "", api.Refused(api.CodeAddressInUse, target, "%s is in use by %s", a, o)
	}
	// A network interface is where a backend by address may live; anything else would take its packets.
	if c.t.view.backends[place{network.key, a}] > 0 && c.kind != api.NetworkInterfaces {
		return "", api.Refused(api.CodeAddressInUse, target, "%s is the address of a backend", a)
	}
	if other := c.taken[place{network.key, a}]; other != "" && other != name {
		return "", api.Refused(api.CodeAddressInUse, target, "%s is the address of %s already", a, other)
	}
	c.taken[place{network.key, a}] = name
	return a.String(), nil
}

// reserved names what an address is that no host of the subnet may have; "" if one may. In /31 and /32
// every address is a host's (RFC 3021).
func reserved(network *api.VirtualNetwork, p netip.Prefix, a netip.Addr) string {
	switch {
	case p.Bits() >= 31:
		return ""
	case a == p.Addr():
		return "network address"
	case a == last(p):
		return "broadcast address"
	case a == gateway(p) && answersGateway(network):
		return "gateway address"
	}
	return ""
}

// answersGateway tells whether ARP for the gateway addresses of a network is answered.
func answersGateway(network *api.VirtualNetwork) bool {
	for _, a := range network.Properties.Attachments.Or(nil) {
		if a.AnswerGateway {
			return true
		}
	}
	return false
}

// choose is old, or the lowest free address of the subnet from its fifth on.
func (c *claimer) choose(target, name, network string, s *api.Subnet, p netip.Prefix, old string) (netip.Addr, error) {
	if p.Bits() > api.MaxDynamicBits {
		return netip.Addr{}, api.Invalid(target+".privateIPAllocationMethod",
			"subnet %s (%s) is smaller than /%d and takes static addresses only", s.Name, p, api.MaxDynamicBits)
	}
	if a, err := netip.ParseAddr(old); err == nil && p.Contains(a) {
		at := place{network, a}
		o, used := c.t.view.held[network][a]
		if !c.t.shunned(at) && (!used || o.record.key == c.key) && (c.taken[at] == "" || c.taken[at] == name) {
			return a, nil
		}
	}
	a := p.Addr()
	for range api.FirstDynamic {
		a = a.Next()
	}
	for end := last(p); a.Less(end); a = a.Next() {
		at := place{network, a}
		if _, used := c.t.view.held[network][a]; !used && c.taken[at] == "" && c.t.view.backends[at] == 0 && !c.t.shunned(at) {
			return a, nil
		}
	}
	return netip.Addr{}, api.Refused(api.CodeSubnetFull, target+".subnet.id", "subnet %s (%s) has no free address", s.Name, p)
}

// shunned tells whether somebody else on the network was found to have the address.
func (t *tx) shunned(at place) bool {
	until, ok := t.shun[at]
	return ok && t.now.Before(until)
}

// freeAddresses counts what choose could still give, up to limit.
func (v *view) freeAddresses(network string, p netip.Prefix, limit int) int {
	if p.Bits() > api.MaxDynamicBits {
		return limit
	}
	n, a := 0, p.Addr()
	for range api.FirstDynamic {
		a = a.Next()
	}
	for end := last(p); a.Less(end) && n < limit; a = a.Next() {
		if _, ok := v.held[network][a]; !ok {
			n++
		}
	}
	return n
}

func missing(target, id string) error {
	parsed, err := api.ParseID(id, api.ID{})
	if err != nil {
		return api.BadReference(target, "%q was not found", id)
	}
	return api.BadReference(target, "%s was not found", parsed.Short())
}
