package main

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	bpflink "github.com/cilium/ebpf/link"

	"github.com/privlink/privlink/pkg/lab"
)

// `privlink down` takes out everything of one daemon: programs and maps, what hangs on the interfaces, the veth and
// the namespace of the proxied connections. What others put beside it stays, another daemon's included.
func TestDown_EverythingOfPrivlinkIsGone_NothingElse(t *testing.T) {
	l := lab.New(t)
	binary := l.Build(t.Context(), "./cmd/privlink")
	gw, beside := l.Namespace("gateway"), l.Namespace("beside")
	for _, name := range []string{"eth1", "eth2"} {
		l.Veth(gw, name, l.Namespace(name), "eth0", lab.VethOptions{})
	}
	l.Veth(beside, "eth1", l.Namespace("far"), "eth0", lab.VethOptions{})
	foreign := foreignProgram(t, gw, "eth1")
	foreignPin := filepath.Join(l.BPFFS("foreign"), "map")
	if err := os.MkdirAll(filepath.Dir(foreignPin), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := gw.Run(t.Context(), "bpftool", "map", "create", foreignPin, "type", "array", "key", "4", "value", "4", "entries", "1", "name", "foreign"); err != nil {
		t.Fatal(err)
	}
	if _, err := gw.Run(t.Context(), "tc", "qdisc", "add", "dev", "eth2", "clsact"); err != nil {
		t.Fatal(err)
	}
	other := beside.Daemon(t.Context(), lab.DaemonOptions{Binary: binary})
	mustRun(t, other, "vnet create net --prefix 10.0.0.0/16 --interface eth1")
	before := surroundings(t, l, gw)

	d := gw.Daemon(t.Context(), lab.DaemonOptions{Binary: binary})
	mustRun(t, d, "vnet create datacenter --prefix 10.0.0.0/16 --interface eth1 --mode tc")
	mustRun(t, d, "vnet attach datacenter --interface eth2 --mode xdp")
	programs, maps := pinned(t, d.BPFFS)
	with := surroundings(t, l, gw)
	if reflect.DeepEqual(with, before) || len(programs) < 5 || len(maps) < 15 {
		t.Fatalf("the daemon is not to be seen: %d programs, %d maps, %q", len(programs), len(maps), with)
	}
	if code, message := refusal(t, d, "down", "--bpffs", d.BPFFS); code != exitRefused || !strings.HasSuffix(message, " (stop the daemon first)") {
		t.Errorf("down beside a daemon: (%d) %s", code, message)
	}
	if still := surroundings(t, l, gw); !reflect.DeepEqual(still, with) {
		t.Errorf("down beside a daemon took something away:\n%s\n%s", strings.Join(with, "\n"), strings.Join(still, "\n"))
	}
	d.Stop()
	stored := storedIn(t, d)
	for _, when := range []string{"first", "again"} {
		out, err := gw.Run(t.Context(), binary, "down", "--bpffs", d.BPFFS)
		if want := "nothing of privlink is left in the kernel (" + d.BPFFS + ")\n"; err != nil || out != want {
			t.Errorf("%s: %v, %q", when, err, out)
		}
	}
	if after := surroundings(t, l, gw); !reflect.DeepEqual(after, before) {
		t.Errorf("around privlink there was\n%s\nand now is\n%s", strings.Join(before, "\n"), strings.Join(after, "\n"))
	}
	if _, err := os.Stat(d.BPFFS); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder of the pins: %v", err)
	}
	// The kernel frees what nobody holds any more a moment later.
	l.Wait("programs and maps to be gone", 10*time.Second, func() error {
		for _, id := range programs {
			if p, err := ebpf.NewProgramFromID(id); err == nil {
				defer p.Close()
				return errors.New("there is " + p.String())
			}
		}
		for _, id := range maps {
			if m, err := ebpf.NewMapFromID(id); err == nil {
				defer m.Close()
				return errors.New("there is " + m.String())
			}
		}
		return nil
	})
	if err := foreign(); err != nil {
		t.Errorf("the foreign program: %v", err)
	}
	if _, err := os.Stat(foreignPin); err != nil {
		t.Errorf("the foreign pin: %v", err)
	}
	mustRun(t, other, "status")
	if after := storedIn(t, d); after != stored {
		t.Error("the resources were changed")
	}
	d.Start(t.Context())
	l.Wait("the next daemon to set all up again", 10*time.Second, func() error {
		_, err := d.CLI(t.Context(), "status")
		return err
	})
}

func mustRun(t *testing.T, d *lab.Daemon, line string) {
	t.Helper()
	if _, err := d.CLI(t.Context(), strings.Fields(line)...); err != nil {
		t.Fatal(err)
	}
}

// surroundings are what privlink has to do with and is not alone in: interfaces, queueing disciplines, and namespaces.
func surroundings(t *testing.T, l *lab.Lab, gw *lab.Namespace) []string {
	t.Helper()
	var all []string
	for _, command := range []string{"ip -br link", "tc qdisc show", "tc filter show dev eth1 ingress", "tc filter show dev eth2 ingress", "bpftool net show"} {
		words := strings.Fields(command)
		out, err := gw.Run(t.Context(), words[0], words[1:]...)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, command+":\n"+out)
	}
	named, err := filepath.Glob(filepath.Join(filepath.Dir(gw.Path()), "*"+l.ID()+"*"))
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(named)
	return append(all, named...)
}

// pinned are the ids of the programs and maps in a folder.
func pinned(t *testing.T, bpffs string) (programs []ebpf.ProgramID, maps []ebpf.MapID) {
	t.Helper()
	err := filepath.WalkDir(bpffs, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		switch filepath.Base(filepath.Dir(path)) {
		case "programs":
			p, err := ebpf.LoadPinnedProgram(path, nil)
			if err != nil {
				return err
			}
			defer p.Close()
			info, err := p.Info()
			if err != nil {
				return err
			}
			id, _ := info.ID()
			programs = append(programs, id)
		case "maps":
			m, err := ebpf.LoadPinnedMap(path, nil)
			if err != nil {
				return err
			}
			defer m.Close()
			info, err := m.Info()
			if err != nil {
				return err
			}
			id, _ := info.ID()
			maps = append(maps, id)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return programs, maps
}

// foreignProgram attaches somebody else's program to an interface, where the kernel has TCX; the function tells whether
// it is still attached.
func foreignProgram(t *testing.T, n *lab.Namespace, ifname string) (attached func() error) {
	t.Helper()
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()}}) // TCX_NEXT
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { program.Close() })
	var held bpflink.Link
	index := n.Link(ifname).Attrs().Index
	err = n.Do(func() error {
		held, err = bpflink.AttachTCX(bpflink.TCXOptions{Interface: index, Program: program, Attach: ebpf.AttachTCXIngress})
		return err
	})
	if errors.Is(err, ebpf.ErrNotSupported) {
		return func() error { return nil }
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { held.Close() })
	return func() error {
		return n.Do(func() error {
			found, err := bpflink.QueryPrograms(bpflink.QueryOptions{Target: index, Attach: ebpf.AttachTCXIngress})
			if err == nil && len(found.Programs) != 1 {
				err = errors.New("others are beside it, or it is gone")
			}
			return err
		})
	}
}
