package dataplane

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

func TestOpen_AfterClose_FlowsAndNumbersStay(t *testing.T) {
	for _, hook := range []string{hookTCX, hookClsact} {
		t.Run(hook, func(t *testing.T) {
			needsHook(t, hook)
			g, consumer, provider, s := newPair(t)
			g.edit = func(o *Options) { o.NoTCX = hook == hookClsact }
			g.open()
			echo(t, provider, "10.0.1.4:8080")
			g.apply(s)
			c, err := dial(consumer, "10.0.1.10:80")
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			before := g.d.k.dumpConfig(t)
			if err := g.d.Close(); err != nil {
				t.Fatal(err)
			}
			if err := say(c, "while nobody watches\n"); err != nil {
				t.Fatal(err)
			}
			g.open()
			if !g.d.k.adopted {
				t.Fatal("the maps were made anew")
			}
			if err := say(c, "adopted, not applied\n"); err != nil {
				t.Fatal(err)
			}
			r, err := g.d.Apply(context.Background(), s)
			if err != nil {
				t.Fatal(err)
			}
			if len(r.Pending) != 0 || len(r.Unresolved) != 0 {
				t.Errorf("after a restart: pending %v, unresolved %v", r.Pending, r.Unresolved)
			}
			if after := g.d.k.dumpConfig(t); after != before {
				t.Errorf("applying the same State after a restart changed the maps:\n%s\n%s", before, after)
			}
			if err := say(c, "applied\n"); err != nil {
				t.Fatal(err)
			}
			var flows []Flow
			if err := g.d.Flows(context.Background(), func(f Flow) bool { flows = append(flows, f); return true }); err != nil {
				t.Fatal(err)
			}
			if len(flows) != 1 || flows[0].LinkID != 0x01020304 || flows[0].Link != "endpoint" || flows[0].Phase != PhaseOpen {
				t.Errorf("flows: %+v", flows)
			}
		})
	}
}

func TestOpen_PinGone_SaysWhich(t *testing.T) {
	g := newGateway(t)
	g.open().Close()
	if err := os.Remove(filepath.Join(g.bpffs, "maps", mapLinks)); err != nil {
		t.Fatal(err)
	}
	_, err := Open(context.Background(), g.options())
	if err == nil {
		t.Fatal("opened without its links")
	}
	t.Log(err)
	if err := Down(context.Background(), g.options()); err != nil {
		t.Fatal(err)
	}
	g.open()
}

// What is pinned among the attachments and is none keeps nobody from starting.
func TestOpen_SomethingElseAmongTheLinks_IsLeftAlone(t *testing.T) {
	g, consumer, provider, s := newPair(t)
	g.open()
	echo(t, provider, "10.0.1.4:8080")
	g.apply(s)
	before := slices.Sorted(maps.Keys(g.d.bindings))
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if err != nil {
		t.Fatal(err)
	}
	p, err := newAside()
	if err != nil {
		t.Fatal(err)
	}
	left := []PinTrouble{{g.d.folder.link(hookTCX, "stray"), PinLeft}, {g.d.folder.link(hookXDP, "stray"), PinLeft}}
	if err := errors.Join(m.Pin(left[0].Path), m.Close(), p.Pin(left[1].Path), p.Close()); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(g.d.folder.link(hookTCX, "folder"), 0o700); err != nil {
		t.Fatal(err)
	}
	g.d.Close()
	g.open()
	g.apply(s)
	if after := slices.Sorted(maps.Keys(g.d.bindings)); !slices.Equal(before, after) {
		t.Errorf("attached were %q, are %q", before, after)
	}
	if err := works(consumer, "10.0.1.10:80"); err != nil {
		t.Error(err)
	}
	if found, err := g.d.Pins(); err != nil || !slices.Equal(found, left) {
		t.Errorf("pins: %v, %v, want %v", found, err, left)
	}
}

func TestOpen_OtherLayout_IsRefused(t *testing.T) {
	g := newGateway(t)
	g.open().Close()
	path := filepath.Join(g.bpffs, "maps", mapUsage)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	m, err := ebpf.NewMap(&ebpf.MapSpec{Name: mapUsage, Type: ebpf.Array, KeySize: 4, ValueSize: 16, MaxEntries: 65536, Flags: 1 << 10})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := m.Pin(path); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(context.Background(), g.options()); !errors.Is(err, ErrLayout) {
		t.Fatalf("opened with another layout: %v", err)
	}
}

func TestDown_Everything_IsGone(t *testing.T) {
	for _, hook := range []string{hookTCX, hookClsact} {
		t.Run(hook, func(t *testing.T) {
			needsHook(t, hook)
			g, _, _, s := newPair(t)
			g.edit = func(o *Options) { o.NoTCX = hook == hookClsact }
			g.open()
			g.apply(s)
			// What a start leaves that is killed while it puts its own in the place of an older one.
			half, err := link.AttachIter(link.IterOptions{Program: g.d.k.flowsText})
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(half.Pin(fresh(g.d.folder.iterator())), half.Close()); err != nil {
				t.Fatal(err)
			}
			if err := g.d.Close(); err != nil {
				t.Fatal(err)
			}
			if err := Down(context.Background(), g.options()); err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(g.bpffs); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the folder is left: %v", err)
			}
			out, err := exec.Command("nsenter", "--net="+g.ns.Path(), "sh", "-c", "bpftool net show; tc qdisc show dev consumer").CombinedOutput()
			if err != nil {
				t.Fatal(err)
			}
			for _, left := range []string{programTC, programXDP, "clsact"} {
				if contains(string(out), left) {
					t.Errorf("%s is left:\n%s", left, out)
				}
			}
			if err := Down(context.Background(), g.options()); err != nil {
				t.Errorf("down twice: %v", err)
			}
		})
	}
}

