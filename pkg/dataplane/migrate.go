package dataplane

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// Maps whose layout changed, and a flow table that is to have another size, are made anew beside the old ones, and take
// their place while packets pass:
//
//  1. Every attachment gets a program that only jumps to the one of before, and XDP one that leaves everything
//     to TC. Nothing has changed for a packet.
//  2. Configuration is filled: what only the old maps know (numbers, generations, neighbours) is copied by the names of the fields,
//     and the State says the rest. Nobody reads it yet.
//  3. One store, the target of that jump, switches all interfaces at once to the new program. What that does not
//     find in a new flow table it looks for in the old one, and copies it (bpf/migrate.h).
//  4. When no packet is in the old program any more, the other flows are copied, resting ports included.
//  5. The new maps take the old ones' place among the pins, and every attachment gets the new program
//     itself, without a look into the old table.
//
// Until the switch every step is undone when one fails, and the old programs go on with the old maps, which nobody has
// touched. After it nothing is lost by stopping anywhere: the new maps are in force, and the next start finds the folder `next`
// and goes on from there. Ports, quotas and counts stand in maps that both versions share (see role).
//
//	next/NAME     a new map, until it takes its place
//	next/switch   the PROG_ARRAY with the target; the kernel empties one that nobody holds
//	next/program  the new program that is in force from the switch on
type migration struct {
	// anew are the maps that are replaced, with what was there before them.
	anew map[string]former
	// flows is the flow table of before, carrier and offsets (as struct flow_offsets has them) say where its fields are; nil where
	// it stays.
	flows   *ebpf.Map
	carrier *carrier
	offsets []uint16
	// config says that the configuration is made anew.
	config bool

	array  *ebpf.Map     // with the program that is in force
	before *ebpf.Program // the one of before; nil where nothing is attached
	// jump, aside: what the attachments get meanwhile in TC and XDP.
	jump, aside *ebpf.Program
	// next is in force from the switch on: it reads both flow tables, where there are two. slice copies.
	next, slice *ebpf.Program
	// begun says that an earlier start left its switch, through which interfaces may jump, and switched that the switch was
	// made, then or now.
	begun, switched bool
}

// former is a map that is there, of this version or another.
type former struct {
	*ebpf.Map
	path string // of its pin
}

func (f former) close() {
	if f.Map != nil {
		f.Map.Close()
	}
}

