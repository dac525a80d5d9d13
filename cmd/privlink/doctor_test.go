package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	ebpflink "github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/doctor"
	"github.com/privlink/privlink/pkg/lab"
	"github.com/privlink/privlink/pkg/lab/load"
)

// ward is a daemon with a service and a client, on which everything is provoked that doctor can find.
type ward struct {
	t              *testing.T
	lab            *lab.Lab
	daemon         *lab.Daemon
	gw, web, home  *lab.Namespace
	config, folder string
	closers        []func() error // of what a case has attached
	under          []string       // what runs doctor, with its arguments; nothing: itself
}

const (
	wardFlows   = 64
	wardRoomier = 1 << 17
	wardProxied = 10
	doctorIP    = "10.0.1.10" // the endpoint's
)

func newWard(t *testing.T) *ward {
	t.Helper()
	l := lab.New(t)
	w := &ward{t: t, lab: l, gw: l.Namespace("gateway"), folder: l.Dir()}
	w.web = l.VM(w.gw, "web", "10.0.0.4/16", lab.VethOptions{})
	w.home = l.VM(w.gw, "home", "10.0.1.4/16", lab.VethOptions{})
	w.spare()
	w.config = l.WriteFile("config.yaml", fmt.Appendf(nil, "flows: %d\nproxyConnections: %d\n", wardFlows, wardProxied))
	w.daemon = w.gw.Daemon(t.Context(), lab.DaemonOptions{Binary: l.Build(t.Context(), "./cmd/privlink"), Args: []string{"--config", w.config}})
	w.must("vnet create datacenter --prefix 10.0.0.0/16 --interface web")
	w.must("vnet create home --prefix 10.0.0.0/16 --interface home")
	w.must("vnet create spare --prefix 10.0.0.0/16 --interface spare")
	w.must("lb create web --vnet datacenter --rule udp:7 --backend 10.0.0.4")
	var service api.PrivateLinkService
	read(t, w.must(fmt.Sprintf("service create shop --lb web --nat-ip-count 1 --visibility * --max-flows-per-endpoint %d -o json", wardFlows)), &service)
	w.must("endpoint create to-shop --vnet home --ip " + doctorIP + " --service " + service.Properties.Alias)
	w.must("connection approve --service shop --name to-shop")
	return w
}

// spare wires the interface that comes and goes.
func (w *ward) spare() {
	w.lab.Veth(w.gw, "spare", w.gw, "spare-peer", lab.VethOptions{})
}

func (w *ward) must(command string) string {
	w.t.Helper()
	out, err := w.daemon.CLI(w.t.Context(), strings.Fields(command)...)
	if err != nil {
		w.t.Fatalf("privlink %s: %v", command, err)
	}
	return out
}

// doctor runs privlink doctor in the daemon's namespace and returns its findings and its exit code.
func (w *ward) doctor(args ...string) (found []doctor.Finding, code int) {
	w.t.Helper()
	out, code := w.run(append([]string{"-o", "json"}, args...)...)
	if err := json.Unmarshal([]byte(out), &found); err != nil {
		w.t.Fatalf("doctor %q: %v: %s", args, err, out)
	}
	// A kernel that goes without something is no finding of this test's.
	return slices.DeleteFunc(found, func(f doctor.Finding) bool { return f.Check == "feature-missing" && f.Severity == doctor.Info }), code
}

func (w *ward) run(args ...string) (out string, code int) {
	w.t.Helper()
	return w.runIn(w.gw, append([]string{"--bpffs", w.daemon.BPFFS, "--state-dir", w.daemon.StateDir}, args...)...)
}

