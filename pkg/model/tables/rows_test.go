package tables

import (
	"testing"

	"github.com/gopacket/gopacket/layers"

	"github.com/privlink/privlink/pkg/model"
)

// phase checks the phase of the only live pair, in both halves.
func phase(want model.Phase) func(*bench) {
	return func(b *bench) {
		halves := 0
		for _, s := range b.m.Table.Slots {
			if s.State == model.SlotLive && s.Key.Kind == model.KindFlow {
				halves++
				if got := model.Phase(s.RW.Flags & 7); got != want {
					b.Errorf("a half is in phase %d, want %d", got, want)
				}
			}
		}
		if halves != 2 {
			b.Errorf("%d live halves, want 2", halves)
		}
	}
}

// none checks that nothing is left: entries, pairs, ports.
func none(b *bench) {
	for n, s := range b.m.Table.Slots {
		if s.State != model.SlotFree {
			b.Errorf("slot %d is not free: %+v", n, s)
		}
	}
	if b.m.Pairs != 0 || b.m.Fragments != 0 {
		b.Errorf("%d pairs and %d datagrams are left", b.m.Pairs, b.m.Fragments)
	}
	for k, d := range b.m.PortDomains {
		if d.Used != 0 || d.Resting != 0 {
			b.Errorf("domain %+v: %d ports used, %d resting", k, d.Used, d.Resting)
		}
	}
}

// second is what asked() becomes on the port after the first.
func second(p packet) packet {
	return p.with(func(p *packet) {
		if p.tcp != nil {
			tcp := *p.tcp
			tcp.SrcPort = nextNATPort
			p.tcp = &tcp
		} else {
			udp := *p.udp
			udp.SrcPort = nextNATPort
			p.udp = &udp
		}
	})
}

func sweep(after uint32) step { return step{after: after, sweep: true} }

