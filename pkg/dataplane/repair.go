package dataplane

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

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

// pinned says whether object is pinned at path.
func pinned(path string, object pinnable) bool {
	var opened io.Closer
	var have, want uint32
	switch object := object.(type) {
	case *ebpf.Map:
		m, err := ebpf.LoadPinnedMap(path, nil)
		if err != nil {
			return false
		}
		opened, have, want = m, mapID(m), mapID(object)
	case *ebpf.Program:
		p, err := ebpf.LoadPinnedProgram(path, nil)
		if err != nil {
			return false
		}
		opened, have, want = p, programID(p), programID(object)
	case link.Link:
		l, err := link.LoadPinnedLink(path, nil)
		if err != nil {
			return false
		}
		opened, have, want = l, linkID(l), linkID(object)
	}
	return opened.Close() == nil && have == want && have != 0
}

// The id of an object, 0 if the kernel does not say.
func mapID(m *ebpf.Map) uint32 {
	info, err := m.Info()
	if err != nil {
		return 0
	}
	id, _ := info.ID()
	return uint32(id)
}

func programID(p *ebpf.Program) uint32 {
	info, err := p.Info()
	if err != nil {
		return 0
	}
	id, _ := info.ID()
	return uint32(id)
}

func linkID(l link.Link) uint32 {
	info, err := l.Info()
	if err != nil {
		return 0
	}
	return uint32(info.ID)
}

// there says whether anything is at path, which guard asks every second.
func there(path string, _ pinnable) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, os.ErrNotExist)
}

// PinTrouble is a pin that is not as the dataplane made it.
type PinTrouble struct {
	Path string
	Why  PinWhy
}

// PinWhy is what is the matter with a pin.
type PinWhy string

// What can be the matter with a pin.
const (
	PinMissing PinWhy = "missing"
	PinOther   PinWhy = "other" // another object is pinned there
	PinLeft    PinWhy = "left"  // an attachment that the State does not have
)

// Pins compares the bpffs folder with what is to be pinned there. What is missing is pinned again within a second.
func (d *Dataplane) Pins() ([]PinTrouble, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, fmt.Errorf("look at the pins: %w", ErrClosed)
	}
	var found []PinTrouble
	all := d.pins()
	for path, object := range all {
		switch {
		case !there(path, object):
			found = append(found, PinTrouble{path, PinMissing})
		case !pinned(path, object):
			found = append(found, PinTrouble{path, PinOther})
		}
	}
	if !there(d.folder.iterator(), nil) {
		found = append(found, PinTrouble{d.folder.iterator(), PinMissing})
	}
	links, err := d.folder.allLinks()
	if err != nil {
		return nil, err
	}
	for path := range links {
		if all[path] == nil {
			found = append(found, PinTrouble{path, PinLeft})
		}
	}
	slices.SortFunc(found, func(a, b PinTrouble) int { return strings.Compare(a.Path, b.Path) })
	return found, nil
}

// Attached is an interface that the programs are attached to.
type Attached struct {
	Interface string
	// Detached says that somebody took a program away since: that it is attached again takes a second.
	Detached bool
	// Before are other programs, "hook name#id", that see its packets before privlink's do; After see what privlink's sends out
	// there.
	Before, After []string
}

// LookAtAttached asks the kernel how each attachment is now, the inner network's included.
func (d *Dataplane) LookAtAttached() ([]Attached, error) {
	d.mu.Lock()
	bindings, closed := slices.Collect(maps.Values(d.bindings)), d.closed
	d.mu.Unlock()
	if closed {
		return nil, fmt.Errorf("look at the attachments: %w", ErrClosed)
	}
	gone := d.broken(bindings)
	all := make([]Attached, 0, len(bindings))
	for _, b := range bindings {
		others := d.att.strangers(b)
		all = append(all, Attached{b.name, slices.Contains(gone, b), others.before, others.after})
	}
	slices.SortFunc(all, func(a, b Attached) int { return strings.Compare(a.Interface, b.Interface) })
	return all, nil
}

