package capacity

import (
	"encoding/binary"
	"fmt"
	"math"
	"testing"

	"github.com/privlink/privlink/pkg/maglev"
	"github.com/privlink/privlink/pkg/model"
)

// balancedFlows go through the program for each table.
const balancedFlows = 100_000

// Where flows go is even, or follows the weights, within 2 % and four standard deviations; and one backend that goes
// or comes moves its own share of flows and no more than 2 % of all beside.
func TestBalance_HundredThousandFlows_EvenAndLittleMoves(t *testing.T) {
	for _, c := range []struct {
		name     string
		backends int
		every    int // of how many backends one is taken out
		weight   func(i int) uint16
	}{
		{"1:1", 8, 1, func(int) uint16 { return 1 }},
		{"1:3", 8, 1, func(i int) uint16 { return uint16(1 + 2*(i%2)) }},
		{"64 backends", 64, 21, func(int) uint16 { return 1 }}, // a table four times as large
	} {
		t.Run(c.name, func(t *testing.T) {
			weights, total := make([]uint16, c.backends), 0.0
			for i := range weights {
				weights[i] = c.weight(i)
				total += float64(weights[i])
			}
			onSite(t, 1<<20, natIPs, 1, func(s *site) error {
				all, err := s.balance(weights, -1)
				if err != nil {
					return err
				}
				counts := make([]int, c.backends)
				for _, b := range all {
					counts[b]++
				}
				for i, n := range counts {
					share := float64(weights[i]) / total
					want := share * balancedFlows
					allowed := 0.02*want + 4*math.Sqrt(want*(1-share))
					if d := math.Abs(float64(n) - want); d > allowed {
						t.Errorf("backend %d of weight %d has %d flows, want %.0f and %.0f more or less", i, weights[i], n, want, allowed)
					}
				}
				worst := 0.0
				for gone := 0; gone < c.backends; gone += c.every {
					left, err := s.balance(weights, gone)
					if err != nil {
						return err
					}
					moved, kept := 0, 0
					for n, now := range left {
						b := int(now)
						switch {
						case b == gone:
							return fmt.Errorf("flow %d goes to backend %d, which is gone", n, gone)
						case b != int(all[n]):
							moved++
						default:
							kept++
						}
					}
					share := float64(weights[gone]) / total
					worst = max(worst, float64(moved)/balancedFlows-share)
					if float64(moved) > (share+0.02)*balancedFlows {
						t.Errorf("without backend %d, %d flows of %d move", gone, moved, moved+kept)
					}
				}
				t.Logf("flows %v; at most %.2f %% move beside those of the backend that goes or comes", counts, 100*worst)
				return nil
			})
		})
	}
}

// balance opens the flows anew with one table of backends, without one of them if gone is its number, and returns
// the backend of each.
func (s *site) balance(weights []uint16, gone int) ([]uint8, error) {
	c := config(s.indexes, s.homes, natIPs, 1)
	var names []string
	var of []uint16
	var slots []uint32
	for i, w := range weights {
		slot := uint32(i + 1)
		backend := *c.Backends[1]
		backend.Addr = backendIP + model.IP(i)
		c.Backends[slot] = &backend
		if i != gone {
			names, of, slots = append(names, fmt.Sprintf("backend %d", i)), append(of, w), append(slots, slot)
		}
	}
	table := maglev.Build(names, of, maglev.Size(len(names)), [2]uint64{3, 4})
	places := make([]uint32, len(table))
	for i, n := range table {
		places[i] = slots[n]
	}
	c.Places[1] = places
	if err := s.Write(&c); err != nil {
		return nil, err
	}
	if err := s.Reset(); err != nil {
		return nil, err
	}
	s.at(s.now)
	s.SetClock(s.now, 1)
	lane := s.Lane()
	f := newFrame(model.UDP, macs[0], model.MAC{2, 9})
	chosen := make([]uint8, balancedFlows)
	for n := range chosen {
		src, sport := client(n)
		left, out, err := lane.Send(s.indexes[0], f.address(src, endpoint, sport, firstPort))
		if err != nil || !left {
			return nil, fmt.Errorf("flow %d was not opened (%w)", n, err)
		}
		chosen[n] = uint8(model.IP(binary.BigEndian.Uint32(out[30:])) - backendIP)
	}
	return chosen, nil
}
