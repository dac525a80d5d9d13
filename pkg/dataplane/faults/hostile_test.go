package faults

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/privlink/privlink/pkg/dataplane"
	"github.com/privlink/privlink/pkg/lab"
	"github.com/privlink/privlink/pkg/lab/load"
	"github.com/privlink/privlink/pkg/splice/inner"
)

// mark is in every frame of the attacker's: twice in its payload, and in the last 4 of the first 8 bytes behind its IPv4
// header (the sequence number of a TCP segment), which is where a fragment of 8 bytes has room for it.
const mark = 0xe51bad9e

var (
	once   = binary.BigEndian.AppendUint32(nil, mark)
	marker = bytes.Repeat(once, 2)
)

// marked says whether a frame is one of the attacker's, or was made of one.
func marked(frame []byte) bool {
	const second = 14 + 20 + 4
	return bytes.Contains(frame, marker) || len(frame) >= second+4 && bytes.Equal(frame[second:second+4], once)
}

// attack makes frames as nobody decent does.
type attack struct {
	own, gateway net.HardwareAddr // MACs
	frames       [][]byte
	kinds        []kindOfFrame
}

// kindOfFrame is the part of an attack from a frame on.
type kindOfFrame struct {
	name string
	from int
}

// kind gives what is added from here on a name.
func (a *attack) kind(name string) { a.kinds = append(a.kinds, kindOfFrame{name, len(a.frames)}) }

// of are the frames of one of the kinds.
func (a *attack) of(i int) [][]byte {
	if i+1 < len(a.kinds) {
		return a.frames[a.kinds[i].from:a.kinds[i+1].from]
	}
	return a.frames[a.kinds[i].from:]
}

func (a *attack) add(l ...gopacket.SerializableLayer) []byte {
	buffer := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buffer, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, l...); err != nil {
		panic(err) // the layers are constant
	}
	f := bytes.Clone(buffer.Bytes())
	a.frames = append(a.frames, f)
	return f
}

func payload() gopacket.Payload { return bytes.Repeat(once, 16) }

func (a *attack) eth(kind layers.EthernetType) *layers.Ethernet {
	return &layers.Ethernet{SrcMAC: a.own, DstMAC: a.gateway, EthernetType: kind}
}

func ipv4(src, dst string, protocol layers.IPProtocol) *layers.IPv4 {
	return &layers.IPv4{Version: 4, IHL: 5, TTL: 64, Id: 7, Protocol: protocol, SrcIP: net.ParseIP(src), DstIP: net.ParseIP(dst)}
}

// each L4 that a packet between two addresses may have; ports of a TCP packet are those of a flow of somebody else.
func (a *attack) all(eth *layers.Ethernet, src, dst string, sport, dport uint16) {
	ip := ipv4(src, dst, layers.IPProtocolUDP)
	udp := &layers.UDP{SrcPort: layers.UDPPort(sport), DstPort: layers.UDPPort(dport)}
	_ = udp.SetNetworkLayerForChecksum(ip)
	a.add(eth, ip, udp, payload())
	for _, flags := range []layers.TCP{{SYN: true}, {ACK: true, PSH: true}, {RST: true}, {RST: true, ACK: true}, {FIN: true, ACK: true}, {SYN: true, ACK: true}, {}} {
		ip := ipv4(src, dst, layers.IPProtocolTCP)
		tcp := flags
		tcp.SrcPort, tcp.DstPort, tcp.Seq, tcp.Ack, tcp.Window = layers.TCPPort(sport), layers.TCPPort(dport), mark, mark, 65535
		_ = tcp.SetNetworkLayerForChecksum(ip)
		a.add(eth, ip, &tcp, payload())
	}
	for _, protocol := range []layers.IPProtocol{layers.IPProtocolSCTP, layers.IPProtocolGRE, layers.IPProtocolESP, layers.IPProtocolAH,
		layers.IPProtocolIGMP, layers.IPProtocolIPIP, 255} {
		a.add(eth, ipv4(src, dst, protocol), payload())
	}
	a.add(eth, ipv4(src, dst, layers.IPProtocolICMPv4), &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(8, 0)}, payload())
	a.add(eth, ipv4(src, dst, layers.IPProtocolICMPv4), &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(5, 1)}, payload())
}

