package dataplane

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/privlink/privlink/pkg/neigh"
	"github.com/sirupsen/logrus"
)

// Options of a Dataplane. The zero value is the daemon's.
type Options struct {
	// BPFFS is the folder for pins; empty = DefaultBPFFS.
	BPFFS string
	// NetNS is the path of the network namespace with the interfaces; empty = the process's own.
	NetNS string
	// Pairs is the number of flows the table holds, 64..16,777,216, 308 bytes of memory each; 0 = DefaultPairs, or as many as
	// the table has that is there. The flows of one with another number are carried over (see migration).
	Pairs uint32
	// BalanceSeed chooses backends; the same on all nodes.
	BalanceSeed [2]uint64
	// NoTCX uses clsact on kernels that have TCX, too.
	NoTCX bool
	// Inner is the splice's network; zero = none, and rules with Proxy refuse.
	Inner Inner
	// State compiles what is to be in the kernel, and is asked when configuration of another layout has to be written anew
	// before anything reads it; the first Apply says it again. Nil refuses such a layout.
	State func() (State, error)
	// Notify is called, from a goroutine that must not be held up, when Result has changed.
	Notify func()
	// Log takes what happens; nil = logrus' standard logger.
	Log logrus.FieldLogger

	// step hears of every step of a migration, and of the middle of an Apply, for tests; an error makes that step fail.
	step func(string) error
}

// Inner is the network of the splice path: one attached veth and what is behind it.
type Inner struct {
	// Network is its key, among those of State.Networks; it must not be one of them.
	Network   string
	Interface string
	// Listen is the backend of every rule with Proxy.
	Listen netip.AddrPort
	// Sources are the addresses clients appear from, 1..8.
	Sources []netip.Addr
}

// DefaultPairs is the size of a new flow table: 77 MiB.
const DefaultPairs = 1 << 18

// Limits of Options.Pairs.
const (
	minPairs = 64
	maxPairs = 1 << 24
)

// ErrClosed says that the Dataplane is closed.
var ErrClosed = errors.New("dataplane is closed")

// Dataplane is the owner of everything privlink has in the kernel.
type Dataplane struct {
	opts   Options
	log    logrus.FieldLogger
	ns     namespace
	folder *folder
	k      *kernel
	att    *attacher
	socket *neigh.Socket
	clock  func() time.Time
	pairs  uint32    // that the flow table holds
	before *replaced // what Open replaced, until Keep; guarded by mu

	stop    context.CancelFunc
	done    sync.WaitGroup
	wakeups chan struct{}
	sweeper chan struct{} // a sweep is wanted at once

	door  atomic.Pointer[door] // of the last apply; nil before the first
	shut  atomic.Bool          // closed, for those who do not take mu
	dials atomic.Int32         // connections that the inner network may open: none outlives the daemon

	ready  chan struct{} // closed with the first door
	opened sync.Once

	// mu guards everything below, and every write to a map.
	mu       sync.Mutex
	closed   bool
	inner    Inner
	state    State
	applied  bool       // state is one that was given to Apply
	attached []attached // what it attaches
	plan     *plan
	result   Result
	devices  map[string]device
	bindings map[string]*binding
	others   map[string]otherPrograms // by interface, since the last look
	probed   map[string]device        // by name, since the last look: takesXDP is probed
	bound    map[string]bound         // by interface, since the last look
	filling  bool                     // a migration fills its maps: nothing is attached or detached
	looks    uint64                   // at the interfaces
	returned []string                 // interfaces attached since the last apply
	// redirects and noFeatures are for kernels without xdp-features; noFeatures treats any so.
	redirects  *redirectProbe
	noFeatures bool
	resolver   *neigh.Resolver
	prober     *neigh.Prober
	dirty      bool      // the network answered something that changes the plan
	pause      time.Time // until when that waits

	vnets, services, pools, outs, links, rules, natsets, backends *slots

	addresses map[bpfAddressKey]bpfAddress // what is in the kernel
	ruleIndex map[bpfRuleKey]bpfRuleRef

	sweeps  uint64 // complete ones
	swept   time.Time
	pass    SweepStats
	ending  bool                         // flows were revoked: the sweep is to find them now
	gone    map[bpfAddressKey]bpfAddress // addresses whose flows are to end, as they were
	strays  bool                         // nobody knows what went before this daemon: flows of no address are to end
	nudged  map[nudge]int
	binding sync.Mutex   // held, after mu or without it, by who changes a binding or asks the kernel about one
	readers sync.RWMutex // held for reading while somebody uses the kernel's memory without mu
}

