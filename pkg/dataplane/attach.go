package dataplane

import (
	"errors"
	"fmt"
	"iter"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/pin"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Hooks, as they stand in pins and in status.
const (
	hookTCX    = "tcx"
	hookClsact = "clsact"
	hookXDP    = "xdp"
)

// Priority and handle of the filter where there is no TCX: "PL", to be told from everybody else's. Its name tells it from another
// privlink's (see attacher.filterName).
const (
	filterPriority = 0x504c
	filterHandle   = 0x504c
)

// binding is an interface with our programs.
type binding struct {
	name    string
	ifindex int
	hook    string    // hookTCX or hookClsact
	tcx     link.Link // nil with clsact
	xdp     link.Link // nil without
	// ownQdisc says that privlink made the clsact qdisc.
	ownQdisc bool
}

// attacher puts programs on interfaces. Its functions run in its namespace, and leave
// everything as it was when they fail.
type attacher struct {
	ns      namespace
	folder  *folder
	tc, xdp *ebpf.Program
	// noTCX makes it use clsact where there is TCX, too.
	noTCX bool
	// step hears of every program that is replaced (see migration).
	step func(string) error
}

// replaced are programs that were given to attachments in the place of others.
type replaced struct {
	old  []*ebpf.Program
	back []func() error
}

// undo gives every attachment its old program again.
func (r *replaced) undo() error {
	var failed []error
	for _, back := range r.back {
		failed = append(failed, back())
	}
	r.forget()
	return errors.Join(failed...)
}

// forget lets go of the old programs.
func (r *replaced) forget() {
	for _, p := range r.old {
		p.Close()
	}
	*r = replaced{}
}

// adopt finds what is attached already, gives it the new programs, and drops pins of
// interfaces that are gone. If one cannot take its new program, all get the old ones back; the
// caller can have that too, as long as it keeps what is returned.
func (a *attacher) adopt(devices map[string]device, outs *array[bpfOut]) (_ map[string]*binding, _ *replaced, err error) {
	pins, err := a.folder.allLinks()
	if err != nil {
		return nil, nil, err
	}
	bindings := make(map[string]*binding)
	done := &replaced{}
	defer func() {
		if err == nil {
			return
		}
		err = errors.Join(err, done.undo())
		for _, b := range bindings {
			b.close()
		}
	}()
	for path, of := range pins {
		hook, name := of[0], of[1]
		l, err := openLink(path)
		if err != nil {
			return nil, nil, fmt.Errorf("adopt link %s: %w", path, err)
		}
		if l == nil {
			continue
		}
		ifindex, program, err := attachedTo(l)
		if err != nil {
			l.Close()
			return nil, nil, fmt.Errorf("adopt link %s: %w", path, err)
		}
		d, ok := devices[name]
		if !ok || d.ifindex != ifindex || ifindex == 0 {
			// The interface was deleted, and the program with it. One of the same name is another.
			l.Close()
			if err := os.Remove(path); err != nil {
				return nil, nil, fmt.Errorf("remove pin of an interface that is gone: %w", err)
			}
			continue
		}
		if err := a.replace(l, hook, program, done); err != nil {
			l.Close()
			return nil, nil, fmt.Errorf("give %s on %s the new program: %w", hook, name, err)
		}
		b := bindings[name]
		if b == nil {
			b = &binding{name: name, ifindex: ifindex}
			bindings[name] = b
		}
		if hook == hookXDP {
			b.xdp = l
		} else {
			b.hook, b.tcx = hookTCX, l
		}
	}
	for name, d := range devices {
		if b := bindings[name]; b != nil && b.hook != "" {
			continue
		}
		program, err := a.filterProgram(d.ifindex)
		if err != nil {
			return nil, nil, err
		}
		if program == 0 {
			continue
		}
		if bindings[name] == nil {
			bindings[name] = &binding{name: name, ifindex: d.ifindex}
		}
		bindings[name].hook = hookClsact
		bindings[name].ownQdisc = ownsQdisc(outs.all(), d.ifindex)
		if err := a.replaceFilter(d.ifindex, program, done); err != nil {
			return nil, nil, fmt.Errorf("give clsact on %s the new program: %w", name, err)
		}
	}
	return bindings, done, nil
}

// replace gives an attachment its new program, and done the way back.
func (a *attacher) replace(l link.Link, hook string, old ebpf.ProgramID, done *replaced) error {
	before, err := ebpf.NewProgramFromID(old)
	if err != nil {
		return fmt.Errorf("open the program attached now: %w", err)
	}
	program := a.tc
	if hook == hookXDP {
		program = a.xdp
	}
	done.old = append(done.old, before)
	if err := a.step(stepReplace); err != nil {
		return err
	}
	if err := l.Update(program); err != nil {
		return err
	}
	done.back = append(done.back, func() error { return l.Update(before) })
	return nil
}

// replaceFilter does the same for a filter.
func (a *attacher) replaceFilter(ifindex int, old ebpf.ProgramID, done *replaced) error {
	before, err := ebpf.NewProgramFromID(old)
	if err != nil {
		return fmt.Errorf("open the program attached now: %w", err)
	}
	done.old = append(done.old, before)
	if err := a.step(stepReplace); err != nil {
		return err
	}
	if err := a.ns.do(func() error { return a.putFilter(ifindex, a.tc) }); err != nil {
		return err
	}
	done.back = append(done.back, func() error {
		return a.ns.do(func() error { return a.putFilter(ifindex, before) })
	})
	return nil
}

// openLink opens a pinned link. It is nil where something else is pinned: that is no attachment and nobody knows whose, so it is left
// alone, and told (PinLeft).
func openLink(path string) (link.Link, error) {
	pinned, err := pin.Load(path, nil)
	if err != nil {
		return nil, err
	}
	defer pinned.Close()
	if _, ok := pinned.(link.Link); !ok {
		return nil, nil
	}
	return link.LoadPinnedLink(path, nil) // which knows its path
}

// attachedTo says which interface a link is on (0 = one that is gone) and its program.
func attachedTo(l link.Link) (ifindex int, program ebpf.ProgramID, err error) {
	info, err := l.Info()
	if err != nil {
		return 0, 0, err
	}
	switch {
	case info.TCX() != nil:
		return int(info.TCX().Ifindex), info.Program, nil
	case info.XDP() != nil:
		return int(info.XDP().Ifindex), info.Program, nil
	}
	return 0, 0, fmt.Errorf("it is of type %v, neither TCX nor XDP", info.Type)
}

// attachTC puts the TC program on an interface.
func (a *attacher) attachTC(d device) (*binding, error) {
	b := &binding{name: d.name, ifindex: d.ifindex}
	err := a.ns.do(func() error {
		if !a.noTCX {
			l, err := link.AttachTCX(link.TCXOptions{
				Interface: d.ifindex, Program: a.tc, Attach: ebpf.AttachTCXIngress, Anchor: link.Head(),
			})
			switch {
			case err == nil:
				if err := replacePin(l, a.folder.link(hookTCX, d.name)); err != nil {
					l.Close()
					return fmt.Errorf("pin tcx of %s: %w", d.name, err)
				}
				b.hook, b.tcx = hookTCX, l
				return nil
			case !errors.Is(err, ebpf.ErrNotSupported):
				return fmt.Errorf("attach tcx to %s: %w", d.name, err)
			}
		}
		there, err := filterAt(d.ifindex)
		if err != nil {
			return err
		}
		if there != nil && there.Name != a.filterName() {
			return fmt.Errorf("attach clsact filter to %s: the place of ours, pref %d, is taken by %q (another privlink's: let it detach the interface)",
				d.name, filterPriority, there.Name)
		}
		if b.ownQdisc, err = addClsact(d); err != nil {
			return err
		}
		if err := a.putFilter(d.ifindex, a.tc); err != nil {
			return fmt.Errorf("attach clsact filter to %s: %w", d.name, err)
		}
		b.hook = hookClsact
		return nil
	})
	if err != nil {
		return nil, err
	}
	return b, nil
}

// attachXDP puts the XDP program on an interface in addition, in native mode.
func (a *attacher) attachXDP(b *binding) error {
	return a.ns.do(func() error {
		l, err := link.AttachXDP(link.XDPOptions{Interface: b.ifindex, Program: a.xdp, Flags: link.XDPDriverMode})
		if err != nil {
			return fmt.Errorf("attach xdp to %s: %w", b.name, err)
		}
		if err := replacePin(l, a.folder.link(hookXDP, b.name)); err != nil {
			l.Close()
			return fmt.Errorf("pin xdp of %s: %w", b.name, err)
		}
		b.xdp = l
		return nil
	})
}

// detachXDP takes XDP away and leaves TC.
func (a *attacher) detachXDP(b *binding) error {
	if b.xdp == nil {
		return nil
	}
	err := removePin(a.folder.link(hookXDP, b.name))
	b.xdp.Close()
	b.xdp = nil
	return err
}

// detach takes everything away. The interface may be gone.
func (a *attacher) detach(b *binding) error {
	failed := []error{a.detachXDP(b)}
	if b.tcx != nil {
		failed = append(failed, removePin(a.folder.link(hookTCX, b.name)))
		b.tcx.Close()
		b.tcx = nil
	}
	if b.hook == hookClsact {
		failed = append(failed, a.ns.do(func() error { return a.removeFilter(b.ifindex, b.ownQdisc) }))
	}
	b.hook = ""
	return errors.Join(failed...)
}

// intact asks the kernel which of b's programs are still where b says. Where b has no XDP, that part is intact.
func (a *attacher) intact(b *binding) (tc, xdp bool) {
	on := func(l link.Link) bool {
		ifindex, _, err := attachedTo(l)
		return err == nil && ifindex == b.ifindex
	}
	switch b.hook {
	case hookTCX:
		tc = on(b.tcx)
	case hookClsact:
		program, err := a.filterProgram(b.ifindex)
		tc = err == nil && program != 0
	}
	return tc, b.xdp == nil || on(b.xdp)
}

// repair puts back what another agent took away, and leaves the rest of b as it is.
func (a *attacher) repair(b *binding, d device) error {
	tc, xdp := a.intact(b)
	if !xdp {
		b.xdp.Close() // its pin is replaced or removed with the next decision on the mode
		b.xdp = nil
		if err := removePin(a.folder.link(hookXDP, b.name)); err != nil {
			return err
		}
	}
	if tc {
		return nil
	}
	if b.tcx != nil {
		b.tcx.Close()
		b.tcx = nil
		if err := removePin(a.folder.link(hookTCX, b.name)); err != nil {
			return err
		}
	}
	again, err := a.attachTC(d)
	if err != nil {
		return err
	}
	// The qdisc that privlink made is privlink's, whoever emptied it.
	b.hook, b.tcx, b.ownQdisc = again.hook, again.tcx, again.ownQdisc || b.ownQdisc
	return nil
}

func (b *binding) close() {
	if b.tcx != nil {
		b.tcx.Close()
	}
	if b.xdp != nil {
		b.xdp.Close()
	}
}

// strangers are programs of others on an interface's hooks, "hook name#id".
type strangers struct {
	all []string
	// before see the interface's packets before ours do, after see on their way out those that ours sent there.
	before, after []string
}

// others looks for strangers on an interface; ours is the hook that our program is on, or empty while it is on none.
func (a *attacher) others(ifindex, xdpProg int, ours string) (found strangers) {
	// label is a program's name and id; empty for ours, and for one that was unloaded meanwhile.
	tc, xdp := programID(a.tc), programID(a.xdp)
	label := func(id ebpf.ProgramID) string {
		if uint32(id) == tc || uint32(id) == xdp {
			return ""
		}
		p, err := ebpf.NewProgramFromID(id)
		if err != nil {
			return ""
		}
		defer p.Close()
		name := "?"
		if info, err := p.Info(); err == nil {
			name = info.Name
		}
		return fmt.Sprintf("%s#%d", name, id)
	}
	ahead := func(text string, first bool) {
		found.all = append(found.all, text)
		if first {
			found.before = append(found.before, text)
		}
	}
	behind := func(text string) {
		found.all, found.after = append(found.all, text), append(found.after, text)
	}
	if xdpProg != 0 {
		if other := label(ebpf.ProgramID(xdpProg)); other != "" {
			ahead(hookXDP+" "+other, true)
		}
	}
	filters := func(l netlink.Link, parent uint32, add func(text string, priority uint16)) error {
		list, err := dumpWhole(func() ([]netlink.Filter, error) { return netlink.FilterList(l, parent) })
		for _, f := range list {
			if bpf, ok := f.(*netlink.BpfFilter); !ok {
				add(f.Type()+" filter", f.Attrs().Priority)
			} else if other := label(ebpf.ProgramID(bpf.Id)); other != "" {
				add(other, f.Attrs().Priority)
			}
		}
		return err
	}
	// What cannot be asked here (an interface that went away, a kernel without TCX) has no answer to show.
	_ = a.ns.do(func() error {
		if q, err := link.QueryPrograms(link.QueryOptions{Target: ifindex, Attach: ebpf.AttachTCXIngress}); err == nil {
			first := true // TCX goes before clsact, in the order of its list
			for _, p := range q.Programs {
				if other := label(p.ID); other != "" {
					ahead(hookTCX+" "+other, first)
				} else {
					first = false
				}
			}
		}
		if q, err := link.QueryPrograms(link.QueryOptions{Target: ifindex, Attach: ebpf.AttachTCXEgress}); err == nil {
			for _, p := range q.Programs {
				if other := label(p.ID); other != "" {
					behind(hookTCX + " egress " + other)
				}
			}
		}
		l, err := netlink.LinkByIndex(ifindex)
		if err != nil {
			return err
		}
		return errors.Join(
			filters(l, netlink.HANDLE_MIN_INGRESS, func(text string, priority uint16) {
				ahead(hookClsact+" "+text, ours == hookClsact && priority < filterPriority)
			}),
			filters(l, netlink.HANDLE_MIN_EGRESS, func(text string, _ uint16) { behind(hookClsact + " egress " + text) }),
		)
	})
	return found
}

// strangers are programs of others on b's interface.
func (a *attacher) strangers(b *binding) strangers {
	xdpProg := 0
	_ = a.ns.do(func() error { // an interface that went away has none
		l, err := netlink.LinkByIndex(b.ifindex)
		if err == nil && l.Attrs().Xdp != nil && l.Attrs().Xdp.Attached {
			xdpProg = int(l.Attrs().Xdp.ProgId)
		}
		return err
	})
	return a.others(b.ifindex, xdpProg, b.hook)
}

// addClsact adds the qdisc that holds filters, if there is none; own says that it did.
func addClsact(d device) (own bool, err error) {
	err = netlink.QdiscAdd(&netlink.GenericQdisc{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: d.ifindex, Parent: netlink.HANDLE_CLSACT, Handle: netlink.MakeHandle(0xffff, 0)},
		QdiscType:  "clsact",
	})
	if errors.Is(err, unix.EEXIST) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("add clsact to %s: %w (needs the module sch_ingress)", d.name, err)
	}
	return true, nil
}

