package bench

import (
	"errors"
	"fmt"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/privlink/privlink/pkg/lab"
)

// Lane is a forwarder in a topology of its own, with a generator and a sink for each
// direction. All lanes of a comparison are up at once, so that rounds can take turns.
type Lane struct {
	Name      string
	Forwarder Forwarder // nil: the generators send straight into the sinks
	Topology  *Topology
	// Refused is how many openings of flows the forwarder refused and counted, of the last Open.
	Refused uint64

	flows      uint32 // at most
	generators [2]*Generator
	sinks      [2]*Sink
}

// Sample is one timed run.
type Sample struct {
	NSPerPacket float64
	Sent        uint64
	Received    uint64
	Dropped     uint64 // counted by a device or the forwarder
}

// LostError is a run in which packets went missing that nobody counted.
type LostError struct {
	Lane                    string
	Direction               Direction
	Sent, Received, Dropped uint64
}

func (e *LostError) Error() string {
	return fmt.Sprintf("run %s %s: %d packets sent, %d received, %d counted as dropped: %d are missing",
		e.Lane, e.Direction, e.Sent, e.Received, e.Dropped, int64(e.Sent)-int64(e.Received)-int64(e.Dropped))
}

// NewLane builds a topology with a forwarder (nil for none) for at most so many flows.
func NewLane(net *lab.Lab, core *Core, f Forwarder, flows uint32) (lane *Lane, err error) {
	l := &Lane{Name: "generator to sink", Forwarder: f, flows: flows}
	if f != nil {
		l.Name = f.Name()
	}
	defer func() {
		if err != nil {
			_ = l.Close()
			err = fmt.Errorf("set up %s: %w", l.Name, err)
		}
	}()
	t := NewTopology(net, hyphens(l.Name), takesXDP)
	l.Topology = t
	ends := [2]struct{ from, next, to Port }{
		Forward: {t.Client, t.GatewayClient, t.Server},
		Reverse: {t.Server, t.GatewayServer, t.Client},
	}
	if f == nil {
		ends[Forward].to, ends[Reverse].to = t.GatewayClient, t.GatewayServer
	}
	for _, d := range Directions {
		size := flows
		if d == Reverse {
			size = 1 // only the forward sink keeps what it saw
		}
		if l.sinks[d], err = NewSink(ends[d].to, size); err != nil {
			return nil, err
		}
	}
	for _, d := range Directions {
		l.generators[d], err = NewGenerator(core, ends[d].from, ends[d].next.MAC, l.sinks[Forward].Seen())
		if err != nil {
			return nil, err
		}
	}
	if f != nil {
		err = f.Up(t)
	}
	return l, err
}

// Run sends a plan's packets and accounts for every one: sent = received + dropped, or it fails.
func (l *Lane) Run(p Plan) (Sample, error) {
	if p.Base+p.Flows > l.flows {
		return Sample{}, fmt.Errorf("run %s: %d flows from %d on are more than the %d it was made for", l.Name, p.Flows, p.Base, l.flows)
	}
	received, dropped, err := l.counters(p.Direction)
	if err != nil {
		return Sample{}, err
	}
	sent, err := l.generators[p.Direction].Run(p)
	if err != nil {
		return Sample{}, fmt.Errorf("run %s: %w", l.Name, err)
	}
	// What is left in a ring when the call returns is on its way.
	for deadline := time.Now().Add(time.Second); ; time.Sleep(time.Millisecond) {
		r, d, err := l.counters(p.Direction)
		if err != nil {
			return Sample{}, err
		}
		s := Sample{NSPerPacket: sent.NSPerPacket, Sent: sent.Packets, Received: r - received, Dropped: d - dropped}
		if s.Received+s.Dropped == s.Sent {
			return s, nil
		}
		if s.Received+s.Dropped > s.Sent || time.Now().After(deadline) {
			return s, &LostError{l.Name + l.explain(), p.Direction, s.Sent, s.Received, s.Dropped}
		}
	}
}

