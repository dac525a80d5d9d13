package dataplane

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf"
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
	outs, err := pinnedOuts(f)
	if err != nil {
		return fmt.Errorf("remove privlink from the kernel: %w", err)
	}
	defer outs.close()
	var failed []error
	a := &attacher{ns: ns, folder: f}
	for name, d := range devices {
		program, err := a.filterProgram(d.ifindex)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		if program != 0 {
			if err := ns.do(func() error { return removeFilter(d.ifindex, ownsQdisc(outs, d.ifindex)) }); err != nil {
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

// pinnedOuts are the outputs a daemon left; empty when there are none.
func pinnedOuts(f *folder) (*array[bpfOut], error) {
	m, err := ebpf.LoadPinnedMap(f.maps(mapOuts), nil)
	if errors.Is(err, os.ErrNotExist) {
		return &array[bpfOut]{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open pinned map %s: %w", mapOuts, err)
	}
	defer m.Close()
	return mapArray[bpfOut](m)
}
