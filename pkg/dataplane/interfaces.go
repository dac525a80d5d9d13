package dataplane

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/privlink/privlink/pkg/neigh"
)

// ErrHostAddress says that an interface cannot be taken because the host uses it.
var ErrHostAddress = errors.New("the host has an address on it")

// ErrNoInterface says that there is no such interface.
var ErrNoInterface = errors.New("no such interface")

// CheckAttachment says whether a could be attached now, and why not. Apply attaches what it can
// and reports the rest, so this is for refusing a request before it is stored.
func (d *Dataplane) CheckAttachment(a Attachment) error {
	devices, err := d.ns.devices()
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.attachable(devices, a)
}

func (d *Dataplane) attachable(devices map[string]device, a Attachment) error {
	dev, ok := devices[a.Interface]
	if !ok {
		return fmt.Errorf("attach %s: %w", a.Interface, ErrNoInterface)
	}
	if len(dev.mac) != 6 || dev.kind == "loopback" || dev.name == "lo" {
		return fmt.Errorf("attach %s: it is no Ethernet interface", a.Interface)
	}
	// Only a new attachment is refused: one that carries traffic must not stop because of an address.
	if b := d.bindings[a.Interface]; b != nil && b.ifindex == dev.ifindex {
		return nil
	}
	if len(dev.addrs) > 0 && !a.PassOther && !a.Exclusive {
		return fmt.Errorf("attach %s: %w: %s (say --pass-other to leave the host's traffic alone, "+
			"or --exclusive if it may stop working)", a.Interface, ErrHostAddress, joinPrefixes(dev))
	}
	return nil
}

func joinPrefixes(dev device) string {
	var s []string
	for _, p := range dev.addrs {
		s = append(s, p.String())
	}
	return strings.Join(s, ", ")
}

// syncInterfaces attaches what the State wants and the kernel allows, and fills the plan's outputs and
// statuses. It does not detach: see dropInterfaces.
func (d *Dataplane) syncInterfaces(p *plan) {
	type user struct {
		network *Network
		a       Attachment
		status  int
	}
	users := make(map[string][]user)
	var order []string
	seen := make(map[string]string) // interface and VLAN to network
	for i := range p.state.Networks {
		n := &p.state.Networks[i]
		for _, a := range n.Attachments {
			p.statuses = append(p.statuses, AttachmentStatus{Network: n.Key, Attachment: a})
			status := len(p.statuses) - 1
			if _, ok := p.vnets[n.Key]; !ok {
				p.statuses[status].Err = fmt.Errorf("attach %s: %w", a.Interface, p.failed[n.Key])
				continue
			}
			key := fmt.Sprintf("%s/%d", a.Interface, a.VLAN)
			if other, ok := seen[key]; ok {
				p.statuses[status].Err = fmt.Errorf("attach %s vlan %d: network %s has it already", a.Interface, a.VLAN, other)
				continue
			}
			seen[key] = n.Key
			if err := d.attachable(d.devices, a); err != nil {
				p.statuses[status].Err = errors.Join(err, d.reserveOut(p, n.Key, a))
				continue
			}
			if len(users[a.Interface]) == 0 {
				order = append(order, a.Interface)
			}
			users[a.Interface] = append(users[a.Interface], user{n, a, status})
		}
	}
	for _, name := range order {
		dev := d.devices[name]
		var attachments []Attachment
		for _, u := range users[name] {
			attachments = append(attachments, u.a)
		}
		is, err := d.bind(dev, attachments)
		d.probeRedirects(d.devices) // now that XDP may be attached
		dev = d.devices[name]
		for _, u := range users[name] {
			s := &p.statuses[u.status]
			s.Ifindex, s.MTU, s.MAC, s.Down = dev.ifindex, dev.mtu, dev.mac, !dev.up
			s.Err, s.Mode, s.Why, s.Warnings = err, is.mode, is.why, is.warnings
			if err != nil {
				s.Err = errors.Join(err, d.reserveOut(p, u.network.Key, u.a))
				continue
			}
			s.Hook = is.b.hook
			s.Others = d.othersOn(dev)
			s.TakesXDP = dev.takesXDP && u.a.VLAN == 0
			s.Err = d.planOut(p, u.network.Key, u.a, dev)
		}
		if err == nil {
			p.interfaces[name] = true
		}
	}
}

