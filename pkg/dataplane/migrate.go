package dataplane

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// A flow table with another layout or another size is made anew, and the flows are carried over while
// packets pass:
//
//  1. Every attachment gets a program that only jumps to the one of before, and XDP one that leaves everything
//     to TC. Nothing has changed for a packet.
//  2. One store, the target of that jump, switches all interfaces at once to the new program. What that does not
//     find in the new table it looks for in the old one, and copies it (bpf/migrate.h).
//  3. When no packet is in the old program any more, everything else is copied, resting ports included.
//  4. The new table takes the old one's place among the pins, and every attachment gets the new program
//     itself, without a look into the old table.
//
// Until the switch every step is undone when one fails, and the old programs go on. After it nothing is
// lost by stopping anywhere: the programs read both tables, and the next start finds the folder `next` and
// goes on from there. Ports, quotas and counts stand in maps that both tables share.
//
//	next/flows    the new table, until it takes its place
//	next/switch   the PROG_ARRAY with the target; the kernel empties one that nobody holds
//	next/program  the new program that reads both tables
type migration struct {
	path    string // of the old table's pin
	old     *ebpf.Map
	offsets []uint16 // as struct flow_offsets has them

	array  *ebpf.Map     // with the program that is in force
	before *ebpf.Program // the one of before; nil where nothing is attached
	// jump, aside: what the attachments get meanwhile in TC and XDP.
	jump, aside *ebpf.Program
	// both reads both tables, slice copies.
	both, slice *ebpf.Program
	// begun says that an earlier start left its switch, through which interfaces may jump, and switched that it
	// came as far as using it.
	begun, switched bool
}

// Steps of a migration, as Options.step hears of them.
const (
	stepReplace  = "replace the program of an attachment"
	stepSwitch   = "switch"
	stepSwitched = "switched"
	stepCopied   = "copied"
)

// Verdicts, TC_ACT_SHOT and XDP_PASS.
const (
	tcShot  = 2
	xdpPass = 2
)

func (f *folder) next(name string) string { return filepath.Join(f.path, "next", name) }

// prepareMigration looks whether the table that is there must be carried over into a new one, and
// makes that.
func (k *kernel) prepareMigration(f *folder, specs Specs, spec *ebpf.MapSpec, want sizes) (err error) {
	config, err := pinnedConfig(k.maps[mapConfig])
	if err != nil {
		return err
	}
	m := &migration{old: k.maps[mapFlows], path: f.maps(mapFlows)}
	if m.old == nil {
		if m.old, m.path, err = predecessor(f); err != nil || m.old == nil {
			return err
		}
		k.maps[mapFlows] = m.old // until there is another
	}
	next, err := ebpf.LoadPinnedMap(f.next("flows"), nil)
	switch {
	case err == nil:
		defer func() {
			if k.maps[mapFlows] != next {
				err = errors.Join(err, next.Close())
			}
		}()
		if m.switched, err = isSwitched(f); err != nil {
			return err
		}
	case !errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("adopt map %s: %w", f.next("flows"), err)
	}
	pairs := config.MaxPairs
	if want.pairs != 0 {
		pairs = want.pairs
	}
	homes := m.old.MaxEntries() - flowWindow
	if !m.switched && homes != config.Homes {
		return fmt.Errorf("adopt map %s: %w: %d slots for %d homes", filepath.Base(m.path), ErrLayout, m.old.MaxEntries(), config.Homes)
	}
	if !m.switched && m.path == f.maps(mapFlows) && homes == pairs*homesPerPair {
		return nil
	}
	if m.offsets, err = flowOffsets(specs, spec, m.old); err != nil {
		return fmt.Errorf("adopt map %s: %w: %w", filepath.Base(m.path), ErrLayout, err)
	}
	if m.switched {
		spec.MaxEntries = next.MaxEntries()
		if err := sameLayout(spec, next); err != nil {
			return fmt.Errorf("go on from an interrupted migration: %w: %w (start the version that began it once more)", ErrLayout, err)
		}
		k.maps[mapFlows], k.migration = next, m
		return nil
	}
	if err := k.fits(pairs); err != nil {
		return err
	}
	spec.MaxEntries = pairs*homesPerPair + flowWindow
	fresh, err := ebpf.NewMap(spec)
	if err != nil {
		return fmt.Errorf("make map %s: %w", mapFlows, err)
	}
	k.maps[mapFlows], k.migration = fresh, m
	if err := os.MkdirAll(f.next(""), 0o700); err != nil {
		return fmt.Errorf("make folder for the new map %s: %w", mapFlows, err)
	}
	if err := replacePin(fresh, f.next("flows")); err != nil {
		return fmt.Errorf("pin map %s: %w", mapFlows, err)
	}
	return nil
}

