package model

import (
	"encoding/binary"
	"slices"
)

// icmp decides on ICMP (RFC 792): errors of flows are translated, echo to an endpoint is answered
// (rule 15).
func (m *Machine) icmp(p *packet) verdict {
	a := m.address(p)
	switch {
	case !a.ours():
		return other(OtherIPv4)
	case len(p.l4) < 8:
		return drop(ICMPShort)
	case p.isFragment():
		return drop(ICMPOther)
	case p.l4[0] == 3 || p.l4[0] == 11 || p.l4[0] == 12:
		return m.icmpError(p)
	}
	p.link = a.Link
	switch l := m.Links[a.Link]; {
	case p.l4[0] != 8 || p.l4[1] != 0 || a.Kind == AddressNAT:
		return drop(ICMPOther)
	case isMartian(p.key):
		return drop(Martian)
	case l == nil || l.State != LinkApproved:
		return drop(NotApproved)
	}
	was := slices.Clone(p.ip[8:10])
	p.ip[8] = answerTTL
	adjustField(p.ip, 10, delta(was, p.ip[8:10]), false)
	binary.BigEndian.PutUint32(p.ip[12:], uint32(p.key.Dst))
	binary.BigEndian.PutUint32(p.ip[16:], uint32(p.key.Src))
	p.l4[0] = 0
	adjustField(p.l4, 2, delta([]byte{8, 0}, []byte{0, 0}), false)
	copy(p.frame[0:6], p.frame[6:12])
	copy(p.frame[6:12], p.in.MAC[:])
	return verdict{action: ActionAnswer, reason: EchoReply, out: p.in.Out}
}

// icmpError translates an error about a packet of a flow (RFC 5508 section 4): the quoted packet as
// its sender sent it, the outside from the address its receiver talks to. It neither refreshes nor
// ends the flow (RFC 5508 REQ-6).
func (m *Machine) icmpError(p *packet) verdict {
	q := p.l4[8:]
	if len(q) < ipv4Header {
		return drop(ICMPShort)
	}
	header := int(q[0]&15) * 4
	if q[0]>>4 != 4 || header < ipv4Header || len(q) < header+8 {
		return drop(ICMPShort)
	}
	ql4 := q[header:]
	src, dst := IP(binary.BigEndian.Uint32(q[12:])), IP(binary.BigEndian.Uint32(q[16:]))
	if q[9] != TCP && q[9] != UDP || binary.BigEndian.Uint16(q[6:])&fragOffset != 0 || src != p.key.Dst {
		return drop(ICMPNoFlow)
	}
	// The packet quoted left here translated; its answer would match the entry that translates back.
	n, ok := m.Table.find(Key{
		Src: dst, Dst: src,
		SrcPort: binary.BigEndian.Uint16(ql4[2:]), DstPort: binary.BigEndian.Uint16(ql4[0:]),
		VNet: p.in.VNet, Proto: q[9],
	})
	if !ok {
		return drop(ICMPNoFlow)
	}
	rw := &m.Table.Slots[n].RW
	if rw.phase() == PhaseEnded || m.idle(n) || !m.carries(rw.Link, rw.LinkGen) {
		return drop(ICMPNoFlow)
	}
	p.link = rw.Link
	var to path
	if rw.reverse() {
		to = path{out: rw.Out, dst: rw.MAC}
	} else {
		b := m.Backends[rw.Backend]
		if b == nil || b.Gen != rw.BackendGen {
			return drop(ICMPNoFlow)
		}
		to = path{out: b.Out, dst: b.MAC}
	}
	o := m.Outputs[to.out]
	if to.out == 0 || o == nil || o.Index == 0 {
		return drop(NoOutput)
	}
	to.src = o.MAC
	if p.ttl <= 1 {
		return drop(TTL) // no error about an error (RFC 1122 section 3.2.2)
	}

	before := slices.Clone(p.l4)
	was := before[8:]
	binary.BigEndian.PutUint32(q[12:], uint32(rw.Dst))
	binary.BigEndian.PutUint32(q[16:], uint32(rw.Src))
	binary.BigEndian.PutUint16(ql4[0:], rw.DstPort)
	binary.BigEndian.PutUint16(ql4[2:], rw.SrcPort)
	addresses := delta(was[12:20], q[12:20])
	adjustField(q, 10, addresses, false)
	change := addresses + delta(was[header:header+4], ql4[:4])
	if q[9] == UDP {
		adjustField(ql4, 6, change, true)
	} else if len(ql4) >= 18 {
		adjustField(ql4, 16, change, false)
	}
	even := len(p.l4) &^ 1 // nothing changed in an odd last byte
	adjustField(p.l4, 2, delta(before[8:even], p.l4[8:even]), false)
	id := binary.BigEndian.Uint16(p.ip[4:])
	p.rewrite(rw, to, id, false)
	return m.leave(p, rw, to)
}
