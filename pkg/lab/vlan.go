package lab

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Places of the fields in struct __sk_buff, and what a program at clsact returns.
const (
	skbVLANPresent = 20
	skbVLANTCI     = 24

	verdictOn   = -1 // whoever comes next, then the stack
	verdictDrop = 2
)

// VLAN makes the interface the end of a VLAN (1..4094), as an 802.1Q device on it would be, which not
// every kernel has: what leaves gets the tag; what arrives must have it and loses it, the rest is dropped.
// Captures on the interface see what is on the wire.
func (n *Namespace) VLAN(ifname string, id uint16) {
	n.lab.tb.Helper()
	if err := n.vlan(ifname, id); err != nil {
		n.fatal(fmt.Sprintf("tag with VLAN %d on", id), ifname, err)
	}
}

func (n *Namespace) vlan(ifname string, id uint16) error {
	link, err := n.links.LinkByName(ifname)
	if err != nil {
		return err
	}
	index := link.Attrs().Index
	err = n.links.QdiscAdd(&netlink.GenericQdisc{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Parent: netlink.HANDLE_CLSACT, Handle: netlink.MakeHandle(0xffff, 0)},
		QdiscType:  "clsact",
	})
	if err != nil {
		return fmt.Errorf("add clsact: %w", err)
	}
	for parent, program := range map[uint32]asm.Instructions{
		netlink.HANDLE_MIN_EGRESS:  pushTag(id),
		netlink.HANDLE_MIN_INGRESS: popTag(id),
	} {
		p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "lab_vlan", Type: ebpf.SchedCLS, License: "GPL", Instructions: program})
		if err != nil {
			return err
		}
		err = n.links.FilterAdd(&netlink.BpfFilter{
			FilterAttrs: netlink.FilterAttrs{LinkIndex: index, Parent: parent, Handle: 1, Priority: 1, Protocol: unix.ETH_P_ALL},
			Fd:          p.FD(), Name: "lab_vlan", DirectAction: true,
		})
		if err := errors.Join(err, p.Close()); err != nil {
			return fmt.Errorf("attach: %w", err)
		}
	}
	return nil
}

// pushTag is a program for egress.
func pushTag(id uint16) asm.Instructions {
	return append(asm.Instructions{
		asm.Mov.Imm(asm.R2, int32(hostToNet16(unix.ETH_P_8021Q))),
		asm.Mov.Imm(asm.R3, int32(id)),
		asm.FnSkbVlanPush.Call(),
		asm.JNE.Imm(asm.R0, 0, "drop"),
	}, verdicts()...)
}

// popTag is a program for ingress.
func popTag(id uint16) asm.Instructions {
	return append(asm.Instructions{
		asm.LoadMem(asm.R2, asm.R1, skbVLANPresent, asm.Word),
		asm.JEq.Imm(asm.R2, 0, "drop"),
		asm.LoadMem(asm.R2, asm.R1, skbVLANTCI, asm.Word),
		asm.And.Imm(asm.R2, 0xfff),
		asm.JNE.Imm(asm.R2, int32(id), "drop"),
		asm.FnSkbVlanPop.Call(),
		asm.JNE.Imm(asm.R0, 0, "drop"),
	}, verdicts()...)
}

func verdicts() asm.Instructions {
	return asm.Instructions{
		asm.Mov.Imm(asm.R0, verdictOn),
		asm.Return(),
		asm.Mov.Imm(asm.R0, verdictDrop).WithSymbol("drop"),
		asm.Return(),
	}
}