// Open locks the folder, loads the programs, adopts what an earlier daemon left or makes it new,
// and begins to sweep and to watch. Nothing changes for traffic until Apply. The dataplane
// ends with ctx or Close; what is in the kernel goes on forwarding. Until Keep, Abandon can put back the programs that
// were attached before.
func Open(ctx context.Context, opts Options) (_ *Dataplane, err error) {
	if opts.step == nil {
		opts.step = func(string) error { return nil }
	}
	if opts.Pairs != 0 && (opts.Pairs < minPairs || opts.Pairs > maxPairs) {
		return nil, fmt.Errorf("open dataplane: %d flows (%d to %d are possible)", opts.Pairs, minPairs, maxPairs)
	}
	if opts.Log == nil {
		opts.Log = logrus.StandardLogger()
	}
	if opts.Notify == nil {
		opts.Notify = func() {}
	}
	d := &Dataplane{
		ready: make(chan struct{}),
		opts:  opts, log: opts.Log, ns: namespace{opts.NetNS}, inner: opts.Inner, clock: time.Now,
		wakeups: make(chan struct{}, 1), sweeper: make(chan struct{}, 1), gone: make(map[bpfAddressKey]bpfAddress), others: make(map[string]otherPrograms), probed: make(map[string]device), bound: make(map[string]bound),
	}
	defer func() {
		if err != nil {
			if d.k != nil {
				err = errors.Join(err, d.k.abandonMigration(d.folder))
			}
			if d.folder != nil {
				err = errors.Join(err, d.folder.undo())
			}
			d.letGo()
		}
	}()
	if d.folder, err = openFolder(opts.BPFFS); err != nil {
		return nil, fmt.Errorf("open dataplane: %w", err)
	}
	if d.devices, err = d.ns.devices(); err != nil {
		return nil, fmt.Errorf("open dataplane: %w", err)
	}
	d.att = &attacher{ns: d.ns, folder: d.folder, noTCX: opts.NoTCX, step: opts.step}
	attached, err := d.att.attached(d.devices)
	if err != nil {
		return nil, fmt.Errorf("open dataplane: %w", err)
	}
	if d.k, err = loadKernel(d.folder, sizes{pairs: opts.Pairs, maglevSeed: opts.BalanceSeed}, attached); err != nil {
		return nil, fmt.Errorf("open dataplane: %w", err)
	}
	d.att.tc, d.att.xdp = d.k.tc, d.k.xdp
	if err := d.ns.do(func() error { d.socket, err = neigh.OpenSocket(); return err }); err != nil {
		return nil, fmt.Errorf("open dataplane: %w", err)
	}
	d.resolver = neigh.NewResolver(d.socket.Send, func(neigh.Key, neigh.Neighbour) { d.dirty = true })
	d.prober = neigh.NewProber(d.socket.Send, d.portsOf, d.claimed)
	migrated := d.k.migration != nil
	if migrated {
		if err := d.migrate(); err != nil {
			return nil, fmt.Errorf("open dataplane: %w", err)
		}
	}
	var before *replaced
	if d.bindings, before, err = d.att.adopt(d.devices, d.k.outs); err != nil {
		return nil, fmt.Errorf("open dataplane: %w", err)
	}
	d.before = before
	defer func() {
		if err != nil {
			err = errors.Join(err, before.undo())
		}
	}()
	if err := d.readKernel(); err != nil {
		return nil, fmt.Errorf("open dataplane: %w", err)
	}
	if err := d.k.endMigration(d.folder); err != nil {
		return nil, fmt.Errorf("open dataplane: %w", err)
	}
	d.pairs = d.k.config.load(0).MaxPairs // of the new table, if there is one
	if migrated {
		before.forget() // they only jump through what the migration had, and look into a table that is no more
	}
	if err := d.begin(ctx); err != nil {
		return nil, fmt.Errorf("open dataplane: %w", err)
	}
	d.log.WithFields(logrus.Fields{
		"bpffs": d.folder.path, "adopted": d.k.adopted, "flows": d.k.config.load(0).MaxPairs,
		"memory_mib": uint64(d.k.flows.count) * 64 >> 20,
	}).Info("dataplane is loaded")
	return d, nil
}