// quote sends ICMP errors about a packet of somebody else's flow.
func (a *attack) quote(src, dst string, quoted *layers.IPv4, sport, dport uint16) {
	for _, kind := range [][2]uint8{{3, 1}, {3, 3}, {3, 4}, {11, 0}, {12, 0}, {4, 0}} {
		l4 := make([]byte, 8)
		binary.BigEndian.PutUint16(l4, sport)
		binary.BigEndian.PutUint16(l4[2:], dport)
		inner := gopacket.NewSerializeBuffer()
		if err := gopacket.SerializeLayers(inner, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true},
			quoted, gopacket.Payload(append(l4, payload()...))); err != nil {
			panic(err) // the layers are constant
		}
		a.add(a.eth(layers.EthernetTypeIPv4), ipv4(src, dst, layers.IPProtocolICMPv4),
			&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(kind[0], kind[1]), Seq: 576}, gopacket.Payload(inner.Bytes()))
	}
}

// fragments: tiny first ones, overlapping ones, and ones whose first never comes.
func (a *attack) fragments(src, dst string, dport uint16) {
	for _, f := range []struct {
		offset uint16
		more   bool
		size   int
	}{{0, true, 8}, {1, true, 8}, {1, false, 64}, {0, true, 64}, {2, false, 64}, {8191, false, 64}, {8, true, 24}, {8, true, 61}} {
		ip := ipv4(src, dst, layers.IPProtocolTCP)
		ip.FragOffset = f.offset
		if f.more {
			ip.Flags = layers.IPv4MoreFragments
		}
		data := bytes.Repeat(once, 18)[:f.size]
		if f.offset == 0 {
			binary.BigEndian.PutUint16(data, 5555)
			binary.BigEndian.PutUint16(data[2:], dport)
		}
		a.add(a.eth(layers.EthernetTypeIPv4), ip, gopacket.Payload(data))
	}
}

func (a *attack) arp(op uint16, senderMAC net.HardwareAddr, sender, target string) {
	a.add(&layers.Ethernet{SrcMAC: a.own, DstMAC: layers.EthernetBroadcast, EthernetType: layers.EthernetTypeARP}, &layers.ARP{
		AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4, Operation: op,
		SourceHwAddress: senderMAC, SourceProtAddress: net.ParseIP(sender).To4(),
		DstHwAddress: make([]byte, 6), DstProtAddress: net.ParseIP(target).To4(),
	}, payload())
}

func (a *attack) ipv6() {
	for _, dst := range []string{backendIPv6, otherIPv6, innerIPv6, "ff02::1", "fe80::1"} {
		ip := func(next layers.IPProtocol) *layers.IPv6 {
			return &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: next, SrcIP: net.ParseIP("2001:db8::66"), DstIP: net.ParseIP(dst)}
		}
		eth := a.eth(layers.EthernetTypeIPv6)
		udp := &layers.UDP{SrcPort: 5555, DstPort: 53}
		_ = udp.SetNetworkLayerForChecksum(ip(layers.IPProtocolUDP))
		a.add(eth, ip(layers.IPProtocolUDP), udp, payload())
		tcp := &layers.TCP{SrcPort: 5555, DstPort: 80, SYN: true, Seq: 1, Window: 65535}
		_ = tcp.SetNetworkLayerForChecksum(ip(layers.IPProtocolTCP))
		a.add(eth, ip(layers.IPProtocolTCP), tcp, payload())
		icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(layers.ICMPv6TypeEchoRequest, 0)}
		_ = icmp.SetNetworkLayerForChecksum(ip(layers.IPProtocolICMPv6))
		a.add(eth, ip(layers.IPProtocolICMPv6), icmp, &layers.ICMPv6Echo{Identifier: 1}, payload())
	}
}

// tagged sends some frames again with VLAN tags in front.
func (a *attack) tagged(frames [][]byte) {
	for _, tag := range [][]byte{{0x81, 0, 0, 0}, {0x81, 0, 0, 1}, {0x81, 0, 0, 100}, {0x88, 0xa8, 0, 5, 0x81, 0, 0, 6}, {0x81, 0, 0, 1, 0x81, 0, 0, 2}} {
		for _, f := range frames {
			a.frames = append(a.frames, append(append(append([]byte(nil), f[:12]...), tag...), f[12:]...))
		}
	}
}

