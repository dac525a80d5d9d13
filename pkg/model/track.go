package model

// idle says whether the pair of the live entry n was silent for longer than its timeout, in both
// directions (rule 9). A half without a live twin that points back counts the other as silent.
func (m *Machine) idle(n uint32) bool {
	s := &m.Table.Slots[n]
	if age(m.Now, s.Stamp) <= IdleMin {
		return false
	}
	twin, paired := m.Table.twin(n)
	forward := s
	if s.RW.reverse() {
		if !paired {
			return true
		}
		forward = &m.Table.Slots[twin]
	}
	limit := int32(m.idleLimit(s.RW.Flags, forward.RW.Backend))
	return age(m.Now, s.Stamp) > limit && (!paired || age(m.Now, m.Table.Slots[twin].Stamp) > limit)
}

// idleLimit is how long a pair may be silent, in seconds.
func (m *Machine) idleLimit(flags uint16, backend uint32) uint32 {
	switch Phase(flags & phaseMask) {
	case PhaseSYN:
		return IdleSYN
	case PhaseClosing:
		return IdleClosing
	case PhaseReset:
		return IdleReset
	case PhaseEnded:
		if flags&flagRSTBoth == flagRSTBoth {
			return IdleReset
		}
	}
	b := m.Backends[backend]
	switch {
	case b == nil:
		return IdleDefault
	case flags&FlagTCP != 0 && b.IdleTCP != 0:
		return b.IdleTCP
	case flags&FlagTCP == 0 && b.IdleUDP != 0:
		return b.IdleUDP
	}
	return IdleDefault
}

// change clears and sets flags in both halves of the pair of n.
func (m *Machine) change(n uint32, clear, set uint16) {
	s := m.Table.slot(n)
	s.RW.Flags = s.RW.Flags&^clear | set
	if twin, ok := m.Table.twin(n); ok {
		t := m.Table.slot(twin)
		t.RW.Flags = t.RW.Flags&^clear | set
	}
}

// endHalf makes a live entry dead. The port of a reverse half begins to rest at stamp.
func (m *Machine) endHalf(n, stamp uint32) {
	s := &m.Table.Slots[n]
	m.Table.end(n, stamp)
	if s.Key.Kind == KindFlow && s.RW.reverse() {
		if d := m.domainOf(s.Key, s.RW.Flags); d != nil {
			d.Resting++
		}
	}
}

// endPair makes both halves dead.
func (m *Machine) endPair(n uint32) {
	twin, paired := m.Table.twin(n)
	m.endHalf(n, m.Now)
	if paired {
		m.endHalf(twin, m.Now)
	}
}

// markEnded leaves the pair findable, so that both ends get the RSTs they are owed: for one more idle
// timeout, and where both got one for 10 s.
func (m *Machine) markEnded(n uint32) {
	m.change(n, phaseMask, uint16(PhaseEnded))
	m.Table.slot(n).Stamp = m.Now
	if twin, ok := m.Table.twin(n); ok {
		m.Table.slot(twin).Stamp = m.Now
	}
}

// opensAnew says whether a client's SYN finds a pair that is over: its connection is a new one.
func (p *packet) opensAnew(rw *Rewrite) bool {
	return p.key.Proto == TCP && !rw.reverse() && p.isOpener() && (rw.phase() == PhaseClosing || rw.phase() == PhaseReset)
}

// track follows the TCP connection (RFC 9293 section 3.3.2 as seen from the middle, RFC 7857
// section 2): rule 10.
func (m *Machine) track(n uint32, tcp uint8) {
	rw := &m.Table.Slots[n].RW
	flags, phase := rw.Flags, rw.phase()
	if tcp&RST != 0 {
		m.change(n, phaseMask, uint16(PhaseReset))
		return
	}
	if phase == PhaseOpen && tcp&(SYN|FIN) == 0 {
		return
	}
	fromBackend := rw.reverse()
	switch {
	case tcp&FIN != 0 && fromBackend:
		flags |= FlagFINBackend
	case tcp&FIN != 0:
		flags |= FlagFINClient
	}
	if tcp&SYN != 0 && fromBackend {
		flags |= FlagAnswered
	}
	if phase == PhaseReset {
		// The RST was not believed: the pair is what it was.
		phase = PhaseSYN
		if flags&FlagAnswered != 0 {
			phase = PhaseOpen
		}
	}
	if phase == PhaseSYN && !fromBackend && tcp&ACK != 0 && flags&FlagAnswered != 0 {
		phase = PhaseOpen
	}
	if flags&FlagFINClient != 0 && flags&FlagFINBackend != 0 {
		phase = PhaseClosing
	}
	m.change(n, phaseMask, flags&(FlagFINClient|FlagFINBackend|FlagAnswered)|uint16(phase))
}
