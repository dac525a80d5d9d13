package dataplane

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"

	"github.com/privlink/privlink/pkg/neigh"
)

// nudge names one end of an ended pair that was asked for its numbers.
type nudge struct {
	slot, state uint32
	backend     bool
}

// nudgeTries is how often an end is asked, once a sweep: for its numbers, whether it believed the RST, and again for what was lost.
const nudgeTries = 5

// nudgesPerSweep bounds what one sweep sends; the rest comes with the next ones.
const nudgesPerSweep = 20000

// lost are the addresses that flows may stand on no longer.
type lost struct {
	gone map[bpfAddressKey]bpfAddress
	// held are all there are; nil when gone tells everything. A daemon that died between taking an address away and ending its
	// flows leaves the next one no other trace.
	held map[bpfAddressKey]bool
}

// takeLost hands over what was noted since the last time, less what is back. mu is held.
func (d *Dataplane) takeLost() lost {
	l := lost{gone: d.gone}
	d.gone = make(map[bpfAddressKey]bpfAddress)
	for key, was := range l.gone {
		if now, ok := d.addresses[key]; ok && now.Link == was.Link {
			delete(l.gone, key)
		}
	}
	if d.strays {
		d.strays = false
		l.held = make(map[bpfAddressKey]bool, len(d.addresses))
		for key := range d.addresses {
			l.held[key] = true
		}
	}
	return l
}

func (l lost) none() bool { return len(l.gone) == 0 && l.held == nil }

// has says whether a half of a pair came to an address that is lost: the reverse one to a NAT IP or
// frontend, the forward one to an endpoint of a network that is peered no more.
func (l lost) has(e entry) bool {
	key := bpfAddressKey{Addr: e.Key.Daddr, Vnet: e.Key.Vnet}
	peered := bpfAddressKind(l.gone[key].Kind) == bpfAddressKindADDR_PEERED
	if e.reverse() {
		if _, ok := l.gone[key]; ok && !peered {
			return true
		}
	} else if peered && l.gone[key].Link == e.Rw.Tag.Of.Link {
		return true
	}
	inner := !e.reverse() && e.Rw.Tag.Of.Flags&uint16(bpfFlowFlagsFLOW_INNER) != 0 // dialled: to no address of ours
	return l.held != nil && !inner && !l.held[key]
}

// endFlows ends the pairs of addresses that are gone, and asks both ends of every ended pair for their
// numbers: a bare ACK with made-up ones is answered with the right ones (RFC 5961, 5.2), and that
// answer meets the ended pair and gets its RST. An end that got a RST is asked as well: it ignored the RST if data
// was on its way to it meanwhile, and says so with an ACK; where its socket is gone it says that with a RST, which ends
// the asking. Nobody who is silent is waited for: the pair stays as long as it would, and whatever an end sends gets the RST.
func (d *Dataplane) endFlows(ctx context.Context) error {
	d.readers.RLock()
	defer d.readers.RUnlock()
	d.mu.Lock()
	lost := d.takeLost()
	asked := d.nudged
	unanswered := d.pass.Unanswered
	d.mu.Unlock()
	if lost.none() && unanswered == 0 {
		d.setNudged(nil)
		return nil
	}
	again := make(map[nudge]int)
	sent, ended := 0, false
	err := d.k.scan(ctx, func(e entry) bool {
		if !e.flow() {
			return true
		}
		if lost.has(e) && e.phase() != bpfFlowPhasePHASE_ENDED {
			if err := d.k.end(e, true); err != nil {
				d.log.WithError(err).Error("ending a flow of an address that is gone")
			}
			ended = true
			return true
		}
		if e.reverse() || e.phase() != bpfFlowPhasePHASE_ENDED || Protocol(e.Key.Proto) != ProtocolTCP {
			return true
		}
		for _, end := range []struct {
			backend bool
			over    bpfFlowFlags
		}{{false, bpfFlowFlagsFLOW_OVER_CLIENT}, {true, bpfFlowFlagsFLOW_OVER_BACKEND}} {
			key := nudge{e.slot, e.State, end.backend}
			if e.Rw.Tag.Of.Flags&uint16(end.over) != 0 {
				continue
			}
			if asked[key] >= nudgeTries || sent >= nudgesPerSweep {
				if n := asked[key]; n > 0 {
					again[key] = n
				}
				continue
			}
			sent++
			again[key] = asked[key] + 1
			d.nudge(e, end.backend)
		}
		return true
	})
	d.setNudged(again)
	if ended {
		poke(d.sweeper) // it counts those that are owed a RST, and they are asked at once
	}
	if err != nil {
		return fmt.Errorf("end flows: %w", err)
	}
	return nil
}

