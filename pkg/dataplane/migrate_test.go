package dataplane

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/privlink/privlink/pkg/lab"
	"github.com/privlink/privlink/pkg/lab/load"
)

// The TC program as earlier versions could have left it: with another layout of its table and its configuration and other drop
// reasons, and with another layout of its configuration alone. One map of these has kept its name.
//
//go:generate go tool bpf2go -target amd64,arm64 -no-global-types otherLayout ../../bpf/privlink_tc.c -- -DOTHER_LAYOUT -DOTHER_CONFIG -Dflows_v1=flows_v0 -Dreasons_v2=reasons_v1 -Dlinks_v1=links_v0 -Dbackends_v1=backends_v0 -Daddresses_v1=addresses_v0 -Douts_v1=outs_v0 -Dlink_stats_v1=link_stats_v0
//go:generate go tool bpf2go -target amd64,arm64 -no-global-types otherConfig ../../bpf/privlink_tc.c -- -DOTHER_CONFIG -Dlinks_v1=links_v2 -Dbackends_v1=backends_v2 -Daddresses_v1=addresses_v2 -Douts_v1=outs_v2 -Dlink_stats_v1=link_stats_v2

// otherVersion is what an earlier version had.
type otherVersion struct {
	load func() (*ebpf.CollectionSpec, error)
	// without is a map that it did not have.
	without string
}

var (
	otherLayout = otherVersion{load: loadOtherLayout}
	otherConfig = otherVersion{load: loadOtherConfig, without: mapPools}
)

// crowded is a gateway between a consumer and a provider that answers all of pkg/lab/load, on every port of
// the endpoint, from two NAT IPs.
type crowded struct {
	*gateway
	consumer, provider *lab.Namespace
	state              State
}

func newCrowded(t *testing.T, edit func(*Options)) *crowded {
	g := newGateway(t)
	g.edit = edit
	c := &crowded{gateway: g}
	// As cables are: a sender waits while the other end, which may have XDP, is busy, and sends whole checksums and no large packets.
	cable := lab.VethOptions{B: lab.EndOptions{
		Off: []string{"tx-checksum-ip-generic", "tx-tcp-segmentation", "tx-generic-segmentation"}, On: []string{"rx-gro"}, Queue: true,
	}}
	c.consumer = g.VM(g.ns, "consumer", "10.0.1.4/16", cable)
	c.provider = g.VM(g.ns, "provider", "10.0.1.4/16", cable)
	if err := load.Serve(c.provider, "10.0.1.4"); err != nil {
		t.Fatal(err)
	}
	mirror(t, c.provider, "10.0.1.4:7000")
	c.state = small()
	rs := &c.state.RuleSets[0]
	rs.Sources = append(rs.Sources, Source{Addr: netip.MustParseAddr("10.0.2.6")})
	rs.Rules[0].Protocol, rs.Rules[0].Port, rs.Rules[0].BackendPort = ProtocolAll, 0, 0
	c.state.Links[0].MaxFlows = 1 << 20
	return c
}

// crowd is so many conversations of strangers at the consumer's end, with a number of their own.
func (c *crowded) crowd(number, size int) *crowd {
	return newCrowd(c.t, c.consumer, c.ns.MAC("consumer"), "10.0.1.10:7000", number, size)
}