// bound is what became of an interface's attachments at the last look at the interfaces.
type bound struct {
	b        *binding
	mode     Mode
	why      string
	warnings []string
}

// bind is bindAnew, once for every look at the interfaces (see mustReadDevices).
func (d *Dataplane) bind(dev device, attachments []Attachment) (bound, error) {
	if d.filling {
		return d.standing(dev)
	}
	if was, ok := d.bound[dev.name]; ok {
		return was, nil
	}
	d.binding.Lock()
	defer d.binding.Unlock()
	b, mode, why, warnings, err := d.bindAnew(dev, attachments)
	is := bound{b, mode, why, warnings}
	if err == nil {
		d.bound[dev.name] = is
	}
	return is, err
}

// errNotYet says that an interface is attached with the next Apply (see fill).
var errNotYet = errors.New("it is not attached yet")

// standing is how dev is attached, whatever the State says.
func (d *Dataplane) standing(dev device) (bound, error) {
	b := d.bindings[dev.name]
	if b == nil || b.ifindex != dev.ifindex {
		return bound{}, errNotYet
	}
	if b.xdp != nil {
		return bound{b: b, mode: ModeXDP}, nil
	}
	return bound{b: b, mode: ModeTC}, nil
}

// bindAnew sees to it that the programs are on dev, in the mode that fits its attachments.
func (d *Dataplane) bindAnew(dev device, attachments []Attachment) (_ *binding, mode Mode, why string, warnings []string, err error) {
	b := d.bindings[dev.name]
	if b != nil && b.ifindex != dev.ifindex {
		d.log.WithField("interface", dev.name).Info("attaching again: the interface is another one")
		if err := d.detach(b); err != nil {
			d.log.WithError(err).WithField("interface", dev.name).Warn("cleaning up an old attachment")
		}
		b = nil
	}
	if b != nil {
		if tc, xdp := d.att.intact(b); !tc || !xdp {
			d.log.WithField("interface", dev.name).Warn("attaching again: somebody took the program away")
			if err := d.att.repair(b, dev); err != nil {
				return nil, "", "", nil, err
			}
			d.returned = append(d.returned, dev.name)
		}
	}
	if b == nil {
		if b, err = d.att.attachTC(dev); err != nil {
			return nil, "", "", nil, err
		}
		d.bindings[dev.name] = b
		d.returned = append(d.returned, dev.name)
		d.log.WithField("interface", dev.name).WithField("hook", b.hook).Info("attached")
	}
	want, why, warnings := d.wantXDP(dev, attachments)
	if !want {
		return b, ModeTC, why, warnings, d.att.detachXDP(b)
	}
	if b.xdp == nil {
		if err := d.att.attachXDP(b); err != nil {
			return b, ModeTC, fmt.Sprintf("xdp refused: %v", err), []string{fmt.Sprintf("%s runs without xdp: %v", dev.name, err)}, nil
		}
	}
	return b, ModeXDP, why, warnings, nil
}

// otherPrograms is what stood on an interface when it was last looked at.
type otherPrograms struct {
	ifindex, xdpProg int
	found            []string
}

// othersOn is attacher.others, asked once for every look at the interfaces: it takes many calls, and an
// approval must not wait for them.
func (d *Dataplane) othersOn(dev device) []string {
	if seen, ok := d.others[dev.name]; ok && seen.ifindex == dev.ifindex && seen.xdpProg == dev.xdpProg {
		return seen.found
	}
	found := d.att.others(dev.ifindex, dev.xdpProg, "").all
	d.others[dev.name] = otherPrograms{dev.ifindex, dev.xdpProg, found}
	return found
}

