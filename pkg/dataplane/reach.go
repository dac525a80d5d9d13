package dataplane

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/privlink/privlink/pkg/neigh"
)

// reach is how the backends of a network are reached.
type reach struct {
	vnet     uint16
	prefixes []netip.Prefix
	ports    []neigh.Port // where what lies in a subnet may be
	routers  []hop        // behind one of which everything else is
	// sender is an address of ours in the network that ARP may ask from; zero (a probe) while there is none.
	sender netip.Addr
}

// hop is an address to resolve, and where it may be.
type hop struct {
	neigh.Key
	ports []neigh.Port
}

// planReach notes for every network how its backends are reached.
func (d *Dataplane) planReach(p *plan) {
	for i := range p.state.Networks {
		n := &p.state.Networks[i]
		if _, ok := p.vnets[n.Key]; !ok {
			continue
		}
		r := &reach{vnet: p.vnets[n.Key], prefixes: n.Prefixes, sender: netip.IPv4Unspecified()}
		for _, port := range p.ports[r.vnet] {
			r.ports = append(r.ports, port.Port)
			via := port.attachment.NextHop
			if !via.Is4() {
				continue
			}
			at := slices.IndexFunc(r.routers, func(h hop) bool { return h.Addr == via })
			if at < 0 {
				at = len(r.routers)
				r.routers = append(r.routers, hop{Key: neigh.Key{VNet: r.vnet, Addr: via}})
			}
			r.routers[at].ports = append(r.routers[at].ports, port.Port)
		}
		p.reaches[n.Key] = r
	}
	for i := range p.state.RuleSets {
		rs := &p.state.RuleSets[i]
		r := p.reaches[rs.Network]
		if r == nil || !r.sender.IsUnspecified() {
			continue
		}
		for _, s := range rs.Sources {
			if d.prober.Get(neigh.Key{VNet: r.vnet, Addr: s.Addr}).Ours {
				r.sender = s.Addr
				break
			}
		}
	}
}

// direct says whether addr is looked for itself: it lies in a subnet.
func (r *reach) direct(addr netip.Addr) bool {
	return len(r.prefixes) == 0 || slices.ContainsFunc(r.prefixes, func(x netip.Prefix) bool { return x.Contains(addr) })
}

// unresolved is why it is not known where a target is.
type unresolved struct {
	missing Missing
	why     string
	// asking says that it was not looked for long enough to say so.
	asking bool
}

// locate says what to look for to reach addr, and fills in what is known of it. Resolved means that it
// answers; what it said before it fell silent is kept for its flows.
func (d *Dataplane) locate(p *plan, r *reach, addr netip.Addr, b *bpfBackend) (missing unresolved, resolved bool) {
	switch {
	case len(r.ports) == 0:
		return unresolved{missing: MissingInterface, why: "no interface of its network is attached"}, false
	case r.direct(addr):
		lost, resolved := d.locateAt(p, r, hop{neigh.Key{VNet: r.vnet, Addr: addr}, r.ports}, b)
		return unresolved{missing: MissingAnswer, why: "nobody answers ARP for its address", asking: !lost}, resolved
	case len(r.routers) == 0:
		return unresolved{missing: MissingNextHop, why: "it is in no subnet of its network, and no attachment has a next hop"}, false
	}
	silent, asking := make([]string, 0, len(r.routers)), false
	for _, router := range r.routers {
		lost, resolved := d.locateAt(p, r, router, b)
		if resolved {
			return unresolved{}, true
		}
		silent, asking = append(silent, router.Addr.String()), asking || !lost
	}
	return unresolved{missing: MissingHopAnswer, why: "nobody answers ARP for its next hop " + strings.Join(silent, " or "), asking: asking}, false
}

// locateAt looks for one hop. Lost means that it was asked often enough.
func (d *Dataplane) locateAt(p *plan, r *reach, at hop, b *bpfBackend) (lost, resolved bool) {
	if w, ok := p.wants[at.Key]; !ok || len(w.Ports) < len(at.ports) {
		p.wants[at.Key] = neigh.Want{Ports: at.ports, Sender: r.sender}
	}
	if slot := d.backends.find(b.Ident); !d.applied && slot != 0 {
		if old := d.k.backends.load(slot); old.Hop.Out != 0 {
			d.resolver.Adopt(at.Key, p.wants[at.Key], old.Hop.Mac, old.Hop.Out, d.clock())
		}
	}
	is := d.resolver.Get(at.Key)
	if !is.Known || b.Hop.Out != 0 && is.Lost {
		return is.Lost, false
	}
	for _, port := range r.ports {
		if port.Slot == is.Port.Slot {
			b.Hop = bpfHop{Mac: is.MAC, Out: port.Slot}
		}
	}
	return is.Lost, b.Hop.Out != 0 && !is.Lost
}
