package neigh

import (
	"bytes"
	"net/netip"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

// network records what is sent; time stands where the test puts it.
type network struct {
	t    *testing.T
	now  time.Time
	sent []sent
}

type sent struct {
	port  Port
	frame []byte
	arp   *layers.ARP
	dst   MAC
}

func (n *network) transmit(p Port, frame []byte) error {
	packet := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default)
	arp, ok := packet.Layer(layers.LayerTypeARP).(*layers.ARP)
	if !ok {
		n.t.Fatalf("sent something that is no ARP: %v", packet)
	}
	n.sent = append(n.sent, sent{p, frame, arp, MAC(frame[:6])})
	return nil
}

// run calls tick whenever it asks for it, until the given time has passed.
func (n *network) run(d time.Duration, tick func(time.Time) time.Time) {
	end := n.now.Add(d)
	for {
		next := tick(n.now)
		if next.IsZero() || next.After(end) {
			n.now = end
			return
		}
		n.now = next
	}
}

func (n *network) take() []sent {
	s := n.sent
	n.sent = nil
	return s
}

var (
	port1   = Port{Slot: 1, Ifindex: 11, MAC: MAC{2, 0, 0, 0, 0, 1}}
	port2   = Port{Slot: 2, Ifindex: 12, VLAN: 7, MAC: MAC{2, 0, 0, 0, 0, 2}}
	someone = MAC{2, 0, 0, 0, 0, 9}
	key     = Key{VNet: 3, Addr: netip.MustParseAddr("10.0.1.4")}
	ours    = netip.MustParseAddr("10.0.2.5")
)

func newResolver(t *testing.T) (*network, *Resolver, *[]Neighbour) {
	n := &network{t: t, now: time.Unix(1000, 0)}
	var changes []Neighbour
	r := NewResolver(n.transmit, func(k Key, is Neighbour) {
		if k != key {
			t.Errorf("change of %v", k)
		}
		changes = append(changes, is)
	})
	r.Set(map[Key]Want{key: {Ports: []Port{port1, port2}, Sender: ours}}, n.now)
	return n, r, &changes
}

func TestResolver_Unknown_AsksEverywhereThenSaysLost(t *testing.T) {
	n, r, changes := newResolver(t)
	n.run(time.Second, r.Tick)
	out := n.take()
	if len(out) != 2*triesToLost {
		t.Fatalf("%d requests in the first second", len(out))
	}
	for i, s := range out {
		want := port1
		if i%2 == 1 {
			want = port2
		}
		if s.port != want || s.dst != Broadcast || s.arp.Operation != OpRequest || !bytes.Equal(s.arp.SourceProtAddress, ours.AsSlice()) ||
			!bytes.Equal(s.arp.DstProtAddress, key.Addr.AsSlice()) || MAC(s.arp.SourceHwAddress) != want.MAC {
			t.Errorf("request %d: %+v", i, s)
		}
		if tagged := s.frame[12] == 0x81; tagged != (want.VLAN != 0) || tagged && s.frame[15] != 7 {
			t.Errorf("request %d has the wrong tag: %x", i, s.frame[:18])
		}
		if len(s.frame) < minFrame {
			t.Errorf("request %d has %d bytes", i, len(s.frame))
		}
	}
	n.run(time.Second, r.Tick)
	if len(*changes) != 1 || !(*changes)[0].Lost || (*changes)[0].Known {
		t.Errorf("changes: %+v", *changes)
	}
	n.run(time.Minute, r.Tick)
	if slow := len(n.take()); slow > 2*15 {
		t.Errorf("%d requests in a minute for somebody who is not there", slow)
	}
}

func TestResolver_Answer_GivesPortAndIsRefreshed(t *testing.T) {
	n, r, changes := newResolver(t)
	r.Tick(n.now)
	n.take()
	r.Heard(key.VNet, port2.Slot, key.Addr, someone, n.now)
	if is := r.Get(key); !is.Known || is.Lost || is.MAC != someone || is.Port != port2 || len(*changes) != 1 {
		t.Fatalf("after the answer: %+v, changes %v", is, *changes)
	}
	n.run(refreshAfter-time.Second, r.Tick)
	if out := n.take(); len(out) != 0 {
		t.Fatalf("asked again too early: %d", len(out))
	}
	n.run(time.Second, r.Tick)
	out := n.take()
	if len(out) != 1 || out[0].dst != someone || out[0].port != port2 {
		t.Fatalf("refresh: %+v", out)
	}
	r.Heard(key.VNet, port2.Slot, key.Addr, someone, n.now)
	if len(*changes) != 1 {
		t.Error("the same answer counts as a change")
	}
}

func TestResolver_Silence_KeepsMACAndSaysLost(t *testing.T) {
	n, r, changes := newResolver(t)
	r.Tick(n.now)
	r.Heard(key.VNet, port1.Slot, key.Addr, someone, n.now)
	n.run(refreshAfter+refreshTries*refreshRetry+2*time.Second, r.Tick)
	is := r.Get(key)
	if !is.Known || !is.Lost || is.MAC != someone || len(*changes) != 2 {
		t.Fatalf("after silence: %+v, %d changes", is, len(*changes))
	}
	moved := MAC{2, 0, 0, 0, 0, 10}
	r.Heard(key.VNet, port2.Slot, key.Addr, moved, n.now)
	if is := r.Get(key); is.Lost || is.MAC != moved || is.Port != port2 {
		t.Errorf("after it came back elsewhere: %+v", is)
	}
}

