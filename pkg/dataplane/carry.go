package dataplane

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
)

// carrier copies values of a struct as an older map has it into ours, field by field. A field is found by its name and
// its size; one that is not there stays 0.
type carrier struct {
	moves []move
	have  map[string]leaf // theirs
}

type move struct{ from, to, size uint32 }

// newCarrier compares a struct with the one of its name in the BTF of a map. It fails when a field of kept is missing, and
// leaves out those of left.
func newCarrier(ours btf.Type, old *ebpf.Map, kept, left []string) (*carrier, error) {
	handle, err := old.Handle()
	if err != nil {
		return nil, fmt.Errorf("read its BTF: %w", err)
	}
	defer handle.Close()
	types, err := handle.Spec(nil)
	if err != nil {
		return nil, fmt.Errorf("read its BTF: %w", err)
	}
	var theirs *btf.Struct
	if err := types.TypeByName(ours.TypeName(), &theirs); err != nil {
		return nil, fmt.Errorf("find struct %s in its BTF: %w", ours.TypeName(), err)
	}
	own := make(map[string]leaf)
	c := &carrier{have: make(map[string]leaf)}
	if err := errors.Join(leaves(ours, "", 0, leaf{}, own), leaves(theirs, "", 0, leaf{}, c.have)); err != nil {
		return nil, err
	}
	found := make(map[string]bool)
	for name, to := range own {
		from, ok := c.have[name]
		if !ok || from.size != to.size || from.within != to.within || from.inside != to.inside {
			continue
		}
		found[name] = true
		if to.within == "" && !slices.Contains(left, name) { // what is in a union is copied with it
			c.moves = append(c.moves, move{from.offset, to.offset, to.size})
		}
	}
	for _, name := range kept {
		if !found[name] {
			return nil, fmt.Errorf("it has no field %s as this version knows it (privlink down ends all flows and begins anew)", name)
		}
	}
	return c, nil
}

// carry copies one value.
func (c *carrier) carry(to, from []byte) {
	for _, m := range c.moves {
		copy(to[m.to:m.to+m.size], from[m.from:m.from+m.size])
	}
}

// carryMap copies what is in a map of before into a new one, slot by slot or key by key.
func carryMap(spec *ebpf.MapSpec, fresh, old *ebpf.Map) error {
	if old.Type() != fresh.Type() {
		return fmt.Errorf("it is of type %s, not %s", old.Type(), fresh.Type())
	}
	is := layouts[spec.Name]
	if old.Type() == ebpf.Hash {
		return carryHash(spec, fresh, old, is)
	}
	c, err := newCarrier(spec.Value, old, is.kept, is.left)
	if err != nil {
		return err
	}
	from, err := openWords(old)
	if err != nil {
		return err
	}
	defer from.close()
	to, err := openWords(fresh)
	if err != nil {
		return err
	}
	defer to.close()
	unused := make([]byte, from.stride)
	for slot := range old.MaxEntries() {
		value := from.slot(slot)
		if bytes.Equal(value, unused) {
			continue
		}
		if slot >= fresh.MaxEntries() {
			return fmt.Errorf("slot %d is in use, and there are only %d now (privlink down ends all flows and begins anew)", slot, fresh.MaxEntries())
		}
		c.carry(to.slot(slot), value)
	}
	return nil
}

// carryHash is carryMap for maps with keys.
func carryHash(spec *ebpf.MapSpec, fresh, old *ebpf.Map, is layout) error {
	keys, err := newCarrier(spec.Key, old, nil, nil)
	if err != nil {
		return err
	}
	values, err := newCarrier(spec.Value, old, is.kept, is.left)
	if err != nil {
		return err
	}
	var key, value []byte
	all := old.Iterate()
	for all.Next(&key, &value) {
		k, v := make([]byte, spec.KeySize), make([]byte, spec.ValueSize)
		keys.carry(k, key)
		values.carry(v, value)
		if err := fresh.Put(k, v); err != nil {
			return fmt.Errorf("copy an element: %w", err)
		}
	}
	return all.Err()
}

// configOf reads the config, of whatever version.
func configOf(spec *ebpf.MapSpec, m *ebpf.Map) (c bpfConfig, err error) {
	all, err := carryArray[bpfConfig](spec, m)
	if err != nil {
		return c, err
	}
	return all[0], nil
}

// carryArray reads an array of whatever version.
func carryArray[T any](spec *ebpf.MapSpec, m *ebpf.Map) ([]T, error) {
	is := layouts[spec.Name]
	c, err := newCarrier(spec.Value, m, is.kept, is.left)
	if err != nil {
		return nil, err
	}
	from, err := openWords(m)
	if err != nil {
		return nil, err
	}
	defer from.close()
	all := make([]T, m.MaxEntries())
	for i := range all {
		c.carry(bytesOf(&all[i]), from.slot(uint32(i)))
	}
	return all, nil
}

// carryCounters takes over the numbers of the links, just before the switch: what the old programs count from here on is missing.
func (d *Dataplane) carryCounters() error {
	old, ok := d.k.migration.anew[mapLinkStats]
	if !ok || old.Map == nil {
		return nil
	}
	fresh := d.k.maps[mapLinkStats]
	types, err := LoadSpecs()
	if err != nil {
		return err
	}
	c, err := newCarrier(types.TC.Maps[mapLinkStats].Value, old.Map, nil, nil)
	if err != nil {
		return fmt.Errorf("adopt map %s: %w: %w", filepath.Base(old.path), ErrLayout, err)
	}
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return fmt.Errorf("count CPUs: %w", err)
	}
	for slot := range min(d.k.links.count, old.MaxEntries()) {
		if d.k.links.load(slot).Ident == 0 {
			continue
		}
		was, err := old.LookupBytes(slot)
		if err != nil {
			return fmt.Errorf("read the counters of link slot %d: %w", slot, err)
		}
		now, stride := make([]bpfLinkStats, cpus), len(was)/cpus
		for i := range now {
			c.carry(bytesOf(&now[i]), was[i*stride:])
		}
		if err := fresh.Put(slot, now); err != nil {
			return fmt.Errorf("copy the counters of link slot %d: %w", slot, err)
		}
	}
	return nil
}
