package dataplane

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// Down removes everything privlink has in the kernel: programs, links, maps, filters, pins. It
// refuses while a daemon runs (ErrLocked), and does nothing where there is nothing.
func Down(_ context.Context, opts Options) error {
	path := opts.BPFFS
	if path == "" {
		path = DefaultBPFFS
	}
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	f, err := lockFolder(path)
	if err != nil {
		return fmt.Errorf("remove privlink from the kernel: %w", err)
	}
	defer f.close()
	ns := namespace{opts.NetNS}
	devices, err := ns.devices()
	if err != nil {
		return fmt.Errorf("remove privlink from the kernel: %w", err)
	}
	var failed []error
	outs, err := pinnedOuts(f)
	if err != nil {
		failed = append(failed, err) // all but the qdiscs can go without it
	}
	a := &attacher{ns: ns, folder: f}
	for name, d := range devices {
		program, err := a.filterProgram(d.ifindex)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		if program != 0 {
			if err := ns.do(func() error { return removeFilter(d.ifindex, ownsQdisc(slices.Values(outs), d.ifindex)) }); err != nil {
				failed = append(failed, fmt.Errorf("detach %s: %w", name, err))
			}
		}
	}
	// A link ends with its last reference, which is its pin.
	failed = append(failed, f.remove())
	if err := errors.Join(failed...); err != nil {
		return fmt.Errorf("remove privlink from the kernel: %w", err)
	}
	return nil
}

// pinnedOuts are the outputs a daemon of whatever version left; none when there is no map.
func pinnedOuts(f *folder) ([]bpfOut, error) {
	was, err := predecessor(f, mapOuts)
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
