package bench

import "net/netip"

// Forwarder is one way to get packets from the client's side of a gateway to the
// server's side and back. Its methods are called from one goroutine.
type Forwarder interface {
	// Name is a word for tables and metric names.
	Name() string
	// Up sets the forwarder up in the gateway of a topology. It is called once.
	Up(t *Topology) error
	// Translation says what it makes of the addresses; nil if it leaves them alone.
	Translation() *Translation
	// TTL is how much it takes off a packet's time to live.
	TTL() uint8
	// Forget ends all flows, so that the next packet of each is a first one.
	Forget() error
	// Drops is the number of packets it says it dropped so far, not counting the devices' own.
	Drops() (uint64, error)
	// Close takes it down. The topology may already be closed.
	Close() error
}

// Translation is what a NAT makes of the forward packets; replies get the inverse.
type Translation struct {
	FirstSource, LastSource         netip.Addr // both included
	FirstSourcePort, LastSourcePort uint16
	FirstBackend, LastBackend       netip.Addr
	BackendPort                     uint16
}

// expected is what the verifying sink has to see of a forwarder's packets.
func expected(f Forwarder, dir Direction, flows uint32) sinkExpected {
	want := sinkExpected{Client: hostOrder(firstClient), Flows: flows, TtlFirst: 64, TtlLast: 64}
	var tr *Translation
	if f != nil {
		tr = f.Translation()
		want.TtlFirst -= f.TTL()
		want.TtlLast = want.TtlFirst
	}
	dst, port := hostOrder(endpoint.Addr()), endpoint.Port()
	switch {
	case dir == Reverse:
		want.SaddrFirst, want.SaddrLast, want.SportFirst, want.SportLast = dst, dst, port, port
		want.DestinationIsClient = 1
	case tr == nil:
		want.SourceIsClient = 1
		want.DaddrFirst, want.DaddrLast, want.DportFirst, want.DportLast = dst, dst, port, port
	default:
		want.SaddrFirst, want.SaddrLast = hostOrder(tr.FirstSource), hostOrder(tr.LastSource)
		want.SportFirst, want.SportLast = tr.FirstSourcePort, tr.LastSourcePort
		want.DaddrFirst, want.DaddrLast = hostOrder(tr.FirstBackend), hostOrder(tr.LastBackend)
		want.DportFirst, want.DportLast = tr.BackendPort, tr.BackendPort
	}
	if dir == Forward {
		want.Record = 1
	}
	return want
}
