package dataplane

import (
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/privlink/privlink/pkg/maglev"
	"golang.org/x/sys/unix"
)

// members are what a Maglev table is built from.
type members struct {
	port string // of the backends
	list []member
}

// member is a backend that takes new flows.
type member struct {
	pool   string
	addr   netip.Addr
	weight uint16
	slot   uint32
	ident  uint64 // of the backend
	name   uint64 // hash of pool, address and port
}

// signature tells tables apart; 0 for none.
func (m *members) signature() uint64 {
	if len(m.list) == 0 {
		return 0
	}
	h := identBegin
	for i := range m.list {
		x := &m.list[i]
		h = mix64(h ^ x.ident)
		h = mix64(h ^ uint64(x.weight)<<32 ^ uint64(x.slot))
	}
	return identEnd(h)
}

// choice is equal for members that get the same table but for their slots: those of a service and of the frontend that
// it publishes.
func (m *members) choice() uint64 {
	h := identBegin
	for i := range m.list {
		h = mix64(h ^ m.list[i].name)
		h = mix64(h ^ uint64(m.list[i].weight))
	}
	return h
}

// choose makes the table: each place the index of a member. A member's name, not its slot, decides its places: they are
// the same on every node.
func (m *members) choose(seed [2]uint64) []uint32 {
	names, weights := make([]string, len(m.list)), make([]uint16, len(m.list))
	for i := range m.list {
		x := &m.list[i]
		names[i], weights[i] = x.pool+"|"+x.addr.String()+"|"+m.port, x.weight
	}
	return maglev.Build(names, weights, maglev.Size(len(names)), seed)
}

// places are the slots of the backends that were chosen.
func (m *members) places(chosen []uint32) []uint32 {
	places := make([]uint32, len(chosen))
	for i, n := range chosen {
		places[i] = m.list[n].slot
	}
	return places
}

// mix64 is that of bpf/balance.h.
func mix64(h uint64) uint64 {
	h ^= h >> 32
	h *= 0x9fb21c651e98df25
	h ^= h >> 29
	h *= 0xd6e8feb86659fd93
	return h ^ h>>32
}

// writeRules writes the rules, with those Maglev tables first that change. A table that keeps its size is rewritten; of
// all others new ones are made and swapped in by one call, as the kernel waits for all running programs once per call.
func (d *Dataplane) writeRules(p *plan) (err error) {
	var slots, fds []uint32
	var made []*ebpf.Map
	defer func() {
		for _, m := range made {
			err = errors.Join(err, m.Close()) // the outer map holds them
		}
	}()
	seed := d.k.config.load(0).MaglevSeed
	changed := d.changedTables(p)
	for _, alike := range changed {
		d.k.doubt(alike)
	}
	for _, alike := range changed {
		first := p.tables[alike[0]]
		chosen := first.choose(seed)
		for _, slot := range alike {
			table := p.tables[slot]
			places := table.places(chosen)
			if d.k.rules.load(slot).Ident == p.rules[slot].Ident && d.k.rewriteTable(slot, places) {
				continue
			}
			m, err := d.k.newTable(places)
			if err != nil {
				return fmt.Errorf("make the Maglev table of rule slot %d: %w", slot, err)
			}
			made = append(made, m)
			slots = append(slots, slot)
			fds = append(fds, uint32(m.FD()))
		}
	}
	if err := d.k.putTables(slots, fds); err != nil {
		return err
	}
	if err := d.opts.step(stepTables); err != nil {
		return err
	}
	for slot, rule := range p.rules {
		d.k.rules.store(slot, rule, wordRule)
	}
	return nil
}

// changedTables are the slots of the rules whose tables change, those with one choice together.
func (d *Dataplane) changedTables(p *plan) map[uint64][]uint32 {
	changed := make(map[uint64][]uint32)
	for slot, rule := range p.rules {
		if old := d.k.rules.load(slot); old.Ident != rule.Ident || old.Balance != rule.Balance {
			table := p.tables[slot]
			choice := table.choice()
			changed[choice] = append(changed[choice], slot)
		}
	}
	return changed
}

// doubted is the signature of a table that is being changed: no members have it.
const doubted = ^uint64(0)