// lifeRows are the lives of pairs: phases, idle, endings.
func lifeRows(*testing.T) []row {
	return []row{
		{"a connection: SYN, SYN-ACK, ACK", "track flowtable core", opened(), phase(model.PhaseOpen)},
		{"half-open for 20 s, then gone", "track", steps(
			forwards("consumer", asked("S"), "provider", seen("S")), later(20), forwards("provider", replied("SA"), "consumer", got("SA")),
			later(21), drops("provider", replied("S"), model.NATNoFlow), sweep(0), sweep(15)), none},
		{"a SYN sent again finds its flow", "open", steps(
			forwards("consumer", asked("S"), "provider", seen("S")), later(3), forwards("consumer", asked("S"), "provider", seen("S"))), phase(model.PhaseSYN)},
		{"simultaneous open", "track", steps(
			forwards("consumer", asked("S"), "provider", seen("S")), forwards("provider", replied("S"), "consumer", got("S")),
			forwards("consumer", asked("SA"), "provider", seen("SA"))), phase(model.PhaseOpen)},
		{"FIN both ways: closing, gone after 15 s, its port after 15 more", "track sweep ports", steps(
			opened(), forwards("consumer", asked("FA"), "provider", seen("FA")), forwards("provider", replied("FA"), "consumer", got("FA")),
			forwards("consumer", asked("A"), "provider", seen("A")), later(16), answers("consumer", asked("A"), model.NoFlow, reset(asked("A"))),
			sweep(0), sweep(14), sweep(1)), none},
		{"half-close stays", "track", steps(
			opened(), forwards("consumer", asked("FA"), "provider", seen("FA")), later(200), forwards("provider", replied("A"), "consumer", got("A")),
			later(200), forwards("provider", replied("A"), "consumer", got("A"))), phase(model.PhaseOpen)},
		{"a SYN on a closing pair opens a new one on another port", "open track", steps(
			opened(), forwards("consumer", asked("FA"), "provider", seen("FA")), forwards("provider", replied("FA"), "consumer", got("FA")),
			forwards("consumer", asked("S"), "provider", second(seen("S")))), phase(model.PhaseSYN)},
		{"RST: gone after 10 s", "track", steps(
			opened(), forwards("consumer", asked("R"), "provider", seen("R")), later(11), drops("provider", replied("S"), model.NATNoFlow)), phase(model.PhaseReset)},
		{"a RST that was not believed: the next segment takes it back", "track", steps(
			opened(), forwards("consumer", asked("R"), "provider", seen("R")), later(9), forwards("provider", replied("A"), "consumer", got("A")),
			later(200), forwards("provider", replied("A"), "consumer", got("A"))), phase(model.PhaseOpen)},
		{"idle: works after 299 s and 300 s, gone after 301", "track clock", steps(
			opened(), later(299), forwards("consumer", asked("A"), "provider", seen("A")), later(300), forwards("consumer", asked("A"), "provider", seen("A")),
			later(301), answers("consumer", asked("A"), model.NoFlow, reset(asked("A")))), nil},
		{"UDP idle: works after 299 s and 300 s, gone after 301", "track clock", steps(
			forwards("consumer", query(), "provider", queried()), later(299), forwards("provider", answer(), "consumer", answered()),
			later(300), forwards("consumer", query(), "provider", queried()), later(301), drops("provider", answer(), model.NATNoFlow),
			forwards("consumer", query(), "provider", second(queried()))), nil},
		{"replies only from the peer: nobody else reaches a NAT port in use", "admit core", steps(
			opened(), forwards("consumer", query(), "provider", queried()),
			strangers(answer()), strangers(replied("S")), strangers(replied("SA")), strangers(replied("A")),
			forwards("provider", answer(), "consumer", answered()), forwards("provider", replied("A"), "consumer", got("A"))), nil},
		{"idle is a matter of both directions", "track", steps(
			forwards("consumer", query(), "provider", queried()), later(250), forwards("consumer", query(), "provider", queried()),
			later(250), forwards("provider", answer(), "consumer", answered()), later(301), drops("provider", answer(), model.NATNoFlow),
			forwards("consumer", query(), "provider", second(queried()))), nil},
		{"RST to both at idle expiry where asked for", "sweep", steps(
			changes(func(b *bench) { b.c.Backends[backendWeb].TCPReset = true }), opened(), sweep(301),
			answers("provider", replied("A"), model.Ended, reset(replied("A"))), drops("provider", replied("R"), model.Ended),
			answers("consumer", asked("A"), model.Ended, reset(asked("A"))), drops("consumer", asked("R"), model.Ended),
			answers("consumer", asked("A"), model.NoFlow, reset(asked("A"))), sweep(2), sweep(15)), none},
		{"backend removed: TCP a RST, UDP chosen anew", "core", steps(
			opened(), forwards("consumer", query(), "provider", queried()),
			changes(func(b *bench) { b.c.Backends[backendWeb].Gen, b.c.Backends[backendDNS].Gen = 2, 2 }),
			answers("consumer", asked("A"), model.Ended, reset(asked("A"))),
			forwards("consumer", query(), "provider", second(queried()))), nil},
		{"backend down: TCP stays, UDP elsewhere", "core", steps(
			opened(), forwards("consumer", query(), "provider", queried()),
			changes(func(b *bench) {
				other := *b.c.Backends[backendDNS]
				other.Addr, b.c.Backends[backendDNS].State = addr(10, 0, 2, 5), model.BackendDown
				b.c.Backends[7], b.c.Places[ruleDNS] = &other, []uint32{7}
				b.c.Backends[backendWeb].State = model.BackendDown
			}),
			forwards("consumer", asked("A"), "provider", seen("A")),
			forwards("consumer", query(), "provider", queried().with(func(p *packet) { p.dst = addr(10, 0, 2, 5) }))), nil},
		{"an orphan of the inner workings: a reverse half without its forward half", "sweep", steps(
			forwards("consumer", asked("S"), "provider", seen("S")), step{change: func(b *bench) { b.forget() }}, sweep(6), sweep(15)), none},
	}
}

// strangers send what the peer of a flow could: from another address, from another port, with the other protocol,
// to another NAT IP.
func strangers(p packet) []step {
	var all []step
	for _, change := range []func(*packet){
		func(p *packet) { p.src = addr(10, 0, 2, 5) },
		func(p *packet) {
			if p.tcp != nil {
				p.tcp.SrcPort++
			} else {
				p.udp.SrcPort++
			}
		},
		func(p *packet) {
			if p.tcp != nil {
				p.udp, p.tcp = &layers.UDP{SrcPort: layers.UDPPort(p.tcp.SrcPort), DstPort: layers.UDPPort(p.tcp.DstPort)}, nil
			} else {
				p.tcp, p.udp = segment(uint16(p.udp.SrcPort), uint16(p.udp.DstPort), "S", 1, 0), nil
			}
		},
		func(p *packet) { p.dst = natIP2 },
	} {
		if other := p.with(func(p *packet) { own(p); change(p) }); other.tcp != nil && other.tcp.ACK {
			all = append(all, answers("provider", other, model.NATNoFlow, reset(other)))
		} else {
			all = append(all, drops("provider", other, model.NATNoFlow))
		}
	}
	return all
}

// own gives a packet an L4 header of its own.
func own(p *packet) {
	if p.tcp != nil {
		tcp := *p.tcp
		p.tcp = &tcp
	}
	if p.udp != nil {
		udp := *p.udp
		p.udp = &udp
	}
}

