package inner

import (
	"errors"
	"net/netip"
)

// Destination is where a connection out of the inner VNet goes.
type Destination struct {
	// RuleSet and Rule are keys of the dataplane's State: they give the provider's network,
	// the NAT IPs and the backend.
	RuleSet, Rule string
	// Target is the backend and the port to reach there.
	Target netip.AddrPort
	// Link is the dataplane's own word for the link, with its generation, as Identify gave it;
	// 0 for a probe.
	Link uint64
}

// Door is the dataplane's side of dial entries.
type Door interface {
	// Admit writes a dial entry: a TCP connection from this inner address and port may leave to
	// the destination. It is asked for before connect. It fails if the destination is not
	// there, or its link no longer what it was.
	Admit(source netip.AddrPort, to Destination) error
	// Withdraw removes the entry when connect has succeeded or failed; a flow that exists stays.
	Withdraw(source netip.AddrPort)
}

// ErrLocal says that nothing was sent for want of something on this machine: descriptors, or the inner VNet's interface. It tells
// nothing about the destination.
var ErrLocal = errors.New("not possible from here")

// ErrNotAdmitted says that the dataplane does not know the destination, yet or any more.
var ErrNotAdmitted = errors.New("not admitted")

// ErrUnresolved is a reason not to be admitted: it is not known where the target is, and it was looked for.
var ErrUnresolved = errors.New("no answer to ARP")

// ErrPorts says that every source port waits for an answer to its connect.
var ErrPorts = errors.New("no inner source port free")

const (
	firstPort = 1024
	portCount = 65536 - firstPort
	farCount  = 1 << 16
	// wayLength is how many connections one socket may make, one after the other. Longer ways bring pairs of
	// addresses back sooner.
	wayLength = 32
)

// Way is a source address with the far addresses that only one socket connects to from there.
type Way struct {
	Source      netip.AddrPort
	next, until uint32 // far addresses
}

// Far returns the far address that the way was last taken for.
func (w *Way) Far(port uint16) netip.AddrPort { return netip.AddrPortFrom(far(w.next-1), port) }

// Ports hands out the addresses of connections from one source address. A port is taken
// from Take until Give, that is while its dial entry stands; afterwards another connection
// may have it, to another far address. Ports is not safe for concurrent use.
type Ports struct {
	source netip.Addr
	next   uint32
	round  uint32
	taken  [portCount / 64]uint64
}

// NewPorts returns the ports of the n-th user, 0..MaxDialers-1.
func NewPorts(n int) *Ports { return &Ports{source: DialSource(n)} }

// Take returns a way nobody has. 64,512 ports times 65,536 far addresses, less what sockets leave of their ways,
// pass before a pair comes again, so a socket in TIME_WAIT never stands in the way.
func (p *Ports) Take() (Way, error) {
	for range portCount {
		n := p.next
		round := p.round
		if p.next++; p.next == portCount {
			p.next = 0
			p.round = (p.round + 1) % (farCount / wayLength)
		}
		if p.take(n) {
			first := round * wayLength
			return Way{Source: netip.AddrPortFrom(p.source, uint16(firstPort+n)), next: first + 1, until: first + wayLength}, nil
		}
	}
	return Way{}, ErrPorts
}

// TakeAgain takes a way for one more connection of its socket, to the next far address. False if there
// is none left, or another connection has the port now.
func (p *Ports) TakeAgain(w *Way) bool {
	if w.next == w.until || !p.take(uint32(w.Source.Port())-firstPort) {
		return false
	}
	w.next++
	return true
}

func (p *Ports) take(n uint32) bool {
	bit := uint64(1) << (n % 64)
	if p.taken[n/64]&bit != 0 {
		return false
	}
	p.taken[n/64] |= bit
	return true
}

// Give returns a port whose dial entry is gone.
func (p *Ports) Give(source netip.AddrPort) {
	n := uint32(source.Port()) - firstPort
	p.taken[n/64] &^= 1 << (n % 64)
}