// victim is a TCP flow of the other consumer, as both sides see it.
func (r *rig) victim(network string) dataplane.Flow {
	r.t.Helper()
	var found dataplane.Flow
	r.Wait("a flow of the other consumer", 10*time.Second, func() error {
		err := r.d.Flows(context.Background(), func(f dataplane.Flow) bool {
			if f.Network == network && f.Protocol == dataplane.ProtocolTCP && f.Endpoint.Port() == load.PortEcho {
				found = f
			}
			return true
		})
		if err == nil && !found.Client.IsValid() {
			err = errEarly
		}
		return err
	})
	return found
}

// build makes all the frames that a hostile consumer in c1 sends, about a flow of somebody else's with these ports of its
// client and its NAT IP.
func (r *hostile) build(port, nat uint16) *attack {
	vm := r.consumers[0]
	a := &attack{own: vm.MAC("eth0"), gateway: r.gw.MAC("c1")}
	plain := a.eth(layers.EthernetTypeIPv4)
	everywhere := []string{otherEndpoint, proxiedIP, natIP, backendIP, "10.0.1.4", "10.0.0.1", listenIP, dialIP, sourceIP, "100.64.0.2", "127.0.0.1",
		"169.254.169.254", "224.0.0.1", "255.255.255.255", "10.0.255.255", "0.0.0.0", "192.0.2.1"}
	sources := []string{clientIP, "10.0.1.5", otherEndpoint, natIP, backendIP, endpointIP, "127.0.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255", listenIP, dialIP, sourceIP}
	a.kind("to other networks' endpoints, NAT IPs, backends and the splice path, from forged sources")
	for _, dst := range everywhere {
		for _, src := range sources {
			a.all(plain, src, dst, port, load.PortEcho)
		}
		a.all(plain, clientIP, dst, port, inner.ListenPort)
	}
	few := slices.Clone(a.frames[:40])
	a.kind("segments, RSTs too, of other people's flows, as their backend")
	for _, dst := range everywhere {
		a.all(plain, backendIP, dst, load.PortEcho, nat)
	}
	a.kind("to its own endpoint, what the link does not let through")
	a.all(plain, clientIP, endpointIP, port, load.PortEcho)
	a.kind("ICMP errors about other people's flows")
	for _, dst := range everywhere {
		a.quote(clientIP, dst, ipv4(clientIP, endpointIP, layers.IPProtocolTCP), port, load.PortEcho)
		a.quote(backendIP, natIP, ipv4(natIP, backendIP, layers.IPProtocolTCP), nat, load.PortEcho)
	}
	a.quote(clientIP, endpointIP, ipv4(endpointIP, clientIP, layers.IPProtocolTCP), load.PortEcho, port)
	a.kind("tiny and overlapping fragments")
	for _, dst := range append(everywhere, endpointIP) {
		a.fragments(clientIP, dst, load.PortEcho)
	}
	a.kind("to and from other MACs")
	for _, mac := range []net.HardwareAddr{r.gw.MAC("c2"), r.gw.MAC("web"), r.consumers[1].MAC("eth0"), r.backend.MAC("eth0"),
		layers.EthernetBroadcast, {0x01, 0, 0x5e, 0, 0, 1}, {0x01, 0x80, 0xc2, 0, 0, 0}, {2, 0, 0, 9, 9, 9}} {
		to, from := a.eth(layers.EthernetTypeIPv4), a.eth(layers.EthernetTypeIPv4)
		to.DstMAC, from.SrcMAC = mac, mac
		for _, dst := range []string{otherEndpoint, backendIP, natIP, endpointIP} {
			a.all(to, clientIP, dst, port, load.PortEcho)
			if mac[0]&1 == 0 {
				a.all(from, clientIP, dst, port, load.PortEcho)
			}
		}
	}
	a.kind("IPv6")
	a.ipv6()
	few = append(few, a.frames[len(a.frames)-3:]...)
	a.kind("tagged and double-tagged")
	a.tagged(few)
	a.kind("ARP spoofing")
	for _, address := range []string{endpointIP, otherEndpoint, natIP, backendIP, clientIP, "10.0.0.1"} {
		for op := range uint16(3) {
			a.arp(op+1, a.own, address, address)
			a.arp(op+1, a.own, address, endpointIP)
			a.arp(op+1, r.consumers[1].MAC("eth0"), address, address)
		}
	}
	a.kind("other protocols of Ethernet, and a short frame")
	for _, kind := range []layers.EthernetType{layers.EthernetTypeMPLSUnicast, layers.EthernetTypePPPoESession, 0x88cc, 0x0042} {
		a.add(a.eth(kind), payload())
	}
	a.frames = append(a.frames, slices.Concat(a.gateway, a.own, []byte{8, 0, 0x45, 0}, marker))
	return a
}

