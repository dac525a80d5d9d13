package dataplane

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// makeDirs makes the folders for pins.
func (f *folder) makeDirs() error {
	for _, dir := range []string{f.maps(""), f.programs(""), filepath.Dir(f.link("", ""))} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("make folder for pins: %w", err)
		}
	}
	return nil
}

// pinnable is what the kernel can pin, and cilium/ebpf remembers the path of.
type pinnable interface {
	pinner
	Unpin() error
}

var (
	_ pinnable = (*ebpf.Map)(nil)
	_ pinnable = (*ebpf.Program)(nil)
	_ pinnable = (link.Link)(nil)
)

// pins are all objects that are to be pinned, by path; the iterator, which nobody holds, is missing.
func (d *Dataplane) pins() map[string]pinnable {
	all := make(map[string]pinnable)
	for name, m := range d.k.maps {
		all[d.folder.maps(name)] = m
	}
	for p, name := range d.k.programs() {
		all[d.folder.programs(name)] = *p
	}
	for _, b := range d.bindings {
		if b.tcx != nil {
			all[d.folder.link(hookTCX, b.name)] = b.tcx
		}
		if b.xdp != nil {
			all[d.folder.link(hookXDP, b.name)] = b.xdp
		}
	}
	return all
}

// repairPins pins again what has lost its pin, the whole folder and its bpffs if need be, and says what
// that was. Traffic does not depend on it while the daemon runs; the next one does. mu is held.
func (d *Dataplane) repairPins() (lost []string, err error) {
	if !d.folder.present() {
		lost = append(lost, d.folder.path)
		if err := d.folder.restore(); err != nil {
			return lost, fmt.Errorf("pin again: %w", err)
		}
	}
	missing := make(map[string]pinnable)
	for path, object := range d.pins() {
		if _, err := os.Lstat(path); errors.Is(err, os.ErrNotExist) {
			missing[path] = object
		}
	}
	_, err = os.Lstat(d.folder.iterator())
	iterator := errors.Is(err, os.ErrNotExist)
	if len(missing) == 0 && !iterator {
		return lost, nil
	}
	if err := d.folder.makeDirs(); err != nil {
		return lost, fmt.Errorf("pin again: %w", err)
	}
	var failed []error
	for path, object := range missing {
		lost = append(lost, path)
		// Unpin forgets the path that is no more; without that, Pin would think it done.
		failed = append(failed, object.Unpin(), object.Pin(path))
	}
	if iterator {
		lost = append(lost, d.folder.iterator())
		failed = append(failed, d.k.pinIterator(d.folder))
	}
	if err := errors.Join(failed...); err != nil {
		return lost, fmt.Errorf("pin again: %w", err)
	}
	return lost, nil
}

// guard repairs what another agent did to pins, and says whether an attachment needs to be made again.
// It costs a system call for each pin and attachment; mu is not held for the latter, as the kernel answers only when
// nobody makes or removes an interface.
func (d *Dataplane) guard() (broken bool) {
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		return false
	}
	lost, err := d.repairPins()
	bindings := slices.Collect(maps.Values(d.bindings))
	d.mu.Unlock()
	switch {
	case err != nil:
		d.log.WithError(err).Error("pins were removed (traffic goes on; a restart of the daemon would end it)")
	case len(lost) > 0:
		d.log.WithField("pins", len(lost)).WithField("first", lost[0]).Warn("pinned again what somebody unpinned")
	}
	d.binding.Lock()
	defer d.binding.Unlock()
	for _, b := range bindings { // one that was detached meanwhile is looked at once more
		if tc, xdp := d.att.intact(b); !tc || !xdp {
			return true
		}
	}
	return false
}
