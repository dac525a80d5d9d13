package dataplane

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/privlink/privlink/pkg/lab"
	"github.com/privlink/privlink/pkg/lab/load"
)

// The TC program with another layout of its table and other drop reasons, as an earlier version could have left it.
//
//go:generate go tool bpf2go -target amd64,arm64 -no-global-types otherLayout ../../bpf/privlink_tc.c -- -DOTHER_LAYOUT -Dflows_v1=flows_v0 -Dreasons_v2=reasons_v1

const (
	otherFlows   = "flows_v0"
	otherReasons = "reasons_v1"
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
	c.consumer = g.VM(g.ns, "consumer", "10.0.1.4/16", lab.VethOptions{})
	c.provider = g.VM(g.ns, "provider", "10.0.1.4/16", lab.VethOptions{})
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

// becomeOther puts what an earlier version with another layout would have left in the place of what this one left.
func (c *crowded) becomeOther() {
	t := c.t
	t.Helper()
	f := &folder{path: c.bpffs}
	spec, err := loadOtherLayout()
	if err != nil {
		t.Fatal(err)
	}
	dropReasons(spec)
	k := &kernel{maps: make(map[string]*ebpf.Map)}
	defer k.close()
	for name := range own(spec) {
		if name == otherFlows || name == otherReasons {
			continue
		}
		if k.maps[name], err = ebpf.LoadPinnedMap(f.maps(name), nil); err != nil {
			t.Fatal(err)
		}
	}
	if k.config, err = mapArray[bpfConfig](k.maps[mapConfig]); err != nil {
		t.Fatal(err)
	}
	flows := spec.Maps[otherFlows]
	flows.MaxEntries = k.config.load(0).Homes + flowWindow
	if flows.ValueSize == 64 {
		t.Fatal("the other layout is not another")
	}
	if k.maps[otherFlows], err = ebpf.NewMap(flows); err != nil {
		t.Fatal(err)
	}
	if k.maps[otherReasons], err = ebpf.NewMap(spec.Maps[otherReasons]); err != nil {
		t.Fatal(err)
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
	program := collection.Programs[programTC]
	links, err := f.allLinks()
	if err != nil || len(links) == 0 {
		t.Fatal(links, err)
	}
	for path := range links {
		l, err := link.LoadPinnedLink(path, nil)
		if err == nil {
			err = errors.Join(l.Update(program), l.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	err = errors.Join(replacePin(program, f.programs(programTC)), os.Remove(f.maps(mapFlows)), k.maps[otherFlows].Pin(f.maps(otherFlows)),
		os.Remove(f.maps(mapReasons)), k.maps[otherReasons].Pin(f.maps(otherReasons)))
	if err != nil {
		t.Fatal(err)
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
	if _, err := os.Stat(filepath.Join(c.bpffs, "next")); !errors.Is(err, os.ErrNotExist) {
		c.t.Errorf("the folder of the migration is left: %v", err)
	}
}

// A hundred thousand flows in a table of another layout, traffic that loses nothing, and new flows that open all
// the time, at every step of the migration too.
func TestMigrate_OtherLayoutUnderLoad_EveryFlowIsKept(t *testing.T) {
	const many = 100_000
	c := newCrowded(t, func(o *Options) { o.Pairs = 1 << 18 })
	c.open()
	c.apply(c.state)
	if err := c.d.Close(); err != nil {
		t.Fatal(err)
	}
	c.becomeOther()

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
		o.step = func(step string) error {
			steps[step]++
			atSteps.next(500)
			return nil
		}
	}
	c.open()
	c.apply(c.state)
	if steps[stepReplace] != 4 || steps[stepSwitched] != 1 || steps[stepCopied] != 1 {
		t.Errorf("steps: %v, expected two interfaces to be switched, over and back", steps)
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
	if _, err := os.Stat(filepath.Join(c.bpffs, "maps", otherFlows)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the old table is left: %v", err)
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
		Name: otherFlows, Type: ebpf.Array, KeySize: 4, ValueSize: 64, MaxEntries: 64,
		Key: spec.Key, Value: own(specs.TC)[mapBackends].Value,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if _, err := flowOffsets(specs, spec, m); err == nil {
		t.Error("flows were found in a table of backends")
	} else {
		t.Log(err)
	}
	m, err = ebpf.NewMap(spec)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	offsets, err := flowOffsets(specs, spec, m)
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
