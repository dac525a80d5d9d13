package model

import (
	"encoding/binary"
	"slices"
)

// Usage is what a link holds.
type Usage struct {
	Pairs     uint32 // until swept
	Fragments uint32 // incomplete datagrams
}

// LinkStats are the counters of a link.
type LinkStats struct {
	PacketsIn, BytesIn   uint64 // from the client; bytes of IP packets
	PacketsOut, BytesOut uint64 // to the client
	Opened, Refused      uint64 // flows
	Dropped              uint64 // packets
}

// ReasonStats are the counters of a reason.
type ReasonStats struct {
	Packets, Bytes uint64 // bytes of frames
}

type bucket struct {
	stamp     uint32
	rst, icmp uint32
}

// Machine is the dataplane: what it was told, what it remembers, and its clock.
type Machine struct {
	Config
	Now    uint32 // seconds
	Random uint32 // state of the generator, never 0

	Table       *Table
	PortDomains map[DomainKey]*Domain
	Pairs       uint32 // until swept
	Fragments   uint32 // incomplete datagrams, of all links
	WantedSweep bool   // a domain is nearly full
	Usage       map[uint32]*Usage
	LinkStats   map[uint32]*LinkStats
	Reasons     [ReasonCount]ReasonStats

	buckets     map[uint16]*bucket
	portInverse uint32
	buffer      [1 << 16]byte
}

// New returns a machine with an empty table.
func New(c Config) *Machine {
	return &Machine{
		Config: c, Random: 1,
		Table:       newTable(c.Homes, c.FlowSeed),
		PortDomains: make(map[DomainKey]*Domain),
		Usage:       make(map[uint32]*Usage),
		LinkStats:   make(map[uint32]*LinkStats),
		buckets:     make(map[uint16]*bucket),
		portInverse: inverse(c.PortStep),
	}
}

// verdict is what a step decides; action none means go on.
type verdict struct {
	action Action
	reason Reason
	out    uint16
}

var goOn = verdict{}

func drop(r Reason) verdict { return verdict{action: ActionDrop, reason: r} }

// other is a packet that is not privlink's: dropped, or left to the host.
func other(r Reason) verdict { return verdict{action: ActionPass, reason: r} }

// Packet decides on one frame.
func (m *Machine) Packet(in Input) Decision {
	p := &packet{frame: append(m.buffer[:0], in.Frame...), inKey: InterfaceKey{in.Interface, in.VLAN}, gso: in.GSO}
	length := len(p.frame)
	v := m.receive(p)
	if v.action == ActionPass && (p.in == nil || !p.in.PassOther) {
		v.action = ActionDrop
	}
	if v.action == ActionDrop || v.action == ActionPass {
		p.frame = in.Frame
	}
	if v.action != ActionRedirect {
		m.count(v.reason, length)
		if p.link != 0 && v.reason != EchoReply {
			m.stats(p.link).Dropped++
		}
	}
	d := Decision{Action: v.action, Reason: v.reason, Out: v.out, Frame: p.frame}
	switch v.action {
	case ActionPass:
		d.VLAN = in.VLAN
	case ActionRedirect, ActionAnswer:
		d.VLAN = m.Outputs[v.out].VLAN // rule 23
	}
	return d
}

func (m *Machine) count(r Reason, bytes int) {
	m.Reasons[r].Packets++
	m.Reasons[r].Bytes += uint64(bytes)
}

func (m *Machine) stats(link uint32) *LinkStats {
	s := m.LinkStats[link]
	if s == nil {
		s = &LinkStats{}
		m.LinkStats[link] = s
	}
	return s
}

// receive goes from the frame to the layer that decides (rules 3 and 4).
func (m *Machine) receive(p *packet) verdict {
	p.in = m.Interfaces[p.inKey]
	if p.in == nil {
		if p.inKey.VLAN != 0 {
			p.in = m.Interfaces[InterfaceKey{Index: p.inKey.Index}] // only to ask what it does with others
		}
		return other(NoAttachment)
	}
	if len(p.frame) < ethernet {
		return other(Short)
	}
	broadcast := p.frame[0]&1 != 0
	if !broadcast && p.destination() != p.in.MAC {
		return other(OtherMAC)
	}
	switch binary.BigEndian.Uint16(p.frame[12:]) {
	case etherARP:
		return m.arp(p)
	case 0x8100, 0x88a8:
		return other(NoAttachment) // a tag inside the tag
	case etherIPv6:
		return other(OtherIPv6)
	case etherIPv4:
		if broadcast {
			return other(Multicast)
		}
		return m.ipv4(p)
	}
	return other(OtherEthertype)
}

