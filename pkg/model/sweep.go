package model

// grace is how long a dead entry without a port stands, in seconds.
const grace = 2

// Sweep is what one slice of the sweep found.
type Sweep struct {
	Live, Dead uint32 // entries
	Killed     uint32 // pairs found idle
	Ended      uint32 // pairs whose link or backend is gone, or that are owed a RST at idle expiry
	Freed      uint32 // entries
	Orphans    uint32 // reverse halves without a forward half
	Unanswered uint32 // ended pairs: an end of each was not heard to be over
}

// Sweep visits the slots first..first+count-1 (rule 22). What packets decide does not depend on when
// it comes, but for what is held: slots, quota and ports.
func (m *Machine) Sweep(first, count uint32) Sweep {
	var found Sweep
	for n := first; n < first+count && int(n) < len(m.Table.Slots); n++ {
		switch s := &m.Table.Slots[n]; {
		case s.State == SlotDead:
			found.Dead++
			m.sweepDead(n, &found)
		case s.State == SlotLive && s.Key.Kind != KindFlow:
			found.Live++
			if age(m.Now, s.Stamp) > IdleFragment {
				m.Table.end(n, m.Now-PortRest)
				if s.Key.Kind == KindIPID {
					m.returnFragment(s.RW.Link)
				}
			}
		case s.State == SlotLive && s.RW.reverse():
			found.Live++
			m.sweepReverse(n, &found)
		case s.State == SlotLive:
			found.Live++
			m.sweepForward(n, &found)
		}
	}
	return found
}

// sweepDead frees an entry that stood long enough: then its quota, last its port.
func (m *Machine) sweepDead(n uint32, found *Sweep) {
	s := m.Table.Slots[n]
	port := s.Key.Kind == KindFlow && s.RW.reverse()
	rest := int32(grace)
	if port {
		rest = PortRest
	}
	if age(m.Now, s.Stamp) < rest {
		return
	}
	m.Table.free(n)
	found.Freed++
	if !port {
		return
	}
	m.returnDead(s.Key, &s.RW)
}

// sweepReverse ends an idle pair like its forward half would; what else a pair needs it leaves to that. Alone it is what an
// opening or a new pair left.
func (m *Machine) sweepReverse(n uint32, found *Sweep) {
	forward, paired := m.Table.twin(n)
	if !paired {
		if age(m.Now, m.Table.Slots[n].Stamp) > OrphanAge {
			m.endHalf(n, m.Now)
			found.Orphans++
		}
		return
	}
	if m.idle(forward) && !m.gone(forward) && !m.resetDue(forward) {
		m.endPair(forward)
		found.Killed++
	}
}

// gone says whether a pair's link or backend is no longer what it was opened with, and its ends were not told yet.
func (m *Machine) gone(forward uint32) bool {
	rw := &m.Table.Slots[forward].RW
	b := m.Backends[rw.Backend]
	return rw.phase() != PhaseEnded && (!m.carries(rw.Link, rw.LinkGen) || b == nil || b.Gen != rw.BackendGen)
}

// resetDue says whether the ends of a pair get a RST when it is idle.
func (m *Machine) resetDue(forward uint32) bool {
	rw := &m.Table.Slots[forward].RW
	b := m.Backends[rw.Backend]
	return b != nil && b.TCPReset && rw.Flags&FlagTCP != 0 && rw.phase() == PhaseOpen
}

// sweepForward ends a pair that is idle, or whose link or backend is gone.
func (m *Machine) sweepForward(n uint32, found *Sweep) {
	rw := &m.Table.Slots[n].RW
	if m.gone(n) {
		found.Ended++
		if rw.Flags&FlagTCP != 0 {
			m.markEnded(n)
			found.Unanswered++
		} else {
			m.endPair(n)
		}
		return
	}
	if rw.phase() == PhaseEnded {
		found.Unanswered++
	}
	if !m.idle(n) {
		return
	}
	if m.resetDue(n) {
		m.markEnded(n)
		found.Unanswered++
		found.Ended++
		return
	}
	m.endPair(n)
	found.Killed++
}
