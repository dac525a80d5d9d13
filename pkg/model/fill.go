package model

import (
	"cmp"
	"slices"
)

// What follows puts the machine into states that take millions of packets to reach. Whoever uses it
// puts the program into the same.

// DomainKeys are the port domains there are, in an order that depends on nothing else.
func (m *Machine) DomainKeys() []DomainKey {
	keys := make([]DomainKey, 0, len(m.PortDomains))
	for k := range m.PortDomains {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b DomainKey) int {
		return cmp.Or(cmp.Compare(a.VNet, b.VNet), cmp.Compare(a.Proto, b.Proto), cmp.Compare(a.NAT, b.NAT),
			cmp.Compare(a.Backend, b.Backend), cmp.Compare(a.Port, b.Port))
	})
	return keys
}

// FillPorts takes ports of a domain that nothing holds until only left are free, and lets resting
// of them count as resting. It may be undone by nothing but Reset.
func (m *Machine) FillPorts(k DomainKey, left, resting uint32) {
	d := m.PortDomains[k]
	d.Resting += resting
	for w := range d.Words {
		for b := uint(0); b < 64 && d.Used+left < PortCount; b++ {
			if d.Words[w]&(1<<b) == 0 {
				d.Words[w] |= 1 << b
				d.Used++
			}
		}
	}
}

// Fill makes a link hold count incomplete datagrams more than it does, or takes them away again if
// it held more than that; it returns what the link holds now.
func (m *Machine) Fill(link, count uint32) uint32 {
	u := m.usage(link)
	if u.Fragments >= count {
		u.Fragments -= count
	} else {
		u.Fragments += count
	}
	return u.Fragments
}

// Reset forgets everything but the configuration.
func (m *Machine) Reset() {
	c, now := m.Config, m.Now
	*m = *New(c)
	m.Now = now
}

// UseTokens makes so many answers on an interface used up in this second.
func (m *Machine) UseTokens(out uint16, rst, icmp uint32) {
	m.buckets[out] = &bucket{stamp: m.Now, rst: rst, icmp: icmp}
}