// readKernel takes over numbers and entries from the maps.
func (d *Dataplane) readKernel() error {
	k := d.k
	d.vnets = newSlots("networks", uint32(math.MaxUint16), func(s uint32) uint64 { return k.vnets.load(s).Ident }, nil)
	d.services = newSlots("rule sets", k.services.count, func(s uint32) uint64 { return k.services.load(s).Ident }, nil)
	d.pools = newSlots("pools", k.pools.count, func(s uint32) uint64 { return k.pools.load(s).Ident }, nil)
	d.outs = newSlots("attachments", k.outs.count, func(s uint32) uint64 { return k.outs.load(s).Ident }, nil)
	d.rules = newSlots("rules", k.rules.count, func(s uint32) uint64 { return k.rules.load(s).Ident }, nil)
	d.natsets = newSlots("sets of NAT IPs", k.natsets.count, func(s uint32) uint64 { return k.natsets.load(s).Ident }, nil)
	d.backends = newSlots("backends", k.backends.count, func(s uint32) uint64 { return k.backends.load(s).Ident }, nil)
	// A link's pairs are counted until they are swept: the count would be the next owner's.
	d.links = newSlots("links", k.links.count, func(s uint32) uint64 { return k.links.load(s).Ident },
		func(s uint32) bool { return k.usage.load(s).Pairs != 0 })
	d.links.rest(func(s uint32) bool { return k.links.load(s).Gen != 0 }, 0)
	d.backends.rest(func(s uint32) bool { return k.backends.load(s).Gen != 0 }, 0)
	d.natsets.rest(func(s uint32) bool { return k.natsets.load(s).Count != 0 }, 0)
	// Ended flows of a network that is gone stay for minutes under its number.
	if err := k.scan(context.Background(), func(e entry) bool {
		d.vnets.cursor = max(d.vnets.cursor, uint32(e.Key.Vnet)+1)
		return true
	}); err != nil {
		return err
	}
	if err := k.clearDials(); err != nil {
		return err
	}
	return d.readEntries()
}

// readEntries takes over what the maps have that are no arrays.
func (d *Dataplane) readEntries() error {
	k := d.k
	d.addresses = make(map[bpfAddressKey]bpfAddress)
	var key bpfAddressKey
	var address bpfAddress
	all := k.maps[mapAddresses].Iterate()
	for all.Next(&key, &address) {
		d.addresses[key] = address
	}
	if err := all.Err(); err != nil {
		return fmt.Errorf("read map %s: %w", mapAddresses, err)
	}
	d.ruleIndex = make(map[bpfRuleKey]bpfRuleRef)
	var ruleKey bpfRuleKey
	var ref bpfRuleRef
	all = k.maps[mapRuleIndex].Iterate()
	for all.Next(&ruleKey, &ref) {
		d.ruleIndex[ruleKey] = ref
	}
	if err := all.Err(); err != nil {
		return fmt.Errorf("read map %s: %w", mapRuleIndex, err)
	}
	return nil
}

// readDevices looks at the interfaces again. mu is held.
func (d *Dataplane) readDevices() error {
	devices, err := d.ns.devices()
	if err == nil {
		d.takeDevices(devices)
	}
	return err
}