// inject sends frames one by one.
func (r *hostile) inject(frames [][]byte) {
	r.t.Helper()
	if r.out == nil {
		r.out = r.consumers[0].Injector("eth0")
	}
	if err := r.out.Send(frames...); err != nil {
		r.t.Fatal(err)
	}
}

// judged counts the frames that privlink did not forward, ARP apart: each has one reason.
func (r *hostile) judged() (ip, arp int) {
	r.t.Helper()
	stats, err := r.d.ReasonStats()
	if err != nil {
		r.t.Fatal(err)
	}
	for _, s := range stats {
		switch s.Label {
		case "rst_sent", "rst_limited", "icmp_sent", "icmp_limited": // what came of a frame that has its own reason
		case "arp_reply", "other_arp":
			arp += int(s.Packets)
		default:
			ip += int(s.Packets)
		}
	}
	return ip, arp
}

// send injects everything and waits until privlink has judged as many frames as it has not forwarded. Where no
// others send, the number is exact: no frame is under way any more, and none was forwarded.
func (r *hostile) send(a *attack, alone bool) {
	r.t.Helper()
	var arps int
	for _, f := range a.frames {
		if bytes.Equal(f[12:14], []byte{8, 6}) {
			arps++
		}
	}
	ip, arp := r.judged()
	r.inject(a.frames)
	r.Wait("privlink to judge the attack", 20*time.Second, func() error {
		ipNow, arpNow := r.judged()
		if ipNow-ip < len(a.frames)-arps || arpNow-arp < arps {
			return fmt.Errorf("%d of %d frames, %d of %d of ARP", ipNow-ip, len(a.frames)-arps, arpNow-arp, arps)
		}
		return nil
	})
	if now, _ := r.judged(); alone && now-ip != len(a.frames)-arps {
		r.t.Errorf("%d frames got a reason, %d were sent", now-ip, len(a.frames)-arps)
	}
}

// captures are on every interface of every network but the attacker's, at both ends.
func (r *hostile) captures() map[string]*lab.Capture {
	return map[string]*lab.Capture{
		"c2 eth0": r.consumers[1].Capture("eth0"), "gateway's c2": r.gw.Capture("c2"),
		"web eth0": r.backend.Capture("eth0"), "gateway's web": r.gw.Capture("web"), "gateway's lo": r.gw.Capture("lo"),
		"splice's eth0": r.inside.Capture("eth0"), "gateway's inner": r.gw.Capture("inner"),
	}
}

// others captures, and says what it has seen of the attacker's: frames, and its MAC, which nobody else's network knows.
func (r *hostile) others() func() (crossed []string) {
	captures, own := r.captures(), r.consumers[0].MAC("eth0")
	return func() (crossed []string) {
		for name, c := range captures {
			for _, p := range c.Stop() {
				if marked(p.Data) || bytes.Contains(p.Data, own) {
					crossed = append(crossed, fmt.Sprintf("%s: %x", name, p.Data[:min(len(p.Data), 64)]))
				}
			}
			if n := c.Overflow(); n > 0 {
				crossed = append(crossed, fmt.Sprintf("%s: %d frames were not kept", name, n))
			}
		}
		return crossed
	}
}

// Addresses that only the hostile tests have.
const (
	otherEndpoint = "10.0.1.77"
	proxiedIP     = "10.0.1.11" // the other consumer's endpoint of a proxied service
	backendIPv6   = "2001:db8::4"
	otherIPv6     = "2001:db8::2"
	innerIPv6     = "2001:db8::3"
)

