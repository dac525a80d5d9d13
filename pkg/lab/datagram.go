package lab

import (
	"context"
	"encoding/binary"
	"net"
	"slices"
	"sync"
	"time"
)

// A sequence datagram: magic, then its number from 0 on, both big endian; padding to the size asked for.
const (
	sequenceMagic  = 0x706c7365
	sequenceHeader = 4 + 8
)

// Arrival is one datagram of a sequence as its receiver saw it.
type Arrival struct {
	Sequence uint64
	From     string // address and port of the sender as seen
	At       time.Time
}

// arrivals collects them; sender and receiver both do.
type arrivals struct {
	mu   sync.Mutex
	seen []Arrival
}

func (a *arrivals) add(data []byte, from string) bool {
	if len(data) < sequenceHeader || binary.BigEndian.Uint32(data) != sequenceMagic {
		return false
	}
	arrival := Arrival{Sequence: binary.BigEndian.Uint64(data[4:]), From: from, At: time.Now()}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.seen = append(a.seen, arrival)
	return true
}

// Arrivals returns everything that came so far, in the order it came.
func (a *arrivals) Arrivals() []Arrival {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.seen)
}

// FirstAfter returns the first arrival at or after the time.
func (a *arrivals) FirstAfter(t time.Time) (Arrival, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	i, _ := slices.BinarySearchFunc(a.seen, t, func(s Arrival, t time.Time) int { return s.At.Compare(t) })
	if i == len(a.seen) {
		return Arrival{}, false
	}
	return a.seen[i], true
}

// Last returns the latest arrival.
func (a *arrivals) Last() (Arrival, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.seen) == 0 {
		return Arrival{}, false
	}
	return a.seen[len(a.seen)-1], true
}

// Len says how many came.
func (a *arrivals) Len() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.seen)
}

// EchoServer sends every UDP datagram back to where it came from, and records those of sequences.
type EchoServer struct {
	arrivals
	Addr string

	conn net.PacketConn
	done chan struct{}
}

// EchoServer starts an echo server at the UDP address; it ends with Close or with the lab.
func (n *Namespace) EchoServer(address string) *EchoServer {
	n.lab.tb.Helper()
	conn, err := n.ListenPacket("udp4", address)
	if err != nil {
		n.fatal("echo UDP at", address, err)
	}
	e := &EchoServer{Addr: conn.LocalAddr().String(), conn: conn, done: make(chan struct{})}
	go func() {
		defer close(e.done)
		buffer := make([]byte, 1<<16)
		for {
			size, from, err := conn.ReadFrom(buffer)
			if isClosed(err) {
				return
			}
			if err != nil {
				continue // an ICMP error for an earlier echo
			}
			e.add(buffer[:size], from.String())
			_, _ = conn.WriteTo(buffer[:size], from) // whoever is gone misses nothing
		}
	}()
	n.lab.onClose(e.Close)
	return e
}

// Close ends the server.
func (e *EchoServer) Close() {
	e.conn.Close()
	<-e.done
}

// Sequence is a running stream of numbered datagrams; its arrivals are the echoes.
type Sequence struct {
	arrivals

	conn   net.Conn
	cancel context.CancelFunc
	wait   sync.WaitGroup

	sentMu sync.Mutex
	sent   []time.Time // by number
}

// SequenceOptions describe a stream.
type SequenceOptions struct {
	Local    string        // address or address and port; default: the kernel's choice
	Interval time.Duration // between datagrams; default 1 ms
	Size     int           // of the UDP payload in bytes; default and least: the header
}

// Sequence sends numbered datagrams to the remote UDP address at a steady pace until Stop, the
// context's or the lab's end, and records the echoes.
func (n *Namespace) Sequence(ctx context.Context, remote string, o SequenceOptions) *Sequence {
	n.lab.tb.Helper()
	conn, err := n.Dial(ctx, "udp4", o.Local, remote)
	if err != nil {
		n.fatal("send a sequence to", remote, err)
	}
	if o.Interval == 0 {
		o.Interval = time.Millisecond
	}
	ctx, cancel := context.WithCancel(ctx)
	s := &Sequence{conn: conn, cancel: cancel}
	s.wait.Go(func() { s.send(ctx, o) })
	s.wait.Go(func() {
		buffer := make([]byte, 1<<16)
		for {
			size, err := conn.Read(buffer)
			if isClosed(err) {
				return
			}
			if err == nil { // else an ICMP error, which says nothing of later datagrams
				s.add(buffer[:size], remote)
			}
		}
	})
	n.lab.onClose(s.Stop)
	return s
}

func (s *Sequence) send(ctx context.Context, o SequenceOptions) {
	ticker := time.NewTicker(o.Interval)
	defer ticker.Stop()
	data := make([]byte, max(o.Size, sequenceHeader))
	binary.BigEndian.PutUint32(data, sequenceMagic)
	for number := uint64(0); ; number++ {
		binary.BigEndian.PutUint64(data[4:], number)
		s.sentMu.Lock()
		s.sent = append(s.sent, time.Now())
		s.sentMu.Unlock()
		_, _ = s.conn.Write(data) // refused or no way: the next one may arrive
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// Sent returns when each datagram was sent, by its number.
func (s *Sequence) Sent() []time.Time {
	s.sentMu.Lock()
	defer s.sentMu.Unlock()
	return slices.Clone(s.sent)
}

// Stop ends the stream.
func (s *Sequence) Stop() {
	s.cancel()
	s.conn.Close()
	s.wait.Wait()
}
