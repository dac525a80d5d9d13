package load

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"sync"
	"time"
)

// stream is a sequence of numbered datagrams and which of them came back.
type stream struct {
	conn net.Conn

	mu     sync.Mutex
	sent   []int64  // by number: when, Unix time in ns
	back   []uint64 // a bit for each number
	missed int      // sent and not back
	newest uint64   // highest number that is back
}

func newStream(conn net.Conn) *stream { return &stream{conn: conn} }

// catchUp is how many datagrams go out at one tick at most: a machine that stood still for a while must not
// send a burst that fills the 256 places of a veth's ring.
const catchUp = 4

// send sends one datagram at every tick; a tick that was missed is made up for at the next ones, as the
// stream's number of packets should not depend on how busy the machine is.
func (s *stream) send(ctx context.Context, interval time.Duration) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	begin := time.Now()
	var data [64]byte
	for {
		due := min(uint64(time.Since(begin)/interval)+1, uint64(len(s.sent))+catchUp)
		for number := uint64(len(s.sent)); number < due; number++ {
			binary.BigEndian.PutUint64(data[:], number)
			s.mu.Lock()
			s.sent = append(s.sent, time.Now().UnixNano())
			if number/64 >= uint64(len(s.back)) {
				s.back = append(s.back, 0)
			}
			s.missed++
			s.mu.Unlock()
			_, _ = s.conn.Write(data[:]) // refused or no way: lost
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (s *stream) receive() {
	buffer := make([]byte, 1<<16)
	for {
		size, err := s.conn.Read(buffer)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || size < 8 {
			continue // an ICMP error, which says nothing of later datagrams
		}
		number := binary.BigEndian.Uint64(buffer)
		s.mu.Lock()
		if bit := uint64(1) << (number % 64); number < uint64(len(s.sent)) && s.back[number/64]&bit == 0 {
			s.back[number/64] |= bit
			s.missed--
			s.newest = max(s.newest, number)
		}
		s.mu.Unlock()
	}
}

// known is when the newest datagram was sent that is back.
func (s *stream) known() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.sent) == 0 {
		return time.Now()
	}
	return time.Unix(0, s.sent[s.newest])
}

// end waits for the last echoes and says how many datagrams were sent and when the lost ones were. send has returned.
func (s *stream) end() (sent int, lost []time.Time) {
	for limit := time.Now().Add(settle); time.Now().Before(limit); time.Sleep(10 * time.Millisecond) {
		s.mu.Lock()
		all := s.missed == 0
		s.mu.Unlock()
		if all {
			break
		}
	}
	s.conn.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	for number, at := range s.sent {
		if s.back[number/64]&(1<<(number%64)) == 0 {
			lost = append(lost, time.Unix(0, at))
		}
	}
	return len(s.sent), lost
}
