package tables

import (
	"github.com/privlink/privlink/pkg/model"
)

// wantStats compares a link's counters with what the row says they are.
func (b *bench) wantStats(link uint32, want model.LinkStats) {
	b.Helper()
	if got := b.m.LinkStats[link]; got == nil || *got != want {
		b.Errorf("counters of link %d: %+v, want %+v", link, got, want)
	}
}

// setPairs makes the table hold so many pairs more than it does.
func (b *bench) setPairs(n uint32) {
	b.m.Pairs += n
	for _, p := range b.sides {
		p.SetPairs(b.m.Pairs)
	}
}

// useTokens makes this second's answers on every interface used up.
func (b *bench) useTokens(rst, icmp uint32) {
	for i := range ports {
		b.m.UseTokens(uint16(i+1), rst, icmp)
		for _, p := range b.sides {
			p.UseTokens(uint16(i+1), b.m.Now, rst, icmp)
		}
	}
}

// crowd takes all slots in which the flow of a packet could stand, by entries that nothing finds.
func (b *bench) crowd(p packet, proto uint8) {
	k := model.Key{Src: p.src, Dst: p.dst, VNet: consumerNet, Proto: proto}
	if p.tcp != nil {
		k.SrcPort, k.DstPort = uint16(p.tcp.SrcPort), uint16(p.tcp.DstPort)
	} else {
		k.SrcPort, k.DstPort = uint16(p.udp.SrcPort), uint16(p.udp.DstPort)
	}
	home := b.m.Table.Home(k)
	for n := home; n < home+model.Window; n++ {
		b.m.Table.Slots[n].State = model.SlotDead
		b.m.Table.Slots[n].Stamp = b.m.Now
		for _, p := range b.sides {
			p.PutSlot(n, &b.m.Table.Slots[n])
		}
	}
}

// setFragments makes a link hold so many incomplete datagrams.
func (b *bench) setFragments(link, n uint32) {
	held := b.m.Fill(link, n)
	for name, p := range b.sides {
		if err := p.SetFragments(link, held); err != nil {
			b.Fatalf("%s: %v", name, err)
		}
	}
}
