package tables

import (
	"bytes"
	"testing"

	"github.com/gopacket/gopacket/layers"

	"github.com/privlink/privlink/pkg/model"
)

// forwardRows are about how a packet looks on the other side, and whether it gets there.
func forwardRows(t *testing.T) []row {

	options := func(p packet) packet { return p.with(func(p *packet) { p.options = forwardOptions }) }
	carrying := func(p packet, n int) packet {
		return p.with(func(p *packet) { p.payload = bytes.Repeat([]byte{0xa5}, n) })
	}
	bare := func(p packet) packet { return p.with(func(p *packet) { p.noChecksum = true }) }
	ttl := func(p packet, ttl uint8) packet { return p.with(func(p *packet) { p.ttl = ttl }) }
	df := func(p packet) packet { return p.with(func(p *packet) { p.df = true }) }
	padded := func(p packet) packet {
		return p.with(func(p *packet) { p.edit = func(b []byte) []byte { return append(b, 1, 2, 3, 4, 5, 6) } })
	}
	small := func(b *bench) {
		b.c.Outputs[1].MTU, b.c.Outputs[2].MTU = 576, 576
	}
	tagged := func(p packet) packet {
		return to(p, peered).with(func(p *packet) { p.to = ports[2].mac })
	}
	backToTagged := got("SA").with(func(p *packet) { p.from, p.src = ports[2].mac, peered })
	mac2 := model.MAC{2, 0, 0, 0, 0, 99}
	moved := func(p packet) packet { return p.with(func(p *packet) { p.from = mac2 }) }
	opensFrom := func(port uint16, nat model.IP, natPort uint16) step {
		syn := func(p packet, from, to uint16) packet {
			return p.with(func(p *packet) { p.tcp = segment(from, to, "S", 1000, 2000) })
		}
		return forwards("consumer", syn(asked("S"), port, 80), "provider", syn(seen("S").with(func(p *packet) { p.src = nat }), natPort, 8080))
	}
	return []row{
		{"payload both ways", "rewrite checksum", steps(opened(),
			forwards("consumer", carrying(asked("A"), 501), "provider", carrying(seen("A"), 501)),
			forwards("provider", carrying(replied("A"), 1460), "consumer", carrying(got("A"), 1460))), func(b *bench) {
			b.wantStats(linkApproved, model.LinkStats{PacketsIn: 3, BytesIn: 40 + 40 + 541, PacketsOut: 2, BytesOut: 40 + 1500, Opened: 1})
		}},
		{"UDP checksum 0 stays 0", "rewrite checksum", steps(
			forwards("consumer", bare(query()), "provider", bare(queried())), forwards("provider", bare(answer()), "consumer", bare(answered()))), nil},
		{"IP options go along", "rewrite parse", steps(
			forwards("consumer", options(asked("S")), "provider", options(seen("S"))), forwards("consumer", options(query()), "provider", options(queried()))), nil},
		{"bytes behind the packet stay", "rewrite", steps(forwards("consumer", padded(asked("S")), "provider", padded(seen("S")))), nil},
		{"VLAN: in with a tag, out without, and back", "rewrite core", steps(
			forwards("tagged", tagged(asked("S")), "provider", seen("S")), forwards("provider", replied("SA"), "tagged", backToTagged)), nil},
		{"TTL at its end: time exceeded from the address written to", "path answer", steps(
			answers("consumer", ttl(asked("S"), 1), model.TTL, complaint(t, ttl(asked("S"), 1), 11, 0, 0)),
			answers("consumer", ttl(query(), 0), model.TTL, complaint(t, ttl(query(), 0), 11, 0, 0)),
			opened(), answers("provider", ttl(replied("A"), 1), model.TTL, complaint(t, ttl(replied("A"), 1), 11, 0, 0))), nil},
		{"larger than the MTU: fragmentation needed, DF or not", "path answer", steps(
			changes(small), opened(),
			answers("consumer", df(carrying(asked("A"), 600)), model.TooBig, complaint(t, df(carrying(asked("A"), 600)), 3, 4, 576)),
			answers("consumer", carrying(query(), 600), model.TooBigMayFragment, complaint(t, carrying(query(), 600), 3, 4, 576)),
			answers("provider", df(options(carrying(replied("A"), 533))), model.TooBig, complaint(t, df(options(carrying(replied("A"), 533))), 3, 4, 576)),
			forwards("consumer", df(carrying(asked("A"), 536)), "provider", df(carrying(seen("A"), 536)))), nil},
		{"a GSO packet is as large as its segments, and counts as many", "parse path tables", steps(
			changes(small), opened(), step{
				on: "consumer", send: carrying(asked("A"), 1460), gso: model.GSO{Size: 536, Segments: 3},
				action: model.ActionRedirect, out: "provider", want: ptr(carrying(seen("A"), 1460)),
			}, step{
				on: "consumer", send: carrying(asked("A"), 1460), gso: model.GSO{Size: 537, Segments: 3},
				action: model.ActionAnswer, reason: model.TooBigMayFragment, out: "consumer", want: complaint(t, carrying(asked("A"), 1460), 3, 4, 576),
			}), func(b *bench) {
			b.wantStats(linkApproved, model.LinkStats{PacketsIn: 2 + 3, BytesIn: 80 + 1460 + 3*40, PacketsOut: 1, BytesOut: 40, Opened: 1, Dropped: 1})
		}},
		{"more ICMP than allowed: nothing, counted", "tables answer", steps(
			changes(func(b *bench) { b.useTokens(0, model.ICMPPerSecond) }), drops("consumer", ttl(query(), 1), model.TTL)), nil},
		{"the output is gone", "path", steps(
			opened(), changes(func(b *bench) { b.c.Outputs[2].Index, b.c.Outputs[1].Index = 0, 0 }),
			drops("consumer", asked("A"), model.NoOutput), drops("provider", replied("A"), model.NoOutput), drops("consumer", query(), model.NoOutput)), nil},
		{"a client that moves gets its replies there", "core", steps(
			opened(), forwards("consumer", moved(asked("A")), "provider", seen("A")),
			forwards("provider", replied("A"), "consumer", got("A").with(func(p *packet) { p.to = mac2 }))), nil},
		{"a backend that moves gets its packets there", "path", steps(
			opened(), changes(func(b *bench) { b.c.Backends[backendWeb].MAC = mac2 }),
			forwards("consumer", asked("A"), "provider", seen("A").with(func(p *packet) { p.to = mac2 }))), nil},
		{"NAT IPs in order: the next when the first is half full, the first when all are", "ports open recent", steps(
			changes(func(b *bench) {
				b.c.NATSets[1] = &model.NATSet{VNet: providerNet, Addrs: []model.IP{natIP, natIP2}}
				fill(b, natIP, 8080, model.TCP, model.PortCount/2, 0)
			}),
			forwards("consumer", asked("S"), "provider", seen("S").with(func(p *packet) { p.src = natIP2 })),
			changes(func(b *bench) {
				fill(b, natIP, 8080, model.TCP, 1, 0)
				fill(b, natIP2, 8080, model.TCP, 1, 0)
			}),
			forwards("consumer", asked("S").with(func(p *packet) { p.tcp = segment(5001, 80, "S", 1000, 2000) }), "provider",
				seen("S").with(func(p *packet) { p.tcp = segment(65535, 8080, "S", 1000, 2000) }))), nil},
		{"a NAT IP that drains to less than half takes flows again", "ports open recent", steps(
			changes(func(b *bench) {
				b.c.NATSets[1] = &model.NATSet{VNet: providerNet, Addrs: []model.IP{natIP, natIP2}}
				fill(b, natIP, 8080, model.TCP, model.PortCount/2+1, 0)
			}),
			opensFrom(5000, natIP, model.FirstPort+model.PortCount/2-1),
			opensFrom(5001, natIP2, firstNATPort), opensFrom(5002, natIP2, firstNATPort+64),
			sweep(21), sweep(16),
			opensFrom(5003, natIP, model.FirstPort+model.PortCount/2)), nil},
		{"one NAT port serves two ports of a backend and two backends at once", "ports open", steps(
			changes(func(b *bench) {
				for i, to := range []model.Backend{*newBackend(8081), *newBackend(8080)} {
					slot, port := uint32(20+i), uint16(81+i)
					to.Addr += model.IP(i) // 10.0.2.4:8081 and 10.0.2.5:8080
					b.c.Backends[slot], b.c.Rules[slot], b.c.Places[slot] = &to, &model.Rule{NAT: 1, BackendPort: to.Port}, []uint32{slot}
					b.c.RuleIndex[model.RuleKey{Service: 1, Port: port, Proto: model.TCP}] = slot
				}
			}),
			opened(),
			forwards("consumer", toPort(asked("S"), 81), "provider", toPort(seen("S"), 8081)),
			forwards("consumer", toPort(asked("S"), 82), "provider", to(seen("S"), backend+1)),
			forwards("provider", fromPort(replied("SA"), 8081), "consumer", fromPort(got("SA"), 81)),
			forwards("provider", replied("SA").with(func(p *packet) { p.src++ }), "consumer", fromPort(got("SA"), 82)),
			forwards("provider", replied("A"), "consumer", got("A"))), nil},
		{"a quota of one", "open", steps(
			changes(func(b *bench) { b.c.Links[linkApproved].MaxFlows = 1 }), opened(), drops("consumer", query(), model.Quota)), func(b *bench) {
			b.wantStats(linkApproved, model.LinkStats{PacketsIn: 2, BytesIn: 80, PacketsOut: 1, BytesOut: 40, Opened: 1, Refused: 1, Dropped: 1})
		}},
	}
}