// filterName is the name of our filter: the program's, and where the pins are if that is not the usual folder. So another privlink, with
// pins of its own, leaves ours alone, and ours is known when its pins are gone.
func (a *attacher) filterName() string {
	if a.folder.path == DefaultBPFFS {
		return programTC
	}
	return programTC + " " + a.folder.path
}

// putFilter adds our filter or replaces its program, in one step.
func (a *attacher) putFilter(ifindex int, program *ebpf.Program) error {
	return netlink.FilterReplace(&netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: ifindex, Parent: netlink.HANDLE_MIN_INGRESS,
			Handle: filterHandle, Priority: filterPriority, Protocol: unix.ETH_P_ALL,
		},
		Fd: program.FD(), Name: a.filterName(), DirectAction: true,
	})
}

// filterProgram is the program of our filter on an interface, 0 if there is none.
func (a *attacher) filterProgram(ifindex int) (program ebpf.ProgramID, err error) {
	err = a.ns.do(func() error {
		f, err := a.ourFilter(ifindex)
		if f != nil {
			program = ebpf.ProgramID(f.Id)
		}
		return err
	})
	return program, err
}

// ourFilter is what has our place and our name; nil if nothing has.
func (a *attacher) ourFilter(ifindex int) (*netlink.BpfFilter, error) {
	f, err := filterAt(ifindex)
	if f == nil || f.Name != a.filterName() {
		return nil, err
	}
	return f, nil
}

