package dataplane

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
)

// kernel is what is loaded: maps, their memory, programs.
type kernel struct {
	maps map[string]*ebpf.Map
	// maglevSpec makes the inner maps of mapMaglev.
	maglevSpec *ebpf.MapSpec

	config   *array[bpfConfig]
	table    *array[bpfTable]
	flows    *array[bpfFlow]
	vnets    *array[bpfName]
	services *array[bpfName]
	pools    *array[bpfName]
	ifaces   *array[bpfIface]
	outs     *array[bpfOut]
	links    *array[bpfLink]
	usage    *array[bpfUsage]
	rules    *array[bpfRule]
	natsets  *array[bpfNatset]
	backends *array[bpfBackend]

	tc, xdp, sweep, endPair, clock, flowsText *ebpf.Program
	// adopted says that the maps were there: numbers and flows of before live on.
	adopted bool
	// migration is not nil while maps have to be replaced by new ones.
	migration *migration
}

// sizes are what a flow table gets; pairs 0 leaves it as it is.
type sizes struct {
	pairs      uint32
	maglevSeed [2]uint64
}

// ErrLayout says that pinned maps are not what this binary would make.
var ErrLayout = errors.New("pinned map has another layout")

// loadKernel adopts the pinned maps of f or makes new ones, and loads the programs. A failed step
// leaves the folder as it was.
//
// attached are programs that carry traffic now: maps whose pins are gone are found through them. Where maps are
// replaced, programs are not pinned yet (see migration).
func loadKernel(f *folder, want sizes, attached []ebpf.ProgramID) (_ *kernel, err error) {
	// Kernels before 5.11 count maps against RLIMIT_MEMLOCK; later ones do not mind.
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("raise RLIMIT_MEMLOCK: %w (needs root or CAP_SYS_RESOURCE)", err)
	}
	specs, err := LoadSpecs()
	if err != nil {
		return nil, err
	}
	k := &kernel{maps: make(map[string]*ebpf.Map)}
	defer func() {
		if err != nil {
			err = errors.Join(err, k.abandonMigration(f))
			k.close()
		}
	}()
	if err := k.loadMaps(f, specs, want, attached); err != nil {
		return nil, err
	}
	if err := k.mapArrays(); err != nil {
		return nil, err
	}
	if err := k.loadPrograms(specs); err != nil {
		return nil, err
	}
	if err := k.bindMaps(); err != nil {
		return nil, err
	}
	if k.migration != nil {
		return k, k.loadMigration(f, attached)
	}
	return k, k.pin(f)
}

// private are maps that each object has for itself: per-CPU scratch space, which must not be shared
// with programs that these may interrupt, and the place for a table of before.
var private = map[string]bool{"scratch_v1": true, "migration_v1": true, "new_domain_v1": true, "recent_v1": true, mapOldFlows: true}

// own are the specs of the maps that the objects share: neither private nor data sections.
func own(spec *ebpf.CollectionSpec) map[string]*ebpf.MapSpec {
	maps := make(map[string]*ebpf.MapSpec)
	for name, m := range spec.Maps {
		if !strings.HasPrefix(name, ".") && !private[name] {
			maps[name] = m
		}
	}
	return maps
}

func (k *kernel) loadMaps(f *folder, specs Specs, want sizes, attached []ebpf.ProgramID) error {
	maps := make(map[string]*ebpf.MapSpec)
	for _, spec := range specs.all() {
		for name, m := range own(spec) {
			maps[name] = m
		}
	}
	k.maglevSpec = maps[mapMaglev].InnerMap
	missing := false
	for name := range maps {
		m, err := ebpf.LoadPinnedMap(f.maps(name), nil)
		switch {
		case err == nil:
			k.maps[name] = m
		case errors.Is(err, os.ErrNotExist):
			missing = true
		default:
			return fmt.Errorf("adopt map %s: %w", name, err)
		}
	}
	whole := false
	if missing {
		var err error
		if whole, err = k.recoverMaps(f, maps, attached); err != nil {
			return err
		}
	}
	found, err := k.formers(f, maps)
	if err != nil {
		return err
	}
	if found[mapConfig].Map == nil {
		// What else is there belongs to an aborted removal: nothing uses it.
		for name, was := range found {
			was.close()
			delete(k.maps, name)
		}
		return k.createMaps(f, maps, want)
	}
	k.adopted = true
	return k.prepareMigration(f, specs, maps, found, want, whole)
}

