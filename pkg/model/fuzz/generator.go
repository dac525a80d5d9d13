package fuzz

import (
	"encoding/binary"

	"github.com/privlink/privlink/pkg/model"
)

// memory is how many keys and frames the generator remembers.
const memory = 64

// sent is a frame as a network saw it leave.
type sent struct {
	vnet  uint16
	frame []byte
}

// generator makes the packets of a topology.
type generator struct {
	*topology
	m       *model.Machine
	known   []uint32 // slots where flows were opened
	left    []sent   // frames that left, to be quoted by ICMP errors
	pending []model.Input
	payload []byte
	wanted  wanted
}

// wanted asks for a run of packets of one kind.
type wanted struct {
	refusals, errors int
	at               place
	to               model.AddressKey
}

func newGenerator(t *topology, m *model.Machine) *generator {
	g := &generator{topology: t, m: m, payload: make([]byte, 3000)}
	for i := range g.payload {
		g.payload[i] = byte(t.Uint32())
	}
	return g
}

// next is the next packet, as long as test runs want it.
func (g *generator) next() model.Input {
	in := g.any()
	least := 34
	if in.Frame[12] == 0x86 && in.Frame[13] == 0xdd {
		least = 54
	}
	for len(in.Frame) < least {
		in.Frame = append(in.Frame, 0)
	}
	return in
}

func (g *generator) any() model.Input {
	switch {
	case g.wanted.refusals > 0:
		g.wanted.refusals--
		return g.refusal()
	case g.wanted.errors > 0:
		g.wanted.errors--
		return g.expiring()
	case len(g.pending) > 0 && g.chance(40):
		return g.take()
	}
	in := g.packet()
	if g.chance(3) {
		in = g.broken(in)
	}
	return in
}

func (g *generator) packet() model.Input {
	switch n := g.IntN(1000); {
	case n < 560:
		return g.ofFlow()
	case n < 800:
		return g.newFlow()
	case n < 850:
		return g.icmpError()
	case n < 880:
		return g.toNAT()
	case n < 900:
		return g.arp()
	case n < 940:
		return g.fromInner()
	case n < 965:
		return g.echo()
	}
	return g.strange()
}

// ofFlow is a packet that a live entry matches.
func (g *generator) ofFlow() model.Input {
	for range 8 {
		if len(g.known) == 0 {
			break
		}
		i := g.IntN(len(g.known))
		s := &g.m.Table.Slots[g.known[i]]
		if s.State != model.SlotLive || s.Key.Kind != model.KindFlow {
			g.known[i] = g.known[len(g.known)-1]
			g.known = g.known[:len(g.known)-1]
			continue
		}
		if g.chance(45) && s.Twin != model.NoSlot {
			s = &g.m.Table.Slots[s.Twin]
		}
		mac := model.MAC{2, 0, 0, 0, 3, byte(s.Key.Src)}
		if g.chance(4) {
			mac[3] = byte(g.IntN(4))
		}
		return g.transport(s.Key, mac)
	}
	return g.newFlow()
}

// newFlow is a client's packet to an address of ours.
func (g *generator) newFlow() model.Input {
	to := pick(g.topology, g.endpoints)
	k := model.Key{
		Src: ip(10, 0, 1, byte(20+g.IntN(6))), Dst: to.Addr, VNet: to.VNet,
		SrcPort: uint16(30000 + g.IntN(400)), DstPort: 80, Proto: model.TCP,
	}
	switch n := g.IntN(10); {
	case n < 4:
		k.Proto, k.DstPort = model.UDP, 53
	case n < 5:
		k.DstPort = []uint16{443, 22, 8080, uint16(1 + g.IntN(65535))}[g.IntN(4)]
	}
	return g.transport(k, model.MAC{2, 0, 0, 0, 3, byte(k.Src)})
}

