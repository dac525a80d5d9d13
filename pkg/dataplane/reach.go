package dataplane

import (
	"net/netip"
	"slices"

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

// locate says what to look for to reach addr, and fills in what is known of it. Resolved means that it
// answers; what it said before it fell silent is kept for its flows.
func (d *Dataplane) locate(p *plan, r *reach, addr netip.Addr, b *bpfBackend) (resolved bool) {
	if r.direct(addr) {
		if len(r.ports) == 0 {
			return false
		}
		return d.locateAt(p, r, hop{neigh.Key{VNet: r.vnet, Addr: addr}, r.ports}, b)
	}
	for _, router := range r.routers {
		if d.locateAt(p, r, router, b) {
			return true
		}
	}
	return false
}

// locateAt looks for one hop.
func (d *Dataplane) locateAt(p *plan, r *reach, at hop, b *bpfBackend) (resolved bool) {
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
		return false
	}
	for _, port := range r.ports {
		if port.Slot == is.Port.Slot {
			b.Hop = bpfHop{Mac: is.MAC, Out: port.Slot}
		}
	}
	return b.Hop.Out != 0 && !is.Lost
}
