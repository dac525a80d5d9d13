package dataplane

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf"
)

// Down removes everything privlink has in the kernel: programs, links, maps, filters, pins. It
// refuses while a daemon runs (ErrLocked), and does nothing where there is nothing. Filters outlive pins that somebody deleted, and
// are found all the same.
func Down(_ context.Context, opts Options) error {
	path := opts.BPFFS
	if path == "" {
		path = DefaultBPFFS
	}
	f := &folder{path: filepath.Clean(path)}
	_, err := os.Stat(path)
	there := !errors.Is(err, os.ErrNotExist)
	if there {
		if f, err = lockFolder(f.path); err != nil {
			return fmt.Errorf("remove privlink from the kernel: %w", err)
		}
		defer f.close()
	}
	a := &attacher{ns: namespace{opts.NetNS}, folder: f}
	failed := []error{a.removeFilters()}
	if there {
		// A link ends with its last reference, which is its pin.
		failed = append(failed, f.remove())
	}
	if err := errors.Join(failed...); err != nil {
		return fmt.Errorf("remove privlink from the kernel: %w", err)
	}
	return nil
}

// removeFilters removes our filters from all interfaces, with the queueing disciplines that were made for them.
func (a *attacher) removeFilters() error {
	devices, err := a.ns.devices()
	if err != nil {
		return err
	}
	var failed []error
	filters := make(map[string]ebpf.ProgramID)
	for name, d := range devices {
		program, err := a.filterProgram(d.ifindex)
		if err != nil {
			failed = append(failed, err)
		} else if program != 0 {
			filters[name] = program
		}
	}
	if len(filters) == 0 {
		return errors.Join(failed...)
	}
	outs, err := outsLeft(a.folder, maps.Values(filters))
	if err != nil {
		failed = append(failed, err) // all but the qdiscs can go without it
	}
	for name := range filters {
		index := devices[name].ifindex
		if err := a.ns.do(func() error { return a.removeFilter(index, ownsQdisc(slices.Values(outs), index)) }); err != nil {
			failed = append(failed, fmt.Errorf("detach %s: %w", name, err))
		}
	}
	return errors.Join(failed...)
}

// outsLeft are the outputs a daemon of whatever version left: in the map that is pinned, or that a program still holds; none when there
// is no such map.
func outsLeft(f *folder, programs iter.Seq[ebpf.ProgramID]) ([]bpfOut, error) {
	was, err := predecessor(f, mapOuts)
	if err == nil && was.Map == nil {
		was, err = heldBy(programs, mapOuts)
	}
	if err != nil || was.Map == nil {
		return nil, err
	}
	defer was.close()
	specs, err := LoadSpecs()
	if err != nil {
		return nil, err
	}
	outs, err := carryArray[bpfOut](specs.TC.Maps[mapOuts], was.Map)
	if err != nil {
		return nil, fmt.Errorf("read map %s: %w", filepath.Base(was.path), err)
	}
	return outs, nil
}

// heldBy is a map, of whatever version, that one of some programs holds (see bindMaps).
func heldBy(programs iter.Seq[ebpf.ProgramID], name string) (former, error) {
	for id := range programs {
		program, err := ebpf.NewProgramFromID(id)
		if err != nil {
			continue // unloaded meanwhile
		}
		info, err := program.Info()
		program.Close()
		if err != nil {
			return former{}, fmt.Errorf("look for map %s: %w", name, err)
		}
		ids, _ := info.MapIDs()
		for _, id := range ids {
			m, err := ebpf.NewMapFromID(id)
			if err != nil {
				return former{}, fmt.Errorf("look for map %s: %w", name, err)
			}
			info, err := m.Info()
			if err == nil && base(info.Name) == base(name) {
				return former{m, info.Name}, nil
			}
			if err := errors.Join(err, m.Close()); err != nil {
				return former{}, fmt.Errorf("look for map %s: %w", name, err)
			}
		}
	}
	return former{}, nil
}
