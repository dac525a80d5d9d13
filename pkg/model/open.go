package model

// portTries is how many ports are tried when the reverse entry of a reserved one cannot be inserted.
const portTries = 4

// balanceTries is how many places are looked at when the first names a backend that is lost.
const balanceTries = 8

// mix is a 64-bit permutation; all its bits depend on all of the input's.
func mix(h uint64) uint64 {
	h ^= h >> 32
	h *= 0x9fb21c651e98df25
	h ^= h >> 29
	h *= 0xd6e8feb86659fd93
	return h ^ h>>32
}

// balanceHash is the part of a packet that chooses the backend; the link always is in it. Addresses
// and ports enter as a little-endian host reads them from the packet.
func (c *Config) balanceHash(k Key, link uint32, d Distribution) uint32 {
	h := mix(c.BalanceSeed[0] ^ (uint64(link)<<32 | uint64(swap32(uint32(k.Src)))))
	switch d {
	case DistSourceIPProtocol:
		h = mix(h ^ c.BalanceSeed[1] ^ uint64(k.Proto))
	case Dist5Tuple:
		h = mix(h ^ c.BalanceSeed[1] ^ (uint64(k.Proto)<<32 | uint64(swap16(k.SrcPort))<<16 | uint64(swap16(k.DstPort))))
	}
	return uint32(h >> 32)
}

func swap16(v uint16) uint16 { return v<<8 | v>>8 }
func swap32(v uint32) uint32 { return v<<24 | v>>24 | v<<8&0xff0000 | v>>8&0xff00 }

// balance chooses a backend for a new flow; 0 if none takes it.
func (c *Config) balance(rule uint32, hash uint32) uint32 {
	places := c.Places[rule]
	if len(places) == 0 {
		return 0
	}
	at := int(uint64(hash) * uint64(len(places)) >> 32)
	for range balanceTries {
		slot := places[at]
		if b := c.Backends[slot]; b != nil && b.State == BackendUp && b.Out != 0 {
			return slot
		}
		at = (at + 1) % len(places)
	}
	return 0
}

// opening is a flow that may be opened.
type opening struct {
	key         Key
	link        uint32
	linkGen     uint16
	maxFlows    uint32
	nat         uint32
	backend     uint32
	backendPort uint16
	flags       uint16 // FlagInner, FlagHA
	mac         MAC    // of the client
	out         uint16 // where replies go
}

// open makes a pair: backend and NAT set are chosen; quota, room, NAT IP and port are not. It returns
// the slot of the forward half.
func (m *Machine) open(o opening) (uint32, Reason) {
	set, b := m.NATSets[o.nat], m.Backends[o.backend]
	if r := m.takeUsage(o); r != None {
		return 0, r
	}
	flags := o.flags | uint16(PhaseOpen)
	if o.key.Proto == TCP {
		flags = o.flags | FlagTCP | uint16(PhaseSYN)
	}
	k := DomainKey{Backend: b.Addr, Port: o.backendPort, VNet: b.VNet, Proto: o.key.Proto}
	if o.flags&FlagHA != 0 {
		k.Port = 0
	}
	back := Rewrite{
		Src: o.key.Dst, Dst: o.key.Src, SrcPort: o.key.DstPort, DstPort: o.key.SrcPort,
		MAC: o.mac, Out: o.out, Link: o.link, LinkGen: o.linkGen, Flags: flags | FlagReverse,
	}
	reverse, natPort, undo, reason := m.takePort(set, k, o.backendPort, back)
	if reason != None {
		m.returnUsage(&back)
		return 0, reason
	}
	there := Rewrite{
		Src: m.Table.Slots[reverse].Key.Dst, Dst: b.Addr, SrcPort: natPort, DstPort: o.backendPort,
		Backend: o.backend, BackendGen: b.Gen, Client: clientHash(o.mac, o.out),
		Link: o.link, LinkGen: o.linkGen, Flags: flags,
	}
	// What the key's own dead entry held is given back with its reverse half.
	forward, _, result := m.Table.insert(o.key, there, reverse, m.Now, 0, false)
	if result != insertNew {
		// It carried no packet: its port need not rest (rule 17).
		m.Table.end(reverse, m.Now-PortRest)
		m.Table.free(reverse)
		m.returnUsage(&back)
		undo()
		return 0, WindowFull
	}
	m.Table.slot(reverse).Twin = forward
	return forward, None
}

