package neigh

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// MAC is an Ethernet address.
type MAC [6]byte

func (m MAC) String() string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
}

// Broadcast is everybody's address.
var Broadcast = MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// Port is where frames leave: an attached interface, and its VLAN.
type Port struct {
	// Slot is the owner's name for it.
	Slot    uint16
	Ifindex int
	VLAN    uint16 // 0 = untagged
	MAC     MAC
}

// Operations of ARP (RFC 826).
const (
	OpRequest uint16 = 1
	OpReply   uint16 = 2
)

const (
	etherARP  = 0x0806
	etherVLAN = 0x8100
	minFrame  = 60 // bytes, without the checksum
)

// Ethernet begins a frame from p to dst, with p's VLAN tag.
func Ethernet(p Port, dst MAC, etherType uint16) []byte {
	frame := make([]byte, 0, minFrame+4)
	frame = append(frame, dst[:]...)
	frame = append(frame, p.MAC[:]...)
	if p.VLAN != 0 {
		frame = binary.BigEndian.AppendUint16(frame, etherVLAN)
		frame = binary.BigEndian.AppendUint16(frame, p.VLAN)
	}
	return binary.BigEndian.AppendUint16(frame, etherType)
}

// Request is an ARP request for target, sent to dst (Broadcast, or the MAC known so far). A
// zero sender makes it an ARP probe (RFC 5227, 2.1.1), which changes nobody's cache.
func Request(p Port, dst MAC, sender, target netip.Addr) []byte {
	return arp(p, dst, OpRequest, sender, MAC{}, target)
}

// Announcement says that addr is at p's MAC (RFC 5227, 2.3; a "gratuitous" request).
func Announcement(p Port, addr netip.Addr) []byte {
	return arp(p, Broadcast, OpRequest, addr, MAC{}, addr)
}

func arp(p Port, dst MAC, op uint16, sender netip.Addr, targetMAC MAC, target netip.Addr) []byte {
	frame := Ethernet(p, dst, etherARP)
	frame = append(frame, 0, 1, 8, 0, 6, 4) // Ethernet, IPv4, lengths
	frame = binary.BigEndian.AppendUint16(frame, op)
	frame = append(frame, p.MAC[:]...)
	frame = append(frame, as4(sender)...)
	frame = append(frame, targetMAC[:]...)
	frame = append(frame, as4(target)...)
	for len(frame) < minFrame {
		frame = append(frame, 0)
	}
	return frame
}

func as4(a netip.Addr) []byte {
	if !a.Is4() {
		return make([]byte, 4)
	}
	b := a.As4()
	return b[:]
}