// forget takes the forward half of the only pair away, as if it had never been inserted.
func (b *bench) forget() {
	for n := range b.m.Table.Slots {
		s := &b.m.Table.Slots[n]
		if s.State == model.SlotLive && s.RW.Flags&model.FlagReverse == 0 {
			b.m.Table.Slots[n-int(s.Distance)].Homes &^= 1 << s.Distance
			s.State, s.Distance = model.SlotFree, 0
			for _, p := range b.sides {
				p.PutSlot(uint32(n), s)
			}
		}
	}
}

// oursRows are about what is privlink's and what is not.
func oursRows(*testing.T) []row {
	ask := func(op uint16, sender, target model.IP, dst model.MAC) packet {
		return packet{from: clientMAC, to: dst, arp: &layers.ARP{
			AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4, Operation: op,
			SourceHwAddress: clientMAC[:], SourceProtAddress: ipOf(sender), DstHwAddress: make([]byte, 6), DstProtAddress: ipOf(target),
		}}
	}
	reply := func(target model.IP) *packet {
		return &packet{from: ports[0].mac, to: clientMAC, arp: &layers.ARP{
			AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4, Operation: 2,
			SourceHwAddress: ports[0].mac[:], SourceProtAddress: ipOf(target), DstHwAddress: clientMAC[:], DstProtAddress: ipOf(client),
		}}
	}
	everybody := model.MAC{255, 255, 255, 255, 255, 255}
	// the same frames where others are left to the host
	other := func(p packet) packet { return p.with(func(p *packet) { p.to = ports[4].mac }) }
	kinds := []struct {
		name   string
		p      packet
		reason model.Reason
	}{
		{"another MAC", asked("S").with(func(p *packet) { p.to = model.MAC{2, 9, 9, 9, 9, 9} }), model.OtherMAC},
		{"IPv6", asked("S").with(func(p *packet) { p.ethertype, p.payload = layers.EthernetTypeIPv6, make([]byte, 40) }), model.OtherIPv6},
		{"another ethertype", asked("S").with(func(p *packet) { p.ethertype, p.payload = layers.EthernetTypeLinkLayerDiscovery, make([]byte, 40) }), model.OtherEthertype},
		{"another address", to(asked("S"), addr(10, 0, 1, 99)), model.OtherIPv4},
		{"other protocols to another address", packet{from: clientMAC, to: ports[0].mac, src: client, dst: addr(8, 8, 8, 8), ttl: 9, proto: 47, payload: make([]byte, 20)}, model.OtherIPv4},
		{"echo to another address", packet{from: clientMAC, to: ports[0].mac, src: client, dst: addr(8, 8, 8, 8), ttl: 9, icmp: &layers.ICMPv4{TypeCode: 8 << 8}}, model.OtherIPv4},
		{"a later fragment to another address", to(query(), addr(8, 8, 8, 8)).with(func(p *packet) { p.offset = 100 }), model.OtherIPv4},
		{"multicast", to(query(), addr(224, 0, 0, 251)).with(func(p *packet) { p.to = model.MAC{1, 0, 0x5e, 0, 0, 0xfb} }), model.Multicast},
		{"broadcast", to(query(), addr(255, 255, 255, 255)).with(func(p *packet) { p.to = everybody }), model.Multicast},
		{"a unicast packet in a broadcast frame", query().with(func(p *packet) { p.to = everybody }), model.Multicast},
		{"a tag in the tag", asked("S").with(func(p *packet) { p.ethertype, p.payload = layers.EthernetTypeDot1Q, make([]byte, 40) }), model.NoAttachment},
		{"ARP for others", ask(1, client, addr(10, 0, 1, 99), everybody), model.OtherARP},
		{"ARP reply", ask(2, client, endpoint, everybody), model.OtherARP},
		{"announcement of our address", ask(1, endpoint, endpoint, everybody), model.OtherARP},
		{"half an ARP packet", ask(1, client, endpoint, everybody).with(func(p *packet) { p.edit = func(b []byte) []byte { return b[:36] } }), model.Short},
		{"IP version 5", asked("S").with(func(p *packet) { p.edit = func(b []byte) []byte { b[14] = 0x55; return b } }), model.BadHeader},
		{"header length 4", asked("S").with(func(p *packet) { p.edit = func(b []byte) []byte { b[14] = 0x44; return b } }), model.BadHeader},
		{"total length beyond the frame", asked("S").with(func(p *packet) { p.edit = func(b []byte) []byte { b[16] = 9; return b } }), model.BadHeader},
		{"total length within the header", asked("S").with(func(p *packet) { p.edit = func(b []byte) []byte { b[17] = 19; return b } }), model.BadHeader},
	}
	rows := []row{
		{"ARP for endpoint and gateway is answered", "arp address", steps(
			answers("consumer", ask(1, client, endpoint, everybody), model.ARPReply, reply(endpoint)),
			answers("consumer", ask(1, client, gateway, ports[0].mac), model.ARPReply, reply(gateway)),
			answers("consumer", ask(1, client, pending, everybody), model.ARPReply, reply(pending))), nil},
		{"a frame of a VLAN that nobody attached", "core", steps(step{
			on: "consumer", send: asked("S"), vlan: 9, action: model.ActionDrop, reason: model.NoAttachment,
		}, step{on: "other", send: other(asked("S")), vlan: 9, action: model.ActionPass, reason: model.NoAttachment, want: ptr(other(asked("S")))}), nil},
	}
	for _, k := range kinds {
		all := steps(drops("consumer", k.p, k.reason))
		// Frames for the client's attachment are for another MAC on the other.
		p := k.p
		if p.to == ports[0].mac {
			p = other(p)
		}
		all = append(all, passes(p, k.reason))
		rows = append(rows, row{"not ours: " + k.name, "parse core", all, nil})
	}
	return rows
}