func pinnedConfig(m *ebpf.Map) (c bpfConfig, err error) {
	if err := m.Lookup(uint32(0), &c); err != nil {
		return c, fmt.Errorf("read map %s: %w", mapConfig, err)
	}
	return c, nil
}

// predecessor is the table of another version: it has the name of ours with another number. Nil if there is none.
func predecessor(f *folder) (*ebpf.Map, string, error) {
	base := strings.TrimRight(mapFlows, "0123456789")
	paths, err := filepath.Glob(f.maps(base + "*"))
	if err != nil || len(paths) == 0 {
		return nil, "", err
	}
	if len(paths) > 1 {
		return nil, "", fmt.Errorf("adopt the flow table: there are %s (remove those that no program uses: bpftool map show pinned FILE)", strings.Join(paths, ", "))
	}
	m, err := ebpf.LoadPinnedMap(paths[0], nil)
	if err != nil {
		return nil, "", fmt.Errorf("adopt map %s: %w", filepath.Base(paths[0]), err)
	}
	return m, paths[0], nil
}

// fits says whether all flows have a place in a table for so many.
func (k *kernel) fits(pairs uint32) error {
	var table bpfTable
	if err := k.maps[mapTable].Lookup(uint32(0), &table); err != nil {
		return fmt.Errorf("read map %s: %w", mapTable, err)
	}
	if table.Pairs > pairs {
		return fmt.Errorf("make the flow table smaller: %d flows do not fit into one for %d (ask for more, or for no size to leave it as it is)", table.Pairs, pairs)
	}
	return nil
}

// isSwitched asks the PROG_ARRAY which program is in force.
func isSwitched(f *folder) (bool, error) {
	array, err := ebpf.LoadPinnedMap(f.next("switch"), nil)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("open the switch: %w", err)
	}
	defer array.Close()
	var id ebpf.ProgramID
	if err := array.Lookup(uint32(0), &id); errors.Is(err, ebpf.ErrKeyNotExist) {
		return false, nil
	} else if err != nil {
		return false, fmt.Errorf("read the switch: %w", err)
	}
	both, err := ebpf.LoadPinnedProgram(f.next("program"), nil)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("open the program of an interrupted migration: %w", err)
	}
	defer both.Close()
	info, err := both.Info()
	if err != nil {
		return false, fmt.Errorf("open the program of an interrupted migration: %w", err)
	}
	have, _ := info.ID()
	return have == id, nil
}

// loadMigration loads what is needed for it.
func (k *kernel) loadMigration(f *folder, attached []ebpf.ProgramID) error {
	m := k.migration
	specs, err := LoadSpecs()
	if err != nil {
		return err
	}
	values, err := constants(k.shape())
	if err != nil {
		return err
	}
	values["migrating"], values["old_homes"], values["old_offsets"] = uint8(1), m.old.MaxEntries()-flowWindow, m.offsets
	for _, o := range []struct {
		name, program string
		spec          *ebpf.CollectionSpec
		to            **ebpf.Program
	}{{"tc", programTC, specs.TC, &m.both}, {"control", programMigrate, specs.Control, &m.slice}} {
		o.spec.Programs = map[string]*ebpf.ProgramSpec{o.program: o.spec.Programs[o.program]}
		o.spec.Maps[mapOldFlows].ValueSize, o.spec.Maps[mapOldFlows].MaxEntries = m.old.ValueSize(), m.old.MaxEntries()
		collection, err := k.loadObject(o.name, o.spec, values, map[string]*ebpf.Map{mapOldFlows: m.old})
		if err != nil {
			return err
		}
		*o.to = collection.DetachProgram(o.program)
		collection.Close()
	}
	return m.loadJump(f, attached)
}

