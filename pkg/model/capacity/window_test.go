package capacity

import (
	"testing"

	"github.com/privlink/privlink/pkg/dataplane"
	"github.com/privlink/privlink/pkg/model"
)

// A table in which all pairs are in use has a free slot in nearly every window still: of the flows that come as others go, a
// few in a million are refused for want of one. Keys come and go at random places, as they do for months.
func TestWindow_AllPairsInUse_AFewFlowsInAMillionFindNoSlot(t *testing.T) {
	const (
		homes, opens, most = 1 << 18, 2_000_000, 10
		generations        = 8 // what idles out in a round was opened so many rounds before
		round              = 40
		rest               = 16 // at least as long as a port rests
	)
	onSite(t, homes, natIPs, backendPorts, func(s *site) error {
		lane := s.Lane()
		f := newFrame(model.UDP, macs[0], model.MAC{2, 9})
		pairs := dataplane.RawPairs(homes)
		n, full := 0, 0
		for n < opens {
			for _, wait := range []uint32{round - rest, rest} { // ends, then frees
				s.at(s.now + wait)
				if _, err := s.Sweep(0, homes+model.Window, s.now); err != nil {
					return err
				}
			}
			for range min(pairs-s.Pairs(), pairs/generations+1) {
				src, sport := client(n)
				if _, _, err := lane.Send(s.indexes[0], f.address(src, endpoint, sport, firstPort+uint16(n%backendPorts))); err != nil {
					return err
				}
				n++
			}
			if s.Pairs() > pairs-pairs/100 {
				full++
			}
		}
		stats, err := s.LinkStats(link)
		if err != nil {
			return err
		}
		reasons, err := s.Reasons()
		if err != nil {
			return err
		}
		refused := reasons[model.WindowFull]
		t.Logf("%d flows came, %d found no slot; %d rounds ended with 99 %% of %d pairs in use", n, refused, full, pairs)
		if stats.Opened+refused != uint64(n) {
			t.Errorf("%d flows came, %d were opened and %d found no slot", n, stats.Opened, refused)
		}
		if refused > most {
			t.Errorf("%d of %d flows found no slot, want at most %d", refused, n, most)
		}
		if want := opens / int(pairs/generations+1) / 2; full < want {
			t.Errorf("%d rounds ended with nearly all pairs in use, want %d", full, want)
		}
		return nil
	})
}