// wantXDP decides the mode, by the rules of DESIGN: never where a VLAN tag may travel in metadata, as XDP would take the
// frame for an untagged one; by itself only on physical NICs, as on a veth it switches the peer's TSO off.
func (d *Dataplane) wantXDP(dev device, attachments []Attachment) (want bool, why string, warnings []string) {
	asked := slices.ContainsFunc(attachments, func(a Attachment) bool { return a.Mode == ModeXDP })
	auto := slices.ContainsFunc(attachments, func(a Attachment) bool { return a.Mode == ModeAuto || a.Mode == "" })
	switch {
	case !asked && !auto:
		return false, "asked for", nil
	case !asked && !dev.physical:
		return false, fmt.Sprintf("auto: xdp only on physical NICs, this is a %s", dev.kind), nil
	}
	if !dev.physical {
		if slices.ContainsFunc(attachments, func(a Attachment) bool { return a.VLAN != 0 }) {
			return false, "VLANs on a virtual interface: their tags may hide from xdp",
				[]string{fmt.Sprintf("%s runs without xdp: it has VLAN attachments", dev.name)}
		}
		return true, "asked for", []string{fmt.Sprintf("xdp on %s: a tagged frame from its peer would count as untagged, "+
			"and its peer's TSO is off", dev.name)}
	}
	strips, err := d.ns.stripsVLAN(dev.name)
	if err != nil || strips {
		why := "rx-vlan-offload is on and would hide tags from xdp"
		if err != nil {
			why = fmt.Sprintf("its offloads are not known: %v", err)
		}
		if asked {
			warnings = []string{fmt.Sprintf("%s runs without xdp: %s (ethtool -K %s rx-vlan-offload off)", dev.name, why, dev.name)}
		}
		return false, why, warnings
	}
	if asked {
		return true, "asked for", nil
	}
	return true, "auto: a physical NIC", nil
}

// reserveOut keeps the slot of an attachment that cannot be used now, for the flows that refer to it.
func (d *Dataplane) reserveOut(p *plan, network string, a Attachment) error {
	id := outIdent(network, a)
	p.keepOuts[id] = true
	slot, _, err := d.outs.get(id, d.sweeps)
	if err != nil {
		return err
	}
	p.outs[slot] = bpfOut{Ident: id, Vlan: a.VLAN, Vnet: p.vnets[network]}
	return nil
}

func outIdent(network string, a Attachment) uint64 {
	return ident("out", network, a.Interface, fmt.Sprint(a.VLAN))
}

// planOut enters an attachment as packets arrive and as they leave.
func (d *Dataplane) planOut(p *plan, network string, a Attachment, dev device) error {
	if err := d.reserveOut(p, network, a); err != nil {
		return err
	}
	slot := d.outs.find(outIdent(network, a))
	mac := [6]byte(dev.mac)
	out := p.outs[slot]
	out.Ifindex, out.Mtu, out.Mac = uint32(dev.ifindex), uint16(min(dev.mtu, math.MaxUint16)), mac
	if dev.takesXDP && a.VLAN == 0 {
		out.Flags |= uint8(bpfOutFlagsOUT_XDP)
	}
	if network == d.inner.Network && network != "" && dev.peerElsewhere {
		out.Flags |= uint8(bpfOutFlagsOUT_PEER)
	}
	if b := d.bindings[a.Interface]; b != nil && b.ownQdisc {
		out.Flags |= uint8(bpfOutFlagsOUT_OWN_QDISC)
	}
	p.outs[slot] = out
	in := bpfIface{Ifindex: uint32(dev.ifindex), Vlan: a.VLAN, Vnet: p.vnets[network], Out: uint16(slot), Mac: mac}
	if a.PassOther {
		in.Flags |= uint8(bpfIfaceFlagsIFACE_PASS_OTHER)
	}
	if network == d.inner.Network && network != "" {
		in.Flags |= uint8(bpfIfaceFlagsIFACE_INNER)
	}
	p.ifaces[ifaceKey{in.Ifindex, in.Vlan}] = in
	port := neigh.Port{Slot: uint16(slot), Ifindex: dev.ifindex, VLAN: a.VLAN, MAC: neigh.MAC(mac)}
	p.ports[p.vnets[network]] = append(p.ports[p.vnets[network]], planPort{port, a})
	return nil
}