// takePort reserves a port of the first NAT IP that may be used and inserts the reverse half (rule
// 16). An opening that fails leaves the cursor where it was; undo does so, and gives the port back.
func (m *Machine) takePort(set *NATSet, k DomainKey, backendPort uint16, rw Rewrite) (reverse uint32, port uint16, undo func(), reason Reason) {
	result := insertFull
	var d *Domain
	var cursor uint32
	for try := range portTries {
		nat, r := m.chooseNAT(set, k)
		if r != None {
			return 0, 0, nil, r
		}
		k.NAT = nat
		d = m.PortDomains[k]
		if try == 0 {
			cursor = d.Cursor
		}
		bit, _ := d.take()
		if d.Used > PortCount/10*9 {
			m.WantedSweep = true
		}
		port = m.port(bit)
		key := Key{Src: k.Backend, Dst: k.NAT, SrcPort: backendPort, DstPort: port, VNet: k.VNet, Proto: k.Proto}
		var revived *Rewrite
		reverse, revived, result = m.Table.insert(key, rw, NoSlot, m.Now, PortRest, true)
		if result == insertNew {
			if revived != nil {
				m.returnDead(key, revived)
			}
			return reverse, port, func() { d.release(bit); d.Cursor = cursor }, None
		}
		// An entry that is there although its bit was not set is another domain's: the backend got or
		// lost HA ports while it lived.
		d.release(bit)
	}
	d.Cursor = cursor
	if result == insertFull {
		return 0, 0, nil, WindowFull
	}
	return 0, 0, nil, Ports
}

// chooseNAT is the first NAT IP whose ports are less than half used; if none is, the first with a
// free one.
func (m *Machine) chooseNAT(set *NATSet, k DomainKey) (IP, Reason) {
	var first IP
	resting, missing, found := false, false, false
	for _, nat := range set.Addrs {
		k.NAT = nat
		d := m.domain(k)
		if d == nil {
			missing = true
			continue
		}
		if d.Used < PortCount/2 {
			return nat, None
		}
		if d.Used < PortCount && !found {
			first, found = nat, true
		}
		resting = resting || d.Resting > 0
	}
	switch {
	case found:
		return first, None
	case missing:
		return 0, Domains
	case resting:
		return 0, PortsResting
	}
	return 0, Ports
}

// takeUsage counts a pair, or says why it may not be opened.
func (m *Machine) takeUsage(o opening) Reason {
	u := m.usage(o.link)
	if m.Pairs >= m.MaxPairs {
		return TableFull
	}
	if o.flags&FlagInner == 0 {
		if u.Pairs >= o.maxFlows {
			return Quota
		}
		u.Pairs++
	}
	m.Pairs++
	return None
}

// returnDead gives back all that a dead reverse half held.
func (m *Machine) returnDead(k Key, rw *Rewrite) {
	m.returnUsage(rw)
	if d := m.domainOf(k, rw.Flags); d != nil {
		d.Resting--
		d.release(m.bit(k.DstPort))
	}
}

// returnUsage gives back what a pair held, when its reverse half is freed.
func (m *Machine) returnUsage(rw *Rewrite) {
	m.Pairs--
	if rw.Flags&FlagInner == 0 {
		m.usage(rw.Link).Pairs--
	}
}

func (m *Machine) usage(link uint32) *Usage {
	u := m.Usage[link]
	if u == nil {
		u = &Usage{}
		m.Usage[link] = u
	}
	return u
}
