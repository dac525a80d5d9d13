package program

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/privlink/privlink/pkg/dataplane"
	"github.com/privlink/privlink/pkg/model"
)

// Write makes the maps say what the configuration says. Rows and elements it does not name any more
// are cleared.
func (p *Programs) Write(c *model.Config) error {
	clear(p.ifaces)
	for k, i := range c.Interfaces {
		if err := p.placeInterface(rawIface(k, i)); err != nil {
			return err
		}
	}
	var errs []error
	clear(p.outs)
	for slot, o := range c.Outputs {
		p.outs[slot] = rawOut(o)
		if o.XDP && p.xdp {
			errs = append(errs, p.maps["xdp_outs_v1"].Put(uint32(slot), o.Index))
		}
	}
	clear(p.links)
	for slot, l := range c.Links {
		p.links[slot] = rawLink(l)
	}
	clear(p.backends)
	for slot, b := range c.Backends {
		p.backends[slot] = rawBackend(b)
	}
	clear(p.natsets)
	for slot, s := range c.NATSets {
		p.natsets[slot] = rawNATSet(s)
	}
	refs := make(map[dataplane.RawRuleKey]dataplane.RawRuleRef)
	for k, slot := range c.RuleIndex {
		key := dataplane.RawRuleKey{Service: k.Service, Port: net16(k.Port), Proto: k.Proto}
		refs[key] = dataplane.RawRuleRef{Key: key, Rule: slot}
		p.rules[slot] = rawRule(k.Service, c.Rules[slot])
	}
	addresses := make(map[dataplane.RawAddressKey]dataplane.RawAddress)
	for k, a := range c.Addresses {
		key := dataplane.RawAddressKey{Addr: net32(k.Addr), Vnet: k.VNet}
		raw := dataplane.RawAddress{Key: key, Link: a.Link, Kind: uint8(a.Kind)}
		if a.ARP {
			raw.Arp = 1
		}
		addresses[key] = raw
	}
	dials := make(map[dataplane.RawDialKey]dataplane.RawDial)
	for k, d := range c.Dials {
		key := dataplane.RawDialKey{Addr: net32(k.Addr), Port: net16(k.Port), Proto: k.Proto}
		dials[key] = dataplane.RawDial{
			Key: key, Link: d.Link, LinkGen: d.LinkGen, BackendGen: d.BackendGen,
			Backend: d.Backend, Nat: d.NAT, Dport: net16(d.Port),
		}
	}
	errs = append(errs,
		replace(p.maps["ruleidx_v1"], p.ruleRefs, refs),
		replace(p.maps["addresses_v1"], p.addresses, addresses),
		replace(p.maps["dials_v1"], p.dials, dials))
	for rule := range c.Rules {
		errs = append(errs, p.writePlaces(rule, c.Places[rule]))
	}
	return errors.Join(errs...)
}

// placeInterface puts an attachment where the programs look for it (iface_find in bpf/tables.h).
func (p *Programs) placeInterface(raw dataplane.RawIface) error {
	home := (raw.Ifindex*0x9e3779b1 ^ uint32(raw.Vlan)*0x85ebca6b) >> 19
	for i := range uint32(8) {
		if at := &p.ifaces[(home+i)%uint32(len(p.ifaces))]; at.Ifindex == 0 {
			*at = raw
			return nil
		}
	}
	return fmt.Errorf("place interface %d: no room", raw.Ifindex)
}

// writePlaces writes a rule's Maglev table: its size, then the places. A table that is large enough
// is written again, because the kernel waits long before it lets a map take another's place.
func (p *Programs) writePlaces(rule uint32, places []uint32) error {
	inner := p.inner[rule]
	if inner != nil && slices.Equal(p.places[rule], places) {
		return nil
	}
	if inner == nil || inner.MaxEntries() <= uint32(len(places)) {
		spec := p.maglev.Copy()
		spec.MaxEntries = uint32(len(places)) + 16
		m, err := ebpf.NewMap(spec)
		if err != nil {
			return fmt.Errorf("make a Maglev table: %w", err)
		}
		if inner != nil {
			inner.Close()
		}
		inner, p.inner[rule] = m, m
		if err := p.maps["maglev_v1"].Put(rule, m); err != nil {
			return fmt.Errorf("name a Maglev table: %w", err)
		}
	}
	keys := make([]uint32, len(places)+1)
	for i := range keys {
		keys[i] = uint32(i)
	}
	values := append([]uint32{uint32(len(places))}, places...)
	if _, err := inner.BatchUpdate(keys, values, nil); err != nil {
		return fmt.Errorf("write a Maglev table: %w", err)
	}
	p.places[rule] = slices.Clone(places)
	return nil
}

// replace makes a HASH map hold want, given that it holds have; have is updated.
func replace[K, V comparable](m *ebpf.Map, have, want map[K]V) error {
	for k := range have {
		if _, ok := want[k]; !ok {
			if err := m.Delete(k); err != nil {
				return fmt.Errorf("delete from %v: %w", m, err)
			}
			delete(have, k)
		}
	}
	for k, v := range want {
		if old, ok := have[k]; !ok || old != v {
			if err := m.Put(k, v); err != nil {
				return fmt.Errorf("put into %v: %w", m, err)
			}
			have[k] = v
		}
	}
	return nil
}