// runIn is run in another namespace, told where nothing but the socket is.
func (w *ward) runIn(n *lab.Namespace, args ...string) (out string, code int) {
	w.t.Helper()
	words := slices.Concat(w.under, []string{w.daemon.Binary, "doctor", "--socket", w.daemon.Socket}, args)
	cmd := exec.CommandContext(w.t.Context(), words[0], words[1:]...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := n.Do(cmd.Start); err != nil {
		w.t.Fatal(err)
	}
	err := cmd.Wait()
	if stderr.Len() > 0 || err != nil && cmd.ProcessState.ExitCode() < 0 {
		w.t.Fatalf("doctor %q: %v: %s", args, err, &stderr)
	}
	return stdout.String(), cmd.ProcessState.ExitCode()
}

// wait is the lab's, for a test of whatever goes on now.
func (w *ward) wait(what string, limit time.Duration, condition func() error) {
	w.t.Helper()
	if err := lab.Poll(limit, condition); err != nil {
		w.t.Fatalf("waited %v for %s: %v", limit, what, err)
	}
}

// clean waits until nothing is found and the exit code is 0.
func (w *ward) clean(limit time.Duration) {
	w.t.Helper()
	w.wait("a clean examination", limit, func() error {
		if found, code := w.doctor(); len(found) > 0 || code != exitOK {
			return fmt.Errorf("exit code %d, findings %+v", code, found)
		}
		return nil
	})
}

func checksOf(found []doctor.Finding) string {
	var names []string
	for _, f := range found {
		names = append(names, f.Check)
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

// ailment is something that can be the matter.
type ailment struct {
	name string
	// provoke brings it about. Where heals is set the daemon mends it by itself within a second: then it is provoked until doctor has seen it.
	provoke func() error
	heals   bool
	finds   string // checks, in the order of the alphabet
	about   string // part of an object
	advice  string // part of what it says to do
	info    bool   // nothing wrong: exit code 0
	// byHand does what the advice says; nil: --fix repairs it.
	byHand func() error
}

func (w *ward) treat(a ailment) {
	w.t.Helper()
	w.wait("doctor to find it", 20*time.Second, func() error {
		if err := a.provoke(); err != nil {
			return err
		}
		if !a.heals {
			a.provoke = func() error { return nil }
		}
		found, code := w.doctor()
		if got := checksOf(found); got != a.finds {
			return fmt.Errorf("found %q, want %q: %+v", got, a.finds, found)
		}
		if want := map[bool]int{true: exitOK, false: exitFailed}[a.info]; code != want {
			w.t.Errorf("exit code %d, want %d: %+v", code, want, found)
		}
		if !slices.ContainsFunc(found, func(f doctor.Finding) bool {
			return strings.Contains(f.Object, a.about) && strings.Contains(f.Do, a.advice)
		}) {
			w.t.Errorf("nothing about %q with the advice %q: %+v", a.about, a.advice, found)
		}
		for _, f := range found {
			if f.What == "" || f.Do == "" || f.Repairable != (a.byHand == nil) || (f.Severity == doctor.Info) != a.info {
				w.t.Errorf("the finding: %+v", f)
			}
		}
		return nil
	})
	if a.byHand != nil {
		if err := a.byHand(); err != nil {
			w.t.Fatal(err)
		}
		w.clean(20 * time.Second)
		return
	}
	w.wait("--fix to repair it", 20*time.Second, func() error {
		if err := a.provoke(); err != nil {
			return err
		}
		found, code := w.doctor("--fix")
		if got := checksOf(found); a.heals && got != a.finds {
			return fmt.Errorf("found %q", got) // mended already
		}
		for _, f := range found {
			if !f.Repaired || f.Trouble != "" {
				w.t.Errorf("not repaired: %+v", f)
			}
		}
		if checksOf(found) != a.finds || code != exitOK {
			w.t.Errorf("--fix: exit code %d, findings %+v", code, found)
		}
		return nil
	})
	if a.finds == "interface-down" { // its carrier takes a moment
		w.clean(5 * time.Second)
	} else if found, code := w.doctor(); len(found) > 0 || code != exitOK {
		w.t.Errorf("after --fix: exit code %d, findings %+v", code, found)
	}
}

// proxy makes a PROXY service and opens as many connections to it as doctor calls too many.
func (w *ward) proxy() error {
	if err := load.Serve(w.web, "10.0.0.4"); err != nil {
		return err
	}
	w.must(fmt.Sprintf("lb create proxied --vnet datacenter --rule tcp:%d --backend 10.0.0.4", load.PortEcho))
	w.must("service create proxied --lb proxied --proxy-protocol --nat-ip-count 1 --visibility * --auto-approval *")
	w.must("endpoint create to-proxied --vnet home --ip 10.0.1.11 --service " + defaultService("proxied"))
	for range wardProxied * pressurePercent / 100 {
		conn, err := w.home.Dial(w.t.Context(), "tcp4", "", fmt.Sprintf("10.0.1.11:%d", load.PortEcho))
		if err != nil {
			return err
		}
		w.closers = append(w.closers, conn.Close)
		if err := echoes(conn); err != nil {
			return err
		}
	}
	return nil
}

// pin is a file of the daemon's bpffs folder.
func (w *ward) pin(elem ...string) string {
	return filepath.Join(append([]string{w.daemon.BPFFS}, elem...)...)
}

// entries calls change for every entry of a pinned map, as somebody with bpftool could.
func (w *ward) entries(name string, change func(m *ebpf.Map, key, value []byte) error) error {
	m, err := ebpf.LoadPinnedMap(w.pin("maps", name), nil)
	if err != nil {
		return err
	}
	defer m.Close()
	type entry struct{ key, value []byte }
	var all []entry
	var key, value []byte
	list := m.Iterate()
	for list.Next(&key, &value) {
		all = append(all, entry{bytes.Clone(key), bytes.Clone(value)})
	}
	if err := list.Err(); err != nil {
		return err
	}
	for _, e := range all {
		if err := change(m, e.key, e.value); err != nil {
			return err
		}
	}
	return nil
}

// ofEndpoint calls change for the entry of the endpoint's address.
func (w *ward) ofEndpoint(change func(m *ebpf.Map, key, value []byte) error) error {
	seen := false
	err := w.entries("addresses_v1", func(m *ebpf.Map, key, value []byte) error {
		if !bytes.Equal(key[:4], net.ParseIP(doctorIP).To4()) {
			return nil
		}
		seen = true
		return change(m, key, value)
	})
	if err == nil && !seen {
		err = errors.New("the endpoint's address is not in the map")
	}
	return err
}

// foreign is a program of somebody else's, which lets everything pass.
func foreign(kind ebpf.ProgramType, pass int32) (*ebpf.Program, error) {
	return ebpf.NewProgram(&ebpf.ProgramSpec{Name: "somebody", Type: kind, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, pass), asm.Return()}})
}

// occupy attaches such a program to an interface's way in, in front of ours, and occupyEgress to its way out.
func (w *ward) occupy(name string, kind ebpf.ProgramType) error {
	return w.attach(name, kind, ebpf.AttachTCXIngress)
}

func (w *ward) occupyEgress(name string) error {
	return w.attach(name, ebpf.SchedCLS, ebpf.AttachTCXEgress)
}

func (w *ward) attach(name string, kind ebpf.ProgramType, hook ebpf.AttachType) error {
	return w.gw.Do(func() error {
		iface, err := net.InterfaceByName(name)
		if err != nil {
			return err
		}
		var l ebpflink.Link
		var p *ebpf.Program
		if kind == ebpf.XDP {
			const xdpPass = 2
			if p, err = foreign(kind, xdpPass); err != nil {
				return err
			}
			l, err = ebpflink.AttachXDP(ebpflink.XDPOptions{Interface: iface.Index, Program: p, Flags: ebpflink.XDPDriverMode})
		} else {
			const tcxNext = -1
			if p, err = foreign(kind, tcxNext); err != nil {
				return err
			}
			l, err = ebpflink.AttachTCX(ebpflink.TCXOptions{Interface: iface.Index, Program: p, Attach: hook, Anchor: ebpflink.Head()})
		}
		if err != nil {
			return errors.Join(err, p.Close())
		}
		w.closers = append(w.closers, l.Close, p.Close)
		return nil
	})
}

// occupyFilter attaches such a program to an interface's way out, as a tc filter.
func (w *ward) occupyFilter(name string) error {
	const tcOK = 0
	p, err := foreign(ebpf.SchedCLS, tcOK)
	if err != nil {
		return err
	}
	defer p.Close()
	h, at := w.gw.Netlink(), w.gw.Link(name).Attrs().Index
	clsact := &netlink.GenericQdisc{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: at, Parent: netlink.HANDLE_CLSACT, Handle: netlink.MakeHandle(0xffff, 0)}, QdiscType: "clsact",
	}
	if err := h.QdiscAdd(clsact); err != nil {
		return err
	}
	w.closers = append(w.closers, func() error { return h.QdiscDel(clsact) })
	return h.FilterAdd(&netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: at, Parent: netlink.HANDLE_MIN_EGRESS, Handle: 1, Protocol: unix.ETH_P_ALL, Priority: 1},
		Fd:          p.FD(), Name: "somebody", DirectAction: true,
	})
}

