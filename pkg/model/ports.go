package model

import "math/bits"

// DomainKey names what a NAT port is unique in.
type DomainKey struct {
	NAT, Backend IP
	Port         uint16 // at the backend; 0 = every port (HA rules)
	VNet         uint16
	Proto        uint8
}

// Domain is one bitmap of ports, one bit each, in an order that a permutation hides (RFC 6056).
type Domain struct {
	Used    uint32 // bits set, resting ports included
	Cursor  uint32 // word to look at next, 0..PortWords
	Resting uint32 // ports whose reverse entry is dead and not freed
	Words   [PortWords]uint64
}

// take reserves the lowest free bit of the first word with one, from the cursor on.
func (d *Domain) take() (bit uint32, ok bool) {
	if d.Used >= PortCount {
		return 0, false
	}
	at := d.Cursor
	for range PortWords + 1 {
		if at >= PortWords {
			at = 0
		}
		if w := d.Words[at]; w != ^uint64(0) {
			b := uint32(bits.TrailingZeros64(^w))
			d.Words[at] |= 1 << b
			d.Used++
			d.Cursor = at + 1
			return at*64 + b, true
		}
		at++
	}
	return 0, false
}

// release gives a bit back; it may be free already.
func (d *Domain) release(bit uint32) {
	if d.Words[bit/64]&(1<<(bit%64)) != 0 {
		d.Words[bit/64] &^= 1 << (bit % 64)
		d.Used--
	}
}

// port is the number that a bit stands for.
func (c *Config) port(bit uint32) uint16 {
	return uint16(FirstPort + (uint64(bit)*uint64(c.PortStep)+uint64(c.PortOffset))%PortCount)
}

// bit is the inverse of port.
func (m *Machine) bit(port uint16) uint32 {
	place := (uint64(port) - FirstPort + PortCount - uint64(m.PortOffset)) % PortCount
	return uint32(place * uint64(m.portInverse) % PortCount)
}

// inverse of step modulo PortCount, by search: it happens once.
func inverse(step uint32) uint32 {
	for i := uint64(1); i < PortCount; i++ {
		if i*uint64(step)%PortCount == 1 {
			return uint32(i)
		}
	}
	return 0
}

// domain returns a domain, made at first use; nil when there is no room.
func (m *Machine) domain(k DomainKey) *Domain {
	if d := m.PortDomains[k]; d != nil {
		return d
	}
	first := m.random() % PortWords
	if len(m.PortDomains) >= m.MaxDomains {
		return nil
	}
	d := &Domain{Cursor: first}
	m.PortDomains[k] = d
	return d
}

// domainOf is the domain of a reverse half's port.
func (m *Machine) domainOf(reverse Key, flags uint16) *Domain {
	k := DomainKey{NAT: reverse.Dst, Backend: reverse.Src, Port: reverse.SrcPort, VNet: reverse.VNet, Proto: reverse.Proto}
	if flags&FlagHA != 0 {
		k.Port = 0
	}
	return m.PortDomains[k]
}

// random is xorshift32 (Marsaglia 2003). It is drawn for the first cursor of a domain only.
func (m *Machine) random() uint32 {
	m.Random ^= m.Random << 13
	m.Random ^= m.Random >> 17
	m.Random ^= m.Random << 5
	return m.Random
}
