package fuzz

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/privlink/privlink/pkg/model"
)

// What must hold whatever the model says.

// checkFrame asks of a frame that goes on or answers: does it show an address of the side it came
// from, and are its checksums right if those of the frame that came in were?
func checkFrame(in model.Input, d model.Decision) error {
	if d.Frame == nil || d.Action != model.ActionRedirect && d.Action != model.ActionAnswer || binary.BigEndian.Uint16(d.Frame[12:]) != 0x0800 {
		return nil
	}
	came, goes := in.Frame[14:], d.Frame[14:]
	if d.Action == model.ActionRedirect {
		for _, at := range []int{12, 16} {
			if string(came[at:at+4]) == string(goes[at:at+4]) {
				return fmt.Errorf("invariant: an address goes through untranslated: %x", goes[at:at+4])
			}
		}
		if goes[9] == model.ICMP {
			h, q := int(came[0]&15)*4+8, int(goes[0]&15)*4+8
			for _, at := range []int{12, 16} {
				if string(came[h+at:h+at+4]) == string(goes[q+at:q+at+4]) {
					return fmt.Errorf("invariant: a quoted address goes through untranslated: %x", goes[q+at:q+at+4])
				}
			}
		}
	}
	if d.Action == model.ActionRedirect && !rightChecksums(came) {
		return nil
	}
	if d.Reason == model.EchoReply && !rightChecksums(came) {
		return nil
	}
	if !rightChecksums(goes) {
		return errors.New("invariant: a checksum that was right is wrong, or one that privlink made")
	}
	return nil
}

// rightChecksums says whether the checksums of an IPv4 packet are right, as far as they can be
// verified: those of fragments cannot.
func rightChecksums(p []byte) bool {
	size := int(p[0]&15) * 4
	if checksum(p[:size], 0) != 0 {
		return false
	}
	l4 := p[size:binary.BigEndian.Uint16(p[2:])]
	if binary.BigEndian.Uint16(p[6:])&0x3fff != 0 {
		return true
	}
	k := model.Key{Src: model.IP(binary.BigEndian.Uint32(p[12:])), Dst: model.IP(binary.BigEndian.Uint32(p[16:])), Proto: p[9]}
	switch p[9] {
	case model.TCP:
		return checksum(l4, pseudo(k, len(l4))) == 0
	case model.UDP:
		// UDP covers what its own length says, the pseudo-header too (RFC 768).
		n := int(binary.BigEndian.Uint16(l4[4:]))
		return binary.BigEndian.Uint16(l4[6:]) == 0 || n >= 8 && n <= len(l4) && checksum(l4[:n], pseudo(k, n)) == 0
	case model.ICMP:
		return checksum(l4, 0) == 0
	}
	return true
}

// checkTable asks of a whole table: does every live forward half have its partner, is no port used
// twice, is what is held what is counted? filled are domains that were filled by hand.
func checkTable(m *model.Machine, filled map[model.DomainKey]bool) error {
	reverse := make(map[model.Key]bool)
	live := make(map[model.Key]bool)
	used, resting := make(map[model.DomainKey]uint32), make(map[model.DomainKey]uint32)
	perLink := make(map[uint32]uint32)
	var pairs, datagrams uint32
	for n := range m.Table.Slots {
		s := &m.Table.Slots[n]
		if s.State == model.SlotFree {
			continue
		}
		if s.State == model.SlotLive {
			if live[s.Key] {
				return fmt.Errorf("invariant: two live entries of %+v", s.Key)
			}
			live[s.Key] = true
		}
		switch {
		case s.Key.Kind == model.KindIPID && s.State == model.SlotLive:
			datagrams++
		case s.Key.Kind != model.KindFlow:
		case s.RW.Flags&model.FlagReverse == 0:
			if s.State == model.SlotLive {
				t := &m.Table.Slots[s.Twin]
				if t.State != model.SlotLive || t.Twin != uint32(n) || t.RW.Src != s.Key.Dst || t.Key.Dst != s.RW.Src {
					return fmt.Errorf("invariant: forward half %d is live without its partner", n)
				}
			}
		default:
			pairs++
			if s.RW.Flags&model.FlagInner == 0 {
				perLink[s.RW.Link]++
			}
			if reverse[s.Key] {
				return fmt.Errorf("invariant: NAT port used twice: %+v", s.Key)
			}
			reverse[s.Key] = true
			k := model.DomainKey{NAT: s.Key.Dst, Backend: s.Key.Src, Port: s.Key.SrcPort, VNet: s.Key.VNet, Proto: s.Key.Proto}
			if s.RW.Flags&model.FlagHA != 0 {
				k.Port = 0
			}
			used[k]++
			if s.State == model.SlotDead {
				resting[k]++
			}
		}
	}
	if pairs != m.Pairs || datagrams != m.Fragments {
		return fmt.Errorf("invariant: %d pairs and %d datagrams stand in the table, %d and %d are counted", pairs, datagrams, m.Pairs, m.Fragments)
	}
	for link, u := range m.Usage {
		if u.Pairs != perLink[link] {
			return fmt.Errorf("invariant: link %d has %d pairs, %d are counted", link, perLink[link], u.Pairs)
		}
	}
	for k, d := range m.PortDomains {
		if !filled[k] && (d.Used != used[k] || d.Resting != resting[k]) {
			return fmt.Errorf("invariant: domain %+v has %d ports in entries, %d resting; %d and %d are counted", k, used[k], resting[k], d.Used, d.Resting)
		}
	}
	return nil
}

// checkCounters asks whether every packet has one decision and one reason.
func checkCounters(m *model.Machine, packets, forwarded uint64) error {
	var sum uint64
	for r, c := range m.Reasons {
		switch model.Reason(r) {
		case model.RSTSent, model.ICMPSent, model.RSTLimited, model.ICMPLimited:
			// in addition to the packet's own reason
		default:
			sum += c.Packets
		}
	}
	if sum+forwarded != packets {
		return fmt.Errorf("invariant: %d packets came, %d went on and %d have a reason", packets, forwarded, sum)
	}
	return nil
}
