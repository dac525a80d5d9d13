package flowtable

import (
	"fmt"
	"iter"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Size of an entry in bytes: one cache line.
const entrySize = 64

// State is the state word of an entry.
type State uint32

// States of a slot, as enum slot_state in bpf/flowtable.h.
const (
	Free State = iota
	Busy
	Live
	Dead
)

// Slot returns the state proper: Free, Busy, Live or Dead.
func (s State) Slot() State { return s & 3 }

// Distance returns how far from the home of its key the entry stands, 0..29.
func (s State) Distance() uint32 { return uint32(s) >> 2 & 31 }

// Sequence returns how often the slot was claimed, modulo 2^25.
func (s State) Sequence() uint32 { return uint32(s) >> 7 }

// Table is a read-only view of a flow table. E is the type of an entry: 64 bytes without pointers,
// its first field the state word. Safe for concurrent use until Close.
type Table[E any] struct {
	memory []byte
	slots  uint32
}

// Open maps the table. The map may be closed afterwards.
func Open[E any](m *ebpf.Map) (*Table[E], error) {
	var e E
	if size := unsafe.Sizeof(e); size != entrySize || m.ValueSize() != entrySize {
		return nil, fmt.Errorf("open flow table %s: entry has %d bytes and value %d (both must be %d)", m, size, m.ValueSize(), entrySize)
	}
	memory, err := unix.Mmap(m.FD(), 0, int(m.MaxEntries())*entrySize, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map flow table %s: %w (the map needs BPF_F_MMAPABLE)", m, err)
	}
	return &Table[E]{memory: memory, slots: m.MaxEntries()}, nil
}

// Close unmaps the table. Nothing may use it after.
func (t *Table[E]) Close() error {
	if err := unix.Munmap(t.memory); err != nil {
		return fmt.Errorf("unmap flow table: %w", err)
	}
	return nil
}

// Slots returns the number of slots, the window behind the last home included.
func (t *Table[E]) Slots() uint32 { return t.slots }

// Read copies the entry of a slot, in whatever state it is. ok is false when the entry changed
// meanwhile (or the slot is beyond the table), and the copy must not be used.
func (t *Table[E]) Read(slot uint32) (e E, state State, ok bool) {
	if slot >= t.slots {
		return e, 0, false
	}
	from := (*[entrySize / 8]uint64)(unsafe.Pointer(&t.memory[int(slot)*entrySize]))
	to := (*[entrySize / 8]uint64)(unsafe.Pointer(&e))
	word := (*uint32)(unsafe.Pointer(from))

	// Atomic loads are ordered among themselves, on arm64 too, and no word of them tears.
	state = State(atomic.LoadUint32(word))
	for i := range from {
		to[i] = atomic.LoadUint64(&from[i])
	}
	return e, state, State(atomic.LoadUint32(word)) == state && *(*State)(unsafe.Pointer(&e)) == state
}

// Live yields slot and entry of every live entry, by slot. An entry that changes while it is copied
// is left out: it has just been ended, or made.
func (t *Table[E]) Live() iter.Seq2[uint32, E] {
	return func(yield func(uint32, E) bool) {
		for slot := range t.slots {
			// Most slots are empty, and their first word says so.
			word := (*uint32)(unsafe.Pointer(&t.memory[int(slot)*entrySize]))
			if State(atomic.LoadUint32(word)).Slot() != Live {
				continue
			}
			if e, state, ok := t.Read(slot); ok && state.Slot() == Live && !yield(slot, e) {
				return
			}
		}
	}
}
