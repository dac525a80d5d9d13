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
