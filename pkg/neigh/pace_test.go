package neigh

import (
	"net/netip"
	"testing"
	"time"
)

// A pool of a thousand backends: were they all asked for at once, the packet programs would report 200 answers, again
// and again only as many.
func TestResolver_ThousandAddresses_AskedNoFasterThanAnswersAreReported(t *testing.T) {
	n := &network{t: t, now: time.Unix(1000, 0)}
	r := NewResolver(n.transmit, func(Key, Neighbour) {})
	wants := make(map[Key]Want, 1000)
	for i := range 1000 {
		wants[Key{VNet: 3, Addr: netip.AddrFrom4([4]byte{10, 9, byte(i >> 8), byte(i)})}] = Want{Ports: []Port{port1}, Sender: ours}
	}
	r.Set(wants, n.now)
	const reported = 200 // ARP_PER_SECOND in bpf/types.h
	const slices = 20    // of a second; answers come soon
	found, lately := 0, 0
	for slice := range 7 * slices {
		if slice%slices == 0 {
			lately = 0
		}
		n.run(time.Second/slices, r.Tick)
		for _, s := range n.take() {
			if lately++; lately > reported {
				t.Errorf("more questions in second %d than the %d whose answers are reported", slice/slices, reported)
				return
			}
			r.Heard(3, port1.Slot, netip.AddrFrom4([4]byte(s.arp.DstProtAddress)), someone, n.now)
		}
	}
	for key := range wants {
		if r.Get(key).Known {
			found++
		}
	}
	if found != len(wants) {
		t.Errorf("%d of %d addresses found", found, len(wants))
	}
}

// Two thousand addresses that are not there keep all questions busy that may be asked; one that is new is found at once, and
// one that is known is asked for on time.
func TestResolver_ThousandsAbsent_OthersAreFoundAndRefreshed(t *testing.T) {
	n := &network{t: t, now: time.Unix(1000, 0)}
	r := NewResolver(n.transmit, func(Key, Neighbour) {})
	wants := make(map[Key]Want, 2002)
	for i := range 2000 {
		wants[Key{VNet: 3, Addr: netip.AddrFrom4([4]byte{10, 9, byte(i >> 8), byte(i)})}] = Want{Ports: []Port{port1}, Sender: ours}
	}
	there := Key{VNet: 3, Addr: netip.MustParseAddr("10.1.0.1")}
	asked := time.Time{}
	run := func(d time.Duration, done func() bool) {
		t.Helper()
		for end := n.now.Add(d); n.now.Before(end); {
			n.run(10*time.Millisecond, r.Tick)
			for _, s := range n.take() {
				if addr := netip.AddrFrom4([4]byte(s.arp.DstProtAddress)); addr == there.Addr {
					asked = n.now
					r.Heard(3, port1.Slot, addr, someone, n.now)
				}
			}
			if done() {
				return
			}
		}
	}
	never := func() bool { return false }
	r.Set(wants, n.now)
	run(30*time.Second, never)
	wants[there] = Want{Ports: []Port{port1}, Sender: ours}
	r.Set(wants, n.now)
	began := n.now
	run(10*time.Second, func() bool { return r.Get(there).Known })
	if took := n.now.Sub(began); !r.Get(there).Known || took > 2*askWindow {
		t.Errorf("found after %v, want %v", took, 2*askWindow)
	}
	for range 3 {
		last := asked
		run(30*time.Second, func() bool { return asked != last })
		if after := asked.Sub(last); after < refreshAfter || after > refreshAfter+2*askWindow {
			t.Errorf("asked for again after %v, want %v", after, refreshAfter)
		}
	}
}