// loadJump makes the programs that interfaces get until all are switched. The array of an interrupted migration is
// used again: interfaces may jump through it now.
func (m *migration) loadJump(f *folder, attached []ebpf.ProgramID) (err error) {
	m.array, err = ebpf.LoadPinnedMap(f.next("switch"), nil)
	m.begun = err == nil
	if errors.Is(err, os.ErrNotExist) {
		m.array, err = ebpf.NewMap(&ebpf.MapSpec{Name: "privlink_switch", Type: ebpf.ProgramArray, KeySize: 4, ValueSize: 4, MaxEntries: 1})
		if err == nil {
			err = m.array.Pin(f.next("switch"))
		}
	}
	if err != nil {
		return fmt.Errorf("make the switch: %w", err)
	}
	m.jump, err = ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: programTC, Type: ebpf.SchedCLS, License: "Dual BSD/GPL",
		Instructions: asm.Instructions{
			asm.LoadMapPtr(asm.R2, m.array.FD()), // R1 is the packet still
			asm.Mov.Imm(asm.R3, 0),
			asm.FnTailCall.Call(),
			asm.Mov.Imm(asm.R0, tcShot), // never: there is always a program
			asm.Return(),
		},
	})
	if err != nil {
		return fmt.Errorf("load the program that jumps: %w", err)
	}

	m.aside, err = ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: programXDP, Type: ebpf.XDP, AttachType: ebpf.AttachXDP, License: "Dual BSD/GPL", Flags: unix.BPF_F_XDP_HAS_FRAGS,
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, xdpPass), asm.Return()},
	})
	if err != nil {
		return fmt.Errorf("load the program that steps aside: %w", err)
	}
	if m.switched || len(attached) == 0 {
		return nil
	}
	// Its pin is that of the last complete start; an attachment may jump already.
	if m.before, err = ebpf.LoadPinnedProgram(f.programs(programTC), nil); errors.Is(err, os.ErrNotExist) {
		m.before, err = programOfType(attached, ebpf.SchedCLS)
	}
	if err != nil {
		return fmt.Errorf("open the program attached now: %w", err)
	}
	return nil
}

// programOfType is the first of some programs that has a type.
func programOfType(ids []ebpf.ProgramID, typ ebpf.ProgramType) (*ebpf.Program, error) {
	for _, id := range ids {
		p, err := ebpf.NewProgramFromID(id)
		if err != nil {
			continue // unloaded meanwhile
		}
		if p.Type() == typ {
			return p, nil
		}
		p.Close()
	}
	return nil, fmt.Errorf("none of type %s: %w", typ, os.ErrNotExist)
}

func (m *migration) close() {
	if m == nil {
		return
	}
	for _, p := range []*ebpf.Program{m.before, m.jump, m.aside, m.both, m.slice} {
		if p != nil {
			p.Close()
		}
	}
	if m.array != nil {
		m.array.Close()
	}
	m.old.Close()
}

// migrate carries the flows over. When it fails before the switch everything is as it was.
func (d *Dataplane) migrate() error {
	k, m := d.k, d.k.migration
	if !m.switched {
		if err := d.switchOver(); err != nil {
			return fmt.Errorf("carry the flows over into a new table (the programs of before go on): %w", err)
		}
	}
	err := d.copyFlows()
	if err == nil {
		err = k.commitMigration(d.folder)
	}
	if err != nil {
		return fmt.Errorf("carry the flows over into a new table (half is done and in force; start again to go on): %w", err)
	}
	return nil
}