// Addresses of the splice path: where it listens, whence it dials, and as whom consumers come to it.
var (
	listenIP = inner.Listen().Addr().String()
	dialIP   = inner.DialSource(0).String()
	sourceIP = inner.Sources()[0].String()
)

// hostile is a rig with a namespace in the place of the splice's, to which only the other consumer has a link.
type hostile struct {
	*rig
	inside *lab.Namespace
	out    *lab.Injector // of the attacker's machine
}

// hostileRig is a rig whose gateway forwards, as every container host does, and has routes that would lead across.
func hostileRig(t *testing.T, o rigOptions) *hostile {
	r := &hostile{rig: newRig(t, o)}
	r.inside = r.Namespace("inside")
	const mac = "02:00:00:00:00:01"
	r.Veth(r.gw, "inner", r.inside, "eth0", lab.VethOptions{
		A: lab.EndOptions{MAC: mac}, B: lab.EndOptions{MAC: mac, Addr: listenIP + "/10"},
	})
	r.run(r.inside, "ip", "link", "set", "eth0", "arp", "off")
	r.inner = dataplane.Inner{Network: "inner", Interface: "inner", Listen: inner.Listen(), Sources: inner.Sources()}
	proxied := r.state.RuleSets[0]
	proxied.Key, proxied.Sources = "proxied", []dataplane.Source{{Addr: proxied.Sources[0].Addr.Next().Next()}}
	proxied.Rules = []dataplane.Rule{{Key: "web", Protocol: dataplane.ProtocolTCP, Port: 80, IdleTCP: 300, IdleUDP: 300, Proxy: true, Targets: proxied.Rules[0].Targets}}
	r.state.RuleSets = append(r.state.RuleSets, proxied)
	r.state.Links = append(r.state.Links, dataplane.Link{Key: "proxied endpoint of c2", ID: firstLink + 9, Network: "c2",
		Addr: netip.MustParseAddr(proxiedIP), RuleSet: "proxied", State: dataplane.LinkApproved, Epoch: 1})

	r.gw.Sysctl("net.ipv4.ip_forward", "1")
	r.gw.Sysctl("net.ipv6.conf.all.disable_ipv6", "0")
	r.gw.Sysctl("net.ipv6.conf.all.forwarding", "1")
	for _, name := range []string{"c1", "c2", "web", "inner"} {
		r.gw.Sysctl("net.ipv4.conf."+name+".rp_filter", "0")
		r.gw.Sysctl("net.ipv6.conf."+name+".disable_ipv6", "0")
	}
	for _, route := range [][]string{{"10.0.0.0/24", "web"}, {otherEndpoint + "/32", "c2"}, {proxiedIP + "/32", "c2"}, {"10.0.1.4/32", "c2"}, {inner.Prefix().String(), "inner"},
		{backendIPv6 + "/128", "web"}, {otherIPv6 + "/128", "c2"}, {innerIPv6 + "/128", "inner"}} {
		r.run(r.gw, "ip", "route", "add", route[0], "dev", route[1])
	}
	for name, at := range map[string]*lab.Namespace{"web": r.backend, "c2": r.consumers[1], "inner": r.inside} {
		for _, address := range map[string][]string{
			"web": {backendIP, backendIPv6}, "c2": {clientIP, otherEndpoint, proxiedIP, otherIPv6}, "inner": {listenIP, dialIP, sourceIP, innerIPv6},
		}[name] {
			r.run(r.gw, "ip", "neigh", "replace", address, "lladdr", at.MAC("eth0").String(), "dev", name, "nud", "permanent")
		}
	}
	return r
}

func (r *rig) run(n *lab.Namespace, name string, args ...string) {
	r.t.Helper()
	if out, err := n.Run(r.t.Context(), name, args...); err != nil {
		r.t.Fatal(err, out)
	}
}