// Steps of a migration, and of an Apply, as Options.step hears of them.
const (
	stepTables   = "Maglev tables are written"
	stepReplace  = "replace the program of an attachment"
	stepFill     = "fill"
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

// formers finds the map of every name: that of this version, or else one of another.
func (k *kernel) formers(f *folder, specs map[string]*ebpf.MapSpec) (map[string]former, error) {
	found := make(map[string]former, len(specs))
	for name := range specs {
		found[name] = former{k.maps[name], f.maps(name)}
		if k.maps[name] != nil {
			continue
		}
		var err error
		if found[name], err = predecessor(f, name); err != nil {
			for name, was := range found {
				if k.maps[name] == nil {
					was.close()
				}
			}
			return nil, err
		}
	}
	return found, nil
}

// base is a map's name without the version of its layout.
func base(name string) string { return strings.TrimRight(name, "0123456789") }

// versions are the pins of a map of whatever version.
func versions(f *folder, name string) ([]string, error) {
	return filepath.Glob(f.maps(base(name) + "*"))
}

// predecessor is the map of another version: it has the name of ours with another number. Its Map is nil if there is none.
func predecessor(f *folder, name string) (former, error) {
	paths, err := versions(f, name)
	if err != nil || len(paths) == 0 {
		return former{}, err
	}
	if len(paths) > 1 {
		return former{}, fmt.Errorf("adopt map %s: there are %s (remove those that no program uses: bpftool map show pinned FILE)", name, strings.Join(paths, ", "))
	}
	m, err := ebpf.LoadPinnedMap(paths[0], nil)
	if err != nil {
		return former{}, fmt.Errorf("adopt map %s: %w", filepath.Base(paths[0]), err)
	}
	return former{m, paths[0]}, nil
}

// prepareMigration looks which of the maps that were found cannot go on as they are, and makes the new ones. Whole: see recoverMaps.
func (k *kernel) prepareMigration(f *folder, specs Specs, maps map[string]*ebpf.MapSpec, found map[string]former, want sizes, whole bool) (err error) {
	m := &migration{anew: make(map[string]former)}
	defer func() {
		if k.migration != nil {
			return // it closes them
		}
		for name, was := range found {
			if k.maps[name] != was.Map {
				was.close()
			}
		}
	}()
	if m.switched, err = isSwitched(f); err != nil {
		return err
	}
	if m.switched {
		return k.resumeMigration(f, specs, maps, found, m)
	}
	was, err := configOf(maps[mapConfig], found[mapConfig].Map)
	if err != nil {
		return fmt.Errorf("adopt map %s: %w: %w", filepath.Base(found[mapConfig].path), ErrLayout, err)
	}
	pairs := was.MaxPairs
	if want.pairs != 0 {
		pairs = want.pairs
	}
	flows := found[mapFlows]
	if flows.Map != nil && flows.MaxEntries() != was.Homes+flowWindow {
		return fmt.Errorf("adopt map %s: %w: %d slots for %d homes", filepath.Base(flows.path), ErrLayout, flows.MaxEntries(), was.Homes)
	}
	maps[mapFlows].MaxEntries = homesFor(pairs) + flowWindow
	for name, spec := range maps {
		there, role := found[name], layouts[name].role
		if k.maps[name] != nil && sameLayout(spec, k.maps[name]) == nil {
			continue
		}
		// What the version before did not have begins empty, but for what packets and flows count on.
		mayBegin := role == rolePassing || whole && (role == roleConfig || role == roleCounters)
		switch {
		case there.Map == nil && !mayBegin:
			return fmt.Errorf("adopt map %s: its pin is gone (privlink down removes what is left, with all flows)", name)
		case role == roleShared:
			return fmt.Errorf("adopt map %s: %w, and packets change it all the time, so that it cannot be carried over (privlink down ends all flows and begins anew)",
				filepath.Base(there.path), ErrLayout)
		}
		m.anew[name] = there
		m.config = m.config || layouts[name].role == roleConfig
	}
	if len(m.anew) == 0 {
		return nil
	}
	if m.config {
		for name := range maps {
			if layouts[name].role == roleConfig {
				m.anew[name] = found[name]
			}
		}
	}
	return k.makeAnew(f, specs, maps, m, pairs)
}

// makeAnew makes the new maps, which take their place in k, and pins them in the folder `next`.
func (k *kernel) makeAnew(f *folder, specs Specs, maps map[string]*ebpf.MapSpec, m *migration, pairs uint32) error {
	if was, ok := m.anew[mapFlows]; ok {
		if err := m.readFlows(specs, maps[mapFlows], was); err != nil {
			return err
		}
		if err := k.fits(pairs); err != nil {
			return err
		}
	}
	var err error
	if m.begun, err = clearNext(f); err != nil {
		return err
	}
	k.migration = m
	for name, was := range m.anew {
		fresh, err := ebpf.NewMap(maps[name])
		if err != nil {
			return fmt.Errorf("make map %s: %w", name, err)
		}
		k.maps[name] = fresh
		if err := replacePin(fresh, f.next(name)); err != nil {
			return fmt.Errorf("pin the new map %s: %w", name, err)
		}
		if is := layouts[name]; is.role == roleConfig && !is.fresh && was.Map != nil {
			if err := carryMap(maps[name], fresh, was.Map); err != nil {
				return fmt.Errorf("adopt map %s: %w: %w", filepath.Base(was.path), ErrLayout, err)
			}
		}
	}
	return nil
}

// readFlows notes where the fields of the old flow table are.
func (m *migration) readFlows(specs Specs, spec *ebpf.MapSpec, was former) (err error) {
	if m.carrier, err = flowCarrier(spec, was.Map); err == nil {
		m.offsets, err = flowOffsets(specs, m.carrier)
	}
	if err != nil {
		return fmt.Errorf("adopt map %s: %w: %w", filepath.Base(was.path), ErrLayout, err)
	}
	m.flows = was.Map
	return nil
}

// resumeMigration goes on from one that was interrupted after its switch: what is in the folder `next` is in force, and what is
// not there any more has its place already. Another version would take maps for its own that are not in force.
func (k *kernel) resumeMigration(f *folder, specs Specs, maps map[string]*ebpf.MapSpec, found map[string]former, m *migration) error {
	k.migration = m
	again := func(name string, why error) error {
		return fmt.Errorf("go on from an interrupted migration: map %s: %w: %w (start the version that began it once more)", name, ErrLayout, why)
	}
	left, err := os.ReadDir(f.next(""))
	if err != nil {
		return fmt.Errorf("go on from an interrupted migration: %w", err)
	}
	for _, e := range left {
		name := e.Name()
		if name == "switch" || strings.HasPrefix(name, "program") {
			continue
		}
		if maps[name] == nil {
			return again(name, errors.New("this version has none of that name"))
		}
		next, err := ebpf.LoadPinnedMap(f.next(name), nil)
		if err != nil {
			return fmt.Errorf("adopt map %s: %w", f.next(name), err)
		}
		m.anew[name], k.maps[name] = found[name], next
	}
	for name, spec := range maps {
		if k.maps[name] == nil {
			return again(name, errors.New("it is not there"))
		}
		if name == mapFlows {
			spec.MaxEntries = k.maps[name].MaxEntries()
		}
		if err := sameLayout(spec, k.maps[name]); err != nil {
			return again(name, err)
		}
	}
	// Where the table of before has lost its place, all of it was copied.
	if was := m.anew[mapFlows]; was.Map != nil {
		return m.readFlows(specs, maps[mapFlows], was)
	}
	return nil
}

// clearNext makes the folder of a migration, empty but for a switch through which interfaces may jump; begun says that there is one.
func clearNext(f *folder) (begun bool, err error) {
	if err := os.MkdirAll(f.next(""), 0o700); err != nil {
		return false, fmt.Errorf("make folder for the new maps: %w", err)
	}
	left, err := os.ReadDir(f.next(""))
	if err != nil {
		return false, fmt.Errorf("make folder for the new maps: %w", err)
	}
	for _, e := range left {
		if e.Name() == "switch" {
			begun = true
		} else if err := removePin(f.next(e.Name())); err != nil {
			return false, err
		}
	}
	return begun, nil
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
	if m.flows == nil {
		var err error
		if m.next, err = k.tc.Clone(); err != nil {
			return fmt.Errorf("keep the new program: %w", err)
		}
		return m.loadJump(f, attached)
	}
	specs, err := LoadSpecs()
	if err != nil {
		return err
	}
	values, err := constants(k.shape())
	if err != nil {
		return err
	}
	values["migrating"], values["old_homes"], values["old_offsets"] = uint8(1), m.flows.MaxEntries()-flowWindow, m.offsets
	for _, o := range []struct {
		name, program string
		spec          *ebpf.CollectionSpec
		to            **ebpf.Program
	}{{"tc", programTC, specs.TC, &m.next}, {"control", programMigrate, specs.Control, &m.slice}} {
		o.spec.Programs = map[string]*ebpf.ProgramSpec{o.program: o.spec.Programs[o.program]}
		o.spec.Maps[mapOldFlows].ValueSize, o.spec.Maps[mapOldFlows].MaxEntries = m.flows.ValueSize(), m.flows.MaxEntries()
		collection, err := k.loadObject(o.name, o.spec, values, map[string]*ebpf.Map{mapOldFlows: m.flows})
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

	m.aside, err = newAside()
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

// newAside makes the XDP program that leaves everything to TC.
func newAside() (*ebpf.Program, error) {
	return ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: programXDP, Type: ebpf.XDP, AttachType: ebpf.AttachXDP, License: "Dual BSD/GPL", Flags: unix.BPF_F_XDP_HAS_FRAGS,
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, xdpPass), asm.Return()},
	})
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
	for _, p := range []*ebpf.Program{m.before, m.jump, m.aside, m.next, m.slice} {
		if p != nil {
			p.Close()
		}
	}
	if m.array != nil {
		m.array.Close()
	}
	for _, was := range m.anew {
		was.close()
	}
}