// transport is a TCP or UDP packet with this key, mostly as a sane host sends it.
func (g *generator) transport(k model.Key, mac model.MAC) model.Input {
	at := pick(g.topology, g.byNetwork[k.VNet])
	h := header{key: k, id: uint16(g.IntN(5000)), ttl: 64}
	if g.chance(50) {
		h.fragment = 0x4000
	}
	if g.chance(1.5) {
		h.ttl = byte(g.IntN(3))
	}
	if g.chance(2) {
		h.options = 4 * (1 + g.IntN(10))
	}
	size := g.IntN(80)
	if g.chance(15) {
		size = g.IntN(1460)
	}
	if g.chance(1) {
		size = g.IntN(2500)
	}
	payload := g.payload[:size]
	var l4 []byte
	if k.Proto == model.TCP {
		options := 0
		if g.chance(10) {
			options = 4 * g.IntN(11)
		}
		l4 = tcp(k, g.flags(), g.Uint32(), g.Uint32(), options, payload)
	} else {
		l4 = udp(k, payload)
		if g.chance(10) {
			l4[6], l4[7] = 0, 0
		}
	}
	if g.chance(2) {
		g.spoilChecksum(k, l4)
	}
	in := g.at(at, nil)
	if k.Proto == model.UDP && g.chance(8) || g.chance(0.5) {
		return g.fragments(in, at, mac, h, l4)
	}
	in.Frame = frame(at.in.MAC, mac, h, l4)
	if k.Proto == model.TCP && size > 600 && g.chance(10) && in.Frame[14] == 0x45 {
		in.GSO = model.GSO{Size: 536, Segments: uint32(size+535) / 536}
	}
	return in
}

func (g *generator) flags() byte {
	switch n := g.IntN(100); {
	case n < 30:
		return model.SYN
	case n < 70:
		return model.ACK | byte(g.IntN(2))*model.PSH
	case n < 80:
		return model.SYN | model.ACK
	case n < 88:
		return model.FIN | model.ACK
	case n < 94:
		return model.RST | byte(g.IntN(2))*model.ACK
	}
	return byte(g.IntN(64))
}

// spoilChecksum makes the L4 checksum one of those that are treated specially somewhere.
func (g *generator) spoilChecksum(k model.Key, l4 []byte) {
	at := 6
	if k.Proto == model.TCP {
		at = 16
	}
	sum := []uint16{0, 0xffff, ^checksum(nil, pseudo(k, len(l4))), uint16(g.Uint32())}[g.IntN(4)]
	binary.BigEndian.PutUint16(l4[at:], sum)
}

func (g *generator) at(p place, frame []byte) model.Input {
	return model.Input{Frame: frame, Interface: p.key.Index, VLAN: p.key.VLAN}
}

// fragments cuts a datagram; the first fragment comes now, the others follow, mostly in order.
func (g *generator) fragments(in model.Input, at place, mac model.MAC, h header, l4 []byte) model.Input {
	for len(l4) < 24 || g.chance(50) && len(l4) < 1200 {
		l4 = append(l4, g.payload[:40]...)
	}
	h.fragment, h.options = 0, 0
	if g.chance(30) {
		h.id = uint16(g.IntN(4)) // equal ids of different senders
	}
	var cuts []model.Input
	for offset := 0; offset < len(l4); {
		size := 8 * (1 + g.IntN(1+len(l4)/16))
		if h.key.Proto == model.TCP && offset == 0 && g.chance(90) {
			size = max(size, 24)
		}
		more := uint16(0x2000)
		if offset+size >= len(l4) {
			size, more = len(l4)-offset, 0
		}
		h.fragment = more | uint16(offset/8)
		next := in
		next.Frame = frame(at.in.MAC, mac, h, l4[offset:offset+size])
		for len(next.Frame) < 34 {
			next.Frame = append(next.Frame, 0)
		}
		cuts = append(cuts, next)
		offset += size
	}
	if g.chance(10) {
		g.Shuffle(len(cuts), func(i, j int) { cuts[i], cuts[j] = cuts[j], cuts[i] })
	}
	if g.chance(5) {
		cuts = append(cuts, pick(g.topology, cuts))
	}
	if len(g.pending) < memory {
		g.pending = append(g.pending, cuts[1:]...)
	}
	return cuts[0]
}

