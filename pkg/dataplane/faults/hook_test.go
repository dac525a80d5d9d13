package faults

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/privlink/privlink/pkg/dataplane"
	"github.com/privlink/privlink/pkg/lab/load"
	"golang.org/x/sys/unix"
)

// stranger is a program of somebody else that lets everything pass.
func stranger(t *testing.T, kind ebpf.ProgramType, verdict int64) *ebpf.Program {
	t.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "stranger", Type: kind, License: "GPL",
		Instructions: asm.Instructions{asm.LoadImm(asm.R0, verdict, asm.DWord), asm.Return()},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

const (
	tcxNext = -1
	xdpPass = 2
)

// waitPrograms waits until privlink's programs are where they were, whatever their ids.
func (r *rig) waitPrograms(want map[string]ebpf.ProgramID) {
	r.t.Helper()
	r.Wait("the programs to be back", 15*time.Second, func() error {
		have := r.programs()
		for on := range want {
			if have[on] == 0 {
				return fmt.Errorf("have %v, want %v", have, want)
			}
		}
		return nil
	})
}

func TestHook_ProgramTakenAway_IsAttachedAgain(t *testing.T) {
	tc := func(args ...string) func(*rig) error {
		return func(r *rig) error {
			_, err := r.gw.Run(context.Background(), "tc", args...)
			return err
		}
	}
	detach := func(pin string) func(*rig) error {
		return func(r *rig) error {
			_, err := r.gw.Run(context.Background(), "bpftool", "link", "detach", "pinned", r.bpffs+"/links/"+pin)
			return err
		}
	}
	for name, c := range map[string]struct {
		hook string
		take func(*rig) error
	}{
		"tcx link detached":    {"tcx", detach("tcx-c1")},
		"xdp link detached":    {"xdp", detach("xdp-c1")},
		"tcx below xdp gone":   {"xdp", detach("tcx-c1")},
		"filter deleted":       {"clsact", tc("filter", "del", "dev", "c1", "ingress")},
		"qdisc deleted":        {"clsact", tc("qdisc", "del", "dev", "c1", "clsact")},
		"filter of the server": {"clsact", tc("filter", "del", "dev", "web", "ingress")},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, hooks[c.hook])
			r.open()
			r.load(load.Options{Bulk: -1})
			before := r.programs()
			from := r.mark()
			if err := c.take(r); err != nil {
				t.Fatal(err)
			}
			r.waitPrograms(before)
			window := r.untilUp(from)
			r.more(3)
			all := r.wantNothingLost(window)
			for _, b := range all.Broken {
				t.Errorf("%s broke: %v", b.Kind, b.Err)
			}
			if name == "xdp link detached" && len(all.Lost) > 0 {
				t.Errorf("%d datagrams lost while TC carries everything", len(all.Lost))
			}
			if err := r.d.Close(); err != nil {
				t.Fatal(err)
			}
			if err := dataplane.Down(context.Background(), dataplane.Options{BPFFS: r.bpffs, NetNS: r.gw.Path()}); err != nil {
				t.Fatal(err)
			}
			// The kernel lets go of a link some time after its last pin.
			r.Wait("the programs to be gone", 5*time.Second, func() error {
				if left := r.programs(); len(left) > 0 {
					return fmt.Errorf("%v are left", left)
				}
				return nil
			})
		})
	}
}