// recoverMaps finds maps whose pins are gone through the programs that use them (see bindMaps), and pins them again. Whole
// says that there is a program that holds all maps of its version: one that is missing still, that version did not have.
func (k *kernel) recoverMaps(f *folder, specs map[string]*ebpf.MapSpec, attached []ebpf.ProgramID) (whole bool, err error) {
	for _, id := range attached {
		program, err := ebpf.NewProgramFromID(id)
		if err != nil {
			continue // unloaded meanwhile
		}
		info, err := program.Info()
		program.Close()
		if err != nil {
			return false, fmt.Errorf("look for maps without pins: %w", err)
		}
		ids, _ := info.MapIDs()
		for _, id := range ids {
			name, err := k.recoverMap(f, specs, id)
			if err != nil {
				return false, fmt.Errorf("look for maps without pins: %w", err)
			}
			whole = whole || info.Name == programTC && base(name) == base(mapConfig)
		}
	}
	return whole, nil
}

func (k *kernel) recoverMap(f *folder, specs map[string]*ebpf.MapSpec, id ebpf.MapID) (name string, err error) {
	m, err := ebpf.NewMapFromID(id)
	if err != nil {
		return "", err
	}
	info, err := m.Info()
	if err != nil {
		return "", errors.Join(err, m.Close())
	}
	if specs[info.Name] == nil || k.maps[info.Name] != nil {
		return info.Name, m.Close()
	}
	if err := os.MkdirAll(f.maps(""), 0o700); err != nil {
		return "", errors.Join(err, m.Close())
	}
	if err := m.Pin(f.maps(info.Name)); err != nil {
		return "", errors.Join(err, m.Close())
	}
	k.maps[info.Name] = m
	return info.Name, nil
}

// createMaps makes all maps, pins them in a temporary folder and renames that, so that a
// maps folder that exists is always complete.
func (k *kernel) createMaps(f *folder, specs map[string]*ebpf.MapSpec, want sizes) error {
	if want.pairs == 0 {
		want.pairs = DefaultPairs
	}
	config, err := newConfig(want)
	if err != nil {
		return err
	}
	specs[mapFlows].MaxEntries = config.Homes + flowWindow
	staging := filepath.Join(f.path, "maps-new")
	if err := removeTree(staging); err != nil {
		return err
	}
	if err := os.Mkdir(staging, 0o700); err != nil {
		return fmt.Errorf("make folder for new maps: %w", err)
	}
	fail := func(err error) error { return errors.Join(err, removeTree(staging)) }
	for name, spec := range specs {
		m, err := ebpf.NewMap(spec)
		if err != nil {
			return fail(fmt.Errorf("make map %s: %w", name, err))
		}
		k.maps[name] = m
		if err := m.Pin(filepath.Join(staging, name)); err != nil {
			return fail(fmt.Errorf("pin map %s: %w", name, err))
		}
	}
	if err := k.maps[mapConfig].Put(uint32(0), &config); err != nil {
		return fail(fmt.Errorf("write map %s: %w", mapConfig, err))
	}
	// A maps folder without a config map is what is left of an aborted removal.
	if err := removeTree(f.maps("")); err != nil {
		return fail(err)
	}
	if err := os.Rename(staging, f.maps("")); err != nil {
		return fail(fmt.Errorf("move new maps into place: %w", err))
	}
	return nil
}

// newConfig draws the random numbers of a new table.
func newConfig(want sizes) (bpfConfig, error) {
	var random [7]uint64
	if err := binary.Read(rand.Reader, binary.LittleEndian, &random); err != nil {
		return bpfConfig{}, fmt.Errorf("draw seeds: %w", err)
	}
	c := bpfConfig{
		Homes:      homesFor(want.pairs),
		MaxPairs:   want.pairs,
		MaglevSeed: want.maglevSeed,
		PortOffset: uint32(random[5] % uint64(bpfLimitsPORT_COUNT)),
	}
	copy(c.Seed[:], random[:5])
	for i := range 4 {
		c.Seed[i] |= 1 // multipliers of the hash are odd
	}
	c.PortStep, c.PortInverse = portStep(uint32(random[6]))
	return c, nil
}

// A pair has two entries, and there are 24 homes for five pairs: a table with all its pairs has 5 of 12 slots taken. Of the
// flows that come then, some two in a million find every slot of their window taken; at half of the slots it is fifty.
const homesOfPairs, pairsOfHomes = 24, 5

// homesFor and pairsFor are each other's inverse for every number of pairs.
func homesFor(pairs uint32) uint32 { return (pairs*homesOfPairs + pairsOfHomes - 1) / pairsOfHomes }