// becomeOther puts what an earlier version would have left in the place of what this one left.
func (c *crowded) becomeOther(other otherVersion) {
	t := c.t
	t.Helper()
	f := &folder{path: c.bpffs}
	spec, err := other.load()
	if err != nil {
		t.Fatal(err)
	}
	dropReasons(spec)
	k := &kernel{maps: make(map[string]*ebpf.Map)}
	defer k.close()
	config, err := ebpf.LoadPinnedMap(f.maps(mapConfig), nil)
	if err == nil {
		k.config, err = mapArray[bpfConfig](config)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer config.Close()
	replaced := make(map[string]string)
	for ours := range layouts {
		if ours == other.without {
			replaced[ours] = ""
			continue
		}
		m, err := ebpf.LoadPinnedMap(f.maps(ours), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		var theirs *ebpf.MapSpec
		for name, spec := range own(spec) {
			if base(name) == base(ours) {
				theirs = spec
			}
		}
		if theirs == nil { // only the daemon reads it
			k.maps[ours], err = m.Clone()
			if err != nil {
				t.Fatal(err)
			}
			continue
		}
		if ours == mapFlows {
			theirs.MaxEntries = m.MaxEntries()
		}
		if theirs.Name == ours && sameLayout(theirs, m) == nil {
			if k.maps[ours], err = m.Clone(); err != nil {
				t.Fatal(err)
			}
			continue
		}
		replaced[ours] = theirs.Name
		if k.maps[theirs.Name], err = ebpf.NewMap(theirs); err == nil && layouts[ours].role == roleConfig {
			err = carryMap(theirs, k.maps[theirs.Name], m)
		}
		if err == nil && ours == mapLinks {
			err = setQuotas(theirs, k.maps[theirs.Name])
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(replaced) < 6 {
		t.Fatalf("the other layout is hardly another: %v", replaced)
	}
	values, err := constants(k.config.load(0))
	if err != nil {
		t.Fatal(err)
	}
	collection, err := k.loadObject("other", spec, values, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer collection.Close()
	k.tc = collection.DetachProgram(programTC)
	if err := k.bindMaps(); err != nil {
		t.Fatal(err)
	}
	c.attachOther(k.tc)
	if err := replacePin(k.tc, f.programs(programTC)); err != nil {
		t.Fatal(err)
	}
	for ours, theirs := range replaced {
		err := os.Remove(f.maps(ours))
		if err == nil && theirs != "" {
			err = k.maps[theirs].Pin(f.maps(theirs))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// attachOther gives every attachment a program of another version; that of XDP leaves everything to TC.
func (c *crowded) attachOther(tc *ebpf.Program) {
	t := c.t
	t.Helper()
	xdp, err := newAside()
	if err != nil {
		t.Fatal(err)
	}
	defer xdp.Close()
	ns := namespace{c.ns.Path()}
	devices, err := ns.devices()
	if err != nil {
		t.Fatal(err)
	}
	links, err := (&folder{path: c.bpffs}).allLinks()
	if err != nil {
		t.Fatal(err)
	}
	attached := 0
	for path, is := range links {
		program := tc
		if is[0] == hookXDP {
			program = xdp
		} else {
			attached++
		}
		l, err := link.LoadPinnedLink(path, nil)
		if err == nil {
			err = errors.Join(l.Update(program), l.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range devices {
		a := &attacher{ns: ns, folder: &folder{path: c.bpffs}}
		is, err := a.filterProgram(d.ifindex)
		if err == nil && is != 0 {
			attached++
			err = ns.do(func() error { return a.putFilter(d.ifindex, tc) })
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if attached != 2 {
		t.Fatalf("%d interfaces have the other program", attached)
	}
}

// setQuotas writes the field of a link that no other version has.
func setQuotas(theirs *ebpf.MapSpec, m *ebpf.Map) error {
	fields := make(map[string]leaf)
	if err := leaves(theirs.Value, "", 0, leaf{}, fields); err != nil {
		return err
	}
	links, err := openWords(m)
	if err != nil {
		return err
	}
	defer links.close()
	for slot := range m.MaxEntries() {
		binary.NativeEndian.PutUint32(links.slot(slot)[fields["quota_of_before"].offset:], 1<<20)
	}
	return nil
}

// pinned are the maps that are pinned, by the names of the pins.
func (c *crowded) pinned() map[string]ebpf.MapID {
	c.t.Helper()
	paths, err := filepath.Glob(filepath.Join(c.bpffs, "maps", "*"))
	if err != nil {
		c.t.Fatal(err)
	}
	all := make(map[string]ebpf.MapID)
	for _, path := range paths {
		m, err := ebpf.LoadPinnedMap(path, nil)
		if err != nil {
			c.t.Fatal(err)
		}
		info, err := m.Info()
		m.Close()
		if err != nil {
			c.t.Fatal(err)
		}
		all[filepath.Base(path)], _ = info.ID()
	}
	return all
}

// wantOurPins fails unless exactly the maps of this version are pinned.
func (c *crowded) wantOurPins() {
	c.t.Helper()
	have, want := slices.Sorted(maps.Keys(c.pinned())), slices.Sorted(maps.Keys(layouts))
	if !slices.Equal(have, want) {
		c.t.Errorf("pinned are %v, expected %v", have, want)
	}
}

// wantWhole fails unless every flow is a whole pair and no port or quota is lost.
func (c *crowded) wantWhole(least int) {
	c.t.Helper()
	flows := 0
	if err := c.d.Flows(context.Background(), func(Flow) bool { flows++; return true }); err != nil {
		c.t.Fatal(err)
	}
	if flows < least {
		c.t.Errorf("%d flows, expected at least %d", flows, least)
	}
	c.Wait("ports and quotas to agree with the flows", 20*time.Second, func() error {
		leaks, err := c.d.Audit(context.Background())
		if err == nil && len(leaks) > 0 {
			err = errors.New(leaks[0].String())
		}
		return err
	})
	c.wantNoNext()
}

// wantNoNext fails when a migration has left anything.
func (c *crowded) wantNoNext() {
	c.t.Helper()
	if _, err := os.Stat(filepath.Join(c.bpffs, "next")); !errors.Is(err, os.ErrNotExist) {
		c.t.Errorf("the folder of the migration is left: %v", err)
	}
}

// A hundred thousand flows under another layout, of the flow table and of the configuration, traffic that loses nothing, and
// new flows that open all the time, at every step of the migration too.
func TestMigrate_OtherLayoutUnderLoad_EveryFlowIsKept(t *testing.T) {
	for name, test := range map[string]struct {
		other    otherVersion
		many     int
		mode     Mode
		switched int // programs, over and back
	}{
		"flow table and configuration": {otherLayout, 100_000, ModeTC, 4},
		"configuration":                {otherConfig, 20_000, ModeTC, 4},
		"configuration, with xdp":      {otherConfig, 5_000, ModeXDP, 8},
	} {
		t.Run(name, func(t *testing.T) { testMigrateUnderLoad(t, test.other, test.many, test.mode, test.switched) })
	}
}

func testMigrateUnderLoad(t *testing.T, other otherVersion, many int, mode Mode, switched int) {
	c := newCrowded(t, func(o *Options) { o.Pairs = 1 << 18 })
	for i := range c.state.Networks {
		c.state.Networks[i].Attachments[0].Mode = mode
	}
	c.open()
	c.apply(c.state)
	if err := c.d.Close(); err != nil {
		t.Fatal(err)
	}
	c.becomeOther(other)

	all := c.crowd(0, many)
	before := all.talk()
	traffic, err := load.Start(context.Background(), c.consumer, "10.0.1.10", load.Options{Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	newcomers := c.crowd(1, 20_000)
	arriving := newcomers.arrive()

	steps := make(map[string]int)
	atSteps := c.crowd(2, 10_000)
	c.edit = func(o *Options) {
		o.Pairs = 1 << 18
		o.State = func() (State, error) { return c.state, nil }
		o.step = func(step string) error {
			if step == stepTables {
				return nil // of each Apply
			}
			steps[step]++
			atSteps.next(500)
			return nil
		}
	}
	c.open()
	// No Apply yet: what the first one would say is in force already.
	atSteps.next(500)
	c.apply(c.state)
	want := map[string]int{stepReplace: switched, stepFill: 1, stepSwitch: 1, stepSwitched: 1, stepCopied: 1}
	if !maps.Equal(steps, want) {
		t.Errorf("steps: %v, expected %v", steps, want)
	}
	opened := arriving()
	after := all.talk()
	seen := make(map[netip.AddrPort]int)
	for id, from := range after {
		if from != before[id] {
			t.Fatalf("flow %d came from %s, now from %s", id, before[id], from)
		}
		seen[from]++
	}
	for _, from := range append(opened, atSteps.talkAgain()...) {
		seen[from]++
	}
	for from, flows := range seen {
		if flows != 1 {
			t.Fatalf("%s is the port of %d flows", from, flows)
		}
	}
	t.Logf("%d flows kept, %d opened meanwhile", len(after), len(seen)-len(after))
	report := traffic.Stop()
	t.Log(report)
	if len(report.Lost) > 0 || len(report.Broken) > 0 {
		t.Errorf("lost: %v", report)
	}
	c.wantWhole(len(seen))
	c.wantOurPins()
	stats, err := c.d.LinkStats()
	if err != nil {
		t.Fatal(err)
	}
	if stats[0].Opened < uint64(many) || stats[0].PacketsIn < uint64(2*many) || stats[0].PacketsOut < uint64(2*many) {
		t.Errorf("counters of before are missing: %+v", stats[0])
	}
}

var errStep = errors.New("this step fails")

// Whatever step fails, the flows go on: with the old programs before the switch, with the new ones after it. The next
// start is as if nothing had been.
func TestMigrate_StepFails_FlowsGoOnAndTheNextStartSucceeds(t *testing.T) {
	undone := map[string]bool{stepReplace: true, "second " + stepReplace: true, stepSwitch: true}
	steps := []string{stepReplace, "second " + stepReplace, stepSwitch, stepSwitched, stepCopied, "last " + stepReplace}
	for hook, steps := range map[string][]string{hookTCX: steps, hookClsact: steps[2:4]} {
		t.Run(hook, func(t *testing.T) {
			needsHook(t, hook)
			c := newCrowded(t, func(o *Options) { o.Pairs, o.NoTCX = 1<<14, hook == hookClsact })
			c.open()
			c.apply(c.state)
			all := c.crowd(0, 1000)
			before := all.talk()
			size := uint32(1 << 14)
			for i, step := range steps {
				if err := c.d.Close(); err != nil {
					t.Fatal(err)
				}
				programs := c.attachedPrograms()
				replaced := 0
				options := c.options()
				options.Pairs = size ^ 1<<14 ^ 1<<15
				options.step = func(s string) error {
					if s == stepReplace {
						replaced++
						s = map[int]string{1: stepReplace, 2: "second " + stepReplace, 4: "last " + stepReplace}[replaced]
					}
					if s == step {
						return errStep
					}
					return nil
				}
				if _, err := Open(context.Background(), options); !errors.Is(err, errStep) {
					t.Fatalf("%s: %v", step, err)
				}
				if now := c.attachedPrograms(); undone[step] && now != programs {
					t.Errorf("%s: attached are %s, before %s", step, now, programs)
				}
				wantSame(t, step, before, all.talk())
				extra := c.crowd(i+1, 500)
				opened := extra.talk()
				options.step = nil
				size = options.Pairs
				c.edit = func(o *Options) { o.Pairs, o.NoTCX = size, hook == hookClsact }
				c.open()
				c.apply(c.state)
				if have := c.d.k.config.load(0).MaxPairs; have != size || c.d.Pairs() != size {
					t.Errorf("%s: the table is for %d flows, not %d", step, have, size)
				}
				wantSame(t, step, before, all.talk())
				wantSame(t, step, opened, extra.talk())
				c.wantWhole(len(before) + len(opened))
			}
		})
	}
}

// The same where the configuration has another layout: before the switch the pins too are those of before, after it the
// next start goes on from where this one stopped.
func TestMigrate_OtherConfigStepFails_EverythingGoesBackOrOn(t *testing.T) {
	for _, hook := range []string{hookTCX, hookClsact} {
		t.Run(hook, func(t *testing.T) {
			needsHook(t, hook)
			testOtherConfigStepFails(t, hook == hookClsact)
		})
	}
}

func testOtherConfigStepFails(t *testing.T, noTCX bool) {
	c := newCrowded(t, func(o *Options) { o.Pairs, o.NoTCX = 1<<14, noTCX })
	filled := func(o *Options) {
		o.Pairs, o.NoTCX, o.State = 1<<14, noTCX, func() (State, error) { return c.state, nil }
	}
	c.open()
	c.apply(c.state)
	all := c.crowd(0, 300)
	before := all.talk()
	tests := []struct {
		step   string
		undone bool
		then   func() error
	}{
		{step: stepReplace, undone: true},
		{step: stepFill, undone: true},
		{step: stepSwitch, undone: true},
		{step: stepSwitched},
		{step: stepCopied},
		// The next version is another one: it must not take what it finds for its own.
		{step: stepSwitched, then: func() error {
			ours, other := filepath.Join(c.bpffs, "next", mapLinks), filepath.Join(c.bpffs, "next", "links_v9")
			if err := os.Rename(ours, other); err != nil {
				return err
			}
			options := c.options()
			filled(&options)
			if _, err := Open(context.Background(), options); !errors.Is(err, ErrLayout) {
				return fmt.Errorf("opened in the middle of another version's migration: %w", err)
			}
			return os.Rename(other, ours)
		}},
		// It was killed when the first maps had their places.
		{step: stepCopied, then: func() error {
			return errors.Join(os.Remove(filepath.Join(c.bpffs, "maps", "links_v2")), os.Rename(filepath.Join(c.bpffs, "next", mapLinks), filepath.Join(c.bpffs, "maps", mapLinks)),
				os.Rename(filepath.Join(c.bpffs, "next", mapNatsets), filepath.Join(c.bpffs, "maps", mapNatsets)))
		}},
	}
	if noTCX {
		tests = tests[1:4] // the rest does not depend on the hook
	}
	for i, test := range tests {
		if err := c.d.Close(); err != nil {
			t.Fatal(err)
		}
		c.becomeOther(otherConfig)
		wantSame(t, test.step, before, all.talk())
		programs, pinned := c.attachedPrograms(), c.pinned()
		options := c.options()
		filled(&options)
		options.step = func(s string) error {
			if s == test.step {
				return errStep
			}
			return nil
		}
		if _, err := Open(context.Background(), options); !errors.Is(err, errStep) {
			t.Fatalf("%s: %v", test.step, err)
		}
		if test.undone {
			if now := c.attachedPrograms(); now != programs {
				t.Errorf("%s: attached are %s, before %s", test.step, now, programs)
			}
			if now := c.pinned(); !maps.Equal(now, pinned) {
				t.Errorf("%s: pinned are %v, before %v", test.step, now, pinned)
			}
			c.wantNoNext()
		}
		if test.then != nil {
			if err := test.then(); err != nil {
				t.Fatal(err)
			}
		}
		wantSame(t, test.step, before, all.talk())
		extra := c.crowd(i+1, 100)
		opened := extra.talk()
		c.edit = filled
		c.open()
		wantSame(t, test.step, before, all.talk())
		c.apply(c.state)
		wantSame(t, test.step, before, all.talk())
		wantSame(t, test.step, opened, extra.talk())
		c.wantWhole(len(before) + len(opened))
		c.wantOurPins()
	}
}

// What is revoked while no daemon runs is revoked when the new programs come into force, and not before.
func TestMigrate_RevokedMeanwhile_EndsWithTheSwitch(t *testing.T) {
	c := newCrowded(t, func(*Options) {})
	c.open()
	c.apply(c.state)
	if err := c.d.Close(); err != nil {
		t.Fatal(err)
	}
	c.becomeOther(otherConfig)
	all := c.crowd(0, 10)
	all.talk()
	revoked := c.state
	revoked.Links = slices.Clone(c.state.Links)
	revoked.Links[0].State = LinkRejected
	switched := false
	c.edit = func(o *Options) {
		o.State = func() (State, error) { return revoked, nil }
		o.step = func(step string) error {
			switched = switched || step == stepSwitched
			if !switched {
				return all.ask(0, 10)
			}
			return nil
		}
	}
	c.open()
	stats := c.refused()
	for flow := range 10 {
		if err := all.send(flow); err != nil {
			t.Fatal(err)
		}
	}
	c.Wait("the packets to be dropped", 5*time.Second, func() error {
		if now := c.refused(); now < stats+10 {
			return fmt.Errorf("%d of 10", now-stats)
		}
		return nil
	})
}

// refused is how many packets met a link that is not approved.
func (c *crowded) refused() uint64 {
	c.t.Helper()
	all, err := c.d.ReasonStats()
	if err != nil {
		c.t.Fatal(err)
	}
	return all[bpfReasonREASON_NOT_APPROVED].Packets + all[bpfReasonREASON_ENDED].Packets
}

// Without a State there is nothing to fill a changed configuration with; what only the kernel knew must be found; and
// what packets change all the time cannot be carried over.
func TestMigrate_CannotBe_IsRefusedAndNothingChanges(t *testing.T) {
	c := newCrowded(t, func(*Options) {})
	c.open()
	c.apply(c.state)
	if err := c.d.Close(); err != nil {
		t.Fatal(err)
	}
	c.becomeOther(otherConfig)
	all := c.crowd(0, 10)
	before := all.talk()
	programs, pinned := c.attachedPrograms(), c.pinned()
	if _, err := Open(context.Background(), c.options()); !errors.Is(err, ErrLayout) {
		t.Errorf("opened without a State: %v", err)
	}
	options := c.options()
	options.State = func() (State, error) { return State{}, errStep }
	if _, err := Open(context.Background(), options); !errors.Is(err, errStep) {
		t.Errorf("opened with a State that is not to be had: %v", err)
	}
	if now := c.attachedPrograms(); now != programs {
		t.Errorf("attached are %s, before %s", now, programs)
	}
	if now := c.pinned(); !maps.Equal(now, pinned) {
		t.Errorf("pinned are %v, before %v", now, pinned)
	}
	c.wantNoNext()
	wantSame(t, "refused", before, all.talk())
}

// What another version left, down removes too; it knows from its maps what privlink has made.
func TestMigrate_DownOfAnotherVersion_EverythingIsGone(t *testing.T) {
	c := newCrowded(t, func(o *Options) { o.NoTCX = true })
	c.open()
	c.apply(c.state)
	if err := c.d.Close(); err != nil {
		t.Fatal(err)
	}
	c.becomeOther(otherConfig)
	if err := Down(context.Background(), c.options()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(c.bpffs); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder is left: %v", err)
	}
	out, err := exec.Command("nsenter", "--net="+c.ns.Path(), "tc", "qdisc", "show", "dev", "consumer").CombinedOutput()
	if err != nil || contains(string(out), "clsact") {
		t.Errorf("clsact is left: %v\n%s", err, out)
	}
}

// The fields that must be kept are fields, and every map that is pinned has its role.
func TestLayouts_KeptFields_AreThere(t *testing.T) {
	specs, err := LoadSpecs()
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]bool)
	for _, spec := range specs.all() {
		for name, m := range own(spec) {
			is, ok := layouts[name]
			if !ok {
				t.Errorf("it is not said what becomes of %s when its layout changes", name)
			}
			seen[name] = true
			all := make(map[string]leaf)
			if len(is.kept) > 0 {
				if err := leaves(m.Value, "", 0, leaf{}, all); err != nil {
					t.Fatal(err)
				}
			}
			for _, field := range append(slices.Clone(is.kept), is.left...) {
				if _, ok := all[field]; !ok {
					t.Errorf("%s has no field %s", name, field)
				}
			}
		}
	}
	for name := range layouts {
		if !seen[name] {
			t.Errorf("there is no map %s", name)
		}
	}
}

func wantSame(t *testing.T, when string, before, after []netip.AddrPort) {
	t.Helper()
	for id := range before {
		if before[id] != after[id] {
			t.Fatalf("%s: flow %d came from %s, now from %s", when, id, before[id], after[id])
		}
	}
}

func (c *crowded) attachedPrograms() string {
	c.t.Helper()
	devices, err := namespace{c.ns.Path()}.devices()
	if err != nil {
		c.t.Fatal(err)
	}
	ids, err := (&attacher{ns: namespace{c.ns.Path()}, folder: &folder{path: c.bpffs}}).attached(devices)
	if err != nil {
		c.t.Fatal(err)
	}
	set := make(map[string]bool)
	for _, id := range ids {
		set[fmt.Sprintln(id)] = true
	}
	return sorted(set)
}

func TestMigrate_SmallerThanItsFlows_IsRefused(t *testing.T) {
	c := newCrowded(t, func(o *Options) { o.Pairs = 4096 })
	c.open()
	c.apply(c.state)
	all := c.crowd(0, 1000)
	before := all.talk()
	if err := c.d.Close(); err != nil {
		t.Fatal(err)
	}
	options := c.options()
	options.Pairs = 512
	_, err := Open(context.Background(), options)
	if err == nil {
		t.Fatal("a thousand flows went into a table for 512")
	}
	t.Log(err)
	c.edit = func(o *Options) { o.Pairs = 0 }
	c.open()
	c.apply(c.state)
	if have := c.d.k.config.load(0).MaxPairs; have != 4096 {
		t.Errorf("the table is for %d flows", have)
	}
	wantSame(t, "after the refusal", before, all.talk())
}

// A field that is not there is never made up.
func TestMigrate_FieldMissing_IsRefused(t *testing.T) {
	specs, err := LoadSpecs()
	if err != nil {
		t.Fatal(err)
	}
	spec := own(specs.TC)[mapFlows]
	m, err := ebpf.NewMap(&ebpf.MapSpec{
		Name: "flows_v0", Type: ebpf.Array, KeySize: 4, ValueSize: 64, MaxEntries: 64,
		Key: spec.Key, Value: own(specs.TC)[mapBackends].Value,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if _, err := flowCarrier(spec, m); err == nil {
		t.Error("flows were found in a table of backends")
	} else {
		t.Log(err)
	}
	m, err = ebpf.NewMap(spec)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	c, err := flowCarrier(spec, m)
	if err != nil {
		t.Fatal(err)
	}
	offsets, err := flowOffsets(specs, c)
	if err != nil {
		t.Fatal(err)
	}
	var compiled [19]uint16
	if err := specs.TC.Variables["old_offsets"].Get(&compiled); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(offsets, compiled[:]) {
		t.Errorf("offsets of our own table are %v, the compiler says %v", offsets, compiled)
	}
}
