package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/privlink/privlink/pkg/lab"
)

// Kind of fault.
type Kind struct {
	Name string
	What string
	// Plain and Proxied are until when packets and new connections may fail, after what strike does has ended;
	// nil = nothing may.
	Plain, Proxied *time.Duration

	strike func(ctx context.Context, a *arena, draw *rand.Rand) error
}

func after(d time.Duration) *time.Duration { return &d }

// grace is what TCP needs to send again into what works again: its least timeout is 200 ms, and doubles.
const grace = time.Second

// Kinds are all faults: the one table of windows.
func Kinds() []Kind {
	return []Kind{
		{"kill", "kill -9 of the daemon, and its start", nil, after(grace), kill},
		{"upgrade", "SIGTERM, and a start with new programs", nil, after(grace), upgrade},
		{"apply", "services, rules and endpoints made and removed", nil, nil, apply},
		{"link flap", "an interface down and up", after(grace), after(grace), flap},
		{"interface anew", "an interface deleted and made again", after(grace), after(grace), remake},
		{"program taken", "our TCX program detached by another agent", after(grace), after(grace), takeProgram},
		{"pins removed", "everything in the bpffs folder deleted", nil, nil, removePins},
		{"stranger", "another program before ours on the TCX hook", nil, nil, addStranger},
		{"overrun", "more netlink messages than the daemon's socket holds", nil, nil, overrun},
		{"namespace gone", "an attached interface's machine dies", nil, nil, namespaceGone},
		{"stopped", "the daemon gets no processor for a second", nil, after(grace), stopped},
		{"descriptors", "the daemon has no descriptor left for a second", nil, after(grace), descriptors},
		{"offload", "a machine switches GRO and checksum offload", nil, nil, offload},
	}
}

func kill(ctx context.Context, a *arena, _ *rand.Rand) error {
	a.daemon.Kill()
	a.daemon.Start(ctx)
	return a.ready(ctx)
}

func upgrade(ctx context.Context, a *arena, _ *rand.Rand) error {
	a.daemon.Stop()
	a.daemon.Start(ctx)
	return a.ready(ctx)
}

// ready waits until a daemon that was started carries proxied connections.
func (a *arena) ready(ctx context.Context) error {
	address := fmt.Sprintf("%s:%d", proxiedIP, proxiedPort)
	for _, n := range a.consumers {
		if err := lab.Poll(30*time.Second, func() error { return reach(ctx, n, address) }); err != nil {
			return fmt.Errorf("reach the proxied service from %s: %w", n, err)
		}
	}
	return nil
}

func apply(ctx context.Context, a *arena, draw *rand.Rand) error {
	for range 1 + draw.IntN(3) {
		a.serial++
		name := fmt.Sprint("net", a.serial)
		for _, args := range [][]string{
			{"vnet", "create", name, "--prefix", "10.0.0.0/16", "--subnet", "default=10.0.1.0/24"},
			{"endpoint", "create", name, "--vnet", name, "--subnet", "default", "--service", a.service("plain")},
			{"endpoint", "delete", name},
			{"vnet", "delete", name},
		} {
			if _, err := a.daemon.CLI(ctx, args...); err != nil {
				return err
			}
		}
	}
	return nil
}

// service is the resource id of a service.
func (a *arena) service(name string) string {
	return "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/default/providers/Microsoft.Network/privateLinkServices/" + name
}

// pick draws the interface a fault is done to.
func (a *arena) pick(draw *rand.Rand) string {
	a.object = a.names[draw.IntN(len(a.names))]
	return a.object
}

func flap(_ context.Context, a *arena, draw *rand.Rand) error {
	name := a.pick(draw)
	a.gw.Down(name)
	a.gw.Up(name)
	a.gw.WaitUp(name)
	return nil
}

func remake(ctx context.Context, a *arena, draw *rand.Rand) error {
	name := a.pick(draw)
	vm, address := a.vm(name)
	a.gw.Delete(name)
	a.Veth(a.gw, name, vm, "eth0", lab.VethOptions{B: lab.EndOptions{Addr: address + "/16"}})
	if err := lab.Poll(30*time.Second, func() error { return a.attached(ctx) }); err != nil {
		return fmt.Errorf("attach %s again: %w", name, err)
	}
	return a.answers(ctx, 30*time.Second)
}

func takeProgram(ctx context.Context, a *arena, draw *rand.Rand) error {
	name := a.pick(draw)
	before, err := a.attachedLinks(name)
	if err != nil {
		return err
	}
	if out, err := a.gw.Run(ctx, "bpftool", "link", "detach", "pinned", filepath.Join(a.daemon.BPFFS, "links", "tcx-"+name)); err != nil {
		return fmt.Errorf("detach %s: %w\n%s", name, err, out)
	}
	return lab.Poll(15*time.Second, func() error {
		now, err := a.attachedLinks(name)
		if err == nil && now < before {
			err = fmt.Errorf("%d programs on %s, before %d", now, name, before)
		}
		return err
	})
}

