package tables

import (
	"testing"

	"github.com/gopacket/gopacket/layers"

	"github.com/privlink/privlink/pkg/model"
)

// reject makes a link what it is not: an approved one's flows are of before.
func reject(slot uint32) func(*bench) {
	return func(b *bench) { b.c.Links[slot].State, b.c.Links[slot].Gen = model.LinkRejected, b.c.Links[slot].Gen+1 }
}

// to changes the destination.
func to(p packet, dst model.IP) packet { return p.with(func(p *packet) { p.dst = dst }) }

// newer acknowledges more, as an end does that got data which was under way.
func newer(p packet) packet {
	return p.with(func(p *packet) {
		tcp := *p.tcp
		tcp.Ack += 1448
		p.tcp = &tcp
	})
}

// firstFragment is the first of several, with 24 bytes of data.
func firstFragment(p packet) packet {
	return p.with(func(p *packet) { p.more, p.payload = true, make([]byte, 20) })
}

// toPort changes the destination port.
func toPort(p packet, port uint16) packet {
	return p.with(func(p *packet) {
		if p.tcp != nil {
			tcp := *p.tcp
			tcp.DstPort = layers.TCPPort(port)
			p.tcp = &tcp
		} else {
			udp := *p.udp
			udp.DstPort = layers.UDPPort(port)
			p.udp = &udp
		}
	})
}

// fromPort changes the source port of a segment.
func fromPort(p packet, port uint16) packet {
	return p.with(func(p *packet) { own(p); p.tcp.SrcPort = layers.TCPPort(port) })
}

// fill leaves a port domain with so many ports.
func fill(b *bench, nat model.IP, port uint16, proto uint8, left, resting uint32) {
	k := model.DomainKey{NAT: nat, Backend: backend, Port: port, VNet: providerNet, Proto: proto}
	if b.m.PortDomains[k] == nil {
		b.m.PortDomains[k] = &model.Domain{}
	}
	b.m.FillPorts(k, left, resting)
	for name, p := range b.sides {
		if err := p.PutDomain(k, b.m.PortDomains[k]); err != nil {
			b.Fatalf("%s: %v", name, err)
		}
	}
}

// opened are steps that open a TCP flow and establish it.
func opened() []step {
	return []step{
		forwards("consumer", asked("S"), "provider", seen("S")),
		forwards("provider", replied("SA"), "consumer", got("SA")),
		forwards("consumer", asked("A"), "provider", seen("A")),
	}
}

func steps(lists ...any) []step {
	var all []step
	for _, l := range lists {
		switch l := l.(type) {
		case step:
			all = append(all, l)
		case []step:
			all = append(all, l...)
		}
	}
	return all
}