// Without privlink the same frames do cross, to every network and in both families: what the test below looks for can
// be found.
func TestHostile_WithoutPrivlink_TheHostForwardsAcross(t *testing.T) {
	r := hostileRig(t, rigOptions{consumers: 2})
	a := &attack{own: r.consumers[0].MAC("eth0"), gateway: r.gw.MAC("c1")}
	for _, dst := range []string{backendIP, otherEndpoint, proxiedIP, listenIP, dialIP, sourceIP} {
		a.all(a.eth(layers.EthernetTypeIPv4), "192.0.2.66", dst, 5555, 80)
	}
	a.ipv6()
	crossed := r.others()
	for _, to := range []struct {
		name      string
		at        *lab.Namespace
		addresses []string
	}{
		{"web", r.backend, []string{backendIP, backendIPv6}},
		{"c2", r.consumers[1], []string{otherEndpoint, proxiedIP, otherIPv6}},
		{"inner", r.inside, []string{listenIP, dialIP, sourceIP, innerIPv6}},
	} {
		seen := to.at.Capture("eth0")
		for _, address := range to.addresses {
			addr := netip.MustParseAddr(address).AsSlice()
			r.Wait("a frame to cross to "+address, 10*time.Second, func() error {
				if err := r.consumers[0].Inject("eth0", a.frames...); err != nil {
					return err
				}
				if seen.Count(func(p lab.Packet) bool { return marked(p.Data) && bytes.Contains(p.Data[14:54], addr) }) == 0 {
					return errEarly
				}
				return nil
			})
		}
	}
	all := strings.Join(crossed(), "\n")
	for _, name := range []string{"web eth0", "gateway's web", "c2 eth0", "gateway's c2", "splice's eth0", "gateway's inner"} {
		if !strings.Contains(all, name+": ") {
			t.Errorf("the capture of %s has not seen what crossed", name)
		}
	}
}

// A gateway that is a hub lets every frame of the attack through to every interface, and every capture recognizes each:
// whatever crosses in the test below is seen, by its marks alone.
func TestHostile_GatewayIsAHub_EveryCaptureSeesEveryFrame(t *testing.T) {
	r := hostileRig(t, rigOptions{consumers: 2})
	r.hub("c1", "c2", "web", "inner", "lo")
	a := r.build(40000, 1024)
	captures := r.captures()
	seen := func(name string) int { return captures[name].Count(func(p lab.Packet) bool { return marked(p.Data) }) }
	for i, kind := range a.kinds {
		frames := a.of(i)
		before := make(map[string]int)
		for name := range captures {
			before[name] = seen(name)
		}
		r.inject(frames)
		for name := range captures {
			r.Wait(kind.name+" in the capture of "+name, 10*time.Second, func() error {
				if n := seen(name) - before[name]; n < len(frames) {
					return fmt.Errorf("%d of %d", n, len(frames))
				}
				return nil
			})
		}
		t.Logf("%4d frames in each of %d captures: %s", len(frames), len(captures), kind.name)
	}
}

// hub lets whatever arrives at an interface of the gateway leave by all the others.
func (r *hostile) hub(from string, to ...string) {
	r.t.Helper()
	code := asm.Instructions{asm.Mov.Reg(asm.R6, asm.R1)}
	for _, name := range to {
		code = append(code, asm.Mov.Reg(asm.R1, asm.R6), asm.Mov.Imm(asm.R2, int32(r.gw.Link(name).Attrs().Index)),
			asm.Mov.Imm(asm.R3, 0), asm.FnCloneRedirect.Call())
	}
	const drop = 2
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "hub", Type: ebpf.SchedCLS, License: "GPL", Instructions: append(code, asm.Mov.Imm(asm.R0, drop), asm.Return())})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { p.Close() })
	err = r.gw.Do(func() error {
		l, err := link.AttachTCX(link.TCXOptions{Interface: r.gw.Link(from).Attrs().Index, Program: p, Attach: ebpf.AttachTCXIngress})
		if err == nil {
			r.t.Cleanup(func() { l.Close() })
		}
		return err
	})
	if err != nil {
		r.t.Fatal(err)
	}
}

// proxied opens a connection of the other consumer's to the splice path; what it returns fails unless it still stands.
func (r *hostile) proxied() (check func()) {
	r.t.Helper()
	l, err := r.inside.Listen("tcp4", inner.Listen().String())
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { l.Close() })
	go accept(l, func(c net.Conn) { _, _ = io.Copy(c, c) })
	c, err := r.consumers[1].Dial(r.t.Context(), "tcp4", "", proxiedIP+":80")
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	check = func() {
		r.t.Helper()
		b := []byte("decent")
		err := c.SetDeadline(time.Now().Add(20 * time.Second))
		if err == nil {
			_, err = c.Write(b)
		}
		if err == nil {
			_, err = io.ReadFull(c, b)
		}
		if err != nil || string(b) != "decent" {
			r.t.Errorf("the other consumer's proxied connection: %q, %v", b, err)
		}
	}
	check()
	return check
}

