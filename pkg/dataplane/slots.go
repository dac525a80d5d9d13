package dataplane

import "fmt"

// slots gives out the numbers of one kind (links, rules, backends, ...): a name keeps
// its number as long as it is in the State, over restarts too, and a number that was given
// back is used again only after two sweeps of the whole flow table, because flows of
// its last owner may still carry it. Slot 0 is never given.
//
// Owned by the Dataplane's mutex.
type slots struct {
	noun    string // for errors: "links"
	max     uint32 // slots, 0 included
	byIdent map[uint64]uint32
	taken   map[uint32]uint64 // ident; 0 = given back
	freed   map[uint32]uint64 // sweeps that were complete when it was given back
	cursor  uint32            // where the search for a free one goes on
	busy    func(slot uint32) bool
}

// newSlots takes the idents that stand in the kernel's array. busy may be nil; it says
// whether something still refers to a slot that was given back.
func newSlots(noun string, max uint32, identOf func(slot uint32) uint64, busy func(uint32) bool) *slots {
	s := &slots{
		noun: noun, max: max, busy: busy, cursor: 1,
		byIdent: make(map[uint64]uint32), taken: make(map[uint32]uint64), freed: make(map[uint32]uint64),
	}
	if identOf == nil {
		return s
	}
	for slot := uint32(1); slot < max; slot++ {
		if id := identOf(slot); id != 0 {
			s.byIdent[id] = slot
			s.taken[slot] = id
			s.cursor = slot + 1
		}
	}
	return s
}

// rest marks every slot that is free now but was used before (used says so) as given back
// now: who adopts the maps does not know when that was.
func (s *slots) rest(used func(slot uint32) bool, sweeps uint64) {
	for slot := uint32(1); slot < s.max; slot++ {
		if _, ok := s.taken[slot]; !ok && used(slot) {
			s.taken[slot] = 0
			s.freed[slot] = sweeps
		}
	}
}

// find gives the slot of an ident, 0 if it has none.
func (s *slots) find(id uint64) uint32 { return s.byIdent[id] }

// get gives the slot of an ident, a new one if it has none. fresh says that it is new.
func (s *slots) get(id uint64, sweeps uint64) (slot uint32, fresh bool, err error) {
	if slot, ok := s.byIdent[id]; ok {
		return slot, false, nil
	}
	for range s.max {
		if s.cursor == 0 || s.cursor >= s.max {
			s.cursor = 1
		}
		slot = s.cursor
		s.cursor++
		owner, used := s.taken[slot]
		if used && (owner != 0 || sweeps < s.freed[slot]+sweepsOfRest || s.busy != nil && s.busy(slot)) {
			continue
		}
		s.taken[slot] = id
		delete(s.freed, slot)
		s.byIdent[id] = slot
		return slot, true, nil
	}
	return 0, false, fmt.Errorf("find a free slot: all %d %s are in use or resting", s.max-1, s.noun)
}

// give gives a slot back.
func (s *slots) give(id uint64, sweeps uint64) {
	slot, ok := s.byIdent[id]
	if !ok {
		return
	}
	delete(s.byIdent, id)
	s.taken[slot] = 0
	s.freed[slot] = sweeps
}

// others calls f for every ident that is not in keep.
func (s *slots) others(keep map[uint64]bool, f func(id uint64, slot uint32)) {
	for id, slot := range s.byIdent {
		if !keep[id] {
			f(id, slot)
		}
	}
}

// used is the number of slots that have an owner.
func (s *slots) used() int { return len(s.byIdent) }

// sweepsOfRest is how many complete sweeps a slot rests: the one under way when it was given
// back may have passed its flows already, the next one ends them, and the one after frees
// those that were opened meanwhile by packets that had read the old configuration.
const sweepsOfRest = 2
