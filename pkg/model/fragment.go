package model

import "encoding/binary"

const (
	idTries  = 16
	idStep   = 0x9e37
	idBroken = 0xffff // out of order: the id is held for its time
)

// fragmentBytes is how much of its datagram a fragment carries; 0 if it is malformed: nothing in it,
// beyond the largest datagram, a length that leaves no place for the next one, or inside a TCP header
// (RFC 791 section 3.2, RFC 1858, RFC 3128).
func (p *packet) fragmentBytes() int {
	bytes, offset := len(p.l4), int(p.fragment&fragOffset)*8
	switch {
	case offset+bytes+p.header > 65535,
		p.fragment&moreFrags != 0 && bytes%8 != 0,
		offset > 0 && offset < 20 && p.key.Proto == TCP:
		return 0
	}
	return bytes
}

// datagram is the key of the entry that a first fragment leaves for the later ones.
func (p *packet) datagram() Key {
	return Key{
		Src: p.key.Src, Dst: p.key.Dst, SrcPort: binary.BigEndian.Uint16(p.ip[4:]),
		VNet: p.key.VNet, Proto: p.key.Proto, Kind: KindFragment,
	}
}

// heldID is the slot of the entry that holds the outgoing id of fragment entry n.
func (m *Machine) heldID(n uint32) (uint32, bool) {
	s := &m.Table.Slots[n]
	if s.Twin == NoSlot {
		return 0, false
	}
	h := &m.Table.Slots[s.Twin]
	ok := h.State == SlotLive && h.Key.Kind == KindIPID && h.Key.Src == s.RW.Src && h.Key.Dst == s.RW.Dst &&
		h.Key.SrcPort == s.RW.SrcPort && h.Key.Proto == s.Key.Proto
	return s.Twin, ok
}

// firstFragment gives the datagram of a first fragment an id that is unique per source, destination
// and protocol on the outgoing side (rule 20).
func (m *Machine) firstFragment(p *packet, rw *Rewrite, vnet uint16) (uint16, Reason) {
	k := p.datagram()
	if n, ok := m.Table.find(k); ok {
		s := &m.Table.Slots[n]
		_, held := m.heldID(n)
		same := s.RW.Src == rw.Src && s.RW.Dst == rw.Dst && s.RW.Link == rw.Link && s.RW.LinkGen == rw.LinkGen
		if age(m.Now, s.Stamp) <= IdleFragment && held && same {
			m.progress(n, p)
			return s.RW.SrcPort, None // sent again
		}
		m.endHalf(n, m.Now-PortRest)
	}
	u := m.usage(rw.Link)
	if u.Fragments >= MaxFragments || m.Fragments >= m.MaxPairs/4 {
		return 0, FragmentIDs
	}
	id, held, result := k.SrcPort, uint32(0), insertExists
	for range idTries {
		hold := *rw
		hold.LinkGen, hold.Flags = 0, 0 // how far the datagram has come
		held, _, result = m.Table.insert(Key{Src: rw.Src, Dst: rw.Dst, SrcPort: id, VNet: vnet, Proto: k.Proto, Kind: KindIPID},
			hold, NoSlot, m.Now, 0, false)
		if result != insertExists {
			break
		}
		id += idStep
	}
	switch result {
	case insertExists:
		return 0, FragmentIDs
	case insertFull:
		return 0, WindowFull
	}
	u.Fragments++
	m.Fragments++
	way := *rw
	way.SrcPort, way.DstPort = id, 0
	n, _, result := m.Table.insert(k, way, held, m.Now, 0, false)
	if result != insertNew {
		return 0, WindowFull
	}
	m.progress(n, p)
	return id, None
}

// progress notes how far a datagram has come: in order, without gap or overlap, or not. The id is
// free again when all of it went through; else it is held from this fragment on, which leaves now.
func (m *Machine) progress(n uint32, p *packet) {
	held, ok := m.heldID(n)
	if !ok {
		return
	}
	s := m.Table.slot(held)
	s.Stamp = m.Now
	units, bytes := p.fragment&fragOffset, len(p.l4)
	if s.RW.LinkGen == idBroken {
		return
	}
	if s.RW.LinkGen != units {
		s.RW.LinkGen = idBroken
		return
	}
	s.RW.LinkGen = units + uint16((bytes+7)/8)
	if p.fragment&moreFrags == 0 {
		m.Table.end(held, m.Now-PortRest)
		m.Table.end(n, m.Now-PortRest)
		m.returnFragment(s.RW.Link)
	}
}

// returnFragment gives back what an incomplete datagram held.
func (m *Machine) returnFragment(link uint32) {
	m.usage(link).Fragments--
	m.Fragments--
}

// laterFragment decides on a fragment without ports: it goes the way of its first.
func (m *Machine) laterFragment(p *packet) verdict {
	a := m.address(p)
	p.link = a.Link
	if !a.ours() && !p.in.Inner {
		return other(OtherIPv4)
	}
	if p.fragmentBytes() == 0 {
		return drop(FragmentBad)
	}
	n, ok := m.Table.find(p.datagram())
	if !ok || age(m.Now, m.Table.Slots[n].Stamp) > IdleFragment {
		return drop(FragmentOrphan)
	}
	rw := m.Table.Slots[n].RW
	p.link = rw.Link
	if !m.carries(rw.Link, rw.LinkGen) {
		return drop(Ended)
	}
	if !rw.reverse() {
		if b := m.Backends[rw.Backend]; b == nil || b.Gen != rw.BackendGen {
			return drop(Ended)
		}
	}
	to, v := m.path(p, &rw)
	if v != goOn {
		return v
	}
	m.progress(n, p)
	p.rewrite(&rw, to, rw.SrcPort, false)
	return m.leave(p, &rw, to)
}
