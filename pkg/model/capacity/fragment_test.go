package capacity

import (
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/privlink/privlink/pkg/model"
)

// Fragments of this test: 24 bytes of UDP, then 8.
const (
	firstBytes = 24
	lastBytes  = 8
)

// A consumer sends nothing but first fragments for minutes, at a rate that goes round all ids every few seconds.
// No id that it left lying at the backend is given to anybody for 30 s, which is as long as a receiver keeps it; and
// every datagram of another consumer behind the same NAT IP gets an id that is its own until it is whole.
func TestFragments_LoneFirstOnesForMinutes_NoIDGivenTwice(t *testing.T) {
	const (
		seconds   = 100
		perSecond = 10_000
		hold      = 30       // seconds
		victim    = link + 1 // and its endpoint is the next address
		under     = 5        // seconds between the fragments of a datagram
	)
	onSite(t, 1<<18, 1, 1, func(s *site) error {
		c := config(s.indexes, s.homes, 1, 1)
		other := *c.Links[link]
		other.ID, other.Addr = other.ID+1, endpoint+1
		c.Links[victim] = &other
		c.Addresses[model.AddressKey{Addr: other.Addr, VNet: consumerNet}] = model.Address{Kind: model.AddressEndpoint, Link: victim}
		if err := s.Write(&c); err != nil {
			return err
		}
		lane := s.Lane()
		first, last := newFrame(model.UDP, macs[0], model.MAC{2, 9}), newFrame(model.UDP, macs[0], model.MAC{2, 9})
		binary.BigEndian.PutUint16(first[16:], 20+firstBytes)
		binary.BigEndian.PutUint16(first[20:], 0x2000)
		binary.BigEndian.PutUint16(first[38:], firstBytes+lastBytes)
		binary.BigEndian.PutUint16(last[16:], 20+lastBytes)
		binary.BigEndian.PutUint16(last[20:], firstBytes/8)
		src, sport := client(0)
		// send sends a fragment and returns the id that it left with.
		send := func(f frame, dst model.IP, id uint16) (uint16, bool, error) {
			at := binary.BigEndian.Uint32(f[34:])
			f.address(src, dst, sport, firstPort)
			if binary.BigEndian.Uint16(f[20:])&0x1fff != 0 {
				binary.BigEndian.PutUint32(f[34:], at) // no ports here
			}
			binary.BigEndian.PutUint16(f[18:], id)
			left, out, err := lane.Send(s.indexes[0], f)
			if err != nil || !left {
				return 0, false, err
			}
			return binary.BigEndian.Uint16(out[18:]), true, nil
		}
		type datagram struct{ id, given uint16 }
		type fragment struct {
			id uint16 // as it was sent
			at uint32
		}
		lying := make(map[uint16]fragment)  // the last lone fragment that left, by the id it got
		whole := make(map[uint16]datagram)  // datagrams that wait for their second fragment, by the id they got
		waiting := make(map[int][]datagram) // the same by the second in which it comes
		free := func(id uint16) error {
			if f, ok := lying[id]; ok && s.now-f.at < hold {
				return fmt.Errorf("id %d is given again %d s after a fragment of another datagram left with it", id, s.now-f.at)
			}
			if d, ok := whole[id]; ok {
				return fmt.Errorf("id %d is given, which datagram %d has", id, d.id)
			}
			return nil
		}
		attack, lone, arrived := uint16(0), 0, 0
		for second := range seconds {
			s.at(s.now + 1)
			if _, err := s.Sweep(0, s.homes+model.Window, s.now); err != nil {
				return err
			}
			for n := range 20 {
				d := datagram{id: uint16(second*7919 + n)}
				given, left, err := send(first, other.Addr, d.id)
				if err != nil || !left {
					return fmt.Errorf("second %d: the first fragment of datagram %d went no further (%w)", second, d.id, err)
				}
				if err := free(given); err != nil {
					return err
				}
				d.given = given
				whole[given] = d
				waiting[second+under] = append(waiting[second+under], d)
			}
			for range perSecond {
				attack++
				given, left, err := send(first, endpoint, attack)
				if err != nil {
					return err
				}
				if !left {
					continue
				}
				// The sender's ids come round: then it is the same fragment, sent again.
				if lying[given].id != attack {
					if err := free(given); err != nil {
						return err
					}
				}
				lying[given] = fragment{attack, s.now}
				lone++
			}
			for _, d := range waiting[second] {
				given, left, err := send(last, other.Addr, d.id)
				if err != nil || !left || given != d.given {
					return fmt.Errorf("second %d: datagram %d left with id %d and then with %d (%t, %w)", second, d.id, d.given, given, left, err)
				}
				delete(whole, given)
				arrived++
			}
		}
		t.Logf("%d of %d lone first fragments left; %d datagrams arrived whole", lone, seconds*perSecond, arrived)
		if lone < seconds/(hold+1)*4096 {
			t.Errorf("only %d lone fragments left", lone)
		}
		return nil
	})
}
