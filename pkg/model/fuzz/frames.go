package fuzz

import (
	"encoding/binary"

	"github.com/privlink/privlink/pkg/model"
)

// header is what the generator decides of an IPv4 packet.
type header struct {
	key      model.Key
	id       uint16
	fragment uint16
	ttl      byte
	options  int // bytes, a multiple of 4
}

// frame wraps an L4 part into IPv4 and Ethernet.
func frame(dst, src model.MAC, h header, l4 []byte) []byte {
	size := 20 + h.options
	b := make([]byte, 14+size, 14+size+len(l4)+8)
	copy(b[0:], dst[:])
	copy(b[6:], src[:])
	binary.BigEndian.PutUint16(b[12:], 0x0800)
	p := b[14:]
	p[0] = 4<<4 | byte(size/4)
	binary.BigEndian.PutUint16(p[2:], uint16(size+len(l4)))
	binary.BigEndian.PutUint16(p[4:], h.id)
	binary.BigEndian.PutUint16(p[6:], h.fragment)
	p[8], p[9] = h.ttl, h.key.Proto
	binary.BigEndian.PutUint32(p[12:], uint32(h.key.Src))
	binary.BigEndian.PutUint32(p[16:], uint32(h.key.Dst))
	for i := range h.options {
		p[20+i] = 1 // no operation
	}
	binary.BigEndian.PutUint16(p[10:], checksum(p[:size], 0))
	return append(b, l4...)
}

// checksum is the Internet checksum (RFC 1071) of b and a sum already taken.
func checksum(b []byte, sum uint32) uint16 {
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

func pseudo(k model.Key, length int) uint32 {
	return uint32(k.Src)>>16 + uint32(k.Src)&0xffff + uint32(k.Dst)>>16 + uint32(k.Dst)&0xffff + uint32(k.Proto) + uint32(length)
}

// tcp builds a segment with a right checksum.
func tcp(k model.Key, flags byte, seq, ack uint32, options int, payload []byte) []byte {
	size := 20 + options
	b := make([]byte, size, size+len(payload))
	binary.BigEndian.PutUint16(b[0:], k.SrcPort)
	binary.BigEndian.PutUint16(b[2:], k.DstPort)
	binary.BigEndian.PutUint32(b[4:], seq)
	binary.BigEndian.PutUint32(b[8:], ack)
	b[12], b[13] = byte(size/4)<<4, flags
	binary.BigEndian.PutUint16(b[14:], 0xffff)
	for i := range options {
		b[20+i] = 1
	}
	b = append(b, payload...)
	binary.BigEndian.PutUint16(b[16:], checksum(b, pseudo(k, len(b))))
	return b
}

// udp builds a datagram with a right checksum.
func udp(k model.Key, payload []byte) []byte {
	b := make([]byte, 8, 8+len(payload))
	binary.BigEndian.PutUint16(b[0:], k.SrcPort)
	binary.BigEndian.PutUint16(b[2:], k.DstPort)
	binary.BigEndian.PutUint16(b[4:], uint16(8+len(payload)))
	b = append(b, payload...)
	sum := checksum(b, pseudo(k, len(b)))
	if sum == 0 {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(b[6:], sum)
	return b
}

// icmp builds a message with a right checksum.
func icmp(typ, code byte, rest uint32, payload []byte) []byte {
	b := make([]byte, 8, 8+len(payload))
	b[0], b[1] = typ, code
	binary.BigEndian.PutUint32(b[4:], rest)
	b = append(b, payload...)
	binary.BigEndian.PutUint16(b[2:], checksum(b, 0))
	return b
}

// arp builds a request or reply.
func arp(dst, src model.MAC, op uint16, sender, target model.IP) []byte {
	b := make([]byte, 42, 60)
	copy(b[0:], dst[:])
	copy(b[6:], src[:])
	copy(b[12:], []byte{0x08, 0x06, 0, 1, 8, 0, 6, 4})
	binary.BigEndian.PutUint16(b[20:], op)
	copy(b[22:], src[:])
	binary.BigEndian.PutUint32(b[28:], uint32(sender))
	binary.BigEndian.PutUint32(b[38:], uint32(target))
	return b
}
