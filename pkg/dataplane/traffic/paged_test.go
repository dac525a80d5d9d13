package traffic

import (
	"bytes"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/privlink/privlink/pkg/lab"
)

// crafted makes frames between a VM and the gateway.
type crafted struct {
	t        *testing.T
	from, to net.HardwareAddr
	source   string
}

func (c crafted) frame(kind layers.EthernetType, rest ...gopacket.SerializableLayer) []byte {
	c.t.Helper()
	b := gopacket.NewSerializeBuffer()
	all := append([]gopacket.SerializableLayer{&layers.Ethernet{SrcMAC: c.from, DstMAC: c.to, EthernetType: kind}}, rest...)
	if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, all...); err != nil {
		c.t.Fatal(err)
	}
	return bytes.Clone(b.Bytes())
}

// packet is a frame with an IPv4 packet; edit may change its header.
func (c crafted) packet(to string, edit func(*layers.IPv4), l4 gopacket.SerializableLayer, payload string) []byte {
	c.t.Helper()
	ip := &layers.IPv4{Version: 4, TTL: 64, Id: 77, SrcIP: net.ParseIP(c.source).To4(), DstIP: net.ParseIP(to).To4()}
	switch l4 := l4.(type) {
	case *layers.UDP:
		ip.Protocol = layers.IPProtocolUDP
		if err := l4.SetNetworkLayerForChecksum(ip); err != nil {
			c.t.Fatal(err)
		}
	case *layers.TCP:
		ip.Protocol = layers.IPProtocolTCP
		if err := l4.SetNetworkLayerForChecksum(ip); err != nil {
			c.t.Fatal(err)
		}
	case *layers.ICMPv4:
		ip.Protocol = layers.IPProtocolICMPv4
	}
	if edit != nil {
		edit(ip)
	}
	return c.frame(layers.EthernetTypeIPv4, ip, l4, gopacket.Payload(payload))
}

// decoded is a captured packet, or nil for what is no whole IPv4 packet.
type decoded struct {
	ip   *layers.IPv4
	udp  *layers.UDP
	tcp  *layers.TCP
	icmp *layers.ICMPv4
	arp  *layers.ARP
	data string // after UDP, or after ICMP
}

func decode(p lab.Packet) (d decoded) {
	packet := gopacket.NewPacket(p.Data, layers.LayerTypeEthernet, gopacket.NoCopy)
	d.ip, _ = packet.Layer(layers.LayerTypeIPv4).(*layers.IPv4)
	d.udp, _ = packet.Layer(layers.LayerTypeUDP).(*layers.UDP)
	d.tcp, _ = packet.Layer(layers.LayerTypeTCP).(*layers.TCP)
	d.icmp, _ = packet.Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4)
	d.arp, _ = packet.Layer(layers.LayerTypeARP).(*layers.ARP)
	switch {
	case d.icmp != nil:
		d.data = string(d.icmp.Payload)
	case d.udp != nil:
		d.data = string(d.udp.Payload)
	}
	return d
}

// wait is the lab's Wait for a subtest of the test whose lab it is.
func wait(t *testing.T, what string, done func() bool) {
	t.Helper()
	err := lab.Poll(5*time.Second, func() error {
		if !done() {
			return errNothing
		}
		return nil
	})
	if err != nil {
		t.Fatalf("waited for %s: %v", what, err)
	}
}