// take is the next of the pending frames, mostly the oldest.
func (g *generator) take() model.Input {
	i := 0
	if g.chance(10) {
		i = g.IntN(len(g.pending))
	}
	in := g.pending[i]
	g.pending = append(g.pending[:i], g.pending[i+1:]...)
	return in
}

// icmpError is a router's or host's complaint about a packet that left.
func (g *generator) icmpError() model.Input {
	if len(g.left) == 0 {
		return g.echo()
	}
	about := pick(g.topology, g.left)
	at := pick(g.topology, g.byNetwork[about.vnet])
	q := append([]byte(nil), about.frame[14:]...)
	header_ := int(q[0]&15) * 4
	quote := header_ + 8
	if g.chance(50) {
		quote = header_ + g.IntN(64)
	}
	q = q[:min(quote, len(q))]
	if len(q) >= 20 && g.chance(3) {
		q[12+g.IntN(8)] ^= byte(1 << g.IntN(8))
	}
	src := model.IP(binary.BigEndian.Uint32(about.frame[30:]))
	if g.chance(40) {
		src = ip(10, 0, 2, byte(200+g.IntN(3))) // a router on the way
	}
	k := model.Key{Src: src, Dst: model.IP(binary.BigEndian.Uint32(about.frame[26:])), Proto: model.ICMP}
	h := header{key: k, ttl: 64}
	if g.chance(2) {
		h.ttl = byte(g.IntN(2))
	}
	if g.chance(2) {
		h.options = 4
	}
	rest := uint32(0)
	if g.chance(30) {
		rest = uint32(500 + g.IntN(1000))
	}
	typ := []byte{3, 3, 3, 11, 12, byte(g.IntN(20))}[g.IntN(6)]
	in := g.at(at, frame(at.in.MAC, model.MAC{2, 0, 0, 0, 3, 99}, h, icmp(typ, byte(g.IntN(6)), rest, q)))
	if g.chance(20) {
		in.Frame = append(in.Frame, g.payload[:g.IntN(20)]...) // padding is no quote
	}
	return in
}

func (g *generator) echo() model.Input {
	to := pick(g.topology, g.endpoints)
	if g.chance(20) {
		to = pick(g.topology, g.nats)
	}
	at := pick(g.topology, g.byNetwork[to.VNet])
	k := model.Key{Src: ip(10, 0, 1, byte(20+g.IntN(6))), Dst: to.Addr, Proto: model.ICMP}
	h := header{key: k, ttl: byte(1 + g.IntN(64)), id: uint16(g.Uint32())}
	if g.chance(5) {
		h.fragment = 0x2000
	}
	if g.chance(5) {
		h.options = 8
	}
	typ := byte(8)
	if g.chance(15) {
		typ = byte(g.IntN(20))
	}
	return g.at(at, frame(at.in.MAC, model.MAC{2, 0, 0, 0, 3, byte(k.Src)}, h, icmp(typ, 0, g.Uint32(), g.payload[:g.IntN(100)])))
}

// stranger is a key that differs in one thing from that of a live flow's replies: the peer's address, its port,
// the protocol, or the NAT port.
func (g *generator) stranger() (model.Key, bool) {
	if len(g.known) == 0 {
		return model.Key{}, false
	}
	s := &g.m.Table.Slots[pick(g.topology, g.known)]
	if s.State != model.SlotLive || s.Key.Kind != model.KindFlow || s.Twin == model.NoSlot {
		return model.Key{}, false
	}
	k := g.m.Table.Slots[s.Twin].Key
	switch g.IntN(4) {
	case 0:
		k.Src = ip(10, 0, 2, byte(4+g.IntN(8)))
	case 1:
		k.SrcPort ^= 1 << g.IntN(16)
	case 2:
		k.Proto ^= model.TCP ^ model.UDP
	case 3:
		k.DstPort ^= 1 << g.IntN(16)
	}
	return k, k.Kind == model.KindFlow && k.VNet != 0
}