// lookAround is readDevices without mu, which nobody should hold while the kernel lets one wait; what it returns takes
// what was found, with mu held, unless somebody has looked meanwhile.
func (d *Dataplane) lookAround() func() error {
	d.mu.Lock()
	before := d.looks
	d.mu.Unlock()
	devices, err := d.ns.devices()
	return func() error {
		if d.looks != before {
			return d.readDevices()
		}
		if err == nil {
			d.takeDevices(devices)
		}
		return err
	}
}

// takeDevices takes what a look at the interfaces has found. mu is held.
func (d *Dataplane) takeDevices(devices map[string]device) {
	d.looks++
	for name, dev := range devices {
		if old, ok := d.devices[name]; ok && old.ifindex == dev.ifindex && (dev.up && !old.up || !slices.Equal(dev.mac, old.mac)) {
			d.returned = append(d.returned, name)
		}
	}
	d.probeRedirects(devices)
	d.devices = devices
	clear(d.bound)
}

// probeRedirects finds out which devices take frames of XDP, where the kernel does not say. It asks again
// at every look (see attendOnce) and when a device comes up; mu is held.
func (d *Dataplane) probeRedirects(devices map[string]device) {
	if !slices.ContainsFunc(slices.Collect(maps.Values(d.bindings)), func(b *binding) bool { return b.xdp != nil }) {
		return // nobody redirects
	}
	for name := range d.bindings {
		dev, ok := devices[name]
		if !ok || dev.xdpKnown && !d.noFeatures {
			continue
		}
		if last, ok := d.probed[name]; ok && last.ifindex == dev.ifindex && last.up == dev.up {
			dev.takesXDP = last.takesXDP
		} else {
			dev.takesXDP = d.probeRedirect(dev)
			d.probed[name] = dev
		}
		devices[name] = dev
	}
}

// probeRedirect sends dev a frame. What cannot be asked counts as no: XDP passes up, and TC does it.
func (d *Dataplane) probeRedirect(dev device) (takes bool) {
	err := d.ns.do(func() (err error) {
		if d.redirects == nil {
			if d.redirects, err = openRedirectProbe(); err != nil {
				return err
			}
		}
		takes, err = d.redirects.takes(dev)
		return err
	})
	if err != nil {
		d.log.WithError(err).WithField("interface", dev.name).Warn("xdp does not redirect to the interface")
	}
	return takes
}

// portsOf are the ports of a network as the last plan has them.
func (d *Dataplane) portsOf(vnet uint16) []neigh.Port {
	if d.plan == nil {
		return nil
	}
	ports := make([]neigh.Port, 0, len(d.plan.ports[vnet]))
	for _, p := range d.plan.ports[vnet] {
		ports = append(ports, p.Port)
	}
	return ports
}

func (d *Dataplane) claimed(key neigh.Key, is neigh.Claim) {
	d.dirty = true
	if is.Conflict {
		d.log.WithFields(logrus.Fields{"address": key.Addr, "mac": is.Other.String()}).Warn("somebody else has the address")
	}
}

func (p *plan) networkOf(vnet uint16) string {
	for key, number := range p.vnets {
		if number == vnet {
			return key
		}
	}
	return ""
}

// Result is how far the kernel agrees with the last State.
func (d *Dataplane) Result() Result {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.result
}