// icmpRows are ICMP errors of flows and echo.
func icmpRows(t *testing.T) []row {
	router, consumerRouter := addr(10, 0, 2, 254), addr(10, 0, 1, 254)
	toNAT := func(saw packet, from model.IP, typ, code uint8, mtu uint16, quoted int) packet {
		return about(t, from, backendMAC, ports[1].mac, saw, typ, code, mtu, quoted)
	}
	// what the client gets: from the endpoint, about the packet as it sent it (the TTL quoted is the one seen)
	toClient := func(sent packet, typ, code uint8, mtu uint16, quoted int) packet {
		sent.ttl = 63
		p := about(t, endpoint, ports[0].mac, clientMAC, sent, typ, code, mtu, quoted)
		p.ttl = 63
		return p
	}
	toBackend := func(sent packet, typ, code uint8, mtu uint16, quoted int) packet {
		sent.ttl = 63
		p := about(t, natIP, ports[1].mac, backendMAC, sent, typ, code, mtu, quoted)
		p.ttl = 63
		return p
	}
	fromConsumer := func(saw packet, from model.IP, typ, code uint8, mtu uint16, quoted int) packet {
		return about(t, from, clientMAC, ports[0].mac, saw, typ, code, mtu, quoted)
	}
	echo := func(dst model.IP) packet {
		return packet{from: clientMAC, to: ports[0].mac, src: client, dst: dst, ttl: 7, id: 5, icmp: &layers.ICMPv4{TypeCode: 8 << 8, Id: 3, Seq: 4}, payload: []byte("hello")}
	}
	echoed := packet{from: ports[0].mac, to: clientMAC, src: endpoint, dst: client, ttl: 64, id: 5, icmp: &layers.ICMPv4{Id: 3, Seq: 4}, payload: []byte("hello")}
	cut := func(p packet, n int) packet {
		return p.with(func(p *packet) { p.payload = p.payload[:n] })
	}
	return []row{
		{"errors from the provider's side, from 8 quoted bytes and more", "icmp checksum", steps(
			opened(),
			forwards("provider", toNAT(seen("A"), backend, 3, 3, 0, 8), "consumer", toClient(asked("A"), 3, 3, 0, 8)),
			forwards("provider", toNAT(seen("A"), router, 3, 4, 1280, 20), "consumer", toClient(asked("A"), 3, 4, 1280, 20)),
			forwards("provider", toNAT(seen("A"), router, 11, 0, 0, 16), "consumer", toClient(asked("A"), 11, 0, 0, 16)),
			forwards("consumer", query(), "provider", queried()),
			forwards("provider", toNAT(queried(), router, 12, 0, 0, 8), "consumer", toClient(query(), 12, 0, 0, 8)),
			forwards("provider", toNAT(queried(), backend, 3, 3, 0, 17), "consumer", toClient(query(), 3, 3, 0, 17))), nil},
		{"errors from the consumer's side, from 8 quoted bytes and more", "icmp", steps(
			opened(), forwards("consumer", fromConsumer(got("A"), client, 3, 3, 0, 8), "provider", toBackend(replied("A"), 3, 3, 0, 8)),
			forwards("consumer", fromConsumer(got("A"), consumerRouter, 3, 4, 1000, 20), "provider", toBackend(replied("A"), 3, 4, 1000, 20)),
			forwards("consumer", fromConsumer(got("A"), consumerRouter, 11, 0, 0, 16), "provider", toBackend(replied("A"), 11, 0, 0, 16)),
			forwards("consumer", fromConsumer(got("A"), client, 12, 0, 0, 8), "provider", toBackend(replied("A"), 12, 0, 0, 8)),
			forwards("consumer", query(), "provider", queried()),
			forwards("provider", answer(), "consumer", answered()),
			forwards("consumer", fromConsumer(answered(), client, 11, 1, 0, 14), "provider", toBackend(answer(), 11, 1, 0, 14)),
			forwards("consumer", fromConsumer(answered(), consumerRouter, 12, 0, 0, 8), "provider", toBackend(answer(), 12, 0, 0, 8)),
			forwards("consumer", fromConsumer(answered(), client, 3, 3, 0, 14), "provider", toBackend(answer(), 3, 3, 0, 14))), nil},
		{"errors neither refresh nor end a flow", "icmp", steps(
			opened(), later(299), forwards("provider", toNAT(seen("A"), backend, 3, 1, 0, 8), "consumer", toClient(asked("A"), 3, 1, 0, 8)),
			later(2), drops("provider", toNAT(seen("A"), backend, 3, 1, 0, 8), model.ICMPNoFlow)), nil},
		{"errors about no flow, about another's packet, or too short", "icmp", steps(
			drops("provider", toNAT(seen("A"), backend, 3, 3, 0, 8), model.ICMPNoFlow), opened(),
			drops("provider", toNAT(seen("A").with(func(p *packet) { p.src = natIP2 }), backend, 3, 3, 0, 8).with(func(p *packet) { p.dst = natIP }), model.ICMPNoFlow),
			drops("provider", cut(toNAT(seen("A"), backend, 3, 3, 0, 8), 27), model.ICMPShort),
			drops("provider", cut(toNAT(seen("A"), backend, 3, 3, 0, 8), 12), model.ICMPShort),
			drops("provider", toNAT(seen("A"), backend, 3, 3, 0, 8).with(func(p *packet) { p.ttl = 1 }), model.TTL)), nil},
		{"echo to an endpoint is answered while approved", "icmp answer", steps(
			answers("consumer", echo(endpoint), model.EchoReply, &echoed), drops("consumer", echo(pending), model.NotApproved),
			changes(reject(linkApproved)), drops("consumer", echo(endpoint), model.NotApproved)), nil},
		{"other ICMP", "icmp", steps(
			drops("consumer", echo(endpoint).with(func(p *packet) { p.icmp = &layers.ICMPv4{TypeCode: 13 << 8} }), model.ICMPOther),
			drops("consumer", echo(endpoint).with(func(p *packet) { p.more = true }), model.ICMPOther),
			drops("consumer", echo(endpoint).with(func(p *packet) { p.src = endpoint }), model.Martian),
			drops("provider", echo(natIP).with(func(p *packet) { p.from, p.to = backendMAC, ports[1].mac }), model.ICMPOther)), nil},
	}
}