func pairsFor(homes uint32) uint32 { return uint32(uint64(homes) * pairsOfHomes / homesOfPairs) }

// portStep gives a step that visits all 64,512 ports, and its inverse: it must be coprime
// with 64,512 = 2^10 * 3^2 * 7.
func portStep(random uint32) (step, inverse uint32) {
	const ports = uint64(bpfLimitsPORT_COUNT)
	step = random%uint32(ports/2)*2 + 1
	for step%3 == 0 || step%7 == 0 {
		step = (step + 2) % uint32(ports)
	}
	// Euler: step^(phi-1) is the inverse; phi(64512) = 2^9 * 6 * 6.
	result, base := uint64(1), uint64(step)
	for e := uint64(512*6*6 - 1); e > 0; e >>= 1 {
		if e&1 == 1 {
			result = result * base % ports
		}
		base = base * base % ports
	}
	return step, uint32(result)
}

func (k *kernel) mapArrays() error {
	var failed []error
	take := func(err error) { failed = append(failed, err) }
	var err error
	k.config, err = mapArray[bpfConfig](k.maps[mapConfig])
	take(err)
	k.table, err = mapArray[bpfTable](k.maps[mapTable])
	take(err)
	k.flows, err = mapArray[bpfFlow](k.maps[mapFlows])
	take(err)
	k.vnets, err = mapArray[bpfName](k.maps[mapVNets])
	take(err)
	k.services, err = mapArray[bpfName](k.maps[mapServices])
	take(err)
	k.pools, err = mapArray[bpfName](k.maps[mapPools])
	take(err)
	k.ifaces, err = mapArray[bpfIface](k.maps[mapIfaces])
	take(err)
	k.outs, err = mapArray[bpfOut](k.maps[mapOuts])
	take(err)
	k.links, err = mapArray[bpfLink](k.maps[mapLinks])
	take(err)
	k.usage, err = mapArray[bpfUsage](k.maps[mapUsage])
	take(err)
	k.rules, err = mapArray[bpfRule](k.maps[mapRules])
	take(err)
	k.natsets, err = mapArray[bpfNatset](k.maps[mapNatsets])
	take(err)
	k.backends, err = mapArray[bpfBackend](k.maps[mapBackends])
	take(err)
	return errors.Join(failed...)
}

// constants are the programs' read-only variables, by name; an object has those it uses.
func constants(c bpfConfig) (map[string]any, error) {
	scale, err := jiffyScale()
	if err != nil {
		return nil, err
	}
	return map[string]any{
		"jiffy_scale":  scale,
		"flow_homes":   c.Homes,
		"flow_seed":    c.Seed,
		"balance_seed": c.MaglevSeed,
		"max_pairs":    c.MaxPairs,
		"port_step":    c.PortStep,
		"port_offset":  c.PortOffset,
		"port_inverse": c.PortInverse,
	}, nil
}

// shape is the config that programs are loaded for: that of the new table, where there is to be one.
func (k *kernel) shape() bpfConfig {
	c := k.config.load(0)
	if k.migration != nil && k.migration.flows != nil {
		c.Homes = k.maps[mapFlows].MaxEntries() - flowWindow
		c.MaxPairs = pairsFor(c.Homes)
	}
	return c
}

func setConstants(object string, spec *ebpf.CollectionSpec, values map[string]any) error {
	for name, value := range values {
		v, ok := spec.Variables[name]
		if !ok {
			continue
		}
		if err := v.Set(value); err != nil {
			return fmt.Errorf("set %s of the %s object: %w", name, object, err)
		}
	}
	return nil
}

func (k *kernel) loadPrograms(specs Specs) error {
	values, err := constants(k.shape())
	if err != nil {
		return err
	}
	// Beside each other: the verifier takes most of a restart's time.
	type result struct {
		collection *ebpf.Collection
		err        error
	}
	results := make(chan result)
	objects := specs.all()
	for object, spec := range objects {
		delete(spec.Programs, programMigrate)
		go func() {
			collection, err := k.loadObject(object, spec, values, nil)
			results <- result{collection, err}
		}()
	}
	for range objects {
		r := <-results
		if r.err != nil {
			err = r.err // one is enough: they have the same cause
			continue
		}
		for to, name := range k.programs() {
			if p := r.collection.DetachProgram(name); p != nil {
				*to = p
			}
		}
		r.collection.Close()
	}
	if err != nil {
		return err
	}
	for to, name := range k.programs() {
		if *to == nil {
			return fmt.Errorf("load programs: no object has %s", name)
		}
	}
	return nil
}