func (m *Machine) ipv4(p *packet) verdict {
	if r := p.parseIPv4(); r != None {
		return other(r)
	}
	switch {
	case p.key.Dst>>29 == 7:
		return other(Multicast)
	case p.key.Proto == ICMP:
		return m.icmp(p)
	case p.key.Proto != TCP && p.key.Proto != UDP:
		a := m.address(p)
		if !a.ours() {
			return other(OtherIPv4)
		}
		p.link = a.Link
		return drop(otherProtocol(p.key.Proto))
	case !p.isFirst():
		return m.laterFragment(p)
	}
	p.parseL4()
	p.bad = p.bad || p.isFragment() && p.fragmentBytes() == 0
	if !p.bad {
		if n, ok := m.Table.find(p.key); ok {
			return m.established(p, n)
		}
	}
	return m.absent(p, NoSlot)
}

// otherProtocol is the reason of an IPv4 protocol that never crosses a link.
func otherProtocol(proto uint8) Reason {
	switch proto {
	case 132:
		return SCTP
	case 47:
		return GRE
	case 50:
		return ESP
	case 51:
		return AH
	case 2:
		return IGMP
	}
	return Protocol
}

func (m *Machine) address(p *packet) Address {
	return m.Addresses[AddressKey{p.key.Dst, p.in.VNet}]
}

// ours says whether packets to it are privlink's.
func (a Address) ours() bool { return a.Kind != AddressNone && a.Kind != AddressGateway }

// carries says whether the link is approved and the same as when the flow was opened.
func (m *Machine) carries(link uint32, gen uint16) bool {
	l := m.Links[link]
	return l != nil && l.State == LinkApproved && l.Gen == gen
}

// established decides on a packet with a live entry n.
func (m *Machine) established(p *packet, n uint32) verdict {
	rw := &m.Table.Slots[n].RW
	opens := !rw.reverse() && p.isOpener()
	p.link = rw.Link
	gone := rw.phase() == PhaseEnded
	if !gone && m.idle(n) {
		return m.absent(p, n)
	}
	gone = gone || !m.carries(rw.Link, rw.LinkGen)
	if !gone && !rw.reverse() {
		b := m.Backends[rw.Backend]
		gone = b == nil || b.Gen != rw.BackendGen
		if !gone && p.key.Proto == UDP && b.State != BackendUp {
			return m.absent(p, n)
		}
	}
	switch {
	case gone && opens:
		return m.absent(p, n)
	case gone && p.key.Proto == TCP:
		return m.ended(p, n)
	case gone:
		return drop(Ended)
	case p.opensAnew(rw):
		return m.absent(p, n)
	}
	to, v := m.path(p, rw)
	if v != goOn {
		return v
	}
	if p.key.Proto == TCP {
		m.track(n, p.flags)
	}
	s := m.Table.slot(n)
	if !rw.reverse() {
		m.moved(p, n)
	}
	s.Stamp = m.Now
	return m.forward(p, rw, to)
}

// moved lets replies follow a client whose packets come from another MAC or interface (rule 13).
func (m *Machine) moved(p *packet, n uint32) {
	s := &m.Table.Slots[n]
	hash := clientHash(p.source(), p.in.Out)
	if s.RW.Client == hash && (s.Stamp^m.Now)>>6 == 0 {
		return
	}
	if twin, ok := m.Table.twin(n); ok {
		t := m.Table.slot(twin)
		t.RW.MAC, t.RW.Out = p.source(), p.in.Out
		s.RW.Client = hash
	}
}

// clientHash tells one client's MAC and interface from another's, mostly.
func clientHash(mac MAC, out uint16) uint16 {
	le := binary.LittleEndian
	return le.Uint16(mac[0:]) ^ le.Uint16(mac[2:]) ^ le.Uint16(mac[4:]) ^ out
}