// report makes the Result anew and tells of a change. mu is held.
func (d *Dataplane) report() Result {
	p := d.plan
	r := Result{Revision: p.state.Revision}
	for _, key := range d.prober.Pending() {
		r.Pending = append(r.Pending, Address{p.networkOf(key.VNet), key.Addr})
	}
	for key, c := range d.prober.Conflicts() {
		conflict := Conflict{Address: Address{p.networkOf(key.VNet), key.Addr}, MAC: c.Other[:]}
		for _, port := range p.ports[key.VNet] {
			if port.Slot == c.Port.Slot {
				conflict.Interface, conflict.VLAN = port.attachment.Interface, port.attachment.VLAN
			}
		}
		r.Conflicts = append(r.Conflicts, conflict)
	}
	for a, is := range p.unresolved {
		r.Unresolved = append(r.Unresolved, Unresolved{a, is.missing, is.why, is.asking})
	}
	for _, key := range slices.Sorted(maps.Keys(p.failed)) {
		r.Failed = append(r.Failed, Failure{key, p.failed[key].Error()})
	}
	for _, s := range p.statuses {
		if s.Network != d.inner.Network || s.Network == "" {
			r.Attachments = append(r.Attachments, s)
		}
	}
	byAddress := func(a, b Address) int {
		if c := strings.Compare(a.Network, b.Network); c != 0 {
			return c
		}
		return a.Addr.Compare(b.Addr)
	}
	slices.SortFunc(r.Pending, byAddress)
	slices.SortFunc(r.Unresolved, func(a, b Unresolved) int { return byAddress(a.Address, b.Address) })
	slices.SortFunc(r.Conflicts, func(a, b Conflict) int { return byAddress(a.Address, b.Address) })
	if !slices.Equal(r.Failed, d.result.Failed) {
		for _, f := range r.Failed {
			d.log.WithFields(logrus.Fields{"of": f.Key, "reason": f.Reason}).Warn("left out of the kernel")
		}
	}
	d.logAttachments(d.result.Attachments, r.Attachments)
	// Errors are equal when they say the same.
	if fmt.Sprintf("%+v", r) != fmt.Sprintf("%+v", d.result) {
		go d.opts.Notify()
	}
	d.result = r
	return r
}

// logAttachments says which attachments carry no traffic any more, and which do again.
func (d *Dataplane) logAttachments(before, now []AttachmentStatus) {
	type place struct {
		network, iface string
		vlan           uint16
	}
	trouble := func(a AttachmentStatus) (place, string) {
		at := place{a.Network, a.Attachment.Interface, a.Attachment.VLAN}
		switch {
		case a.Err != nil:
			return at, a.Err.Error()
		case a.Down:
			return at, "it is down"
		}
		return at, ""
	}
	was := make(map[place]string, len(before))
	for _, a := range before {
		at, why := trouble(a)
		was[at] = why
	}
	for _, a := range now {
		at, why := trouble(a)
		if why == was[at] {
			continue
		}
		log := d.log.WithFields(logrus.Fields{"interface": at.iface, "network": at.network})
		if why != "" {
			log.WithField("reason", why).Warn("the interface carries no traffic")
		} else {
			log.Info("the interface carries traffic again")
		}
	}
}

// Keep lets go of the programs that Open replaced: whoever opened the dataplane does its work now.
func (d *Dataplane) Keep() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.before.forget()
	d.folder.bare = false
}

// Abandon is Close for one who cannot do its work after all: attachments get the programs back that they had before
// Open, so that a new version that fails at its start leaves the old one's in force, and where nothing was pinned, nothing
// stays. After Keep or Apply, or where maps were replaced (see migration), it is Close.
func (d *Dataplane) Abandon() error {
	return d.end(func(before *replaced) error { return errors.Join(before.undo(), d.folder.undo()) })
}

// Close stops sweeping and watching and lets go of everything; the kernel goes on forwarding with what it has.
func (d *Dataplane) Close() error {
	return d.end(func(before *replaced) error {
		before.forget()
		return nil
	})
}

// end is the end, with what is to become of programs that were replaced.
func (d *Dataplane) end(last func(*replaced) error) error {
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		return nil
	}
	d.closed = true
	d.shut.Store(true)
	d.mu.Unlock()
	d.stop()
	d.done.Wait()
	d.readers.Lock()
	defer d.readers.Unlock()
	return errors.Join(last(d.before), d.letGo())
}

// letGo closes what was opened, in the reverse order.
func (d *Dataplane) letGo() error {
	var failed []error
	for _, b := range d.bindings {
		b.close()
	}
	failed = append(failed, d.redirects.close())
	if d.socket != nil {
		failed = append(failed, d.socket.Close())
	}
	if d.k != nil {
		d.k.close()
	}
	if d.folder != nil {
		failed = append(failed, d.folder.close())
	}
	return errors.Join(failed...)
}