// switchOver puts all interfaces on the new program at once.
func (d *Dataplane) switchOver() (err error) {
	m := d.k.migration
	if m.before != nil {
		if err := m.array.Put(uint32(0), m.before); err != nil {
			return fmt.Errorf("make the program of before the target: %w", err)
		}
	}
	if err := replacePin(m.both, d.folder.next("program")); err != nil {
		return fmt.Errorf("pin the new program: %w", err)
	}
	d.att.tc, d.att.xdp = m.jump, m.aside
	bindings, before, err := d.att.adopt(d.devices, d.k.outs)
	defer func() { d.att.tc, d.att.xdp = d.k.tc, d.k.xdp }()
	if err != nil {
		return errors.Join(err, m.abandon(d.folder))
	}
	defer func() {
		for _, b := range bindings {
			b.close()
		}
	}()
	if err = d.att.step(stepSwitch); err == nil {
		err = m.array.Put(uint32(0), m.both)
	}
	if err != nil {
		return errors.Join(err, before.undo(), m.abandon(d.folder))
	}
	before.forget()
	return d.att.step(stepSwitched)
}

// abandon removes what a migration made that did not come to its switch.
func (m *migration) abandon(f *folder) error {
	if m.begun {
		return nil // of use for the next start
	}
	return removeTree(f.next(""))
}

// carrySlice is how many slots one run of the program visits: some milliseconds where all are flows.
const carrySlice = 4096

// copyFlows copies what packets have not, after the last one has left the old program.
func (d *Dataplane) copyFlows() error {
	k, m := d.k, d.k.migration
	if err := k.settle(); err != nil {
		return err
	}
	var pairs, resting, lost uint32
	for ids := range uint32(2) {
		for first := uint32(0); first < m.old.MaxEntries(); first += carrySlice {
			slice := bpfCarry{First: first, Count: min(carrySlice, m.old.MaxEntries()-first), Ids: ids}
			if err := runSyscall(m.slice, &slice); err != nil {
				return fmt.Errorf("copy from slot %d: %w", first, err)
			}
			pairs, resting, lost = pairs+slice.Pairs, resting+slice.Resting, lost+slice.Lost
		}
	}
	entry := d.log.WithField("flows", pairs).WithField("resting", resting).WithField("table", k.maps[mapFlows].MaxEntries()-flowWindow)
	if lost > 0 {
		entry.WithField("lost", lost).Error("flows were carried over into a new table, some had no place there")
	} else {
		entry.Info("flows were carried over into a new table")
	}
	return d.att.step(stepCopied)
}

// settle waits until no packet is in a program that was in force before: the kernel does so when a table of tables changes.
func (k *kernel) settle() (err error) {
	empty, err := k.newTable(nil)
	if err != nil {
		return fmt.Errorf("wait for running programs: %w", err)
	}
	defer func() { err = errors.Join(err, empty.Close()) }()
	const unused = uint32(0) // no rule has slot 0
	if err := k.maps[mapMaglev].Put(unused, empty); err != nil {
		return fmt.Errorf("wait for running programs: %w", err)
	}
	return k.dropTables([]uint32{unused})
}

// commitMigration gives the new table the old one's place. Killed in between, the next start does it again.
func (k *kernel) commitMigration(f *folder) error {
	k.config.store(0, k.shape(), 0)
	if err := os.Rename(f.next("flows"), f.maps(mapFlows)); err != nil {
		return fmt.Errorf("move the new map %s into place: %w", mapFlows, err)
	}
	if path := k.migration.path; path != f.maps(mapFlows) {
		return removePin(path)
	}
	return nil
}

// endMigration pins the programs, now that every attachment has them, and removes what is left of a migration,
// also of one that was not finished and is not wanted any more.
func (k *kernel) endMigration(f *folder) error {
	if k.migration != nil {
		if err := k.pin(f); err != nil {
			return err
		}
		k.migration.close()
		k.migration = nil
	}
	return removeTree(f.next(""))
}
