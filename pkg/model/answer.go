package model

import (
	"encoding/binary"
	"slices"
)

// answerTTL is the TTL of packets that privlink builds.
const answerTTL = 64

// refuse drops a packet; a TCP segment gets a RST, unless it is one itself or a fragment. limited
// ones stay below a rate per interface (rule 8).
func (m *Machine) refuse(p *packet, r Reason, limited bool) verdict {
	if p.key.Proto != TCP || p.isFragment() || p.flags&RST != 0 {
		return drop(r)
	}
	if limited && !m.token(p, RSTLimited) {
		m.count(RSTLimited, len(p.frame))
		return drop(r)
	}
	// RFC 9293 section 3.10.7.1.
	var seq, ack uint32
	flags := byte(RST)
	if p.flags&ACK != 0 {
		seq = binary.BigEndian.Uint32(p.l4[8:])
	} else {
		flags |= ACK
		ack = binary.BigEndian.Uint32(p.l4[4:]) + uint32(p.payload)
		if p.flags&SYN != 0 {
			ack++
		}
		if p.flags&FIN != 0 {
			ack++
		}
	}
	tcp := make([]byte, 20)
	binary.BigEndian.PutUint16(tcp[0:], p.key.DstPort)
	binary.BigEndian.PutUint16(tcp[2:], p.key.SrcPort)
	binary.BigEndian.PutUint32(tcp[4:], seq)
	binary.BigEndian.PutUint32(tcp[8:], ack)
	tcp[12], tcp[13] = 5<<4, flags
	binary.BigEndian.PutUint16(tcp[16:], ^uint16(fold(sum(tcp)+pseudo(p.key.Dst, p.key.Src, TCP, len(tcp)))))
	// The room of IP options stays, filled with End of Options.
	m.answer(p, ipHeader(p.header, len(tcp), TCP, mayNotFrag, p.key.Dst, p.key.Src), tcp)
	m.count(RSTSent, len(p.frame))
	return verdict{action: ActionAnswer, reason: r, out: p.in.Out}
}

// answerICMP tells the sender, from the address it wrote to, why its packet went no further (RFC 792,
// RFC 1191). It quotes the IP header and 8 bytes, of TCP 20.
func (m *Machine) answerICMP(p *packet, typ, code byte, mtu uint16, r Reason) verdict {
	if !p.isFirst() {
		return drop(r)
	}
	if !m.token(p, ICMPLimited) {
		m.count(ICMPLimited, len(p.frame))
		return drop(r)
	}
	quoted := 8
	if p.key.Proto == TCP {
		quoted = 20
	}
	icmp := []byte{typ, code, 0, 0, 0, 0, byte(mtu >> 8), byte(mtu)}
	icmp = append(icmp, p.ip[:p.header+quoted]...)
	binary.BigEndian.PutUint16(icmp[2:], ^uint16(sum(icmp)))
	m.answer(p, ipHeader(ipv4Header, len(icmp), ICMP, 0, p.key.Dst, p.key.Src), icmp)
	m.count(ICMPSent, len(p.frame))
	return verdict{action: ActionAnswer, reason: r, out: p.in.Out}
}

// ipHeader builds an IPv4 header with id 0.
func ipHeader(header, payload int, proto byte, fragment uint16, src, dst IP) []byte {
	b := make([]byte, header)
	b[0] = 4<<4 | byte(header/4)
	binary.BigEndian.PutUint16(b[2:], uint16(header+payload))
	binary.BigEndian.PutUint16(b[6:], fragment)
	b[8], b[9] = answerTTL, proto
	binary.BigEndian.PutUint32(b[12:], uint32(src))
	binary.BigEndian.PutUint32(b[16:], uint32(dst))
	binary.BigEndian.PutUint16(b[10:], ^uint16(sum(b)))
	return b
}

// answer makes the frame one of ours, back to where it came from.
func (m *Machine) answer(p *packet, ip, l4 []byte) {
	eth := slices.Concat(p.frame[6:12], p.in.MAC[:], []byte{etherIPv4 >> 8, etherIPv4 & 255})
	p.frame = slices.Concat(eth, ip, l4)
}

// token takes one of this second's tokens of the interface.
func (m *Machine) token(p *packet, what Reason) bool {
	b := m.buckets[p.in.Out]
	if b == nil {
		b = &bucket{}
		m.buckets[p.in.Out] = b
	}
	if b.stamp != m.Now {
		*b = bucket{stamp: m.Now}
	}
	used, limit := &b.rst, uint32(RSTPerSecond)
	if what == ICMPLimited {
		used, limit = &b.icmp, ICMPPerSecond
	}
	if *used >= limit {
		return false
	}
	*used++
	return true
}

// arp answers for what is privlink's (RFC 826): rule 14.
func (m *Machine) arp(p *packet) verdict {
	if len(p.frame) < ethernet+28 {
		return other(Short)
	}
	b := p.frame[ethernet:]
	if binary.BigEndian.Uint64(b[0:])>>16 != 0x000108000604 {
		return other(OtherARP)
	}
	sender, target := binary.BigEndian.Uint32(b[14:]), binary.BigEndian.Uint32(b[24:])
	request := binary.BigEndian.Uint16(b[6:]) == 1
	if !request || sender == target || !m.Addresses[AddressKey{IP(target), p.in.VNet}].ARP {
		return other(OtherARP)
	}
	b[7] = 2
	copy(p.frame[0:6], p.frame[6:12])
	copy(p.frame[6:12], p.in.MAC[:])
	copy(b[18:24], b[8:14])
	copy(b[8:14], p.in.MAC[:])
	binary.BigEndian.PutUint32(b[14:], target)
	binary.BigEndian.PutUint32(b[24:], sender)
	return verdict{action: ActionAnswer, reason: ARPReply, out: p.in.Out}
}