// Repair makes the kernel agree with the last State where somebody else changed it: pins, attachments and what the maps hold.
// Apply trusts what it wrote once; Repair reads it again.
func (d *Dataplane) Repair(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("repair: %w", err)
	}
	looked := d.lookAround()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return fmt.Errorf("repair: %w", ErrClosed)
	}
	lost, err := d.repairPins(pinned)
	if err != nil {
		return fmt.Errorf("repair: %w", err)
	}
	d.log.WithField("pins", len(lost)).Info("repairing what is in the kernel")
	if !d.applied {
		return nil // the first Apply is under way
	}
	if err := errors.Join(looked(), d.readEntries()); err != nil {
		return fmt.Errorf("repair: %w", err)
	}
	d.dropStrays()
	if err := d.doubtTables(); err != nil {
		return fmt.Errorf("repair: %w", err)
	}
	if err := d.apply(d.withInner(d.state)); err != nil {
		return fmt.Errorf("repair: %w", err)
	}
	d.report()
	return nil
}

// dropStrays clears links and backends in slots that were never given out. mu is held.
func (d *Dataplane) dropStrays() {
	for slot := uint32(1); slot < d.k.links.count; slot++ {
		if old := d.k.links.load(slot); old.Ident != 0 && d.links.taken[slot] == 0 {
			d.k.links.store(slot, bpfLink{Gen: old.Gen + 1}, wordLink)
		}
	}
	for slot := uint32(1); slot < d.k.backends.count; slot++ {
		if old := d.k.backends.load(slot); old.Ident != 0 && d.backends.taken[slot] == 0 {
			d.k.backends.store(slot, bpfBackend{Gen: old.Gen + 1}, wordBackend)
		}
	}
}

// doubtTables makes the next Apply write the Maglev tables anew that lead elsewhere than to their rules' backends. mu is held.
func (d *Dataplane) doubtTables() error {
	r := reading{k: d.k}
	for slot, table := range d.plan.tables {
		var due []string
		for i := range table.list {
			due = append(due, table.list[i].addr.String())
		}
		slices.Sort(due)
		chosen, err := r.chosen(slot)
		if err != nil {
			return fmt.Errorf("read the Maglev table of rule slot %d: %w", slot, err)
		}
		if !slices.Equal(chosen, slices.Compact(due)) {
			d.k.doubt([]uint32{slot})
		}
	}
	return nil
}

// repairPins pins again what is not at its place, the whole folder and its bpffs if need be, and says what
// that was. Traffic does not depend on it while the daemon runs; the next one does. mu is held.
func (d *Dataplane) repairPins(inPlace func(path string, object pinnable) bool) (lost []string, err error) {
	if !d.folder.present() {
		lost = append(lost, d.folder.path)
		if err := d.folder.restore(); err != nil {
			return lost, fmt.Errorf("pin again: %w", err)
		}
	}
	missing := make(map[string]pinnable)
	for path, object := range d.pins() {
		if !inPlace(path, object) {
			missing[path] = object
		}
	}
	iterator := !there(d.folder.iterator(), nil)
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
		failed = append(failed, removePin(path), object.Unpin(), object.Pin(path))
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
	lost, err := d.repairPins(there)
	bindings := slices.Collect(maps.Values(d.bindings))
	d.mu.Unlock()
	switch {
	case err != nil:
		d.log.WithError(err).Error("pins were removed (traffic goes on; a restart of the daemon would end it)")
	case len(lost) > 0:
		d.log.WithField("pins", len(lost)).WithField("first", lost[0]).Warn("pinned again what somebody unpinned")
	}
	return len(d.broken(bindings)) > 0
}

// broken are those of the bindings whose programs are not where they say, those included that were detached meanwhile.
func (d *Dataplane) broken(bindings []*binding) (some []*binding) {
	d.binding.Lock()
	defer d.binding.Unlock()
	for _, b := range bindings {
		if tc, xdp := d.att.intact(b); !tc || !xdp {
			some = append(some, b)
		}
	}
	return some
}