func ptr[T any](v T) *T { return &v }

// limitRows are packets that never cross, to addresses that are ours.
func limitRows(*testing.T) []row {
	edit := func(p packet, at int, v byte) packet {
		return p.with(func(p *packet) { p.edit = func(b []byte) []byte { b[at] = v; return b } })
	}
	other := func(proto layers.IPProtocol, dst model.IP) packet {
		return packet{from: clientMAC, to: ports[0].mac, src: client, dst: dst, ttl: 64, proto: proto, payload: make([]byte, 24)}
	}
	from := func(src model.IP) packet { return asked("S").with(func(p *packet) { p.src = src }) }
	var protocols []row
	for _, proto := range []struct {
		name   string
		number layers.IPProtocol
		reason model.Reason
	}{
		{"SCTP", layers.IPProtocolSCTP, model.SCTP}, {"GRE", layers.IPProtocolGRE, model.GRE}, {"ESP", layers.IPProtocolESP, model.ESP},
		{"AH", layers.IPProtocolAH, model.AH}, {"IGMP", layers.IPProtocolIGMP, model.IGMP}, {"IP in IP", layers.IPProtocolIPIP, model.Protocol},
		{"IPv6 in IP", layers.IPProtocolIPv6, model.Protocol}, {"UDP Lite", layers.IPProtocolUDPLite, model.Protocol},
		{"protocol 0", 0, model.Protocol}, {"protocol 255", 255, model.Protocol},
	} {
		var steps []step
		for _, dst := range []model.IP{endpoint, pending} {
			p := other(proto.number, dst)
			steps = append(steps, drops("consumer", p, proto.reason))
			p.more = true
			steps = append(steps, drops("consumer", p, proto.reason))
			p.more, p.offset = false, 3
			steps = append(steps, drops("consumer", p, proto.reason))
		}
		steps = append(steps, drops("consumer", other(proto.number, addr(10, 0, 1, 77)), model.OtherIPv4))
		for _, dst := range []model.IP{natIP, frontend} {
			p := other(proto.number, dst)
			p.from, p.to = backendMAC, ports[1].mac
			steps = append(steps, drops("provider", p, proto.reason))
		}
		protocols = append(protocols, row{proto.name + " to an endpoint, a NAT IP or a frontend", "core", steps, nil})
	}
	var martians []step
	for _, src := range []model.IP{0, addr(127, 0, 0, 1), addr(224, 0, 0, 1), addr(240, 0, 0, 1), addr(255, 255, 255, 255), endpoint} {
		martians = append(martians, drops("consumer", from(src), model.Martian))
	}
	return append(protocols, []row{
		{"martian sources and land", "parse admit", martians, nil},
		{"bad TCP and UDP headers", "parse", steps(
			drops("consumer", edit(asked("S"), 46, 4<<4), model.BadL4), drops("consumer", edit(asked("S"), 46, 15<<4), model.BadL4),
			drops("consumer", toPort(asked("S"), 0), model.BadL4), drops("consumer", toPort(query(), 0), model.BadL4),
			drops("consumer", edit(query(), 39, 7), model.BadL4), drops("consumer", edit(query(), 39, 200), model.BadL4),
			drops("consumer", asked("S").with(func(p *packet) { p.edit = func(b []byte) []byte { b[17] = 39; return b } }), model.BadL4),
			drops("consumer", query().with(func(p *packet) { p.edit = func(b []byte) []byte { b[17] = 27; return b } }), model.BadL4)), nil},
	}...)
}