func TestResolver_ElsewhereOrUnasked_IsIgnored(t *testing.T) {
	n, r, changes := newResolver(t)
	r.Heard(key.VNet, 99, key.Addr, someone, n.now)
	r.Heard(key.VNet+1, port1.Slot, key.Addr, someone, n.now)
	r.Heard(key.VNet, port1.Slot, ours, someone, n.now)
	if len(*changes) != 0 || r.Get(key).Known {
		t.Errorf("changes: %+v", *changes)
	}
}

func TestResolver_Adopted_IsKnownAtOnce(t *testing.T) {
	n := &network{t: t, now: time.Unix(1000, 0)}
	r := NewResolver(n.transmit, func(Key, Neighbour) {})
	want := Want{Ports: []Port{port1}, Sender: ours}
	r.Adopt(key, want, someone, port1.Slot, n.now)
	r.Set(map[Key]Want{key: want}, n.now)
	if is := r.Get(key); !is.Known || is.MAC != someone {
		t.Fatalf("adopted: %+v", is)
	}
	r.Tick(n.now)
	if out := n.take(); len(out) != 1 || out[0].dst != someone {
		t.Errorf("an adopted neighbour is not asked at once: %+v", out)
	}
	fresh := port1
	fresh.Ifindex, fresh.MAC = 21, MAC{2, 0, 0, 0, 0, 3}
	r.Set(map[Key]Want{key: {Ports: []Port{fresh}, Sender: ours}}, n.now)
	if is := r.Get(key); !is.Known || is.Port != fresh {
		t.Errorf("its interface was made anew: %+v", is)
	}
	r.Set(map[Key]Want{key: {Ports: []Port{port2}, Sender: ours}}, n.now)
	if is := r.Get(key); is.Known {
		t.Errorf("its interface is gone: %+v", is)
	}
}

func newProber(t *testing.T, ports ...Port) (*network, *Prober, *[]Claim) {
	n := &network{t: t, now: time.Unix(1000, 0)}
	var changes []Claim
	p := NewProber(n.transmit, func(uint16) []Port { return ports }, func(_ Key, c Claim) { changes = append(changes, c) })
	p.Set(map[Key]bool{key: true}, n.now)
	return n, p, &changes
}

func TestProber_Silence_ThenAnnounced(t *testing.T) {
	n, p, changes := newProber(t, port1, port2)
	n.run((probeCount-1)*probeInterval, p.Tick)
	out := n.take()
	if len(out) != 2*probeCount || len(*changes) != 0 || len(p.Pending()) != 1 {
		t.Fatalf("%d probes, changes %v", len(out), *changes)
	}
	for _, s := range out {
		if !bytes.Equal(s.arp.SourceProtAddress, []byte{0, 0, 0, 0}) || !bytes.Equal(s.arp.DstProtAddress, key.Addr.AsSlice()) {
			t.Errorf("probe: %+v", s.arp)
		}
	}
	n.run(probeInterval, p.Tick)
	if len(*changes) != 1 || !p.Get(key).Ours || len(p.Pending()) != 0 {
		t.Fatalf("not ours after silence: %+v", *changes)
	}
	n.run(time.Minute, p.Tick)
	out = n.take()
	if len(out) != 2*announceCount {
		t.Fatalf("%d announcements", len(out))
	}
	for _, s := range out {
		if !bytes.Equal(s.arp.SourceProtAddress, key.Addr.AsSlice()) || !bytes.Equal(s.arp.DstProtAddress, key.Addr.AsSlice()) {
			t.Errorf("announcement: %+v", s.arp)
		}
	}
	p.Announce(key.VNet, n.now)
	n.run(time.Minute, p.Tick)
	if out := n.take(); len(out) != 2*announceCount {
		t.Errorf("%d announcements after the interface returned", len(out))
	}
}

func TestProber_SomebodyAnswers_IsAConflictUntilItGoes(t *testing.T) {
	for name, heard := range map[string]func(*Prober, time.Time){
		"owner": func(p *Prober, now time.Time) { p.Heard(key.VNet, port1.Slot, key.Addr, ours, someone, now) },
		"second probe": func(p *Prober, now time.Time) {
			p.Heard(key.VNet, port1.Slot, netip.IPv4Unspecified(), key.Addr, someone, now)
		},
	} {
		t.Run(name, func(t *testing.T) {
			n, p, changes := newProber(t, port1)
			p.Tick(n.now)
			heard(p, n.now)
			if c := p.Get(key); !c.Conflict || c.Other != someone || c.Port != port1 || len(*changes) != 1 || len(p.Conflicts()) != 1 {
				t.Fatalf("claim %+v, changes %v", c, *changes)
			}
			n.run(conflictRetry+probeCount*probeInterval, p.Tick)
			if c := p.Get(key); !c.Ours || c.Conflict {
				t.Errorf("after the other went: %+v", c)
			}
		})
	}
}

func TestProber_OwnFrames_AreNoConflict(t *testing.T) {
	n, p, changes := newProber(t, port1, port2)
	p.Tick(n.now)
	p.Heard(key.VNet, port2.Slot, key.Addr, key.Addr, port1.MAC, n.now)
	if len(*changes) != 0 {
		t.Errorf("changes: %+v", *changes)
	}
}

func TestProber_Contested_IsDefendedNotGivenUp(t *testing.T) {
	n, p, _ := newProber(t, port1)
	n.run(time.Minute, p.Tick)
	n.take()
	for range 5 {
		p.Heard(key.VNet, port1.Slot, key.Addr, key.Addr, someone, n.now)
	}
	if out := n.take(); len(out) != 1 || !p.Get(key).Ours {
		t.Errorf("%d announcements, %+v", len(out), p.Get(key))
	}
}

func TestProber_NoPorts_IsOursAtOnce(t *testing.T) {
	n, p, _ := newProber(t)
	p.Tick(n.now)
	if !p.Get(key).Ours {
		t.Error("an address of a network without interfaces waits for nothing")
	}
}