func TestHostile_EveryFrame_NothingCrossesAndNobodyIsHurt(t *testing.T) {
	for name, o := range hooks {
		for _, state := range []dataplane.LinkState{dataplane.LinkRejected, dataplane.LinkPending, dataplane.LinkApproved} {
			t.Run(fmt.Sprint(name, " state ", state), func(t *testing.T) {
				r := hostileRig(t, o)
				r.state.Links[0].State = state
				if state == dataplane.LinkApproved {
					// Approved for one port that none of the frames asks its own endpoint for.
					r.state.RuleSets = append(r.state.RuleSets, r.state.RuleSets[0])
					own := r.state.RuleSets[0]
					own.Key, own.Sources = "own", []dataplane.Source{{Addr: r.state.RuleSets[0].Sources[0].Addr.Next()}}
					own.Rules = append([]dataplane.Rule(nil), own.Rules...)
					own.Rules[0].Key, own.Rules[0].Protocol, own.Rules[0].Port = "one", dataplane.ProtocolTCP, 1
					r.state.RuleSets[len(r.state.RuleSets)-1] = own
					r.state.Links[0].RuleSet = "own"
				}
				r.open()
				// Only the other consumer has decent traffic.
				c, err := load.Start(context.Background(), r.consumers[1], endpointIP, load.Options{Bulk: -1})
				if err != nil {
					t.Fatal(err)
				}
				r.clients = []*load.Client{c}
				r.more(3)
				proxied := r.proxied()
				flow := r.victim("c2")
				a := r.build(flow.Client.Port(), flow.NAT.Port())
				crossed := r.others()
				r.send(a, false)
				r.more(5)
				proxied()
				report := r.wantNothingLost()
				r.send(a, true) // once more, with nobody else's frames to be counted
				t.Logf("%d hostile frames, twice", len(a.frames))
				for i, c := range crossed() {
					if i < 10 {
						t.Errorf("crossed: %s", c)
					}
				}
				if report.Packets == 0 {
					t.Error("the other consumer sent nothing")
				}
			})
		}
	}
}

// One consumer floods with new flows until its quota refuses them; what others open and have goes on.
func TestHostile_Flood_EndsAtItsOwnQuota(t *testing.T) {
	for name, o := range hooks {
		t.Run(name, func(t *testing.T) {
			o.pairs = 1 << 12
			r := newRig(t, o)
			r.open()
			c, err := load.Start(context.Background(), r.consumers[1], endpointIP, load.Options{Bulk: -1})
			if err != nil {
				t.Fatal(err)
			}
			r.clients = []*load.Client{c}
			r.more(3)
			vm := r.consumers[0]
			var frames [][]byte
			for i := range 6 * 1024 {
				a := &attack{own: vm.MAC("eth0"), gateway: r.gw.MAC("c1")}
				ip := ipv4(clientIP, endpointIP, layers.IPProtocolTCP)
				tcp := &layers.TCP{SrcPort: layers.TCPPort(1024 + i), DstPort: load.PortEcho, SYN: true, Seq: 1, Window: 1000}
				_ = tcp.SetNetworkLayerForChecksum(ip)
				frames = append(frames, a.add(a.eth(layers.EthernetTypeIPv4), ip, tcp))
			}
			refused := func() uint64 {
				stats, err := r.d.ReasonStats()
				if err != nil {
					t.Fatal(err)
				}
				for _, s := range stats {
					if s.Label == "quota" {
						return s.Packets
					}
				}
				t.Fatal("no reason is called quota")
				return 0
			}
			r.Wait("the quota to refuse", 30*time.Second, func() error {
				if err := vm.Inject("eth0", frames...); err != nil {
					return err
				}
				if n := refused(); n < 1000 {
					return fmt.Errorf("%d refused", n)
				}
				return nil
			})
			r.more(10)
			r.wantNothingLost()
		})
	}
}
