package lab

import (
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/vishvananda/netlink"
)

// EndOptions describe one end of a veth pair. Zero values leave the kernel's defaults.
type EndOptions struct {
	MAC  string   // "02:00:00:00:00:01"; default: random
	Addr string   // with prefix length, "10.0.1.4/16"
	Off  []string // features switched off, as for SetFeatures
	On   []string // features switched on, after Off
	// Queue gives the end a queue of packets that waits while the peer's ring is full, as a NIC has and a veth has
	// not: a veth without drops what its peer (one with XDP or GRO, 256 places) has not fetched yet. From Linux 6.16.
	Queue bool
}

// VethOptions describe a veth pair.
type VethOptions struct {
	MTU    int // of both ends; default 1500
	Queues int // of both ends, each direction; default the kernel's: one per CPU
	A, B   EndOptions
}

// Veth joins two namespaces (or one with itself) by a veth pair, sets both ends up and waits until
// they are.
func (l *Lab) Veth(a *Namespace, nameA string, b *Namespace, nameB string, o VethOptions) {
	l.tb.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = nameA
	if o.MTU != 0 {
		attrs.MTU = o.MTU
	}
	attrs.NumTxQueues, attrs.NumRxQueues = o.Queues, o.Queues
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: nameB, PeerNamespace: netlink.NsFd(int(b.handle)), PeerMTU: uint32(o.MTU)}
	veth.PeerNumTxQueues, veth.PeerNumRxQueues = uint32(o.Queues), uint32(o.Queues)
	var err error
	if o.A.MAC != "" {
		if veth.HardwareAddr, err = net.ParseMAC(o.A.MAC); err != nil {
			l.fatal("make veth", nameA, err)
		}
	}
	if o.B.MAC != "" {
		if veth.PeerHardwareAddr, err = net.ParseMAC(o.B.MAC); err != nil {
			l.fatal("make veth", nameB, err)
		}
	}
	if err := a.links.LinkAdd(veth); err != nil {
		l.fatal("make veth", fmt.Sprintf("%s:%s - %s:%s", a, nameA, b, nameB), err)
	}
	for _, end := range []struct {
		n    *Namespace
		name string
		o    EndOptions
	}{{a, nameA, o.A}, {b, nameB, o.B}} {
		end.n.SetFeatures(end.name, false, end.o.Off...)
		end.n.SetFeatures(end.name, true, end.o.On...)
		if end.o.Queue {
			end.n.queue(end.name)
		}
		end.n.Up(end.name)
		if end.o.Addr != "" {
			end.n.Addr(end.name, end.o.Addr)
		}
	}
	a.WaitUp(nameA)
	b.WaitUp(nameB)
}

// queue puts a FIFO of as many packets as the interface's tx queue length in front of it.
func (n *Namespace) queue(ifname string) {
	n.lab.tb.Helper()
	fifo := &netlink.GenericQdisc{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: n.Link(ifname).Attrs().Index, Parent: netlink.HANDLE_ROOT, Handle: netlink.MakeHandle(1, 0)},
		QdiscType:  "pfifo",
	}
	if err := n.links.QdiscAdd(fifo); err != nil {
		n.fatal("queue packets on", ifname, err)
	}
}

// WaitUp waits until the interface has its carrier and passes packets.
func (n *Namespace) WaitUp(ifname string) {
	n.lab.tb.Helper()
	n.lab.Wait(n.short+"'s "+ifname+" to be up", 5*time.Second, func() error {
		link, err := n.links.LinkByName(ifname)
		if err != nil {
			return err
		}
		if state := link.Attrs().OperState; state != netlink.OperUp {
			return errors.New("operational state " + state.String())
		}
		return nil
	})
}

// VM makes a namespace that stands for a virtual machine: eth0 with the address, wired to an
// interface of the gateway that is named like the VM (15 characters at most). In the options A is
// the gateway's end and B the VM's.
func (l *Lab) VM(gateway *Namespace, name, cidr string, o VethOptions) *Namespace {
	l.tb.Helper()
	vm := l.Namespace(name)
	o.B.Addr = cidr
	l.Veth(gateway, name, vm, "eth0", o)
	return vm
}

// Bridge joins interfaces of the namespace by a bridge, so that several VMs share one network, and
// sets it up.
func (n *Namespace) Bridge(name string, ports ...string) {
	n.lab.tb.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	bridge := &netlink.Bridge{LinkAttrs: attrs}
	if err := n.links.LinkAdd(bridge); err != nil {
		n.fatal("make bridge", name, err)
	}
	for _, port := range ports {
		if err := n.links.LinkSetMaster(n.Link(port), bridge); err != nil {
			n.fatal("add to bridge "+name, port, err)
		}
	}
	n.Up(name)
}

// Delete removes an interface (and so its peer).
func (n *Namespace) Delete(ifname string) {
	n.lab.tb.Helper()
	if err := n.links.LinkDel(n.Link(ifname)); err != nil {
		n.fatal("delete", ifname, err)
	}
}
