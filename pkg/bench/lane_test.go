package bench

import (
	"errors"
	"runtime"
	"testing"

	"github.com/privlink/privlink/pkg/lab"
)

func TestMain(m *testing.M) { lab.Main(m) }

func testCore(t *testing.T) *Core {
	t.Helper()
	core, err := NewCore(runtime.NumCPU() - 1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(core.Close)
	return core
}

func testLane(t *testing.T, f Forwarder) *Lane {
	t.Helper()
	l, err := NewLane(lab.New(t), testCore(t), f, 1024)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

func TestForwarders_AThousandFlows_RightInBothDirections(t *testing.T) {
	for _, f := range []Forwarder{
		nil, NewRedirect(XDP), NewRedirect(TC), NewReference(XDP, 4096), NewReference(TC, 4096),
		NewKernelForwarding(), NewNftables(), NewPrivlink(XDP, 4096, 2), NewPrivlink(TC, 4096, 2),
	} {
		l := testLane(t, f)
		t.Run(l.Name, func(t *testing.T) {
			for range 2 { // the second time after Forget
				if err := l.Open(1000); err != nil {
					t.Fatal(err)
				}
				for _, d := range Directions {
					s, err := l.Run(Plan{Direction: d, Flows: 1000, Packets: 2048, Warmup: 64, Scatter: true})
					if err != nil {
						t.Fatal(err)
					}
					if s.Sent != 2112 || s.Received != 2112 || s.NSPerPacket <= 0 {
						t.Errorf("%s: got %+v, want 2112 packets and a time", d, s)
					}
				}
				if f == nil {
					continue
				}
				if err := f.Forget(); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func TestOpen_WrongChecksum_FailsTheRun(t *testing.T) {
	l := testLane(t, NewRedirect(XDP))
	for _, c := range []struct {
		ip, l4 uint16
		fault  string
	}{{1, 0, "IP checksum"}, {0, 1, "L4 checksum"}} {
		if err := l.generators[Forward].Spoil(c.ip, c.l4); err != nil {
			t.Fatal(err)
		}
		var wrong *WrongPacketError
		if err := l.Open(64); !errors.As(err, &wrong) || wrong.Wrong[c.fault] != 64 || len(wrong.Sample) != 60 {
			t.Errorf("spoiled %s: got %v, want 64 of them wrong", c.fault, err)
		}
	}
	if err := l.generators[Forward].Spoil(0, 0); err != nil {
		t.Fatal(err)
	}
	if err := l.Open(64); err != nil {
		t.Errorf("after the spoiling: %v", err)
	}
}

// claim is a forwarder that says more of itself than it does.
type claim struct {
	*Redirect
	translation *Translation
	ttl         uint8
}

func (c claim) Translation() *Translation { return c.translation }
func (c claim) TTL() uint8                { return c.ttl }

func TestOpen_WrongAddressOrTTL_FailsTheRun(t *testing.T) {
	for fault, c := range map[string]claim{
		"source": {Redirect: NewRedirect(XDP), translation: NewNftables().Translation()},
		"TTL":    {Redirect: NewRedirect(XDP), ttl: 1},
	} {
		var wrong *WrongPacketError
		if err := testLane(t, c).Open(64); !errors.As(err, &wrong) || wrong.Wrong[fault] != 64 {
			t.Errorf("wrong %s: got %v, want 64 of them", fault, err)
		}
	}
}

// hole is a forwarder that loses everything without counting it.
type hole struct{ claim }

func (hole) Name() string       { return "hole" }
func (hole) Up(*Topology) error { return nil }
func (h hole) Close() error     { return nil }

func TestRun_PacketsLost_FailsTheRun(t *testing.T) {
	l := testLane(t, hole{})
	_, err := l.Run(Plan{Flows: 64, Packets: 640})
	var lost *LostError
	if !errors.As(err, &lost) || lost.Sent != 640 || lost.Received != 0 {
		t.Errorf("got %v, want 640 packets missing", err)
	}
}

func TestRun_MoreFlowsThanTheLaneHas_Refused(t *testing.T) {
	l := testLane(t, nil)
	if _, err := l.Run(Plan{Base: 1, Flows: 1024, Packets: 64}); err == nil {
		t.Error("flows beyond the lane's were sent")
	}
}