// fragmentRows are about fragments.
func fragmentRows(t *testing.T) []row {
	long := bytes.Repeat([]byte("fragment"), 10)
	// a datagram of 88 bytes of L4, in three pieces
	piece := func(p packet, from, to int) packet {
		p.payload = long
		whole := p.bytes(t)
		l4 := whole[34:]
		proto := layers.IPProtocolUDP
		if p.tcp != nil {
			proto = layers.IPProtocolTCP
		}
		p.tcp, p.udp, p.proto = nil, nil, proto
		p.payload, p.offset, p.more = l4[from:to], uint16(from/8), to < len(l4)
		return p
	}
	id := func(p packet, id uint16) packet { return p.with(func(p *packet) { p.id = id }) }
	otherClient := func(p packet) packet { return p.with(func(p *packet) { p.src = addr(10, 0, 1, 5) }) }
	return []row{
		{"three pieces, both ways", "fragment", steps(
			forwards("consumer", piece(query(), 0, 40), "provider", piece(queried(), 0, 40)),
			forwards("consumer", piece(query(), 40, 80), "provider", piece(queried(), 40, 80)),
			forwards("consumer", piece(query(), 80, 88), "provider", piece(queried(), 80, 88)),
			forwards("provider", piece(answer(), 0, 24), "consumer", piece(answered(), 0, 24)),
			forwards("provider", piece(answer(), 24, 88), "consumer", piece(answered(), 24, 88))), func(b *bench) {
			if u := b.m.Usage[linkApproved]; u.Fragments != 0 {
				b.Errorf("%d datagrams are held though all went through", u.Fragments)
			}
		}},
		{"two clients with one id: the second gets another", "fragment", steps(
			forwards("consumer", piece(query(), 0, 40), "provider", piece(queried(), 0, 40)),
			forwards("consumer", piece(otherClient(query()), 0, 40), "provider", fromNext(t, id(queried(), 7+0x9e37), long, 0, 40)),
			forwards("consumer", piece(query(), 40, 88), "provider", piece(queried(), 40, 88)),
			forwards("consumer", piece(otherClient(query()), 40, 88), "provider", fromNext(t, id(queried(), 7+0x9e37), long, 40, 88))), nil},
		{"a later fragment before its first, or 31 s after", "fragment", steps(
			drops("consumer", piece(query(), 40, 88), model.FragmentOrphan), forwards("consumer", piece(query(), 0, 40), "provider", piece(queried(), 0, 40)),
			later(31), drops("consumer", piece(query(), 40, 88), model.FragmentOrphan), sweep(0), sweep(2)), nil},
		{"a revoked link's later fragments", "fragment", steps(
			forwards("consumer", piece(query(), 0, 40), "provider", piece(queried(), 0, 40)), changes(reject(linkApproved)),
			drops("consumer", piece(query(), 40, 88), model.Ended)), nil},
		{"malformed fragments", "fragment", steps(
			drops("consumer", piece(asked("S"), 0, 16), model.FragmentBad), drops("consumer", piece(asked("S"), 8, 32), model.FragmentBad),
			drops("consumer", piece(query(), 0, 40).with(func(p *packet) { p.payload = p.payload[:39] }), model.FragmentBad),
			drops("consumer", piece(query(), 40, 88).with(func(p *packet) { p.offset = 8191 }), model.FragmentBad)), nil},
		{"too many incomplete datagrams", "fragment", steps(
			changes(func(b *bench) { b.setFragments(linkApproved, model.MaxFragments) }),
			drops("consumer", piece(query(), 0, 40), model.FragmentIDs)), nil},
		{"no error about a later fragment", "fragment path", steps(
			forwards("consumer", piece(query(), 0, 40), "provider", piece(queried(), 0, 40)),
			drops("consumer", piece(query(), 40, 88).with(func(p *packet) { p.ttl = 1 }), model.TTL)), nil},
		{"no state for an unapproved link", "fragment", steps(drops("consumer", to(piece(query(), 0, 40), pending), model.NotApproved)), none},
	}
}