func (d *Dataplane) setNudged(n map[nudge]int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.nudged = n
}

// end ends a pair, if the entry is still that of e. With mark its ends are owed a RST.
func (k *kernel) end(e entry, mark bool) error {
	ending := bpfEnding{Slot: e.slot, State: e.State}
	if mark {
		ending.Mark = 1
	}
	return runSyscall(k.endPair, &ending)
}

// nudge sends one end of a pair a bare ACK, as if it came from the other.
func (d *Dataplane) nudge(e entry, toBackend bool) {
	var frame []byte
	var port neigh.Port
	if toBackend {
		b := d.k.backends.load(min(e.Rw.Via.Forward.Backend, d.k.backends.count-1))
		port = d.k.port(b.Hop.Out)
		frame = bareACK(port, b.Hop.Mac, e.Rw.Saddr, e.Rw.Daddr, e.Rw.Sport, e.Rw.Dport)
	} else {
		twin, ok := d.k.read(e.Twin)
		if !ok || twin.Twin != e.slot {
			return
		}
		mac, out := clientOf(twin)
		port = d.k.port(out)
		frame = bareACK(port, mac, twin.Rw.Saddr, twin.Rw.Daddr, twin.Rw.Sport, twin.Rw.Dport)
	}
	if port.Ifindex == 0 {
		return
	}
	// A nudge that is lost is sent again by the next sweep, a few times.
	_ = d.socket.Send(port, frame)
}

// clientOf is the MAC and the output in a reverse half (struct hop shares its place with via_forward).
func clientOf(reverse entry) (mac neigh.MAC, out uint16) {
	var raw [8]byte
	binary.NativeEndian.PutUint32(raw[:], reverse.Rw.Via.Forward.Backend)
	binary.NativeEndian.PutUint16(raw[4:], reverse.Rw.Via.Forward.BackendGen)
	binary.NativeEndian.PutUint16(raw[6:], reverse.Rw.Via.Forward.Client)
	return neigh.MAC(raw[:6]), binary.NativeEndian.Uint16(raw[6:])
}

// port is an output as frames of our own leave by it; Ifindex 0 when it is gone.
func (k *kernel) port(slot uint16) neigh.Port {
	if uint32(slot) >= k.outs.count || slot == 0 {
		return neigh.Port{}
	}
	o := k.outs.load(uint32(slot))
	return neigh.Port{Slot: slot, Ifindex: int(o.Ifindex), VLAN: o.Vlan, MAC: o.Mac}
}

const (
	etherIPv4   = 0x0800
	tcpACK      = 0x10
	nudgeWindow = 1024
	nudgeTTL    = 64
)

// bareACK builds a TCP segment with the ACK bit, no data and random numbers. Addresses and ports are in
// network order, as the maps have them.
func bareACK(p neigh.Port, dst neigh.MAC, saddr, daddr uint32, sport, dport uint16) []byte {
	const ipLen, tcpLen = 20, 20
	frame := neigh.Ethernet(p, dst, etherIPv4)
	var b [ipLen + tcpLen]byte
	ip, tcp := b[:ipLen], b[ipLen:]
	ip[0] = 4<<4 | ipLen/4
	binary.BigEndian.PutUint16(ip[2:], ipLen+tcpLen)
	ip[6] = 0x40 // DF: an IP id of 0 names nothing then (RFC 6864)
	ip[8], ip[9] = nudgeTTL, byte(ProtocolTCP)
	binary.NativeEndian.PutUint32(ip[12:], saddr)
	binary.NativeEndian.PutUint32(ip[16:], daddr)
	binary.BigEndian.PutUint16(ip[10:], checksum(ip))
	binary.NativeEndian.PutUint16(tcp[0:], sport)
	binary.NativeEndian.PutUint16(tcp[2:], dport)
	binary.BigEndian.PutUint32(tcp[4:], rand.Uint32())
	binary.BigEndian.PutUint32(tcp[8:], rand.Uint32())
	tcp[12], tcp[13] = tcpLen/4<<4, tcpACK
	binary.BigEndian.PutUint16(tcp[14:], nudgeWindow)
	pseudo := make([]byte, 0, 12+tcpLen)
	pseudo = append(pseudo, ip[12:20]...)
	pseudo = append(pseudo, 0, byte(ProtocolTCP), 0, tcpLen)
	binary.BigEndian.PutUint16(tcp[16:], checksum(append(pseudo, tcp...)))
	frame = append(frame, b[:]...)
	for len(frame) < 60 {
		frame = append(frame, 0)
	}
	return frame
}

// checksum is the Internet checksum (RFC 1071) of an even number of bytes.
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}
