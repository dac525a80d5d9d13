package bench

import (
	"testing"

	"github.com/privlink/privlink/pkg/dataplane"
)

func TestRun_DroppedByPrivlink_CountedOnce(t *testing.T) {
	for _, hook := range []Hook{XDP, TC} {
		f := NewPrivlink(hook, 4096, 1)
		l := testLane(t, f)
		if err := l.Open(1000); err != nil {
			t.Fatal(err)
		}
		f.state.Links[0].State = dataplane.LinkRejected
		if err := f.apply(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, d := range Directions {
			s, err := l.Run(Plan{Direction: d, Flows: 1000, Packets: 1000})
			if err != nil || s.Received != 0 || s.Dropped != 1000 {
				t.Errorf("%s %s: got %+v, %v; want 1000 packets dropped", hook, d, s, err)
			}
		}
	}
}