// senderRows are the table of what the sender of a packet that opens or fits no flow gets.
func senderRows(t *testing.T) []row {
	syn, ack, rst := asked("S"), asked("A"), asked("R")
	refusedAll := func(reason model.Reason) []step {
		return steps(answers("consumer", syn, reason, reset(syn)), answers("consumer", ack, model.NoFlow, reset(ack)), drops("consumer", query(), reason))
	}
	rows := []row{
		{"link not approved: nothing, whatever it is", "admit", steps(
			drops("consumer", to(syn, pending), model.NotApproved),
			drops("consumer", to(ack, pending), model.NotApproved),
			drops("consumer", to(query(), pending), model.NotApproved)), nil},
		{"link was approved, flow of before: SYN nothing, others a RST to both ends until they are over, UDP nothing", "core track", steps(
			opened(), forwards("consumer", query(), "provider", queried()), changes(reject(linkApproved)),
			drops("consumer", syn, model.NotApproved),
			answers("consumer", ack, model.Ended, reset(ack)),
			answers("consumer", newer(ack), model.Ended, reset(newer(ack))),
			drops("consumer", rst, model.Ended),
			answers("provider", replied("A"), model.Ended, reset(replied("A"))),
			answers("consumer", ack, model.Ended, reset(ack)),
			drops("provider", replied("R"), model.Ended),
			drops("consumer", ack, model.NotApproved),
			answers("provider", replied("A"), model.NATNoFlow, reset(replied("A"))),
			drops("consumer", query(), model.NotApproved),
			drops("provider", answer(), model.Ended)), nil},
		{"link was approved, flow of before: the first segment is a RST, and a fragment gets none", "core track", steps(
			opened(), changes(reject(linkApproved)),
			drops("consumer", rst, model.Ended),
			drops("provider", firstFragment(replied("A")), model.Ended),
			sweep(11), answers("provider", replied("A"), model.Ended, reset(replied("A"))),
			drops("provider", replied("RA"), model.Ended),
			drops("consumer", ack, model.NotApproved)), nil},
		{"link was approved, flow of before: both ends got their RSTs and are silent: gone 10 s later", "track sweep", steps(
			opened(), changes(reject(linkApproved)),
			answers("consumer", ack, model.Ended, reset(ack)), sweep(200),
			answers("provider", replied("A"), model.Ended, reset(replied("A"))), sweep(10),
			answers("provider", replied("A"), model.Ended, reset(replied("A"))), sweep(1),
			answers("provider", replied("A"), model.NATNoFlow, reset(replied("A"))),
			drops("consumer", ack, model.NotApproved), sweep(2), sweep(15)), none},
		{"link was approved, flow of before: one end is never heard of: gone after its idle timeout", "track sweep", steps(
			opened(), changes(reject(linkApproved)),
			answers("consumer", ack, model.Ended, reset(ack)), drops("consumer", rst, model.Ended), sweep(300),
			answers("consumer", ack, model.Ended, reset(ack)), sweep(1), drops("consumer", ack, model.NotApproved), sweep(15)), none},
		{"approved, port without rule: RST, RST, nothing", "admit answer", steps(
			answers("consumer", toPort(syn, 81), model.NoRule, reset(toPort(syn, 81))),
			answers("consumer", toPort(ack, 81), model.NoRule, reset(toPort(ack, 81))),
			drops("consumer", toPort(rst, 81), model.NoRule),
			drops("consumer", toPort(query(), 54), model.NoRule)), nil},
		{"approved, no backend: RST, RST, nothing", "balance", steps(
			answers("consumer", to(syn, lonely), model.NoBackend, reset(to(syn, lonely))),
			answers("consumer", to(ack, lonely), model.NoFlow, reset(to(ack, lonely))),
			drops("consumer", to(query(), lonely), model.NoBackend)), nil},
		{"approved, backend lost: as without one", "balance", steps(
			changes(func(b *bench) {
				b.c.Backends[backendWeb].State, b.c.Backends[backendDNS].State = model.BackendDown, model.BackendUnresolved
			}), refusedAll(model.NoBackend)), nil},
		{"approved, quota used up: RST, RST, nothing", "open", steps(
			changes(func(b *bench) { b.c.Links[linkApproved].MaxFlows = 0 }), refusedAll(model.Quota)), nil},
		{"approved, no port: RST, RST, nothing", "ports", steps(
			changes(func(b *bench) {
				fill(b, natIP, 8080, model.TCP, 0, 0)
				fill(b, natIP, 53, model.UDP, 0, 0)
			}), refusedAll(model.Ports)), nil},
		{"approved, ports only resting: RST, RST, nothing", "ports", steps(
			changes(func(b *bench) {
				fill(b, natIP, 8080, model.TCP, 0, 1)
				fill(b, natIP, 53, model.UDP, 0, 1)
			}), refusedAll(model.PortsResting)), nil},
		{"approved, no room for a bitmap: RST, RST, nothing", "ports", steps(
			changes(func(b *bench) {
				fill(b, natIP2, 1, model.TCP, 0, 0)
				fill(b, natIP2, 2, model.TCP, 0, 0)
				fill(b, natIP2, 3, model.TCP, 0, 0)
			}), refusedAll(model.Domains)), nil},
		{"approved, table at its limit: RST, RST, nothing", "open", steps(
			changes(func(b *bench) { b.setPairs(64) }), refusedAll(model.TableFull)), nil},
		{"approved, no slot near: RST, RST, nothing", "flowtable", steps(
			changes(func(b *bench) {
				b.crowd(asked("S"), model.TCP)
				b.crowd(query(), model.UDP)
			}), refusedAll(model.WindowFull)), nil},
		{"approved, no flow: a new flow, RST, a new flow", "open answer rewrite", steps(
			answers("consumer", ack, model.NoFlow, reset(ack)),
			drops("consumer", rst, model.NoFlow),
			answers("consumer", asked("SF"), model.NoFlow, reset(asked("SF"))),
			forwards("consumer", syn, "provider", seen("S")),
			forwards("consumer", query(), "provider", queried())), func(b *bench) {
			b.wantStats(linkApproved, model.LinkStats{PacketsIn: 2, BytesIn: 40 + 37, Opened: 2, Dropped: 3})
		}},
		{"from the provider's side to a NAT IP, no flow: nothing, RST, nothing", "admit", steps(
			drops("provider", replied("S"), model.NATNoFlow),
			answers("provider", replied("A"), model.NATNoFlow, reset(replied("A"))),
			answers("provider", replied("SA"), model.NATNoFlow, reset(replied("SA"))),
			drops("provider", replied("RA"), model.NATNoFlow),
			drops("provider", answer(), model.NATNoFlow)), nil},
		{"more RSTs than allowed: nothing, counted", "tables", steps(
			changes(func(b *bench) { b.useTokens(model.RSTPerSecond, 0) }),
			drops("consumer", ack, model.NoFlow), later(1), answers("consumer", ack, model.NoFlow, reset(ack))), nil},
		{"the frontend, in its own network: the same with source NAT", "address", steps(
			step{change: func(b *bench) {
				b.c.NATSets[1] = &model.NATSet{VNet: providerNet, Addrs: []model.IP{frontend}}
			}},
			forwards("provider", packet{from: backendMAC, to: ports[1].mac, src: addr(10, 0, 2, 9), dst: frontend, ttl: 64, tcp: segment(6000, 80, "S", 1, 0)},
				"provider", packet{from: ports[1].mac, to: backendMAC, src: frontend, dst: backend, ttl: 63, tcp: segment(firstNATPort, 8080, "S", 1, 0)})), nil},
		{"hairpin: the client is the backend", "address", steps(
			step{change: func(b *bench) {
				b.c.NATSets[1] = &model.NATSet{VNet: providerNet, Addrs: []model.IP{frontend}}
			}},
			forwards("provider", packet{from: backendMAC, to: ports[1].mac, src: backend, dst: frontend, ttl: 64, tcp: segment(6000, 80, "S", 1, 0)},
				"provider", packet{from: ports[1].mac, to: backendMAC, src: frontend, dst: backend, ttl: 63, tcp: segment(firstNATPort, 8080, "S", 1, 0)}),
			forwards("provider", packet{from: backendMAC, to: ports[1].mac, src: backend, dst: frontend, ttl: 64, tcp: segment(8080, firstNATPort, "SA", 9, 2)},
				"provider", packet{from: ports[1].mac, to: backendMAC, src: frontend, dst: backend, ttl: 63, tcp: segment(80, 6000, "SA", 9, 2)})), nil},
	}
	return rows
}