// filterAt is what has the place of our filter, of whatever name; nil if nothing has.
func filterAt(ifindex int) (*netlink.BpfFilter, error) {
	l, err := netlink.LinkByIndex(ifindex)
	if err != nil {
		return nil, nil //nolint:nilerr // gone, and its filters with it
	}
	filters, err := dumpWhole(func() ([]netlink.Filter, error) { return netlink.FilterList(l, netlink.HANDLE_MIN_INGRESS) })
	if err != nil {
		return nil, fmt.Errorf("list filters of %s: %w", l.Attrs().Name, err)
	}
	for _, f := range filters {
		if bpf, ok := f.(*netlink.BpfFilter); ok && bpf.Priority == filterPriority && bpf.Handle == filterHandle {
			return bpf, nil
		}
	}
	return nil, nil
}

// removeFilter deletes our filter, and the qdisc if privlink made it and nobody else uses it.
func (a *attacher) removeFilter(ifindex int, ownQdisc bool) error {
	f, err := a.ourFilter(ifindex)
	if err != nil {
		return err
	}
	if f != nil {
		if err := netlink.FilterDel(f); err != nil {
			return fmt.Errorf("remove clsact filter: %w", err)
		}
	}
	if !ownQdisc {
		return nil
	}
	l, err := netlink.LinkByIndex(ifindex)
	if err != nil {
		return nil //nolint:nilerr // gone with everything on it
	}
	for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
		if left, err := dumpWhole(func() ([]netlink.Filter, error) { return netlink.FilterList(l, parent) }); err != nil || len(left) > 0 {
			return err
		}
	}
	err = netlink.QdiscDel(&netlink.GenericQdisc{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: ifindex, Parent: netlink.HANDLE_CLSACT, Handle: netlink.MakeHandle(0xffff, 0)},
		QdiscType:  "clsact",
	})
	if err != nil {
		return fmt.Errorf("remove clsact: %w", err)
	}
	return nil
}