// vacate takes away what a case attached or opened.
func (w *ward) vacate() error {
	var failed []error
	for _, c := range w.closers {
		failed = append(failed, c())
	}
	w.closers = nil
	return errors.Join(failed...)
}

// detach takes our program off an interface, whose pin then leads nowhere.
func (w *ward) detach(name string) error {
	l, err := ebpflink.LoadPinnedLink(w.pin("links", "tcx-"+name), nil)
	if err != nil {
		return err
	}
	return errors.Join(l.Detach(), l.Close())
}

func (w *ward) mtu(mtu int) error { return w.gw.Netlink().LinkSetMTU(w.gw.Link("web"), mtu) }

// spray sends the endpoint a datagram from each of n ports of the client's: as many flows.
func (w *ward) spray(n int) error {
	return w.home.Do(func() error {
		to := &unix.SockaddrInet4{Port: 7, Addr: [4]byte(net.ParseIP(doctorIP).To4())}
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_UDP)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		datagram := make([]byte, 8) // a UDP header, without checksum
		binary.BigEndian.PutUint16(datagram[2:], 7)
		binary.BigEndian.PutUint16(datagram[4:], uint16(len(datagram)))
		for i := range n {
			binary.BigEndian.PutUint16(datagram, uint16(1024+i))
			err := unix.Sendto(fd, datagram, 0, to)
			for began := time.Now(); errors.Is(err, unix.ENOBUFS) && time.Since(began) < 5*time.Second; err = unix.Sendto(fd, datagram, 0, to) {
				time.Sleep(time.Millisecond)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// Everything that can be done to a machine is done to one with a daemon that serves: doctor finds it, names it, and says what to
// do; the exit code tells. --fix repairs it, or where that is not safe, what the advice says is done. The next
// run finds nothing.
func TestDoctor_EverythingThatCanBeWrong_FoundRepairedAndClean(t *testing.T) {
	w := newWard(t)
	ctx := t.Context()
	chmod := func(path string, mode os.FileMode) error { return os.Chmod(path, mode) }
	remove := func(paths ...string) error {
		var failed []error
		for _, path := range paths {
			if err := os.Remove(path); !errors.Is(err, os.ErrNotExist) {
				failed = append(failed, err)
			}
		}
		return errors.Join(failed...)
	}
	w.clean(10 * time.Second)
	if out, _ := w.run(); out != "nothing is wrong\n" && !strings.Contains(out, "feature-missing") {
		t.Errorf("in order: %q", out)
	}
	for _, a := range []ailment{
		{name: "the kernel is old", finds: "kernel-too-old", advice: "boot a kernel of 6.1 or newer",
			provoke: func() error { w.under = []string{"setarch", "--uname-2.6"}; return nil }, byHand: func() error { w.under = nil; return nil }},
		{name: "folders of pins are open", finds: "bpffs-open bpffs-open", about: "links", advice: "chmod 0700",
			provoke: func() error { return errors.Join(chmod(w.daemon.BPFFS, 0o755), chmod(w.pin("links"), 0o711)) }},
		{name: "state and store are open", finds: "state-open store-open", about: "state.db", advice: "chmod 0600",
			provoke: func() error {
				return errors.Join(chmod(w.daemon.StateDir, 0o755), chmod(filepath.Join(w.daemon.StateDir, "state.db"), 0o644))
			}},
		{name: "the socket is open", finds: "socket-open", about: w.daemon.Socket, advice: "chmod 0600",
			provoke: func() error { return chmod(w.daemon.Socket, 0o666) }},

		{name: "the store is gone", finds: "store-gone", about: "state.db", advice: "privlink backup " + filepath.Join(w.daemon.StateDir, "state.db"),
			provoke: func() error { return remove(filepath.Join(w.daemon.StateDir, "state.db")) },
			byHand: func() error {
				w.must("backup " + filepath.Join(w.daemon.StateDir, "state.db"))
				w.daemon.Stop()
				w.daemon.Start(ctx)
				return nil
			}},
		{name: "pins are gone", finds: "pin-missing", about: w.daemon.BPFFS, advice: "--fix", heals: true,
			provoke: func() error { return remove(w.pin("links", "tcx-home"), w.pin("maps", "links_v1")) }},
		{name: "a pin is left", finds: "pin-left", about: "tcx-gone", advice: "rm ",
			provoke: func() error {
				m, err := ebpf.LoadPinnedMap(w.pin("maps", "config_v1"), nil)
				if err != nil {
					return err
				}
				defer m.Close()
				again, err := m.Clone()
				if err != nil {
					return err
				}
				return errors.Join(again.Pin(w.pin("links", "tcx-gone")), again.Close())
			}},
		{name: "a map's entry is deleted", finds: "kernel-differs", about: "address " + doctorIP, advice: "--fix",
			provoke: func() error {
				return w.ofEndpoint(func(m *ebpf.Map, key, _ []byte) error { return m.Delete(key) })
			}},
		{name: "a map's entry is changed", finds: "kernel-differs", about: "address " + doctorIP, advice: "--fix",
			provoke: func() error {
				return w.ofEndpoint(func(m *ebpf.Map, key, value []byte) error {
					value[12] = 3 // its kind
					return m.Put(key, value)
				})
			}},
		{name: "rules are deleted and added", finds: "kernel-differs kernel-differs kernel-differs kernel-differs", about: "port 8 protocol 17", advice: "--fix",
			provoke: func() error {
				return w.entries("ruleidx_v1", func(m *ebpf.Map, key, value []byte) error { // the service's and the frontend's
					other := bytes.Clone(key)
					binary.BigEndian.PutUint16(other[4:], 8)
					copy(value, other)
					return errors.Join(m.Delete(key), m.Put(other, value))
				})
			}},
		{name: "our program is taken off", finds: "program-gone", about: "home", advice: "--fix", heals: true,
			provoke: func() error { return w.detach("home") }},

		{name: "a TCX program goes before ours", finds: "program-before", about: "home", advice: "bpftool net show dev home",
			provoke: func() error { return w.occupy("home", ebpf.SchedCLS) }, byHand: w.vacate},
		{name: "a TCX program is on the way out", finds: "program-after", about: "home", advice: "bpftool net show dev home",
			provoke: func() error { return w.occupyEgress("home") }, byHand: w.vacate},
		{name: "a filter is on the way out", finds: "program-after", about: "home", advice: "bpftool net show dev home",
			provoke: func() error { return w.occupyFilter("home") }, byHand: w.vacate},
		{name: "an XDP program goes before ours", finds: "program-before", about: "home", advice: "bpftool net show dev home",
			provoke: func() error { return w.occupy("home", ebpf.XDP) }, byHand: w.vacate},
		{name: "XDP has no room", finds: "program-before xdp-refused", about: "home", advice: "--mode tc",
			provoke: func() error {
				err := w.occupy("home", ebpf.XDP)
				w.must("vnet attach home --interface home --mode xdp")
				return err
			},
			byHand: func() error {
				w.must("vnet attach home --interface home --mode tc")
				return w.vacate()
			}},
		{name: "XDP where it can be of little use", finds: "xdp-not-taken xdp-not-taken xdp-on-virtual", about: "web", advice: "gro on", info: true,
			provoke: func() error { w.must("vnet attach home --interface home --mode xdp"); return nil },
			byHand: func() error {
				w.web.SetFeatures("eth0", true, "gro")
				w.gw.SetFeatures("spare-peer", true, "gro")
				w.wait("the outputs to take frames", 15*time.Second, func() error {
					if found, _ := w.doctor(); checksOf(found) != "xdp-on-virtual" {
						return fmt.Errorf("%+v", found)
					}
					return nil
				})
				w.must("vnet attach home --interface home --mode tc")
				return nil
			}},
		{name: "an interface is down", finds: "interface-down", about: "home", advice: "ip link set dev home up",
			provoke: func() error { w.gw.Down("home"); return nil }},
		{name: "an interface has no carrier", finds: "no-carrier", about: "home", advice: "other end",
			provoke: func() error { w.home.Down("eth0"); return nil },
			byHand:  func() error { w.home.Up("eth0"); w.gw.WaitUp("home"); return nil }},
		{name: "an interface is gone", finds: "not-attached", about: "spare", advice: "vnet detach spare --interface spare",
			provoke: func() error { w.gw.Delete("spare"); return nil },
			byHand:  func() error { w.spare(); return nil }},
		{name: "the splice path's interface is down", finds: "interface-down", about: "pli-", advice: "up",
			provoke: func() error { w.gw.Down(innerConfig(w.daemon.BPFFS).Interface); return nil }},
		{name: "the splice path's interface is gone", finds: "inner-gone", about: "pli-", advice: "within a second", heals: true,
			provoke: func() error {
				l, err := w.gw.Netlink().LinkByName(innerConfig(w.daemon.BPFFS).Interface)
				if err != nil {
					return nil //nolint:nilerr // gone already, and the daemon has not seen it yet
				}
				return w.gw.Netlink().LinkDel(l)
			},
			byHand: func() error { return nil }}, // the daemon makes it anew
		{name: "an MTU is too small", finds: "mtu-too-small", about: "web", advice: "ip link set dev web mtu 1500",
			provoke: func() error { return w.mtu(500) }, byHand: func() error { return w.mtu(1500) }},
		{name: "MTUs differ", finds: "mtu-differs", about: "web", advice: "mtu N", info: true,
			provoke: func() error { return w.mtu(1400) }, byHand: func() error { return w.mtu(1500) }},

		{name: "an address is somebody else's", finds: "address-conflict", about: "10.0.1.4", advice: "another one",
			provoke: func() error {
				refusal(t, w.daemon, strings.Fields("endpoint create taken --vnet home --ip 10.0.1.4 --service "+defaultService("shop"))...)
				return nil
			},
			byHand: func() error { w.must("endpoint delete taken"); return nil }},
		{name: "neighbours do not answer", finds: "neighbour-unresolved neighbour-unresolved", about: "192.0.2.10", advice: "start that router",
			provoke: func() error {
				w.must("vnet attach datacenter --interface web --next-hop 10.0.0.1")
				w.must("lb create silent --vnet datacenter --rule udp:9 --backend 10.0.0.9 --backend 192.0.2.10")
				return nil
			},
			byHand: func() error {
				w.web.Addr("eth0", "10.0.0.9/16")
				w.web.Addr("eth0", "10.0.0.1/16")
				return nil
			}},
		{name: "a neighbour falls silent", finds: "neighbour-unresolved", about: "10.0.0.9", advice: "start the machine",
			provoke: func() error {
				gone, err := netlink.ParseAddr("10.0.0.9/16")
				if err != nil {
					return err
				}
				err = w.web.Netlink().AddrDel(w.web.Link("eth0"), gone)
				// Who is known is asked again every 20 s only; behind an interface that is attached anew, at once.
				w.must("vnet detach datacenter --interface web")
				w.must("vnet attach datacenter --interface web --next-hop 10.0.0.1")
				return err
			},
			byHand: func() error { w.web.Addr("eth0", "10.0.0.9/16"); return nil }},

		{name: "the flow table is nearly full", finds: "table-pressure", about: "flows_v1", advice: "flows: N",
			provoke: func() error { return w.spray(wardFlows * pressurePercent / 100) },
			byHand: func() error {
				w.lab.WriteFile("config.yaml", fmt.Appendf(nil, "flows: %d\nproxyConnections: %d\n", wardRoomier, wardProxied))
				w.daemon.Stop()
				w.daemon.Start(ctx)
				w.must(fmt.Sprintf("service update shop --max-flows-per-endpoint %d", wardRoomier))
				return nil
			}},
		{name: "a service's ports are nearly taken", finds: "port-pressure", about: "privatelinkservices/shop", advice: "privlink service update shop --nat-ip-count N", heals: true,
			provoke: func() error { return w.spray(64512*pressurePercent/100 + 100) },
			byHand:  func() error { w.must("service update shop --nat-ip-count 2"); return nil }},

		{name: "PROXY services have nearly all connections they may", finds: "proxy-pressure", advice: "proxyConnections: N",
			provoke: w.proxy, byHand: w.vacate},

		{name: "the daemon hangs", finds: "daemon-down", about: w.daemon.Socket, advice: "systemctl",
			provoke: func() error { return w.daemon.Process().Signal(syscall.SIGSTOP) },
			byHand:  func() error { return w.daemon.Process().Signal(syscall.SIGCONT) }},
		{name: "no daemon, and a program is gone", finds: "daemon-down program-gone", about: "home", advice: "start the daemon",
			provoke: func() error { w.daemon.Kill(); return w.detach("home") },
			byHand:  func() error { w.daemon.Start(ctx); return nil }},
	} {
		ok := t.Run(strings.ReplaceAll(a.name, " ", "_"), func(t *testing.T) {
			w.t = t
			defer func() { w.t = nil }()
			w.treat(a)
		})
		if !ok {
			return // what is left of one would be found by the next
		}
	}
	w.t = t
	w.elsewhere()
	w.noBPFFS()
}

// elsewhere examines a daemon whose folders are not the usual ones, which it says, and from another network namespace, where
// nothing can be said of its interfaces.
func (w *ward) elsewhere() {
	w.clean(20 * time.Second)
	if err := os.Chmod(w.daemon.StateDir, 0o755); err != nil {
		w.t.Fatal(err)
	}
	if out, code := w.runIn(w.gw, "--fix"); code != exitOK || !strings.Contains(out, "state-open") || !strings.Contains(out, "repaired: ") {
		w.t.Errorf("told nothing of the folders: exit code %d: %s", code, out)
	}
	out, code := w.runIn(w.home, "-o", "json")
	var found []doctor.Finding
	if err := json.Unmarshal([]byte(out), &found); err != nil {
		w.t.Fatal(err)
	}
	found = slices.DeleteFunc(found, func(f doctor.Finding) bool { return f.Check == "feature-missing" })
	if checksOf(found) != "other-namespace" || code != exitFailed {
		w.t.Errorf("from another namespace: exit code %d: %s", code, out)
	}
	w.clean(5 * time.Second)
}

// pressurePercent is where doctor begins to warn.
const pressurePercent = 82

// noBPFFS looks at a place for pins that is on no bpffs, with no daemon: --fix mounts one.
func (w *ward) noBPFFS() {
	w.daemon.Stop()
	if found, _ := w.doctor(); checksOf(found) != "daemon-down" || !strings.Contains(found[0].What, "forwards as it is") {
		w.t.Errorf("stopped: %+v", found)
	}
	w.daemon.BPFFS = filepath.Join(w.folder, "bpf")
	defer func() {
		if err := unix.Unmount(w.daemon.BPFFS, 0); err != nil {
			w.t.Error(err)
		}
	}()
	if found, code := w.doctor(); checksOf(found) != "bpffs-missing daemon-down" || code != exitFailed || !strings.Contains(found[0].What, "nothing is forwarded") {
		w.t.Errorf("without a bpffs: exit code %d, %+v", code, found)
	}
	if found, code := w.doctor("--fix"); checksOf(found) != "bpffs-missing daemon-down" || code != exitFailed || !slices.ContainsFunc(found, func(f doctor.Finding) bool { return f.Repaired }) {
		w.t.Errorf("mounting one: exit code %d, %+v", code, found)
	}
	if found, _ := w.doctor(); checksOf(found) != "daemon-down" {
		w.t.Errorf("with a bpffs: %+v", found)
	}
}
