package fuzz

import (
	"slices"

	"github.com/privlink/privlink/pkg/model"
)

// event is a change from outside; it says whether the configuration has to be written again.
type event struct {
	name    string
	percent float64 // per packet
	happen  func(r *runner) (written bool, err error)
}

// events is everything that happens besides packets.
var events = []event{
	{"second", 5, func(r *runner) (bool, error) { r.m.Now += uint32(1 + r.IntN(2)); return false, nil }},
	{"minutes", 0.15, func(r *runner) (bool, error) { r.m.Now += uint32(5 + r.IntN(400)); return false, nil }},
	{"sweep", 0.15, func(r *runner) (bool, error) { return false, r.sweep(0, uint32(len(r.m.Table.Slots))) }},
	{"slice", 0.3, func(r *runner) (bool, error) {
		return false, r.sweep(uint32(r.IntN(len(r.m.Table.Slots))), uint32(1+r.IntN(256)))
	}},
	{"link", 0.1, changeLink},
	{"approve", 0.1, approveLinks},
	{"quota", 0.03, func(r *runner) (bool, error) {
		r.Links[pick(r.topology, r.slots)].MaxFlows = uint32(1 + r.IntN(400))
		return true, nil
	}},
	{"backend gone", 0.06, func(r *runner) (bool, error) {
		r.Backends[pick(r.topology, r.topology.backends)].Gen = r.nextGen()
		return true, nil
	}},
	{"backend state", 0.1, func(r *runner) (bool, error) {
		states := []model.BackendState{model.BackendUp, model.BackendUp, model.BackendDown, model.BackendUnresolved, model.BackendNone}
		r.Backends[pick(r.topology, r.topology.backends)].State = pick(r.topology, states)
		return true, nil
	}},
	{"backend moved", 0.05, func(r *runner) (bool, error) {
		b := r.Backends[pick(r.topology, r.topology.backends)]
		via := pick(r.topology, r.byNetwork[b.VNet])
		b.Out, b.MAC[4] = via.in.Out, byte(r.IntN(256))
		if r.chance(10) {
			b.Out = 0
		}
		return true, nil
	}},
	{"pool", 0.05, func(r *runner) (bool, error) {
		rule := pick(r.topology, r.topology.rules)
		var members []uint32
		for _, slot := range r.topology.backends {
			if r.Backends[slot].VNet == r.NATSets[r.Rules[rule].NAT].VNet {
				members = append(members, slot)
			}
		}
		r.place(rule, members)
		if r.chance(10) {
			r.Places[rule] = nil
		}
		return true, nil
	}},
	{"output", 0.04, func(r *runner) (bool, error) {
		o := r.Outputs[pick(r.topology, r.places).in.Out]
		o.MTU = []uint16{1500, 1500, 576, 1280, 400}[r.IntN(5)]
		index := pick(r.topology, r.places).key.Index
		if o.Index == 0 || r.chance(30) {
			o.Index, o.XDP = index, false
		} else if r.chance(30) {
			o.Index = 0
		}
		return true, nil
	}},
	{"NAT IPs", 0.03, func(r *runner) (bool, error) {
		set := r.NATSets[uint32(1+r.IntN(len(r.NATSets)))]
		if len(set.Addrs) > 1 {
			r.Shuffle(len(set.Addrs), func(i, j int) { set.Addrs[i], set.Addrs[j] = set.Addrs[j], set.Addrs[i] })
		}
		return true, nil
	}},
	{"NAT IP added", 0.04, func(r *runner) (bool, error) {
		slot := uint32(1 + r.IntN(len(r.NATSets)))
		set, addr := r.NATSets[slot], natAddr(slot, r.IntN(2*model.MaxNATIPs))
		if len(set.Addrs) == model.MaxNATIPs || slices.Contains(set.Addrs, addr) {
			return false, nil
		}
		r.addNAT(set, addr)
		return true, nil
	}},
	{"NAT IP removed", 0.04, func(r *runner) (bool, error) {
		set := r.NATSets[uint32(1+r.IntN(len(r.NATSets)))]
		if len(set.Addrs) < 2 && r.chance(90) || len(set.Addrs) == 0 {
			return false, nil
		}
		i := r.IntN(len(set.Addrs))
		if r.chance(50) { // its drain is over; else it stays an address of ours, and its flows stay
			delete(r.Addresses, model.AddressKey{Addr: set.Addrs[i], VNet: set.VNet})
		}
		set.Addrs = slices.Delete(set.Addrs, i, i+1)
		return true, nil
	}},
	{"dial", 0.1, func(r *runner) (bool, error) { r.addDial(); return true, nil }},
	{"ports used", 0.05, fillPorts},
	{"fragments held", 0.02, func(r *runner) (bool, error) {
		// As if so many datagrams were incomplete; and back.
		link := pick(r.topology, r.slots)
		held := r.m.Fill(link, model.MaxFragments)
		return false, r.each(func(p side) error { return p.SetFragments(link, held) })
	}},
	{"refusals", 0.005, func(r *runner) (bool, error) {
		r.want(&r.wanted.refusals, model.RSTPerSecond+50)
		return false, nil
	}},
	{"expiring", 0.01, func(r *runner) (bool, error) {
		r.want(&r.wanted.errors, model.ICMPPerSecond+20)
		return false, nil
	}},
}

// want asks the generator for many packets of one kind within one second.
func (r *runner) want(count *int, n int) {
	r.wanted.to = pick(r.topology, r.endpoints)
	r.wanted.at = pick(r.topology, r.byNetwork[r.wanted.to.VNet])
	*count = n
}

// changeLink decides on a connection: what it was before ends.
func changeLink(r *runner) (bool, error) {
	l := r.Links[pick(r.topology, r.slots)]
	l.State = model.LinkState(r.IntN(5))
	l.Gen = r.nextGen()
	return true, nil
}

// approveLinks keeps most connections approved.
func approveLinks(r *runner) (bool, error) {
	for _, slot := range r.slots {
		if l := r.Links[slot]; l.State != model.LinkApproved && r.chance(70) {
			l.State, l.Gen = model.LinkApproved, r.nextGen()
		}
	}
	return true, nil
}

// fillPorts makes a port domain look as if nearly all its ports were in use, or as it should be.
func fillPorts(r *runner) (bool, error) {
	keys := r.m.DomainKeys()
	if len(keys) == 0 {
		return false, nil
	}
	k := pick(r.topology, keys)
	left, resting := uint32(r.IntN(3)), uint32(r.IntN(2))
	if r.chance(30) {
		left = model.PortCount / 2
	}
	r.m.FillPorts(k, left, resting)
	r.filled[k] = true
	return false, r.each(func(p side) error { return p.PutDomain(k, r.m.PortDomains[k]) })
}
