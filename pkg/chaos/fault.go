package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
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
	// Packets, Plain and Proxied are until when datagrams, new connections to the plain service and new ones to the
	// proxied service may fail, after what strike does has ended; nil = none may.
	Packets, Plain, Proxied *time.Duration
	// Most is how long a window of this kind is at most, from what was under way at its beginning; longer fails the run.
	Most time.Duration
	// Lasts is about how long it takes before its window opens; 0 = no time.
	Lasts time.Duration
	// Ends says that proxied connections which exist end with it: the daemon that carries them does.
	Ends bool
	// Why it has a window at all.
	Why string

	strike func(ctx context.Context, a *arena, draw *rand.Rand) error
}

func after(d time.Duration) *time.Duration { return &d }

// grace is what TCP needs to send again into what works again: its least timeout is 200 ms, and doubles.
const grace = time.Second

// brief and start bound windows: what needs the daemon to notice, and what needs a new one.
const (
	brief = 6 * time.Second
	start = 10 * time.Second
)

// Kinds are all faults: the one table of windows.
func Kinds() []Kind {
	// with gives a kind its windows.
	with := func(k Kind, packets, plain, proxied bool, most time.Duration, why string) Kind {
		for to, has := range map[**time.Duration]bool{&k.Packets: packets, &k.Plain: plain, &k.Proxied: proxied} {
			if has {
				*to = after(grace)
			}
		}
		k.Most, k.Why = most, why
		return k
	}
	// restart is a kind that ends the daemon.
	restart := func(name, what string, strike func(context.Context, *arena, *rand.Rand) error) Kind {
		k := Kind{Name: name, What: what, Ends: true, strike: strike}
		return with(k, false, false, true, start, "nobody accepts proxied connections until the new daemon does")
	}
	// wire is a kind that takes the way of all packets.
	wire := func(name, what, why string, strike func(context.Context, *arena, *rand.Rand) error) Kind {
		return with(Kind{Name: name, What: what, strike: strike}, true, true, true, brief, why)
	}
	const gone = "there is no wire until the interface is up again, or attached again"
	return []Kind{
		restart("kill", "kill -9 of the daemon, the splice path's process, and its start", kill),
		restart("upgrade", "SIGTERM, and a start with new programs", upgrade),
		restart("migration", "SIGTERM, and a start with a flow table of another size", migrate),
		restart("store unusable", "kill -9, and a start that a read-only or damaged store refuses, before one that goes well", storeUnusable),
		{Name: "disk full", What: "no room for the store: a request is refused", strike: diskFull},
		{Name: "apply", What: "services, rules, backends, endpoints and approvals made, changed and removed, those of the services in use too", strike: apply},
		with(Kind{Name: "flow table full", What: "other tenants' flows fill the flow table to the last pair", Lasts: rests, strike: tableFull},
			false, true, true, start, "no new flow fits until pairs of the crowd have rested for 15 s and are swept; what is open goes on"),
		wire("link flap", "an interface down and up", gone, flap),
		wire("interface anew", "an interface deleted and made again", gone, remake),
		wire("number reused", "an interface deleted, its number taken by another one, and made again", gone, reuse),
		wire("program taken", "our TCX program detached by another agent", "nothing carries packets until the daemon has noticed", takeProgram),
		{Name: "hook occupied", What: "our XDP program replaced by another agent's for a second", strike: occupy},
		{Name: "pins removed", What: "everything in the bpffs folder deleted", strike: removePins},
		{Name: "bpffs unmounted", What: "the file system of the pins unmounted", strike: unmount},
		{Name: "stranger", What: "another program before ours on the TCX hook", strike: addStranger},
		{Name: "overrun", What: "more netlink messages than the daemon's socket holds", strike: overrun},
		{Name: "namespace gone", What: "an attached interface's machine dies", strike: namespaceGone},
		with(Kind{Name: "splice path cut", What: "the inner network's wire down and up", strike: cutInner},
			false, false, true, brief, "there is no way to the splice path until its wire is up again"),
		with(Kind{Name: "stopped", What: "the daemon gets no processor for a second", strike: stopped},
			false, false, true, brief, "nobody accepts proxied connections meanwhile"),
		with(Kind{Name: "descriptors", What: "the daemon has no descriptor left for a second", strike: descriptors},
			false, false, true, brief, "accepting a proxied connection needs a descriptor"),
		wire("offload", "a machine switches GRO and checksum offload behind XDP",
			"the wire stands still while its device is set up anew, and until the daemon has noticed", offload),
	}
}