// detach takes an attachment away and forgets it, whatever is left of it. binding is held.
func (d *Dataplane) detach(b *binding) error {
	delete(d.bindings, b.name)
	delete(d.bound, b.name)
	if b.hook == hookClsact {
		// The interface may be gone and its number another's, whose filter this is then.
		for _, other := range d.bindings {
			if other.ifindex == b.ifindex {
				b.hook = ""
			}
		}
	}
	return d.att.detach(b)
}

// dropInterfaces detaches what the State no longer has.
func (d *Dataplane) dropInterfaces(p *plan) error {
	var failed []error
	for name, b := range d.bindings {
		if p.interfaces[name] {
			continue
		}
		d.binding.Lock()
		err := d.detach(b)
		d.binding.Unlock()
		if err != nil {
			failed = append(failed, fmt.Errorf("detach %s: %w", name, err))
			continue
		}
		d.log.WithField("interface", name).Info("detached")
	}
	return errors.Join(failed...)
}

type ifaceKey struct {
	ifindex uint32
	vlan    uint16
}

// home is where an attachment's search begins; the same line stands in bpf/tables.h.
func (k ifaceKey) home() uint32 {
	return (k.ifindex*0x9e3779b1 ^ uint32(k.vlan)*0x85ebca6b) >> 19
}

// writeIfaces makes the table of arriving attachments equal to the plan: new places first.
func (d *Dataplane) writeIfaces(want map[ifaceKey]bpfIface) error {
	const mask = uint32(bpfLimitsIFACE_SLOTS) - 1
	at := make(map[ifaceKey]uint32)
	for slot := range d.k.ifaces.count {
		if in := d.k.ifaces.load(slot); in.Ifindex != 0 {
			at[ifaceKey{in.Ifindex, in.Vlan}] = slot
		}
	}
	var failed []error
	for key, in := range want {
		slot, ok := at[key]
		for i := uint32(0); !ok && i < uint32(bpfLimitsIFACE_PROBES); i++ {
			slot = (key.home() + i) & mask
			ok = d.k.ifaces.load(slot).Ifindex == 0
		}
		if !ok {
			failed = append(failed, fmt.Errorf("attach interface %d vlan %d: the %d places for it are taken", key.ifindex, key.vlan, bpfLimitsIFACE_PROBES))
			continue
		}
		d.k.ifaces.store(slot, in, wordIface)
	}
	for key, slot := range at {
		if _, ok := want[key]; !ok {
			d.k.ifaces.storeWord(slot, bpfIface{}, wordIface) // found no more
			d.k.ifaces.store(slot, bpfIface{}, wordIface)
		}
	}
	return errors.Join(failed...)
}

// writeOuts makes the outputs, and which of them XDP may redirect to, equal to the plan.
func (d *Dataplane) writeOuts(want map[uint32]bpfOut) error {
	var failed []error
	for slot, out := range want {
		takes := out.Flags&uint8(bpfOutFlagsOUT_XDP) != 0
		old := d.k.outs.load(slot)
		if takes {
			// Before the flag: who sees it must find the device.
			err := d.ns.do(func() error { return d.k.maps[mapXDPOuts].Put(slot, out.Ifindex) })
			if err != nil {
				out.Flags &^= uint8(bpfOutFlagsOUT_XDP)
				failed = append(failed, fmt.Errorf("let xdp redirect to interface %d: %w", out.Ifindex, err))
			}
		}
		d.k.outs.store(slot, out, wordOut)
		if !takes && old.Flags&uint8(bpfOutFlagsOUT_XDP) != 0 {
			// Deleting an empty place is an error that says what we want.
			_ = d.k.maps[mapXDPOuts].Delete(slot)
		}
	}
	return errors.Join(failed...)
}