// ended answers a TCP segment of a flow that was revoked, every one: the pair is gone when both ends
// sent a RST of their own (rule 12).
func (m *Machine) ended(p *packet, n uint32) verdict {
	rw := &m.Table.Slots[n].RW
	told, over := uint16(FlagRSTClient), uint16(FlagOverClient)
	if rw.reverse() {
		told, over = FlagRSTBackend, FlagOverBackend
	}
	if rw.phase() != PhaseEnded {
		m.markEnded(n)
	}
	if !p.isFragment() || p.flags&RST != 0 {
		if rw.Flags&told == 0 {
			m.Table.slot(n).Stamp = m.Now
		}
		m.change(n, 0, told)
	}
	if p.flags&RST != 0 {
		m.change(n, 0, over)
	}
	if rw.Flags&flagOverBoth == flagOverBoth {
		m.endPair(n)
	}
	return m.refuse(p, Ended, false)
}

// absent decides on a packet without a flow that counts. stale is a live entry with its key that is
// idle, revoked or over, NoSlot if there is none; it ends only when a new flow is opened (rule 9).
func (m *Machine) absent(p *packet, stale uint32) verdict {
	o, v := m.admit(p)
	if v != goOn {
		return v
	}
	b := m.Backends[o.backend]
	if o.backend == 0 || b == nil {
		m.stats(o.link).Refused++
		return m.refuse(p, NoBackend, true)
	}
	to, v := m.backendPath(p, b)
	if v != goOn {
		return v
	}
	if stale != NoSlot {
		m.endPair(stale)
	}
	o.key, o.mac, o.out = p.key, p.source(), p.in.Out
	if b.HA {
		o.flags |= FlagHA
	}
	n, r := m.open(o)
	if r != None {
		m.stats(o.link).Refused++
		return m.refuse(p, r, true)
	}
	if o.flags&FlagInner == 0 {
		m.stats(o.link).Opened++
	}
	return m.forward(p, &m.Table.Slots[n].RW, to)
}

// admit says whether a packet may open a flow, and to what (rule 2).
func (m *Machine) admit(p *packet) (opening, verdict) {
	var o opening
	a := m.address(p)
	p.link = a.Link
	if !a.ours() && !p.in.Inner {
		return o, other(OtherIPv4)
	}
	if p.bad && p.isFragment() {
		return o, drop(FragmentBad)
	}
	if p.bad {
		return o, drop(BadL4)
	}
	if isMartian(p.key) {
		return o, drop(Martian)
	}
	if a.Kind == AddressNAT {
		if p.isOpener() {
			return o, drop(NATNoFlow)
		}
		return o, m.refuse(p, NATNoFlow, true)
	}
	if p.in.Inner {
		if !p.isOpener() {
			return o, m.refuse(p, NoFlow, true)
		}
		return m.admitDial(p)
	}
	l := m.Links[a.Link]
	if l == nil || l.State != LinkApproved {
		return o, drop(NotApproved)
	}
	rule, ok := m.RuleIndex[RuleKey{l.Service, p.key.DstPort, p.key.Proto}]
	if !ok {
		rule, ok = m.RuleIndex[RuleKey{Service: l.Service, Proto: p.key.Proto}]
	}
	if !ok {
		rule, ok = m.RuleIndex[RuleKey{Service: l.Service}]
	}
	if !ok {
		return o, m.refuse(p, NoRule, true)
	}
	if !p.isOpener() {
		return o, m.refuse(p, NoFlow, true)
	}
	r := m.Rules[rule]
	o = opening{link: a.Link, linkGen: l.Gen, maxFlows: l.MaxFlows, nat: r.NAT, backendPort: r.BackendPort}
	if o.backendPort == 0 {
		o.backendPort = p.key.DstPort
	}
	o.backend = m.balance(rule, m.balanceHash(p.key, l.ID, r.Distribution))
	return o, goOn
}

// admitDial lets out of the inner VNet what its owner announced, and nothing else.
func (m *Machine) admitDial(p *packet) (opening, verdict) {
	d, ok := m.Dials[DialKey{p.key.Src, p.key.SrcPort, p.key.Proto}]
	if !ok {
		return opening{}, drop(NoDial)
	}
	p.link = d.Link
	if !m.carries(d.Link, d.LinkGen) {
		return opening{}, drop(NotApproved)
	}
	b := m.Backends[d.Backend]
	if b == nil || b.Gen != d.BackendGen {
		return opening{}, m.refuse(p, NoBackend, true)
	}
	o := opening{link: d.Link, linkGen: d.LinkGen, nat: d.NAT, backend: d.Backend, backendPort: d.Port, flags: FlagInner}
	return o, goOn
}