// toNAT is what a backend sends to a NAT IP out of the blue, or somebody else to a port in use.
func (g *generator) toNAT() model.Input {
	if g.chance(50) {
		if k, ok := g.stranger(); ok {
			return g.transport(k, model.MAC{2, 0, 0, 0, 2, byte(k.Src)})
		}
	}
	to := pick(g.topology, g.nats)
	b := g.Backends[pick(g.topology, g.topology.backends)]
	k := model.Key{Src: b.Addr, Dst: to.Addr, VNet: to.VNet, SrcPort: 8000, DstPort: uint16(1024 + g.IntN(64512)), Proto: model.TCP}
	if g.chance(30) {
		k.Proto = model.UDP
	}
	return g.transport(k, b.MAC)
}

// fromInner is what a socket of the splice path's namespace sends.
func (g *generator) fromInner() model.Input {
	k := model.Key{Src: ip(100, 64, 0, byte(2+g.IntN(3))), Dst: ip(100, 64, 9, byte(g.IntN(3))), VNet: inner, SrcPort: uint16(40000 + g.IntN(35)), DstPort: uint16(g.IntN(3)), Proto: model.TCP}
	if g.chance(30) {
		k.Proto = model.UDP
	}
	if g.chance(60) {
		d := pick(g.topology, g.dialKeys)
		k.Src, k.SrcPort, k.Proto, k.DstPort = d.Addr, d.Port, d.Proto, 9
	}
	return g.transport(k, model.MAC{2, 0, 0, 0, 9, 1})
}

func (g *generator) arp() model.Input {
	at := pick(g.topology, g.places)
	target := pick(g.topology, g.endpoints).Addr
	switch g.IntN(4) {
	case 0:
		target = pick(g.topology, g.nats).Addr
	case 1:
		target = ip(10, 0, byte(g.IntN(4)), byte(g.IntN(20)))
	}
	sender := ip(10, 0, 1, byte(20+g.IntN(6)))
	switch g.IntN(8) {
	case 0:
		sender = 0
	case 1:
		sender = target
	}
	dst := model.MAC{255, 255, 255, 255, 255, 255}
	if g.chance(30) {
		dst = at.in.MAC
	}
	in := g.at(at, arp(dst, model.MAC{2, 0, 0, 0, 3, byte(sender)}, uint16(1+g.IntN(2)), sender, target))
	if g.chance(30) {
		in.Frame = append(in.Frame, make([]byte, 18)...)
	}
	if g.chance(5) {
		in.Frame = in.Frame[:34+g.IntN(8)]
	}
	return in
}