// All headers behind the Ethernet header lie in pages: of what opens a flow, goes along it and answers, and of what
// privlink answers itself.
func TestPaged_HeadersOutsideTheLinearPart_AreTreatedAlike(t *testing.T) {
	r := newRig(t, rigOptions{wire: lab.VethOptions{MTU: jumbo}})
	r.backend.EchoServer(backendIP + ":7")
	ln, err := r.backend.Listen("tcp4", backendIP+":9000")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c := crafted{t, r.consumers[0].MAC("eth0"), r.gatewayMAC(0), clientIP}
	large := string(bytes.Repeat([]byte("jumbo"), 1600))
	udp := func(port layers.UDPPort) *layers.UDP { return &layers.UDP{SrcPort: port, DstPort: 7} }
	isReply := func(port layers.UDPPort, data string) func(decoded) bool {
		return func(d decoded) bool { return d.udp != nil && d.icmp == nil && d.udp.DstPort == port && d.data == data }
	}
	echo := &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(layers.ICMPv4TypeEchoRequest, 0), Id: 5, Seq: 6}
	whole := c.packet(endpointIP, nil, udp(4004), large[:2000])
	ports := len(whole) - 2008
	fragment := func(edit func(*layers.IPv4), part []byte) []byte {
		ip := &layers.IPv4{Version: 4, TTL: 64, Id: 78, Protocol: layers.IPProtocolUDP, SrcIP: net.ParseIP(clientIP).To4(), DstIP: net.ParseIP(endpointIP).To4()}
		edit(ip)
		return c.frame(layers.EthernetTypeIPv4, ip, gopacket.Payload(part))
	}
	for _, test := range []struct {
		name   string
		frames [][]byte
		want   func(decoded) bool // at the client
	}{
		{"datagram", [][]byte{c.packet(endpointIP, nil, udp(4000), "small")}, isReply(4000, "small")},
		{"datagram larger than a page", [][]byte{c.packet(endpointIP, nil, udp(4001), large)}, isReply(4001, large)},
		{"datagram without a byte", [][]byte{c.packet(endpointIP, nil, udp(4002), "")}, isReply(4002, "")},
		{"IP options", [][]byte{c.packet(endpointIP, func(ip *layers.IPv4) {
			for range 40 {
				ip.Options = append(ip.Options, layers.IPv4Option{OptionType: 1})
			}
		}, udp(4003), "options")}, isReply(4003, "options")},
		{"fragments", [][]byte{
			fragment(func(ip *layers.IPv4) { ip.Flags = layers.IPv4MoreFragments }, whole[ports:ports+1200]),
			fragment(func(ip *layers.IPv4) { ip.FragOffset = 150 }, whole[ports+1200:]),
		}, isReply(4004, large[:2000])},
		{"SYN", [][]byte{c.packet(endpointIP, nil, &layers.TCP{SrcPort: 4005, DstPort: 9000, Seq: 100, SYN: true, Window: 1000}, "")},
			func(d decoded) bool {
				return d.tcp != nil && d.tcp.DstPort == 4005 && d.tcp.SYN && d.tcp.ACK && d.tcp.Ack == 101
			}},
		{"segment without a flow", [][]byte{c.packet(endpointIP, nil, &layers.TCP{SrcPort: 4006, DstPort: 9000, Seq: 7, Ack: 200, ACK: true}, "data")},
			func(d decoded) bool {
				return d.tcp != nil && d.tcp.DstPort == 4006 && d.tcp.RST && d.tcp.Seq == 200
			}},
		{"TTL at its end", [][]byte{c.packet(endpointIP, func(ip *layers.IPv4) { ip.TTL = 1 }, udp(4007), large)},
			func(d decoded) bool {
				return d.icmp != nil && d.icmp.TypeCode.Type() == layers.ICMPv4TypeTimeExceeded && d.ip.SrcIP.String() == endpointIP
			}},
		{"echo request", [][]byte{c.packet(endpointIP, nil, echo, large)},
			func(d decoded) bool {
				return d.icmp != nil && d.icmp.TypeCode.Type() == layers.ICMPv4TypeEchoReply && d.icmp.Id == 5 && d.data == large
			}},
		{"ARP request", [][]byte{c.frame(layers.EthernetTypeARP, &layers.ARP{
			AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4, Operation: layers.ARPRequest,
			SourceHwAddress: c.from, SourceProtAddress: net.ParseIP(clientIP).To4(), DstHwAddress: make([]byte, 6), DstProtAddress: net.ParseIP(endpointIP).To4(),
		})}, func(d decoded) bool {
			return d.arp != nil && d.arp.Operation == layers.ARPReply && net.IP(d.arp.SourceProtAddress).String() == endpointIP
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			capture := r.consumers[0].Capture("eth0")
			if err := r.consumers[0].InjectPaged("eth0", test.frames...); err != nil {
				t.Fatal(err)
			}
			wanted := func(p lab.Packet) bool { return !p.Outgoing && test.want(decode(p)) }
			wait(t, "the answer", func() bool { return capture.Count(wanted) > 0 })
			checksums(t, "the client", capture.Stop(), true, nil)
		})
	}

	t.Run("answer of the backend", func(t *testing.T) {
		atBackend, atClient := r.backend.Capture("eth0"), r.consumers[0].Capture("eth0")
		frame := c.packet(endpointIP, nil, &layers.UDP{SrcPort: 4010, DstPort: 10}, "question")
		if err := r.consumers[0].InjectPaged("eth0", frame); err != nil {
			t.Fatal(err)
		}
		var asked decoded
		wait(t, "the question", func() bool {
			for _, p := range atBackend.Packets() {
				if d := decode(p); !p.Outgoing && d.udp != nil && d.data == "question" {
					asked = d
				}
			}
			return asked.udp != nil
		})
		back := crafted{t, r.backend.MAC("eth0"), r.gw.MAC("web"), backendIP}
		for i, text := range []string{"answer", large} {
			frame := back.packet(natIP, nil, &layers.UDP{SrcPort: 10, DstPort: asked.udp.SrcPort}, text)
			if err := r.backend.InjectPaged("eth0", frame); err != nil {
				t.Fatal(err)
			}
			wanted := func(p lab.Packet) bool { return !p.Outgoing && isReply(4010, text)(decode(p)) }
			wait(t, fmt.Sprintf("answer %d", i+1), func() bool { return atClient.Count(wanted) == 1 })
		}
		checksums(t, "the backend", atBackend.Stop(), true, nil)
		checksums(t, "the client", atClient.Stop(), true, nil)
	})
}
