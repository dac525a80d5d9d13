package model

import "encoding/binary"

const (
	ethernet   = 14 // bytes of an Ethernet header
	etherIPv4  = 0x0800
	etherARP   = 0x0806
	etherIPv6  = 0x86dd
	ipv4Header = 20 // bytes without options
	mayNotFrag = 0x4000
	moreFrags  = 0x2000
	fragOffset = 0x1fff
)

// Input is one frame as it comes in.
type Input struct {
	Frame     []byte
	Interface uint32
	VLAN      uint16 // of a tag that the frame no longer contains, 0 = untagged
	GSO       GSO    // of a super-packet
}

// GSO says that a frame stands for several: each of the segments it will be cut into carries at most
// Size bytes of payload behind a copy of the headers.
type GSO struct {
	Size, Segments uint32 // 0 = an ordinary frame
}

// Decision is what becomes of it.
type Decision struct {
	Action Action
	Reason Reason
	Out    uint16 // output slot, of redirected and answered packets
	VLAN   uint16 // of the tag beside the frame as it leaves or goes to the host, 0 = untagged
	Frame  []byte // as it leaves, or as it came; valid until the next packet
}

// packet is a frame being looked at.
type packet struct {
	frame []byte
	in    *Interface
	inKey InterfaceKey
	ip    []byte // the IPv4 packet, without what follows it in the frame
	l4    []byte // what follows its header

	header   int // bytes of IP header
	ttl      uint8
	fragment uint16
	key      Key
	flags    uint8 // of TCP
	payload  int   // bytes of TCP payload
	bad      bool  // the L4 header is malformed
	gso      GSO

	link uint32 // slot of the link it belongs to, 0 = not known
}

func (p *packet) source() MAC      { return MAC(p.frame[6:12]) }
func (p *packet) destination() MAC { return MAC(p.frame[0:6]) }

// isFragment says whether the packet is part of a datagram.
func (p *packet) isFragment() bool { return p.fragment&(moreFrags|fragOffset) != 0 }

// isFirst says whether L4 begins in this packet.
func (p *packet) isFirst() bool { return p.fragment&fragOffset == 0 }

// parseIPv4 reads the IPv4 header (RFC 791 section 3.1). The header checksum is not verified (rule 5).
func (p *packet) parseIPv4() Reason {
	b := p.frame[ethernet:]
	if len(b) < ipv4Header {
		return Short
	}
	p.header = int(b[0]&15) * 4
	length := int(binary.BigEndian.Uint16(b[2:]))
	if b[0]>>4 != 4 || p.header < ipv4Header || length < p.header || length > len(b) {
		return BadHeader
	}
	p.ip, p.l4 = b[:length], b[p.header:length]
	p.ttl = b[8]
	p.fragment = binary.BigEndian.Uint16(b[6:])
	p.key = Key{
		Src: IP(binary.BigEndian.Uint32(b[12:])), Dst: IP(binary.BigEndian.Uint32(b[16:])),
		VNet: p.in.VNet, Proto: b[9],
	}
	return None
}

// parseL4 reads ports and flags (RFC 9293 section 3.1, RFC 768). A malformed header is remembered:
// whether the packet is privlink's to drop depends on its destination (rule 19).
func (p *packet) parseL4() {
	least := 8
	if p.key.Proto == TCP {
		least = 20
	}
	if len(p.l4) < least {
		p.bad = true
		return
	}
	p.key.SrcPort = binary.BigEndian.Uint16(p.l4[0:])
	p.key.DstPort = binary.BigEndian.Uint16(p.l4[2:])
	if p.key.Proto == TCP {
		p.flags = p.l4[13]
		header := int(p.l4[12]>>4) * 4
		p.payload = len(p.l4) - header
		p.bad = header < 20 || p.payload < 0
	} else if p.fragment&moreFrags == 0 {
		length := int(binary.BigEndian.Uint16(p.l4[4:]))
		p.bad = length < 8 || length > len(p.l4)
	}
	if p.key.SrcPort == 0 || p.key.DstPort == 0 {
		p.bad = true
	}
}

// isMartian says whether nobody may send from this source (RFC 1122 section 3.2.1.3, RFC 6890), or
// the packet goes from an address to itself (land).
func isMartian(k Key) bool {
	return k.Src>>24 == 0 || k.Src>>24 == 127 || k.Src>>28 >= 0xe || k.Src == k.Dst
}

// isOpener says whether the packet can open a flow: any UDP datagram, and a TCP SYN alone (rule 7).
func (p *packet) isOpener() bool {
	return p.key.Proto != TCP || p.flags&(SYN|ACK|RST|FIN) == SYN
}

// size is the length of the IP packet that has to fit an output: of a super-packet the largest segment's.
func (p *packet) size() int {
	if headers := len(p.ip) - p.payload; p.gso.Size != 0 && int(p.gso.Size)+headers < len(p.ip) {
		return int(p.gso.Size) + headers
	}
	return len(p.ip)
}

// counts is how many packets and bytes of IP packets go over a wire.
func (p *packet) counts() (packets, bytes uint64) {
	if p.gso.Size != 0 && p.gso.Segments > 1 {
		more := uint64(p.gso.Segments - 1)
		return 1 + more, uint64(len(p.ip)) + more*uint64(len(p.ip)-p.payload)
	}
	return 1, uint64(len(p.ip))
}
