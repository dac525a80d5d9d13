package program

import (
	"encoding/binary"
	"hash/fnv"

	"github.com/privlink/privlink/pkg/dataplane"
	"github.com/privlink/privlink/pkg/model"
)

// net16 and net32 exchange network and little-endian host order.
func net16(v uint16) uint16 { return v<<8 | v>>8 }
func net32(v model.IP) uint32 {
	return uint32(v)<<24 | uint32(v)>>24 | uint32(v)<<8&0xff0000 | uint32(v)>>8&0xff00
}

func rawKey(k model.Key) (raw dataplane.RawFlow) {
	raw.Key.Saddr, raw.Key.Daddr = net32(k.Src), net32(k.Dst)
	raw.Key.Sport, raw.Key.Dport = net16(k.SrcPort), net16(k.DstPort)
	raw.Key.Vnet, raw.Key.Proto, raw.Key.Kind = k.VNet, k.Proto, k.Kind
	return raw
}

// rawSlot is what a slot of the model's table should be in the program's. What a free slot held
// before means nothing and is left out; so are the deltas, see deltasFit.
func rawSlot(s *model.Slot) dataplane.RawFlow {
	var raw dataplane.RawFlow
	if s.State != model.SlotFree {
		raw = rawKey(s.Key)
		raw.Stamp, raw.Twin = s.Stamp, s.Twin
		raw.Rw.Saddr, raw.Rw.Daddr = net32(s.RW.Src), net32(s.RW.Dst)
		raw.Rw.Sport, raw.Rw.Dport = net16(s.RW.SrcPort), net16(s.RW.DstPort)
		if s.RW.Backend != 0 {
			raw.Rw.Via.Forward.Backend = s.RW.Backend
			raw.Rw.Via.Forward.BackendGen = s.RW.BackendGen
			raw.Rw.Via.Forward.Client = s.RW.Client
		} else {
			raw.Rw.Via.Forward.Backend = binary.LittleEndian.Uint32(s.RW.MAC[0:])
			raw.Rw.Via.Forward.BackendGen = binary.LittleEndian.Uint16(s.RW.MAC[4:])
			raw.Rw.Via.Forward.Client = s.RW.Out
		}
		raw.Rw.Tag.Of.Link, raw.Rw.Tag.Of.LinkGen, raw.Rw.Tag.Of.Flags = s.RW.Link, s.RW.LinkGen, s.RW.Flags
	}
	raw.State = uint32(s.State) | uint32(s.Distance)<<2
	raw.Home = s.Homes
	return raw
}

// sameSlot compares a slot of the program's table with the model's.
func sameSlot(have *dataplane.RawFlow, s *model.Slot) bool {
	want := rawSlot(s)
	got := *have
	got.State &= 1<<7 - 1 // how often the slot was taken is the program's own business
	if s.State == model.SlotFree {
		return got.State == want.State && got.Home == want.Home
	}
	if s.Key.Kind == model.KindFlow && !deltasFit(&got) {
		return false
	}
	got.Rw.L3Delta, got.Rw.L4Delta = 0, 0
	if s.Key.Kind != model.KindFlow && s.RW.Backend != 0 {
		got.Rw.Via.Forward.Client = want.Rw.Via.Forward.Client // of no use to fragments
	}
	return got == want
}

// deltasFit says whether the checksum deltas of an entry are those of its key and rewrite; 0 and
// 0xffff are the same number in one's complement.
func deltasFit(f *dataplane.RawFlow) bool {
	l3 := sum(^f.Key.Saddr) + sum(^f.Key.Daddr) + sum(f.Rw.Saddr) + sum(f.Rw.Daddr)
	l4 := uint32(^f.Key.Sport) + uint32(^f.Key.Dport) + uint32(f.Rw.Sport) + uint32(f.Rw.Dport)
	return l3%0xffff == uint32(f.Rw.L3Delta)%0xffff && l4%0xffff == uint32(f.Rw.L4Delta)%0xffff
}

func sum(v uint32) uint32 { return v>>16 + v&0xffff }

func rawDomainKey(k model.DomainKey) dataplane.RawDomainKey {
	return dataplane.RawDomainKey{Nat: net32(k.NAT), Backend: net32(k.Backend), Port: net16(k.Port), Vnet: k.VNet, Proto: k.Proto}
}

func rawLink(l *model.Link) dataplane.RawLink {
	return dataplane.RawLink{
		LinkId: l.ID, Gen: l.Gen, State: uint8(l.State), Service: l.Service, MaxFlows: l.MaxFlows,
		Addr: net32(l.Addr), Vnet: l.VNet,
	}
}

func rawBackend(b *model.Backend) dataplane.RawBackend {
	raw := dataplane.RawBackend{
		Addr: net32(b.Addr), Port: net16(b.Port), Vnet: b.VNet, Gen: b.Gen, State: uint8(b.State),
		Hop: dataplane.RawHop{Mac: b.MAC, Out: b.Out}, IdleTcp: b.IdleTCP, IdleUdp: b.IdleUDP,
	}
	if b.TCPReset {
		raw.Flags |= backendTCPReset
	}
	if b.HA {
		raw.Flags |= backendHA
	}
	return raw
}

func rawOut(o *model.Output) dataplane.RawOut {
	raw := dataplane.RawOut{Ifindex: o.Index, Mtu: o.MTU, Vlan: o.VLAN, Mac: o.MAC, Vnet: o.VNet}
	if o.XDP {
		raw.Flags = outXDP
	}
	return raw
}

func rawIface(k model.InterfaceKey, i *model.Interface) dataplane.RawIface {
	raw := dataplane.RawIface{Ifindex: k.Index, Vlan: k.VLAN, Vnet: i.VNet, Out: i.Out, Mac: i.MAC}
	if i.PassOther {
		raw.Flags |= ifacePassOther
	}
	if i.Inner {
		raw.Flags |= ifaceInner
	}
	return raw
}

func rawRule(service uint32, r *model.Rule) dataplane.RawRule {
	return dataplane.RawRule{Service: service, Nat: r.NAT, BackendPort: net16(r.BackendPort), Distribution: uint8(r.Distribution)}
}

// rawNATSet has another identity for other content, as in life: programs remember by it.
func rawNATSet(s *model.NATSet) dataplane.RawNatset {
	raw := dataplane.RawNatset{Vnet: s.VNet, Count: uint8(len(s.Addrs))}
	content := fnv.New64a()
	for i, a := range s.Addrs {
		raw.Addr[i] = net32(a)
		_ = binary.Write(content, binary.LittleEndian, a)
	}
	raw.Ident = content.Sum64()
	return raw
}

// Flags of the values above; the layout test compares them with the objects' BTF.
const (
	backendTCPReset = 1 << 0
	backendHA       = 1 << 1
	outXDP          = 1 << 0
	ifacePassOther  = 1 << 0
	ifaceInner      = 1 << 1
)