// Filters stay where pins are deleted; they are no less privlink's, nor is the qdisc it made for them.
func TestDown_PinsOfFiltersGone_FiltersAreRemoved(t *testing.T) {
	g, _, _, s := newPair(t)
	g.edit = func(o *Options) { o.NoTCX = true }
	if _, err := g.ns.Run(t.Context(), "tc", "qdisc", "add", "dev", "provider", "clsact"); err != nil {
		t.Fatal(err)
	}
	g.open()
	g.apply(s)
	if err := errors.Join(g.d.Close(), os.RemoveAll(g.bpffs)); err != nil {
		t.Fatal(err)
	}
	other := g.options()
	other.BPFFS = g.BPFFS("other")
	for _, of := range []struct {
		opts            Options
		filters, qdiscs string // the interfaces that have them afterwards
	}{{other, "consumer provider", "consumer provider"}, {g.options(), "", "provider"}} {
		if err := Down(t.Context(), of.opts); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"consumer", "provider"} {
			filters, err := g.ns.Run(t.Context(), "tc", "filter", "show", "dev", name, "ingress")
			if err != nil {
				t.Fatal(err)
			}
			qdiscs, err := g.ns.Run(t.Context(), "tc", "qdisc", "show", "dev", name)
			if err != nil {
				t.Fatal(err)
			}
			if contains(filters, programTC) != contains(of.filters, name) || contains(qdiscs, "clsact") != contains(of.qdiscs, name) {
				t.Errorf("down of %s: %s has\n%s%s", of.opts.BPFFS, name, filters, qdiscs)
			}
		}
	}
}

// another is one more privlink beside the gateway's, with pins of its own and the same State.
func (g *gateway) another(s State) (*Dataplane, Result) {
	g.t.Helper()
	opts := g.options()
	opts.BPFFS = g.BPFFS("other")
	other, err := Open(g.t.Context(), opts)
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { other.Close() })
	r, err := other.Apply(g.t.Context(), s)
	if err != nil {
		g.t.Fatal(err)
	}
	return other, r
}

// Another privlink beside this one, with pins and a State of its own, takes no filter of this one's for its own: not when it starts, and not
// when the same interface is attached.
func TestOpen_AnotherPrivlinkWithFilters_LeavesOursAlone(t *testing.T) {
	g, consumer, provider, s := newPair(t)
	g.edit = func(o *Options) { o.NoTCX = true }
	g.open()
	echo(t, provider, "10.0.1.4:8080")
	g.apply(s)
	before, err := g.d.att.attached(g.d.devices)
	if err != nil || len(before) != 2 {
		t.Fatalf("attached are %v: %v", before, err)
	}
	other, r := g.another(s)
	for _, a := range r.Attachments {
		if a.Err == nil || !contains(a.Err.Error(), fmt.Sprintf("taken by %q", programTC+" "+g.bpffs)) {
			t.Errorf("the other one attached %s: %v", a.Attachment.Interface, a.Err)
		}
	}
	if err := errors.Join(other.Close(), Down(t.Context(), other.opts)); err != nil {
		t.Fatal(err)
	}
	after, err := g.d.att.attached(g.d.devices)
	slices.Sort(before)
	slices.Sort(after)
	if err != nil || !slices.Equal(before, after) {
		t.Errorf("programs were %v, are %v: %v", before, after, err)
	}
	if err := works(consumer, "10.0.1.10:80"); err != nil {
		t.Error(err)
	}
}

// Where privlinks share an interface, the one that came last sees everything first, and both say so.
func TestOpen_AnotherPrivlinkOnTheInterface_IsNamed(t *testing.T) {
	needsHook(t, hookTCX)
	g, _, _, s := newPair(t)
	g.open()
	g.apply(s)
	other, r := g.another(s)
	names := func(d *Dataplane) []string {
		return []string{fmt.Sprintf("%s %s#%d", hookTCX, programTC, programID(d.k.tc))}
	}
	for _, a := range r.Attachments {
		if a.Err != nil || !slices.Equal(a.Others, names(g.d)) {
			t.Errorf("the other one: %+v", a)
		}
	}
	all, err := g.d.LookAtAttached()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range all {
		if !slices.Equal(a.Before, names(other)) {
			t.Errorf("the first one: %+v", a)
		}
	}
	if all, err = other.LookAtAttached(); err != nil || len(all) != 2 || all[0].Before != nil {
		t.Errorf("the other one: %+v, %v", all, err)
	}
}