// migrate puts the new maps in force. When it fails before the switch everything is as it was.
func (d *Dataplane) migrate() error {
	k, m := d.k, d.k.migration
	if !m.switched {
		if err := d.switchOver(); err != nil {
			return fmt.Errorf("replace %s (the programs and maps of before go on): %w", m.noun(), err)
		}
	}
	err := d.copyFlows()
	if err == nil {
		err = k.commitMigration(d.folder)
	}
	if err != nil {
		return fmt.Errorf("replace %s (half is done and in force; start again to go on): %w", m.noun(), err)
	}
	d.log.WithField("maps", strings.Join(slices.Sorted(maps.Keys(m.anew)), " ")).Info("maps were replaced by new ones")
	return nil
}

// noun says for people what is replaced.
func (m *migration) noun() string {
	switch {
	case m.flows == nil:
		return "maps of another layout"
	case m.config:
		return "the flow table and maps of another layout"
	}
	return "the flow table"
}

// switchOver puts all interfaces on the new program at once.
func (d *Dataplane) switchOver() (err error) {
	m := d.k.migration
	if m.before != nil {
		if err := m.array.Put(uint32(0), m.before); err != nil {
			return fmt.Errorf("make the program of before the target: %w", err)
		}
	}
	if err := replacePin(m.next, d.folder.next("program")); err != nil {
		return fmt.Errorf("pin the new program: %w", err)
	}
	d.att.tc, d.att.xdp = m.jump, m.aside
	defer func() { d.att.tc, d.att.xdp = d.k.tc, d.k.xdp }()
	bindings, before, err := d.att.adopt(d.devices, d.k.outs)
	if err != nil {
		return err
	}
	defer func() {
		for _, b := range bindings {
			b.close()
		}
	}()
	if m.config {
		err = d.fill(bindings)
	}
	if err == nil {
		err = d.carryCounters()
	}
	if err == nil {
		err = d.att.step(stepSwitch)
	}
	if err == nil {
		err = m.array.Put(uint32(0), m.next)
	}
	if err != nil {
		return errors.Join(err, before.undo())
	}
	m.switched = true
	before.forget()
	return d.att.step(stepSwitched)
}