// ownsQdisc says whether privlink made the clsact qdisc of an interface, which stands with its outputs.
func ownsQdisc(outs iter.Seq[bpfOut], ifindex int) bool {
	for o := range outs {
		if int(o.Ifindex) == ifindex && o.Flags&uint8(bpfOutFlagsOUT_OWN_QDISC) != 0 {
			return true
		}
	}
	return false
}

// removePin removes a pin that may be gone already.
func removePin(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove pin: %w", err)
	}
	return nil
}

// attached are the programs that carry traffic now, by pinned links and by filters.
func (a *attacher) attached(devices map[string]device) ([]ebpf.ProgramID, error) {
	pins, err := a.folder.allLinks()
	if err != nil {
		return nil, err
	}
	var found []ebpf.ProgramID
	for path := range pins {
		l, err := openLink(path)
		if err != nil {
			return nil, fmt.Errorf("open link %s: %w", path, err)
		}
		if l == nil {
			continue
		}
		_, program, err := attachedTo(l)
		l.Close()
		if err != nil {
			return nil, fmt.Errorf("open link %s: %w", path, err)
		}
		found = append(found, program)
	}
	for _, d := range devices {
		program, err := a.filterProgram(d.ifindex)
		if err != nil {
			return nil, err
		}
		if program != 0 {
			found = append(found, program)
		}
	}
	return found, nil
}