// attachedLinks counts the programs on an interface's TCX hook.
func (a *arena) attachedLinks(name string) (n int, err error) {
	err = a.gw.Do(func() error {
		q, err := link.QueryPrograms(link.QueryOptions{Target: a.gw.Link(name).Attrs().Index, Attach: ebpf.AttachTCXIngress})
		if err == nil {
			n = len(q.Programs)
		}
		return err
	})
	return n, err
}

func removePins(_ context.Context, a *arena, _ *rand.Rand) error {
	count := func() (n int, err error) {
		err = filepath.WalkDir(a.daemon.BPFFS, func(_ string, e os.DirEntry, err error) error {
			if err == nil && !e.IsDir() {
				n++
			}
			return err
		})
		return n, err
	}
	before, err := count()
	if err != nil {
		return err
	}
	if err := os.RemoveAll(a.daemon.BPFFS); err != nil {
		return err
	}
	return lab.Poll(15*time.Second, func() error {
		n, err := count()
		if err == nil && n < before {
			err = fmt.Errorf("%d pins of %d", n, before)
		}
		return err
	})
}

func addStranger(ctx context.Context, a *arena, draw *rand.Rand) error {
	const next = -1
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "stranger", Type: ebpf.SchedCLS, License: "GPL",
		Instructions: asm.Instructions{asm.LoadImm(asm.R0, next, asm.DWord), asm.Return()},
	})
	if err != nil {
		return fmt.Errorf("load a program: %w", err)
	}
	defer p.Close()
	var l link.Link
	err = a.gw.Do(func() (err error) {
		index := a.gw.Link(a.pick(draw)).Attrs().Index
		l, err = link.AttachTCX(link.TCXOptions{Interface: index, Program: p, Attach: ebpf.AttachTCXIngress, Anchor: link.Head()})
		return err
	})
	if err != nil {
		return fmt.Errorf("attach a program: %w", err)
	}
	defer l.Close()
	return pause(ctx, 500*time.Millisecond)
}

func overrun(ctx context.Context, a *arena, _ *rand.Rand) error {
	out, err := a.gw.RunCommand(ctx, exec.CommandContext(ctx, "sh", "-ec", `ip link add noise1 type veth peer noise2; i=0
while [ $i -lt 2000 ]; do echo "link set noise1 mtu $((1000 + i % 2))"; i=$((i + 1)); done | ip -batch -; ip link del noise1`))
	if err != nil {
		return fmt.Errorf("make noise: %w\n%s", err, out)
	}
	return nil
}

func namespaceGone(ctx context.Context, a *arena, _ *rand.Rand) error {
	a.serial++
	name := fmt.Sprint("m", a.serial)
	if _, err := a.daemon.CLI(ctx, "vnet", "create", name, "--prefix", "10.0.0.0/16", "--subnet", "default=10.0.1.0/24"); err != nil {
		return err
	}
	machine := a.gw.StartCommand(ctx, exec.Command("unshare", "--net", "--", "sleep", "infinity"))
	h := a.gw.Netlink()
	if err := h.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: name + "p"}); err != nil {
		return fmt.Errorf("make an interface: %w", err)
	}
	err := lab.Poll(5*time.Second, func() error { return h.LinkSetNsPid(a.gw.Link(name+"p"), machine.PID()) })
	if err != nil {
		return fmt.Errorf("move an interface: %w", err)
	}
	a.gw.Up(name)
	if _, err := a.daemon.CLI(ctx, "vnet", "attach", name, "--interface", name, "--mode", "tc"); err != nil {
		return err
	}
	machine.Kill()
	if _, err := a.daemon.CLI(ctx, "vnet", "detach", name, "--interface", name); err != nil {
		return err
	}
	_, err = a.daemon.CLI(ctx, "vnet", "delete", name)
	if l, gone := h.LinkByName(name); gone == nil { // the process died in our namespace still
		_ = h.LinkDel(l)
	}
	return err
}

func stopped(ctx context.Context, a *arena, _ *rand.Rand) error {
	if err := a.daemon.Process().Signal(unix.SIGSTOP); err != nil {
		return err
	}
	waited := pause(ctx, time.Second)
	if err := a.daemon.Process().Signal(unix.SIGCONT); err != nil {
		return err
	}
	return waited
}

func descriptors(ctx context.Context, a *arena, _ *rand.Rand) error {
	pid := a.daemon.Process().PID()
	var before unix.Rlimit
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &before); err != nil {
		return fmt.Errorf("read its limit of descriptors: %w", err)
	}
	none := unix.Rlimit{Cur: 3, Max: before.Max}
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &none, nil); err != nil {
		return fmt.Errorf("set its limit of descriptors: %w", err)
	}
	waited := pause(ctx, time.Second)
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &before, nil); err != nil {
		return fmt.Errorf("set its limit of descriptors: %w", err)
	}
	if waited != nil {
		return waited
	}
	return a.ready(ctx)
}

func offload(_ context.Context, a *arena, draw *rand.Rand) error {
	vm, _ := a.vm(a.pick(draw))
	feature := []string{"rx-gro", "tx-checksum-ip-generic"}[draw.IntN(2)]
	was := feature != "rx-gro" // veth's defaults
	vm.SetFeatures("eth0", !was, feature)
	vm.SetFeatures("eth0", was, feature)
	return nil
}

// pause is a time for which a fault lasts.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
