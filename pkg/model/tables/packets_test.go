package tables

import (
	"encoding/binary"
	"net"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/privlink/privlink/pkg/model"
)

// packet is a frame as a row writes it down.
type packet struct {
	from, to   model.MAC
	src, dst   model.IP
	ttl        uint8
	id         uint16
	df, more   bool
	offset     uint16 // of a fragment, in 8 bytes
	options    []layers.IPv4Option
	tcp        *layers.TCP
	udp        *layers.UDP
	icmp       *layers.ICMPv4
	arp        *layers.ARP
	proto      layers.IPProtocol // with none of the above
	ethertype  layers.EthernetType
	payload    []byte
	noChecksum bool // UDP without
	edit       func([]byte) []byte
}

func ipOf(a model.IP) net.IP { return binary.BigEndian.AppendUint32(nil, uint32(a)) }

// bytes builds the frame; checksums are right.
func (p packet) bytes(t *testing.T) []byte {
	t.Helper()
	eth := &layers.Ethernet{SrcMAC: p.from[:], DstMAC: p.to[:], EthernetType: layers.EthernetTypeIPv4}
	stack := []gopacket.SerializableLayer{eth}
	ip := &layers.IPv4{
		Version: 4, TTL: p.ttl, Id: p.id, SrcIP: ipOf(p.src), DstIP: ipOf(p.dst), Protocol: p.proto,
		FragOffset: p.offset, Options: p.options,
	}
	if p.df {
		ip.Flags |= layers.IPv4DontFragment
	}
	if p.more {
		ip.Flags |= layers.IPv4MoreFragments
	}
	switch {
	case p.arp != nil:
		eth.EthernetType = layers.EthernetTypeARP
		stack = append(stack, p.arp)
	case p.ethertype != 0:
		eth.EthernetType = p.ethertype
	case p.tcp != nil:
		ip.Protocol = layers.IPProtocolTCP
		tcp := *p.tcp
		check(t, tcp.SetNetworkLayerForChecksum(ip))
		stack = append(stack, ip, &tcp)
	case p.udp != nil:
		ip.Protocol = layers.IPProtocolUDP
		udp := *p.udp
		check(t, udp.SetNetworkLayerForChecksum(ip))
		stack = append(stack, ip, &udp)
	case p.icmp != nil:
		ip.Protocol = layers.IPProtocolICMPv4
		icmp := *p.icmp
		stack = append(stack, ip, &icmp)
	default:
		stack = append(stack, ip)
	}
	stack = append(stack, gopacket.Payload(p.payload))
	buffer := gopacket.NewSerializeBuffer()
	check(t, gopacket.SerializeLayers(buffer, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, stack...))
	b := append([]byte(nil), buffer.Bytes()...)
	// gopacket pads to 60 bytes, as a wire does.
	switch {
	case p.arp != nil:
		b = b[:42]
	case p.ethertype != 0:
		b = b[:14+len(p.payload)]
	default:
		b = b[:14+binary.BigEndian.Uint16(b[16:])]
	}
	if p.noChecksum {
		b[40], b[41] = 0, 0
	}
	if p.edit != nil {
		b = p.edit(b)
	}
	return b
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// flags of a TCP segment by their letters, as tcpdump writes them.
func segment(src, dst uint16, flags string, seq, ack uint32) *layers.TCP {
	s := &layers.TCP{SrcPort: layers.TCPPort(src), DstPort: layers.TCPPort(dst), Seq: seq, Ack: ack, Window: 1000}
	for _, f := range flags {
		switch f {
		case 'S':
			s.SYN = true
		case 'A':
			s.ACK = true
		case 'F':
			s.FIN = true
		case 'R':
			s.RST = true
		}
	}
	return s
}

// with returns the packet changed.
func (p packet) with(f func(*packet)) packet {
	f(&p)
	return p
}

// asked is a client's segment to the endpoint, and seen what the backend gets of it.
func asked(flags string) packet {
	return packet{from: clientMAC, to: ports[0].mac, src: client, dst: endpoint, ttl: 64, id: 7, tcp: segment(5000, 80, flags, 1000, 2000)}
}

func seen(flags string) packet {
	return packet{from: ports[1].mac, to: backendMAC, src: natIP, dst: backend, ttl: 63, id: 7, tcp: segment(firstNATPort, 8080, flags, 1000, 2000)}
}

// replied is the backend's segment, and got what the client gets of it.
func replied(flags string) packet {
	return packet{from: backendMAC, to: ports[1].mac, src: backend, dst: natIP, ttl: 64, id: 9, tcp: segment(8080, firstNATPort, flags, 2000, 1001)}
}

func got(flags string) packet {
	return packet{from: ports[0].mac, to: clientMAC, src: endpoint, dst: client, ttl: 63, id: 9, tcp: segment(80, 5000, flags, 2000, 1001)}
}

// query is a client's datagram, queried what the backend gets, and so on back.
func query() packet {
	return packet{from: clientMAC, to: ports[0].mac, src: client, dst: endpoint, ttl: 64, id: 7, udp: &layers.UDP{SrcPort: 5000, DstPort: 53}, payload: []byte("who is it")}
}

func queried() packet {
	return packet{from: ports[1].mac, to: backendMAC, src: natIP, dst: backend, ttl: 63, id: 7, udp: &layers.UDP{SrcPort: firstNATPort, DstPort: 53}, payload: []byte("who is it")}
}

func answer() packet {
	return packet{from: backendMAC, to: ports[1].mac, src: backend, dst: natIP, ttl: 64, id: 9, udp: &layers.UDP{SrcPort: 53, DstPort: firstNATPort}, payload: []byte("nobody")}
}

func answered() packet {
	return packet{from: ports[0].mac, to: clientMAC, src: endpoint, dst: client, ttl: 63, id: 9, udp: &layers.UDP{SrcPort: 53, DstPort: 5000}, payload: []byte("nobody")}
}

// reset is the RST that answers a segment: with its ACK number, or acknowledging what it carried.
func reset(to packet) *packet {
	t := to.tcp
	rst := segment(uint16(t.DstPort), uint16(t.SrcPort), "R", t.Ack, 0)
	if !t.ACK {
		carried := uint32(len(to.payload))
		if t.SYN {
			carried++
		}
		if t.FIN {
			carried++
		}
		rst = segment(uint16(t.DstPort), uint16(t.SrcPort), "RA", 0, t.Seq+carried)
	}
	rst.Window = 0
	return &packet{from: to.to, to: to.from, src: to.dst, dst: to.src, ttl: 64, df: true, tcp: rst}
}

// complaint is the ICMP error that answers a packet: its IP header and the beginning of L4.
func complaint(t *testing.T, to packet, typ, code uint8, mtu uint16) *packet {
	b := to.bytes(t)[14:]
	header := int(b[0]&15) * 4
	quoted := header + 8
	if to.tcp != nil {
		quoted = header + 20
	}
	return &packet{
		from: to.to, to: to.from, src: to.dst, dst: to.src, ttl: 64,
		icmp:    &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(typ, code), Seq: mtu},
		payload: b[:quoted],
	}
}

// about is an ICMP error from a router (or the receiver itself) about a packet that it saw.
func about(t *testing.T, from model.IP, mac, to model.MAC, saw packet, typ, code uint8, mtu uint16, quoted int) packet {
	b := saw.bytes(t)[14:]
	return packet{
		from: mac, to: to, src: from, dst: saw.src, ttl: 64, id: 3,
		icmp:    &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(typ, code), Seq: mtu},
		payload: b[:20+quoted],
	}
}