// fill writes the State into configuration that nobody reads yet. Nothing is attached or detached: what that asks for comes
// with the first Apply, and until then the new programs do on each interface what they would do after it.
func (d *Dataplane) fill(bindings map[string]*binding) error {
	if d.opts.State == nil {
		return fmt.Errorf("%w: the configuration is to be written anew, and there is no State to write", ErrLayout)
	}
	state, err := d.opts.State()
	if err != nil {
		return fmt.Errorf("compile the configuration that is to be written anew: %w", err)
	}
	if err := d.readKernel(); err != nil {
		return err
	}
	if err := d.avoidNetworks(); err != nil {
		return err
	}
	d.k.config.store(0, d.k.shape(), 0)
	d.bindings, d.filling = bindings, true
	defer func() { d.bindings, d.filling = nil, false }()
	p := d.compile(d.withInner(state))
	d.revoke(p)
	if err := d.write(p); err != nil {
		return fmt.Errorf("write the configuration anew: %w", err)
	}
	return d.att.step(stepFill)
}

// avoidNetworks gives no number away that a flow in the old table carries, as readKernel does for those in the table of now.
func (d *Dataplane) avoidNetworks() error {
	m := d.k.migration
	if m.flows == nil {
		return nil
	}
	old, err := openWords(m.flows)
	if err != nil {
		return err
	}
	defer old.close()
	var f bpfFlow
	for slot := range m.flows.MaxEntries() {
		m.carrier.carry(bytesOf(&f), old.slot(slot))
		if f.State&3 == uint32(bpfSlotStateSLOT_LIVE) {
			d.vnets.cursor = max(d.vnets.cursor, uint32(f.Key.Vnet)+1)
		}
	}
	return nil
}

// abandonMigration removes what a migration made that did not come to its switch, but for a switch through which interfaces may
// jump: that is of use for the next start.
func (k *kernel) abandonMigration(f *folder) error {
	if k.migration == nil || k.migration.switched {
		return nil
	}
	if k.migration.begun {
		_, err := clearNext(f)
		return err
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
	if m.flows == nil {
		return d.att.step(stepCopied)
	}
	var pairs, resting, lost uint32
	for ids := range uint32(2) {
		for first := uint32(0); first < m.flows.MaxEntries(); first += carrySlice {
			slice := bpfCarry{First: first, Count: min(carrySlice, m.flows.MaxEntries()-first), Ids: ids}
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

// commitMigration gives the new maps the old ones' places. Killed in between, the next start does the rest.
func (k *kernel) commitMigration(f *folder) error {
	k.config.store(0, k.shape(), 0)
	for name := range k.migration.anew {
		paths, err := versions(f, name)
		if err != nil {
			return err
		}
		for _, path := range paths { // first: no other version may find the one that it knows
			if path == f.maps(name) {
				continue
			}
			if err := removePin(path); err != nil {
				return err
			}
		}
		if err := os.Rename(f.next(name), f.maps(name)); err != nil {
			return fmt.Errorf("move the new map %s into place: %w", name, err)
		}
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
