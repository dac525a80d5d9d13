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
			// Its forward half decides for both. Alone it is what an opening or a new pair left.
			found.Live++
			if _, paired := m.Table.twin(n); !paired && age(m.Now, s.Stamp) > OrphanAge {
				m.endHalf(n, m.Now)
				found.Orphans++
			}
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

// sweepForward ends a pair that is idle, or whose link or backend is gone.
func (m *Machine) sweepForward(n uint32, found *Sweep) {
	rw := &m.Table.Slots[n].RW
	tcp := rw.Flags&FlagTCP != 0
	b := m.Backends[rw.Backend]
	ended := rw.phase() == PhaseEnded
	if !ended && (!m.carries(rw.Link, rw.LinkGen) || b == nil || b.Gen != rw.BackendGen) {
		found.Ended++
		if tcp {
			m.markEnded(n)
			found.Unanswered++
		} else {
			m.endPair(n)
		}
		return
	}
	if ended {
		found.Unanswered++
	}
	if !m.idle(n) {
		return
	}
	if b != nil && b.TCPReset && tcp && rw.phase() == PhaseOpen {
		m.markEnded(n)
		found.Unanswered++
		found.Ended++
		return
	}
	m.endPair(n)
	found.Killed++
}
