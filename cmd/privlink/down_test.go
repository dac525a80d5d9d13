package main

import (
	"errors"
	"fmt"
	"io"
	"net"
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
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/privlink/privlink/pkg/lab"
	"github.com/privlink/privlink/pkg/lab/load"
)

// `privlink down` takes out everything of one daemon: programs and maps, what hangs on the interfaces, the veth and
// the namespace of the proxied connections, though traffic has run through all of it and connections are open. What others put
// beside it stays, another daemon's included, and so does every setting of the host.
func TestDown_EverythingOfPrivlinkIsGone_NothingElse(t *testing.T) {
	for _, mode := range []string{"tc", "xdp"} {
		t.Run(mode, func(t *testing.T) { downAfterTraffic(t, mode) })
	}
}

func downAfterTraffic(t *testing.T, mode string) {
	l := lab.New(t)
	binary := l.Build(t.Context(), "./cmd/privlink")
	gw, beside := l.Namespace("gateway"), l.Namespace("beside")
	web, vm := l.VM(gw, "eth1", "10.0.0.4/16", lab.VethOptions{}), l.VM(gw, "eth2", "10.0.1.4/16", lab.VethOptions{})
	if err := load.Serve(web, "10.0.0.4"); err != nil {
		t.Fatal(err)
	}
	l.Veth(beside, "eth1", l.Namespace("far"), "eth0", lab.VethOptions{})
	passing := passingProgram(t)
	foreign := attachForeign(t, gw, "eth1", passing)
	foreignPin := filepath.Join(l.BPFFS("foreign"), "map")
	if err := os.MkdirAll(filepath.Dir(foreignPin), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{
		"bpftool map create " + foreignPin + " type array key 4 value 4 entries 1 name foreign",
		"tc qdisc add dev eth2 clsact",
		"nft add table inet foreign",
		"ip route add blackhole 192.0.2.0/24",
	} {
		words := strings.Fields(command)
		if _, err := gw.Run(t.Context(), words[0], words[1:]...); err != nil {
			t.Fatal(err)
		}
	}
	// Somebody else's filters, on that qdisc of his.
	for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
		filter := &netlink.BpfFilter{Fd: passing.FD(), Name: "foreign", DirectAction: true, FilterAttrs: netlink.FilterAttrs{
			LinkIndex: gw.Link("eth2").Attrs().Index, Parent: parent, Handle: 1, Protocol: unix.ETH_P_ALL, Priority: 7}}
		if err := gw.Netlink().FilterAdd(filter); err != nil {
			t.Fatal(err)
		}
	}
	other := beside.Daemon(t.Context(), lab.DaemonOptions{Binary: binary})
	mustRun(t, other, "vnet create net --prefix 10.0.0.0/16 --interface eth1")
	before := surroundings(t, l, gw)

	d := gw.Daemon(t.Context(), lab.DaemonOptions{Binary: binary})
	for _, line := range []string{
		"vnet create datacenter --prefix 10.0.0.0/16 --interface eth1 --mode " + mode,
		"lb create plain --vnet datacenter --rule all:0 --backend 10.0.0.4",
		fmt.Sprintf("lb create proxied --vnet datacenter --rule tcp:%d --backend 10.0.0.4", load.PortEcho),
		"service create plain --lb plain --nat-ip-count 1 --visibility * --auto-approval *",
		"service create proxied --lb proxied --proxy-protocol --nat-ip-count 1 --visibility * --auto-approval *",
		"vnet create home --prefix 10.0.0.0/16 --interface eth2 --mode " + mode,
		"endpoint create to-plain --vnet home --ip 10.0.1.10 --service " + defaultService("plain"),
		"endpoint create to-proxied --vnet home --ip 10.0.1.11 --service " + defaultService("proxied"),
	} {
		mustRun(t, d, line)
	}
	for _, endpoint := range []string{"10.0.1.10", "10.0.1.11"} {
		l.Wait("the service to answer at "+endpoint, 20*time.Second, func() error {
			conn, err := vm.Dial(t.Context(), "tcp4", "", fmt.Sprintf("%s:%d", endpoint, load.PortEcho))
			if err != nil {
				return err
			}
			if err := echoes(conn); err != nil {
				conn.Close()
				return err
			}
			t.Cleanup(func() { conn.Close() }) // open all the time
			return nil
		})
	}
	traffic, err := load.Start(t.Context(), vm, "10.0.1.10", load.Options{Bulk: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	moreLoad(l, traffic, 3)
	traffic.Stop()
	programs, maps := pinned(t, d.BPFFS)
	with := surroundings(t, l, gw)
	if reflect.DeepEqual(with, before) || len(programs) < 5 || len(maps) < 15 {
		t.Fatalf("the daemon is not to be seen: %d programs, %d maps, %q", len(programs), len(maps), with)
	}
	if code, message := refusal(t, d, "down", "--bpffs", d.BPFFS); code != exitRefused || !strings.HasSuffix(message, " (stop the daemon first)") {
		t.Errorf("down beside a daemon: (%d) %s", code, message)
	}
	wantSame(t, "down beside a daemon", with, surroundings(t, l, gw))
	if err := os.RemoveAll(d.BPFFS); err != nil {
		t.Fatal(err)
	}
	if code, message := refusal(t, d, "down", "--bpffs", d.BPFFS); code != exitRefused || !strings.HasSuffix(message, " (stop the daemon first)") {
		t.Errorf("down beside a daemon whose pins are gone: (%d) %s", code, message)
	}
	l.Wait("the pins to be back", 10*time.Second, func() error {
		if missing := missingIn(surroundings(t, l, gw), with); len(missing) > 0 {
			return fmt.Errorf("%q", missing)
		}
		return nil
	})
	wantSame(t, "down beside a daemon whose pins are gone", with, surroundings(t, l, gw))
	d.Stop()
	stored := storedIn(t, d)
	for _, when := range []string{"first", "again"} {
		out, err := gw.Run(t.Context(), binary, "down", "--bpffs", d.BPFFS)
		if want := "nothing of privlink is left in the kernel (" + d.BPFFS + ")\n"; err != nil || out != want {
			t.Errorf("%s: %v, %q", when, err, out)
		}
	}
	wantSame(t, "run and down", before, surroundings(t, l, gw))
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

// echoes wants some words back, more than a PROXY header is.
func echoes(conn net.Conn) error {
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	said := strings.Repeat("word", 100)
	if _, err := io.WriteString(conn, said); err != nil {
		return err
	}
	heard := make([]byte, len(said))
	if _, err := io.ReadFull(conn, heard); err != nil {
		return err
	}
	if string(heard) != said {
		return fmt.Errorf("the echo is %q", heard)
	}
	return nil
}

// surroundings are what privlink has to do with and is not alone in: interfaces with their features, queueing disciplines,
// filters, programs, addresses, routes, rules and settings of the gateway, and what is in the folders of namespaces and pins.
func surroundings(t *testing.T, l *lab.Lab, gw *lab.Namespace) []string {
	t.Helper()
	var all []string
	for _, command := range []string{
		"ip -details link", "ip address", "ip route show table all", "ip rule", "ip neighbour show nud permanent", "nft list ruleset", "sysctl --all --pattern ^net\\.",
		"ethtool --show-features eth1", "ethtool --show-features eth2", "bpftool net show",
		"tc qdisc show", "tc filter show dev eth1 ingress", "tc filter show dev eth1 egress", "tc filter show dev eth2 ingress", "tc filter show dev eth2 egress",
	} {
		words := strings.Fields(command)
		out, err := gw.Run(t.Context(), words[0], words[1:]...)
		if err != nil {
			t.Fatal(err)
		}
		if words[0] == "sysctl" { // each by itself, so that one that differs is not told with all others
			all = append(all, strings.Split(out, "\n")...)
		} else {
			all = append(all, command+":\n"+out)
		}
	}
	for _, folder := range []string{filepath.Dir(gw.Path()), "/sys/fs/bpf"} {
		named, err := filepath.Glob(filepath.Join(folder, "*"+l.ID()+"*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range named {
			err := filepath.WalkDir(name, func(path string, _ os.DirEntry, err error) error {
				all = append(all, path)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	return all
}

// wantSame wants the same surroundings, and says what differs.
func wantSame(t *testing.T, what string, before, now []string) {
	t.Helper()
	if gone, new := missingIn(now, before), missingIn(before, now); len(gone)+len(new) > 0 {
		t.Errorf("%s: there was\n%s\nand now is\n%s", what, strings.Join(gone, "\n"), strings.Join(new, "\n"))
	}
}

// missingIn are the entries of one list that another one has not.
func missingIn(there, all []string) []string {
	return slices.DeleteFunc(slices.Clone(all), func(s string) bool { return slices.Contains(there, s) })
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

// passingProgram is somebody else's program, which leaves every packet to the next one.
func passingProgram(t *testing.T) *ebpf.Program {
	t.Helper()
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()}}) // TCX_NEXT, TC_ACT_UNSPEC
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { program.Close() })
	return program
}

// attachForeign attaches somebody else's program to an interface, where the kernel has TCX; the function tells whether
// it is still attached.
func attachForeign(t *testing.T, n *lab.Namespace, ifname string, program *ebpf.Program) (attached func() error) {
	t.Helper()
	var held bpflink.Link
	index := n.Link(ifname).Attrs().Index
	err := n.Do(func() (err error) {
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
