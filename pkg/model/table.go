package model

import (
	"encoding/binary"
	"math/bits"
)

// Window is how many slots a key may stand in, from its home on.
const Window = 30

// SlotState is the state of a table slot. The model has no BUSY: nothing happens at the same time.
type SlotState uint8

// Slot states.
const (
	SlotFree SlotState = 0
	SlotLive SlotState = 2
	SlotDead SlotState = 3 // nothing finds it, but slot, port and quota are still held
)

// NoSlot is the twin of an entry without one.
const NoSlot = ^uint32(0)

// Key is what an entry is found by.
type Key struct {
	Src, Dst         IP
	SrcPort, DstPort uint16
	VNet             uint16 // the one the packet arrives from
	Proto            uint8
	Kind             uint8
}

// Rewrite is what becomes of a packet that matches, and whose it is.
type Rewrite struct {
	Src, Dst         IP
	SrcPort, DstPort uint16 // SrcPort of a fragment entry: the new IP id

	// Of a forward half.
	Backend    uint32
	BackendGen uint16
	Client     uint16 // hash of the client's MAC and interface
	// Of a reverse half.
	MAC MAC
	Out uint16

	Link    uint32
	LinkGen uint16
	Flags   uint16 // Phase in the low bits, then Flag...
}

func (r *Rewrite) phase() Phase  { return Phase(r.Flags & phaseMask) }
func (r *Rewrite) reverse() bool { return r.Flags&FlagReverse != 0 }

// Slot is one place of the table.
type Slot struct {
	State    SlotState
	Distance uint8  // from the home of Key
	Homes    uint32 // of this slot as a home: bit i = slot + i holds a key of this home
	Stamp    uint32 // seconds
	Twin     uint32
	Key      Key
	RW       Rewrite
}

// Table is the flow table: a key lives in one of the Window slots from its home on. Where exactly is
// part of the specification only in that a full window refuses a new flow; the model places entries
// as the program does (the key's own dead slot, else the first free one), so that whole tables compare.
type Table struct {
	Slots []Slot
	homes uint32
	seed  [5]uint64
	// Touched lists the slots changed since it was cleared; for who compares.
	Touched []uint32
}

func newTable(homes uint32, seed [5]uint64) *Table {
	return &Table{Slots: make([]Slot, homes+Window), homes: homes, seed: seed}
}

// Home is the slot from which on a key is looked for. The key enters as it stands in memory, the
// addresses and ports in network order, the rest little endian.
func (t *Table) Home(k Key) uint32 {
	var b [16]byte
	binary.BigEndian.PutUint32(b[0:], uint32(k.Src))
	binary.BigEndian.PutUint32(b[4:], uint32(k.Dst))
	binary.BigEndian.PutUint16(b[8:], k.SrcPort)
	binary.BigEndian.PutUint16(b[10:], k.DstPort)
	binary.LittleEndian.PutUint16(b[12:], k.VNet)
	b[14], b[15] = k.Proto, k.Kind
	h := t.seed[4]
	for i := range 4 {
		h += uint64(binary.LittleEndian.Uint32(b[4*i:])) * t.seed[i]
	}
	h ^= h >> 32
	h *= 0x9fb21c651e98df25
	h ^= h >> 29
	h *= 0xd6e8feb86659fd93
	return uint32(h >> 32 * uint64(t.homes) >> 32)
}

// slot is a slot that is going to be changed.
func (t *Table) slot(n uint32) *Slot {
	t.Touched = append(t.Touched, n)
	return &t.Slots[n]
}

// find returns the slot of the key's live entry.
func (t *Table) find(k Key) (uint32, bool) {
	home := t.Home(k)
	for b := t.Slots[home].Homes; b != 0; b &= b - 1 {
		n := home + uint32(bits.TrailingZeros32(b))
		if s := &t.Slots[n]; s.State == SlotLive && s.Key == k {
			return n, true
		}
	}
	return 0, false
}

// twin returns the other half if it is live and points back.
func (t *Table) twin(n uint32) (uint32, bool) {
	w := t.Slots[n].Twin
	if w == NoSlot || int(w) >= len(t.Slots) || t.Slots[w].State != SlotLive || t.Slots[w].Twin != n {
		return 0, false
	}
	return w, true
}

type inserted int

const (
	insertNew inserted = iota
	insertExists
	insertResting
	insertFull
)

// insert makes a live entry. rest is the age from which the key's own dead slot is taken again; a
// younger one refuses a key that waits (a NAT port that rests) and is left alone by another.
// revived is what stood there if a dead slot was taken again.
func (t *Table) insert(k Key, rw Rewrite, twin, now, rest uint32, wait bool) (n uint32, revived *Rewrite, result inserted) {
	home := t.Home(k)
	own := NoSlot
	for b := t.Slots[home].Homes; b != 0; b &= b - 1 {
		n := home + uint32(bits.TrailingZeros32(b))
		s := &t.Slots[n]
		switch {
		case s.Key != k:
		case s.State == SlotLive:
			return n, nil, insertExists
		case s.State == SlotDead && age(now, s.Stamp) >= int32(rest):
			own = n
		case s.State == SlotDead && wait:
			return 0, nil, insertResting
		}
	}
	n = own
	if own != NoSlot {
		old := t.Slots[own].RW
		revived = &old
	}
	for i := uint32(0); i < Window && n == NoSlot; i++ {
		if t.Slots[home+i].State == SlotFree {
			n = home + i
		}
	}
	if n == NoSlot {
		return 0, nil, insertFull
	}
	s := t.slot(n)
	s.State, s.Distance, s.Stamp, s.Twin, s.Key, s.RW = SlotLive, uint8(n-home), now, twin, k, rw
	t.slot(home).Homes |= 1 << (n - home)
	return n, revived, insertNew
}

// end makes a live entry dead; its rest begins at stamp.
func (t *Table) end(n, stamp uint32) {
	s := t.slot(n)
	s.State, s.Stamp = SlotDead, stamp
}

// free gives a dead entry's slot back.
func (t *Table) free(n uint32) {
	s := t.slot(n)
	home := n - uint32(s.Distance)
	s.State, s.Distance = SlotFree, 0
	t.slot(home).Homes &^= 1 << (n - home)
}

// age is how many seconds ago stamp was; negative when it is newer than now.
func age(now, stamp uint32) int32 { return int32(now - stamp) }
