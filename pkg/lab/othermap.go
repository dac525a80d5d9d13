package lab

import (
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
)

// HalveArray puts an array of half the size in the place of one that is pinned at path, with what the other has in its first
// elements: a map as another version could have left it. Value is the name of the struct in it.
func HalveArray(path, value string) (err error) {
	old, err := ebpf.LoadPinnedMap(path, nil)
	if err != nil {
		return fmt.Errorf("halve map %s: %w", path, err)
	}
	defer old.Close()
	fail := func(err error) error { return fmt.Errorf("halve map %s: %w", path, err) }
	info, err := old.Info()
	if err != nil {
		return fail(err)
	}
	handle, err := old.Handle()
	if err != nil {
		return fail(err)
	}
	defer handle.Close()
	types, err := handle.Spec(nil)
	if err != nil {
		return fail(err)
	}
	var of *btf.Struct
	if err := types.TypeByName(value, &of); err != nil {
		return fail(err)
	}
	m, err := ebpf.NewMap(&ebpf.MapSpec{
		Name: info.Name, Type: old.Type(), KeySize: old.KeySize(), ValueSize: old.ValueSize(), Flags: old.Flags(), MaxEntries: old.MaxEntries() / 2,
		Key: &btf.Int{Name: "unsigned int", Size: 4}, Value: of,
	})
	if err != nil {
		return fail(err)
	}
	defer m.Close()
	const few = 100 // more than any test uses
	for slot := range min(few, m.MaxEntries()) {
		element, err := old.LookupBytes(slot)
		if err == nil {
			err = m.Put(slot, element)
		}
		if err != nil {
			return fail(err)
		}
	}
	if err := errors.Join(os.Remove(path), m.Pin(path)); err != nil {
		return fail(err)
	}
	return nil
}