func (l *Lane) counters(d Direction) (received, dropped uint64, err error) {
	if received, err = l.sinks[d].Received(); err != nil {
		return 0, 0, err
	}
	for _, port := range l.Topology.Ports() {
		n, err := port.drops()
		if err != nil {
			return 0, 0, err
		}
		dropped += n
	}
	if l.Forwarder == nil {
		return received, dropped, nil
	}
	n, err := l.Forwarder.Drops()
	return received, dropped + n, err
}

// openings is how often a flow may be refused, with a count of it, before the run fails.
const openings = 5

// Open opens flows 0..flows-1, one packet each in both directions, every one verified:
// checksums, addresses, and that no two flows look the same to the server. Who refuses a
// flow and counts that is asked again, and the number goes into Refused.
func (l *Lane) Open(flows uint32) error {
	l.Refused = 0
	for _, d := range Directions {
		if err := l.sinks[d].Verify(expected(l.Forwarder, d, flows)); err != nil {
			return err
		}
		for try := 1; ; try++ {
			arrived, dropped, err := l.pass(d, flows)
			if err != nil {
				return err
			}
			if dropped == 0 {
				break
			}
			if d == Reverse || try == openings {
				return fmt.Errorf("verify %s %s: %d packets arrived, %d dropped%s", l.Name, d, arrived, dropped, l.explain())
			}
			l.Refused += dropped
		}
		if err := l.sinks[d].Count(); err != nil {
			return err
		}
		if d == Forward {
			if err := l.distinct(flows); err != nil {
				return err
			}
		}
	}
	logrus.WithFields(logrus.Fields{"forwarder": l.Name, "flows": flows, "refused": l.Refused}).Debug("flows opened and verified")
	return nil
}

// pass sends one packet of each flow past the verifying sink.
func (l *Lane) pass(d Direction, flows uint32) (arrived, dropped uint64, err error) {
	before, err := l.sinks[d].Verdict()
	if err != nil {
		return 0, 0, err
	}
	s, err := l.Run(Plan{Direction: d, Flows: flows, Packets: uint64(flows)})
	if err != nil {
		return 0, 0, err
	}
	right, err := l.sinks[d].Verdict()
	if err != nil {
		return 0, 0, fmt.Errorf("verify %s %s: %w", l.Name, d, err)
	}
	if right-before != s.Received {
		return 0, 0, fmt.Errorf("verify %s %s: %d packets arrived, %d of them right", l.Name, d, s.Received, right-before)
	}
	return s.Received, s.Dropped, nil
}

// explain adds to an error what the forwarder knows of its drops.
func (l *Lane) explain() string {
	if f, ok := l.Forwarder.(interface{ Explain() string }); ok {
		return " (" + f.Explain() + ")"
	}
	return ""
}

// distinct checks that the server can tell all flows apart.
func (l *Lane) distinct(flows uint32) error {
	seen, err := l.sinks[Forward].Flows(flows)
	if err != nil {
		return err
	}
	owner := make(map[sinkSeen]uint32, len(seen))
	for i, s := range seen {
		if s.Packets == 0 {
			return fmt.Errorf("verify %s: flow %d never arrived", l.Name, i)
		}
		s.Packets = 0
		if other, ok := owner[s]; ok {
			return fmt.Errorf("verify %s: flows %d and %d both arrive from %s:%d", l.Name, other, i, wireAddr(s.Saddr), wirePort(s.Sport))
		}
		owner[s] = uint32(i)
	}
	return nil
}

// Close takes everything down.
func (l *Lane) Close() error {
	var errs []error
	if l.Forwarder != nil {
		errs = append(errs, l.Forwarder.Close())
	}
	for _, d := range Directions {
		if l.generators[d] != nil {
			errs = append(errs, l.generators[d].Close())
		}
		if l.sinks[d] != nil {
			errs = append(errs, l.sinks[d].Close())
		}
	}
	if l.Topology != nil {
		l.Topology.Close()
	}
	return errors.Join(errs...)
}