// loadObject loads an object with constants, the maps that all share, and further ones in the place of its own.
func (k *kernel) loadObject(object string, spec *ebpf.CollectionSpec, values map[string]any, further map[string]*ebpf.Map) (*ebpf.Collection, error) {
	if err := setConstants(object, spec, values); err != nil {
		return nil, err
	}
	replacements := maps.Clone(further)
	if replacements == nil {
		replacements = make(map[string]*ebpf.Map)
	}
	for name := range own(spec) {
		if m, ok := k.maps[name]; ok {
			replacements[name] = m
			spec.Maps[name].MaxEntries = m.MaxEntries()
		}
	}
	collection, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: replacements})
	if err != nil {
		return nil, loadError(object, err)
	}
	return collection, nil
}

func (k *kernel) programs() map[**ebpf.Program]string {
	return map[**ebpf.Program]string{
		&k.tc: programTC, &k.xdp: programXDP, &k.sweep: programSweep,
		&k.endPair: programEndPair, &k.clock: programClock, &k.flowsText: programFlows,
	}
}

// dropReasons takes out the texts, which only Go reads.
func dropReasons(spec *ebpf.CollectionSpec) {
	delete(spec.Maps, reasonSection)
	for name, v := range spec.Variables {
		if v.SectionName == reasonSection {
			delete(spec.Variables, name)
		}
	}
}

// loadError keeps the end of the verifier's log, where the cause stands.
func loadError(object string, err error) error {
	var verifier *ebpf.VerifierError
	if errors.As(err, &verifier) {
		return fmt.Errorf("load the %s object: %w: %+v", object, err, verifier)
	}
	return fmt.Errorf("load the %s object: %w (needs kernel 6.1, CAP_BPF and CAP_NET_ADMIN)", object, err)
}

// bindMaps makes the TC program hold every map, also those that only user space reads: as long as the
// program is attached anywhere, no map is lost with its pin.
func (k *kernel) bindMaps() error {
	for name, m := range k.maps {
		if err := k.tc.BindMap(m); err != nil {
			return fmt.Errorf("bind map %s to %s: %w", name, programTC, err)
		}
	}
	return nil
}

// pin pins the programs and the iterator in the place of older ones.
func (k *kernel) pin(f *folder) error {
	if err := f.makeDirs(); err != nil {
		return err
	}
	for p, name := range k.programs() {
		if err := replacePin(*p, f.programs(name)); err != nil {
			return fmt.Errorf("pin program %s: %w", name, err)
		}
	}
	return k.pinIterator(f)
}

func (k *kernel) pinIterator(f *folder) error {
	it, err := link.AttachIter(link.IterOptions{Program: k.flowsText})
	if err != nil {
		return fmt.Errorf("attach the flow iterator: %w", err)
	}
	defer it.Close()
	if err := replacePin(it, f.iterator()); err != nil {
		return fmt.Errorf("pin the flow iterator: %w", err)
	}
	return nil
}

type pinner interface{ Pin(string) error }

// replacePin pins p at path, where something may be pinned already, without a moment of nothing there.
func replacePin(p pinner, path string) error {
	if err := removePin(fresh(path)); err != nil {
		return err
	}
	if err := p.Pin(fresh(path)); err != nil {
		return err
	}
	return os.Rename(fresh(path), path)
}

// fresh is where replacePin pins first. One that is killed leaves it there.
func fresh(path string) string { return path + "-new" }

// runSyscall runs a program of type syscall with ctx as its context, which it may change.
func runSyscall[T any](p *ebpf.Program, ctx *T) error {
	ret, err := p.Run(&ebpf.RunOptions{Context: ctx, ContextOut: ctx})
	if err != nil {
		return fmt.Errorf("run %s: %w", p, err)
	}
	if ret != 0 {
		return fmt.Errorf("run %s: it returned %d", p, int32(ret))
	}
	return nil
}

// close lets go of everything; what is pinned stays.
func (k *kernel) close() {
	for _, a := range []interface{ close() error }{
		k.config, k.table, k.flows, k.vnets, k.services, k.pools, k.ifaces, k.outs,
		k.links, k.usage, k.rules, k.natsets, k.backends,
	} {
		_ = a.close() // unmapping our own mapping cannot fail
	}
	for p := range k.programs() {
		if *p != nil {
			(*p).Close()
		}
	}
	for _, m := range k.maps {
		m.Close()
	}
	k.migration.close()
}