// fromNext is a piece of a datagram that left by the second NAT port.
func fromNext(t *testing.T, p packet, payload []byte, from, to int) packet {
	p = second(p)
	sent := p
	sent.payload = payload
	// The client computed the checksum with its own addresses: what arrives sums to the same.
	l4 := sent.bytes(t)[34:]
	p.udp, p.proto = nil, layers.IPProtocolUDP
	p.payload, p.offset, p.more = l4[from:to], uint16(from/8), to < len(l4)
	return p
}

// innerRows are about the inner network: out of it goes what was announced.
func innerRows(*testing.T) []row {
	dial := packet{from: innerMAC, to: ports[3].mac, src: socket, dst: addr(100, 64, 9, 9), ttl: 64, tcp: segment(40000, 9, "S", 1, 0)}
	dialled := packet{from: ports[1].mac, to: backendMAC, src: natIP, dst: backend, ttl: 63, tcp: segment(firstNATPort, 8080, "S", 1, 0)}
	return []row{
		{"a dial entry opens the second leg", "admit core", steps(forwards("inner", dial, "provider", dialled)), func(b *bench) {
			if s := b.m.LinkStats[linkApproved]; s != nil && *s != (model.LinkStats{}) {
				b.Errorf("the second leg is counted: %+v", *s)
			}
			if u := b.m.Usage[linkApproved]; u.Pairs != 0 {
				b.Errorf("the second leg takes quota")
			}
		}},
		{"without one nothing leaves", "admit", steps(
			drops("inner", dial.with(func(p *packet) { p.tcp = segment(40001, 9, "S", 1, 0) }), model.NoDial),
			answers("inner", dial.with(func(p *packet) { p.tcp = segment(40000, 9, "A", 1, 2) }), model.NoFlow, reset(dial.with(func(p *packet) { p.tcp = segment(40000, 9, "A", 1, 2) }))),
			changes(func(b *bench) { b.c.Backends[backendInner].Gen = 2 }), answers("inner", dial, model.NoBackend, reset(dial)),
			changes(reject(linkApproved)), drops("inner", dial, model.NotApproved)), nil},
	}
}

// forwardOptions are IPv4 options of no meaning.
var forwardOptions = []layers.IPv4Option{{OptionType: 1}, {OptionType: 1}, {OptionType: 1}, {OptionType: 0}}
