package dataplane

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
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