// impossible are the faults that an operator may meet and this cannot bring, with the reason.
var impossible = []string{"a stepped clock (it would be the whole machine's)"}

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

// tableSizes are what migrations go between, in flows.
var tableSizes = [2]int{1 << 16, 1 << 17}

func migrate(ctx context.Context, a *arena, _ *rand.Rand) error {
	flows := tableSizes[0] + tableSizes[1] - a.flows
	a.object = fmt.Sprintf("%d to %d flows", a.flows, flows)
	if err := a.uncrowded(ctx); err != nil { // what is in the table has to fit into the smaller one
		return err
	}
	a.window.From = a.underWay()
	a.daemon.Stop()
	if err := a.configure(flows); err != nil {
		return err
	}
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

// change makes the load balancer that traffic goes through have one more rule.
const change = `  - {name: another, properties: {protocol: Tcp, frontendPort: 7020, backendPort: 7008, frontendIPConfiguration: {id: loadBalancers/balancer/frontendIPConfigurations/plain}, backendAddressPool: {id: loadBalancers/balancer/backendAddressPools/pool}}}
`

// apply changes everything around the connections that traffic has, in the services it uses, too.
func apply(ctx context.Context, a *arena, draw *rand.Rand) error {
	a.serial++
	name := fmt.Sprint("net", a.serial)
	lb := func(rule, backend string) []string {
		return []string{"lb", "create", name, "--vnet", "provider", "--subnet", "servers", "--rule", rule, "--backend", backend}
	}
	decide := func(what, service, endpoint string) []string {
		return []string{"connection", what, "--service", service, "--name", endpoint}
	}
	scratch := name
	endpoint := func(name, service string) []string {
		return []string{"endpoint", "create", name, "--vnet", scratch, "--subnet", "default", "--service", a.service(service)}
	}
	if _, err := a.daemon.CLIInput(ctx, balancer+change, "apply", "-f", "-"); err != nil {
		return err
	}
	for _, args := range [][]string{
		{"vnet", "create", name, "--prefix", "10.0.0.0/16", "--subnet", "default=10.0.1.0/24"},
		lb("tcp:80", backendIP),
		{"service", "create", name, "--lb", name, "--nat-subnet", "servers", "--nat-ip-count", "1", "--visibility", "*"},
		endpoint(name, name),
		decide("approve", name, name),
		endpoint(name+"-plain", "plain"),
		endpoint(name+"-proxied", "proxied"),
		decide("reject", "plain", name+"-plain"),
		decide("reject", name, name),
		decide("approve", "plain", name+"-plain"),
		decide("remove", "proxied", name+"-proxied"),
		lb("udp:53", "10.0.0.200"),
		{"service", "update", name, "--nat-ip-count", "2", "--idle-timeout", "60"},
		{"service", "update", "plain", "--idle-timeout", fmt.Sprint(200 + draw.IntN(200))},
		{"endpoint", "delete", name},
		{"endpoint", "delete", name + "-plain"},
		{"endpoint", "delete", name + "-proxied"},
		{"service", "delete", name},
		{"lb", "delete", name},
		{"vnet", "delete", name},
	} {
		if _, err := a.daemon.CLI(ctx, args...); err != nil {
			return err
		}
	}
	_, err := a.daemon.CLIInput(ctx, balancer, "apply", "-f", "-")
	return err
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
	a.gw.Delete(name)
	return a.makeAgain(ctx, name)
}

// reuse makes another interface with the number of one that is gone; privlink has no business with it.
func reuse(ctx context.Context, a *arena, draw *rand.Rand) error {
	name := a.pick(draw)
	number := a.gw.Link(name).Attrs().Index
	a.gw.Delete(name)
	h := a.gw.Netlink()
	if err := h.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "other", Index: number}, PeerName: "otherpeer"}); err != nil {
		return fmt.Errorf("make an interface with number %d: %w", number, err)
	}
	a.gw.Up("other")
	a.gw.Up("otherpeer")
	err := a.makeAgain(ctx, name)
	a.gw.Delete("other")
	return err
}

