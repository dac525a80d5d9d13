package model

import "encoding/binary"

// sum adds 16-bit words in network order, one's complement; an odd last byte counts as the high one
// (RFC 1071).
func sum(b []byte) uint32 {
	var s uint32
	for ; len(b) > 1; b = b[2:] {
		s += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		s += uint32(b[0]) << 8
	}
	return fold(s)
}

func fold(s uint32) uint32 {
	for s > 0xffff {
		s = s&0xffff + s>>16
	}
	return s
}

// delta is what changing words from old to new adds to a sum (RFC 1624 section 3, eqn. 3). Both have
// the same even length.
func delta(from, to []byte) uint32 {
	var s uint32
	for i := 0; i+1 < len(from); i += 2 {
		s += uint32(^binary.BigEndian.Uint16(from[i:])) + uint32(binary.BigEndian.Uint16(to[i:]))
	}
	return fold(s)
}

// adjust is a checksum after a change: a wrong one stays exactly as wrong.
func adjust(check uint16, delta uint32) uint16 {
	return ^uint16(fold(uint32(^check) + delta))
}

// pseudo is the sum of the pseudo-header (RFC 9293 section 3.1).
func pseudo(src, dst IP, proto uint8, length int) uint32 {
	return fold(uint32(src)>>16 + uint32(src)&0xffff + uint32(dst)>>16 + uint32(dst)&0xffff + uint32(proto) + uint32(length))
}

// adjustField changes the checksum at b[at:at+2]. In UDP 0 means none and stays so, and a checksum
// of 0 is sent as 0xffff (RFC 768).
func adjustField(b []byte, at int, delta uint32, udp bool) {
	check := binary.BigEndian.Uint16(b[at:])
	if udp && check == 0 {
		return
	}
	check = adjust(check, delta)
	if udp && check == 0 {
		check = 0xffff
	}
	binary.BigEndian.PutUint16(b[at:], check)
}