// doubt makes the next Apply write the tables of some rules anew, whatever its State, until the rules are stored: who dies or fails
// halfway leaves tables of neither State, and the next one is often the one before, as what probes find out is in no store.
func (k *kernel) doubt(slots []uint32) {
	for _, slot := range slots {
		rule := k.rules.load(slot)
		rule.Balance = doubted
		k.rules.storeWord(slot, rule, balanceRule)
	}
}

// newTable makes an inner map: element 0 is the number of places. It is empty for a rule that has
// no backend now.
func (k *kernel) newTable(places []uint32) (*ebpf.Map, error) {
	spec := k.maglevSpec.Copy()
	spec.MaxEntries = uint32(len(places) + 1)
	m, err := ebpf.NewMap(spec)
	if err != nil {
		return nil, err
	}
	mem, words, err := tableWords(m)
	if err != nil {
		return nil, errors.Join(err, m.Close())
	}
	words[0] = uint64(len(places)) // little endian: the value is the lower half
	for i, slot := range places {
		words[i+1] = uint64(slot)
	}
	if err := unix.Munmap(mem); err != nil {
		return nil, errors.Join(fmt.Errorf("unmap a table: %w", err), m.Close())
	}
	return m, nil
}

// tableWords are the elements of an inner map in memory, until mem is unmapped.
func tableWords(m *ebpf.Map) (mem []byte, words []uint64, err error) {
	const stride = 8 // the kernel rounds elements up
	if mem, err = mapWords(m, stride); err != nil {
		return nil, nil, err
	}
	return mem, unsafe.Slice((*uint64)(unsafe.Pointer(&mem[0])), m.MaxEntries()), nil
}

// rewriteTable makes a rule's table the new one where it stands, if it has as many places. A swap would take no packet by
// surprise either, but waits for all running programs, which takes longer than everything else that one backend's change
// needs. A place is one word, read once by a packet; the backends of both tables are in the kernel before and
// afterwards; so each flow's choice changes at most once and from the one table's to the other's, as with a
// swap.
func (k *kernel) rewriteTable(slot uint32, places []uint32) (done bool) {
	var id uint32
	if k.maps[mapMaglev].Lookup(slot, &id) != nil {
		return false // it has none
	}
	m, err := ebpf.NewMapFromID(ebpf.MapID(id))
	if err != nil {
		return false // a table that cannot be opened is replaced
	}
	defer m.Close()
	if int(m.MaxEntries()) != len(places)+1 {
		return false
	}
	mem, words, err := tableWords(m)
	if err != nil {
		return false
	}
	for i, slot := range places {
		if atomic.LoadUint64(&words[i+1]) != uint64(slot) {
			atomic.StoreUint64(&words[i+1], uint64(slot))
		}
	}
	return unix.Munmap(mem) == nil
}

// putTables swaps tables, in one call where the kernel can.
func (k *kernel) putTables(slots, fds []uint32) error {
	if len(slots) > 1 {
		_, err := k.maps[mapMaglev].BatchUpdate(slots, fds, nil)
		if err == nil {
			return nil
		}
		if !errors.Is(err, ebpf.ErrNotSupported) {
			return fmt.Errorf("swap %d Maglev tables: %w", len(slots), err)
		}
	}
	for i, slot := range slots {
		if err := k.maps[mapMaglev].Put(slot, fds[i]); err != nil {
			return fmt.Errorf("swap the Maglev table of rule slot %d: %w", slot, err)
		}
	}
	return nil
}

// dropTables gives up tables. Many are swapped for one empty table that all share: a deletion waits for all running
// programs, once for each, and no call deletes several.
func (k *kernel) dropTables(slots []uint32) (err error) {
	switch len(slots) {
	case 0:
		return nil
	case 1:
		if err := k.maps[mapMaglev].Delete(slots[0]); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("remove the Maglev table of rule slot %d: %w", slots[0], err)
		}
		return nil
	}
	empty, err := k.newTable(nil)
	if err != nil {
		return fmt.Errorf("make an empty Maglev table: %w", err)
	}
	defer func() { err = errors.Join(err, empty.Close()) }()
	fds := make([]uint32, len(slots))
	for i := range fds {
		fds[i] = uint32(empty.FD())
	}
	return k.putTables(slots, fds)
}