// makeAgain brings back an interface of the gateway that is gone, and waits until it carries traffic.
func (a *arena) makeAgain(ctx context.Context, name string) error {
	vm, address := a.vm(name)
	wire := wires(name)
	wire.B.Addr = address + "/16"
	a.Veth(a.gw, name, vm, "eth0", wire)
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
	return a.losePins(func() error {
		entries, err := os.ReadDir(a.daemon.BPFFS) // the folder itself is a mount point
		for _, e := range entries {
			if e.IsDir() { // the kernel has files of its own beside them, which nobody can remove
				err = errors.Join(err, os.RemoveAll(filepath.Join(a.daemon.BPFFS, e.Name())))
			}
		}
		return err
	})
}

func unmount(_ context.Context, a *arena, _ *rand.Rand) error {
	return a.losePins(func() error { return unix.Unmount(a.daemon.BPFFS, unix.MNT_DETACH) })
}

// pins counts what is pinned.
func (a *arena) pins() (n int, err error) {
	err = filepath.WalkDir(a.daemon.BPFFS, func(_ string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			n++
		}
		return err
	})
	return n, err
}

// losePins loses all pins and waits until the daemon has brought them back.
func (a *arena) losePins(lose func() error) error {
	before, err := a.pins()
	if err != nil {
		return err
	}
	if err := lose(); err != nil {
		return err
	}
	return lab.Poll(15*time.Second, func() error {
		n, err := a.pins()
		if err == nil && n < before {
			err = fmt.Errorf("%d pins of %d", n, before)
		}
		return err
	})
}

// stranger is a program of somebody else's.
func stranger(kind ebpf.ProgramType, verdict int64) (*ebpf.Program, error) {
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "stranger", Type: kind, License: "GPL",
		Instructions: asm.Instructions{asm.LoadImm(asm.R0, verdict, asm.DWord), asm.Return()},
	})
	if err != nil {
		return nil, fmt.Errorf("load a program: %w", err)
	}
	return p, nil
}

// occupy takes the XDP hook of the one that has it: the filter behind carries all.
func occupy(ctx context.Context, a *arena, _ *rand.Rand) error {
	const pass = 2
	p, err := stranger(ebpf.XDP, pass)
	if err != nil {
		return err
	}
	defer p.Close()
	if out, err := a.gw.Run(ctx, "bpftool", "link", "detach", "pinned", filepath.Join(a.daemon.BPFFS, "links", "xdp-c2")); err != nil {
		return fmt.Errorf("detach c2: %w\n%s", err, out)
	}
	var l link.Link
	err = a.gw.Do(func() (err error) {
		l, err = link.AttachXDP(link.XDPOptions{Interface: a.gw.Link("c2").Attrs().Index, Program: p, Flags: link.XDPDriverMode})
		return err
	})
	if err != nil {
		return fmt.Errorf("attach a program to the XDP hook: %w", err)
	}
	defer l.Close()
	if err := errors.Join(a.inMode(ctx, "c2", "tc"), pause(ctx, time.Second), l.Close()); err != nil {
		return err
	}
	return a.inMode(ctx, "c2", "xdp")
}

func addStranger(ctx context.Context, a *arena, draw *rand.Rand) error {
	const next = -1
	p, err := stranger(ebpf.SchedCLS, next)
	if err != nil {
		return err
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

// cutInner takes the wire between gateway and splice path down and up.
func cutInner(_ context.Context, a *arena, _ *rand.Rand) error {
	all, err := a.gw.Netlink().LinkList()
	if err != nil {
		return err
	}
	for _, l := range all {
		if name := l.Attrs().Name; strings.HasPrefix(name, "pli-") {
			a.object = name
			a.gw.Down(name)
			a.gw.Up(name)
			a.gw.WaitUp(name)
			return nil
		}
	}
	return errors.New("the gateway has no interface to the splice path")
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

// offload switches back and forth what makes XDP frames and TC's differ: with checksum offload the consumer behind XDP
// sends what has no checksum yet, and without GRO the provider's machine takes no frames of XDP.
func offload(ctx context.Context, a *arena, draw *rand.Rand) error {
	vm, feature, was := a.consumers[1], "tx-checksum-ip-generic", false
	if draw.IntN(2) == 0 {
		vm, feature, was = a.web, "rx-gro", true
	}
	a.object = fmt.Sprintf("%s of %s", feature, vm)
	for _, on := range []bool{!was, was} {
		vm.SetFeatures("eth0", on, feature)
		if err := a.answers(ctx, 30*time.Second); err != nil {
			return err
		}
	}
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