func TestHook_SharedTCX_BothWorkAndTheStrangerStays(t *testing.T) {
	r := newRig(t, rigOptions{consumers: 2})
	other := stranger(t, ebpf.SchedCLS, tcxNext)
	attach := func(name string, anchor link.Anchor) link.Link {
		var l link.Link
		err := r.gw.Do(func() (err error) {
			l, err = link.AttachTCX(link.TCXOptions{Interface: ifindex(r.gw, name), Program: other, Attach: ebpf.AttachTCXIngress, Anchor: anchor})
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		return l
	}
	early := attach("c1", link.Tail())
	r.open()
	r.load(load.Options{})
	late := attach("web", link.Head())
	r.more(3)
	for _, name := range []string{"c1", "web"} {
		r.Wait("the status to name the stranger", 20*time.Second, func() error { // others are looked for every 10 s
			a := r.attachment(name)
			if len(a.Others) != 1 || !strings.HasPrefix(a.Others[0], "tcx stranger#") {
				return fmt.Errorf("status of %s names the others %q", name, a.Others)
			}
			return nil
		})
	}
	r.wantNothingLost()
	if err := r.d.Close(); err != nil {
		t.Fatal(err)
	}
	if err := dataplane.Down(context.Background(), dataplane.Options{BPFFS: r.bpffs, NetNS: r.gw.Path()}); err != nil {
		t.Fatal(err)
	}
	for _, l := range []link.Link{early, late} {
		if info, err := l.Info(); err != nil || info.TCX().Ifindex == 0 {
			t.Errorf("the stranger's link after down: %+v, %v", info, err)
		}
	}
}

func TestHook_XDPOccupied_TCCarriesAllAndSaysSo(t *testing.T) {
	r := newRig(t, hooks["xdp"])
	other := stranger(t, ebpf.XDP, xdpPass)
	var l link.Link
	err := r.gw.Do(func() (err error) {
		l, err = link.AttachXDP(link.XDPOptions{Interface: ifindex(r.gw, "c1"), Program: other, Flags: link.XDPDriverMode})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	r.open()
	r.load(load.Options{})
	a := r.attachment("c1")
	if a.Err != nil || a.Mode != dataplane.ModeTC || !strings.Contains(a.Why, "refused") || len(a.Warnings) != 1 || len(a.Others) != 1 {
		t.Errorf("status: %+v", a)
	}
	r.more(3)
	// Free again: the next apply takes the hook, and traffic does not notice.
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	r.Wait("xdp on c1", 15*time.Second, func() error {
		if _, err := r.d.Apply(context.Background(), r.state); err != nil {
			return err
		}
		if a := r.attachment("c1"); a.Mode != dataplane.ModeXDP {
			return fmt.Errorf("%+v", a)
		}
		return nil
	})
	r.more(3)
	r.wantNothingLost()
}

// A VM behind an XDP attachment switches GRO, and with it whether it takes XDP frames, and checksum offload.
func TestOffload_SwitchedBehindXDP_LossEndsWithTheNews(t *testing.T) {
	r := newRig(t, hooks["xdp"])
	r.open()
	r.load(load.Options{Bulk: -1})
	var windows []load.Window
	for _, feature := range []string{"rx-gro", "tx-checksum-ip-generic"} {
		for _, on := range []bool{false, true, false, true} {
			from := r.mark()
			r.consumers[0].SetFeatures("eth0", on, feature)
			if feature == "rx-gro" {
				r.Wait("the dataplane to hear of it", 15*time.Second, func() error {
					if a := r.attachment("c1"); a.TakesXDP != on {
						return fmt.Errorf("%+v", a)
					}
					return nil
				})
				windows = append(windows, r.untilUp(from))
			}
			r.more(3)
		}
	}
	all := r.wantNothingLost(windows...)
	for _, b := range all.Broken {
		t.Errorf("%s broke: %v", b.Kind, b.Err)
	}
}

// The kernel has more news than the daemon's socket holds, while the daemon does not run.
func TestNetlink_Overrun_TheNextChangeIsSeen(t *testing.T) {
	r := newRig(t, rigOptions{consumers: 2})
	d := r.newDaemon()
	d.start()
	r.load(load.Options{Bulk: -1})
	if err := d.process.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	out, err := r.gw.RunCommand(context.Background(), exec.Command("sh", "-ec",
		`ip link add noise type veth peer noise2; i=0; while [ $i -lt 2000 ]; do echo "link set noise mtu $((1000 + i % 2))"; i=$((i + 1)); done | ip -batch -; ip link del noise`))
	if err != nil {
		t.Fatal(err, out)
	}
	if err := d.process.Signal(unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	r.Wait("the daemon to notice that it missed something", 5*time.Second, func() error {
		if !strings.Contains(d.process.Output(), "more news of interfaces than fit") {
			return errors.New(d.process.Output())
		}
		return nil
	})
	from := r.mark()
	before := r.programs()["tcx c1"]
	r.gw.Delete("c1")
	wire := r.o.wire
	wire.B.Addr = clientIP + "/16"
	r.Veth(r.gw, "c1", r.consumers[0], "eth0", wire)
	r.Wait("the new c1 to be attached", 15*time.Second, func() error {
		if now := r.programs()["tcx c1"]; now != before {
			return fmt.Errorf("program %d", now)
		}
		return nil
	})
	window := r.untilUp(from)
	r.more(3)
	first := r.clients[0].Stop()
	if out := first.Outside([]load.Window{window}); len(out.Lost) > 0 || len(out.Broken) > 0 {
		t.Errorf("the consumer concerned, afterwards: %v", out)
	}
	r.clients = r.clients[1:]
	r.wantNothingLost()
}