// path is where a packet leaves.
type path struct {
	out      uint16
	dst, src MAC
	vnet     uint16
}

// path asks whether a packet of an established flow can leave (rule 1).
func (m *Machine) path(p *packet, rw *Rewrite) (path, verdict) {
	if !rw.reverse() {
		return m.backendPath(p, m.Backends[rw.Backend])
	}
	return m.check(p, path{out: rw.Out, dst: rw.MAC})
}

func (m *Machine) backendPath(p *packet, b *Backend) (path, verdict) {
	return m.check(p, path{out: b.Out, dst: b.MAC})
}

// check is what a router asks before it forwards: TTL, output, size (RFC 1812 sections 5.3.1, 4.2.2.2).
// Later fragments get no error (RFC 1812 section 4.3.2.7).
func (m *Machine) check(p *packet, to path) (path, verdict) {
	if p.ttl <= 1 {
		return to, m.answerICMP(p, 11, 0, 0, TTL)
	}
	o := m.Outputs[to.out]
	if to.out == 0 || o == nil || o.Index == 0 {
		return to, drop(NoOutput)
	}
	to.src, to.vnet = o.MAC, o.VNet
	if p.size() > int(o.MTU) {
		reason := TooBigMayFragment
		if p.fragment&mayNotFrag != 0 {
			reason = TooBig
		}
		return to, m.answerICMP(p, 3, 4, o.MTU, reason)
	}
	return to, goOn
}

// forward sends a packet with ports the way of its half.
func (m *Machine) forward(p *packet, rw *Rewrite, to path) verdict {
	id := binary.BigEndian.Uint16(p.ip[4:])
	if p.isFragment() {
		r := None
		if id, r = m.firstFragment(p, rw, to.vnet); r != None {
			return drop(r)
		}
	}
	p.rewrite(rw, to, id, true)
	return m.leave(p, rw, to)
}

// leave counts a packet and sends it.
func (m *Machine) leave(p *packet, rw *Rewrite, to path) verdict {
	if rw.Flags&FlagInner == 0 {
		s := m.stats(rw.Link)
		packets, bytes := p.counts()
		if rw.reverse() {
			s.PacketsOut += packets
			s.BytesOut += bytes
		} else {
			s.PacketsIn += packets
			s.BytesIn += bytes
		}
	}
	return verdict{action: ActionRedirect, out: to.out}
}

// rewrite makes the headers those of the other side; ports only where there are any.
func (p *packet) rewrite(rw *Rewrite, to path, id uint16, ports bool) {
	copy(p.frame[0:6], to.dst[:])
	copy(p.frame[6:12], to.src[:])
	before := slices.Clone(p.ip[:ipv4Header])
	binary.BigEndian.PutUint16(p.ip[4:], id)
	p.ip[8]--
	binary.BigEndian.PutUint32(p.ip[12:], uint32(rw.Src))
	binary.BigEndian.PutUint32(p.ip[16:], uint32(rw.Dst))
	adjustField(p.ip, 10, delta(before[4:10], p.ip[4:10])+delta(before[12:], p.ip[12:20]), false)
	if !ports {
		return
	}
	was := binary.BigEndian.Uint32(p.l4)
	change := delta(before[12:], p.ip[12:20])
	binary.BigEndian.PutUint16(p.l4[0:], rw.SrcPort)
	binary.BigEndian.PutUint16(p.l4[2:], rw.DstPort)
	change += delta(binary.BigEndian.AppendUint32(nil, was), p.l4[:4])
	if p.key.Proto == TCP {
		adjustField(p.l4, 16, change, false)
	} else {
		adjustField(p.l4, 6, change, true)
	}
}

// Hit is the live entry that a frame matches by its ports, nil if there is none. For who counts.
func (m *Machine) Hit(in Input) *Slot {
	p := &packet{frame: in.Frame, in: m.Interfaces[InterfaceKey{in.Interface, in.VLAN}]}
	if p.in == nil || len(p.frame) < ethernet || binary.BigEndian.Uint16(p.frame[12:]) != etherIPv4 ||
		p.parseIPv4() != None || !p.isFirst() || p.key.Proto != TCP && p.key.Proto != UDP {
		return nil
	}
	if p.parseL4(); p.bad {
		return nil
	}
	if n, ok := m.Table.find(p.key); ok {
		return &m.Table.Slots[n]
	}
	return nil
}