// strange is what is not ours, or never crosses.
func (g *generator) strange() model.Input {
	in := g.newFlow()
	for in.GSO.Size != 0 {
		in = g.newFlow()
	}
	b := in.Frame
	switch g.IntN(12) {
	case 0: // another MAC
		b[5] ^= 1
	case 1: // multicast or broadcast MAC
		copy(b[0:6], [][]byte{{255, 255, 255, 255, 255, 255}, {1, 0, 0x5e, 0, 0, 1}}[g.IntN(2)])
	case 2:
		binary.BigEndian.PutUint16(b[12:], 0x86dd)
	case 3:
		binary.BigEndian.PutUint16(b[12:], []uint16{0x88cc, 0x8100, 0x88a8, 0x0600, 0x8863}[g.IntN(5)])
	case 4: // other destinations
		binary.BigEndian.PutUint32(b[30:], uint32([]model.IP{ip(224, 0, 0, 1), ip(255, 255, 255, 255), ip(10, 0, 1, 1), ip(8, 8, 8, 8), 0, ip(240, 1, 2, 3)}[g.IntN(6)]))
	case 5: // martians
		source := []model.IP{0, ip(127, 0, 0, 1), ip(224, 1, 1, 1), ip(255, 255, 255, 255), model.IP(binary.BigEndian.Uint32(b[30:]))}[g.IntN(5)]
		binary.BigEndian.PutUint32(b[26:], uint32(source))
	case 6: // other protocols
		b[23] = []byte{132, 47, 50, 51, 2, 4, 41, 0, 255}[g.IntN(9)]
	case 7: // a VLAN that nobody attached
		in.VLAN = uint16(100 + g.IntN(5))
	case 8: // an interface of VLANs only
		in.VLAN, in.Interface = 0, g.places[4].key.Index
		copy(b[0:6], g.places[4].in.MAC[:])
	case 9: // header fields
		b[14] = byte(g.Uint32())
	case 10:
		binary.BigEndian.PutUint16(b[16:], uint16(g.IntN(200)))
	case 11: // a lone later fragment, or a malformed one
		binary.BigEndian.PutUint16(b[20:], []uint16{1, 2, 100, 0x2000, 0x2001, 0x1fff, 0x3fff}[g.IntN(7)])
	}
	return in
}

// broken changes random bytes, or the length.
func (g *generator) broken(in model.Input) model.Input {
	b := in.Frame
	switch g.IntN(3) {
	case 0:
		for range 1 + g.IntN(3) {
			b[12+g.IntN(len(b)-12)] ^= byte(1 << g.IntN(8))
		}
	case 1:
		in.Frame = b[:min(len(b), 34+g.IntN(len(b)-33))]
	case 2:
		in.Frame = append(b, g.payload[:g.IntN(40)]...)
	}
	in.GSO = model.GSO{}
	return in
}

// refusal is a segment that gets a RST, again and again.
func (g *generator) refusal() model.Input {
	w := g.wanted
	k := model.Key{Src: ip(10, 0, 1, 20), Dst: w.to.Addr, SrcPort: 30000, DstPort: 9, VNet: w.to.VNet, Proto: model.TCP}
	return g.at(w.at, frame(w.at.in.MAC, model.MAC{2, 0, 0, 0, 3, 20}, header{key: k, ttl: 64}, tcp(k, model.ACK, 1, 2, 0, nil)))
}

// expiring is a datagram whose TTL ends here, again and again.
func (g *generator) expiring() model.Input {
	w := g.wanted
	k := model.Key{Src: ip(10, 0, 1, 20), Dst: w.to.Addr, SrcPort: 30000, DstPort: 53, VNet: w.to.VNet, Proto: model.UDP}
	return g.at(w.at, frame(w.at.in.MAC, model.MAC{2, 0, 0, 0, 3, 20}, header{key: k, ttl: 1}, udp(k, nil)))
}

// saw remembers what became of a packet.
func (g *generator) saw(d model.Decision) {
	if d.Action != model.ActionRedirect {
		return
	}
	out := g.Outputs[d.Out]
	if out == nil || len(d.Frame) < 34 || !g.chance(20) {
		return
	}
	s := sent{out.VNet, append([]byte(nil), d.Frame[:min(len(d.Frame), 200)]...)}
	if len(g.left) < memory {
		g.left = append(g.left, s)
	} else {
		g.left[g.IntN(memory)] = s
	}
}

// opened remembers where flows stand.
func (g *generator) opened(slots []uint32) {
	for _, n := range slots {
		if s := &g.m.Table.Slots[n]; s.State == model.SlotLive && s.Key.Kind == model.KindFlow && s.Stamp == g.m.Now && s.RW.Flags&model.FlagReverse == 0 && len(g.known) < 600 {
			g.known = append(g.known, n)
		}
	}
}
