package faults

import (
	"errors"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
)

var errEarly = errors.New("too early")

// programs are the ids of privlink's programs on all of the gateway's interfaces, by hook and interface.
func (r *rig) programs() map[string]ebpf.ProgramID {
	r.t.Helper()
	found := make(map[string]ebpf.ProgramID)
	err := r.gw.Do(func() error {
		links, err := netlink.LinkList()
		if err != nil {
			return err
		}
		for _, l := range links {
			a := l.Attrs()
			q, err := link.QueryPrograms(link.QueryOptions{Target: a.Index, Attach: ebpf.AttachTCXIngress})
			if err != nil {
				return err
			}
			for _, p := range q.Programs {
				if ours(p.ID) {
					found["tcx "+a.Name] = p.ID
				}
			}
			if a.Xdp != nil && a.Xdp.Attached && ours(ebpf.ProgramID(a.Xdp.ProgId)) {
				found["xdp "+a.Name] = ebpf.ProgramID(a.Xdp.ProgId)
			}
			filters, err := netlink.FilterList(l, netlink.HANDLE_MIN_INGRESS)
			if err != nil {
				return err
			}
			for _, f := range filters {
				if b, ok := f.(*netlink.BpfFilter); ok && ours(ebpf.ProgramID(b.Id)) {
					found["clsact "+a.Name] = ebpf.ProgramID(b.Id)
				}
			}
		}
		return nil
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return found
}

func ours(id ebpf.ProgramID) bool {
	p, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return false
	}
	defer p.Close()
	info, err := p.Info()
	return err == nil && strings.HasPrefix(info.Name, "privlink_")
}
