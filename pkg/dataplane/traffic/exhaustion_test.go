package traffic

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/privlink/privlink/pkg/dataplane"
	"github.com/privlink/privlink/pkg/lab"
	"golang.org/x/sys/unix"
)

// portCount is how many flows one NAT IP serves to one backend port: 1024 to 65535.
const portCount = 64512

// When every port of the only NAT IP is in use to a backend, new flows are refused under that reason and old ones
// go on; a NAT IP that is added takes them at once.
func TestExhaustion_NATIPAdded_RelievesAtOnce(t *testing.T) {
	for _, mode := range modes {
		t.Run(string(mode), func(t *testing.T) {
			r := newRig(t, rigOptions{consumer: mode, provider: mode, wire: wire(), pairs: 1 << 17})
			r.state.Links[0].MaxFlows = 1 << 17
			r.apply()
			server := r.backend.EchoServer(backendIP + ":7")
			ctx := r.context(time.Minute)
			kept := r.consumers[0].Sequence(ctx, endpointIP+":7", lab.SequenceOptions{Local: clientIP + ":1001"})
			r.Wait("an echo", 5*time.Second, func() error {
				if kept.Len() == 0 {
					return errNothing
				}
				return nil
			})
			takePorts(r, portCount-1)
			refused := r.consumers[0].Sequence(ctx, endpointIP+":7", lab.SequenceOptions{Local: clientIP + ":1002"})
			r.Wait("a hundred refused datagrams", 5*time.Second, func() error {
				if n := reasonCount(r, "ports"); n < 100 {
					return fmt.Errorf("%d", n)
				}
				return nil
			})
			if n := refused.Len(); n != 0 {
				t.Errorf("%d echoes for a flow too many", n)
			}
			r.state.RuleSets[0].Sources = append(r.state.RuleSets[0].Sources, dataplane.Source{Addr: mustAddr("10.0.0.101")})
			r.apply()
			r.Wait("an echo through the new NAT IP", 5*time.Second, func() error {
				if refused.Len() == 0 {
					return errNothing
				}
				return nil
			})
			kept.Stop()
			refused.Stop()
			by := map[string]int{}
			for _, a := range server.Arrivals() {
				by[strings.Split(a.From, ":")[0]]++
			}
			if by["10.0.0.101"] == 0 || by[natIP] == 0 || len(by) != 2 {
				t.Errorf("datagrams by NAT IP: %v", by)
			}
			if lost := lostOf(kept); lost > 0 {
				t.Errorf("%d of %d datagrams of a flow of before were lost", lost, len(kept.Sent()))
			}
		})
	}
}

// takePorts opens n flows from the client to port 7 of the endpoint. Nothing answers them: the header checksum is
// not right, which is for the backend to notice.
func takePorts(r *rig, n int) {
	r.t.Helper()
	s := fragmented{src: clientIP, dst: endpointIP, sport: 1024, dport: 7, size: 8, split: 16}.sentBy(r.consumers[0], r.gw.MAC("c1"))
	frame := s.datagram(r, 0, 1)[0]
	binary.BigEndian.PutUint16(frame[20:], 0) // a whole one
	opened := func() int {
		stats, err := r.d.LinkStats()
		if err != nil {
			r.t.Fatal(err)
		}
		return int(stats[0].Opened)
	}
	before := opened()
	r.Wait(fmt.Sprintf("%d flows", n), 20*time.Second, func() error {
		for i := range n {
			binary.BigEndian.PutUint16(frame[34:], uint16(1024+i))
			err := s.wire.Send(frame)
			for ; errors.Is(err, unix.ENOBUFS); err = s.wire.Send(frame) {
				time.Sleep(time.Millisecond) // the other end takes its time
			}
			if err != nil {
				r.t.Fatal(err)
			}
		}
		if now := opened() - before; now != n { // some were lost: once more
			return fmt.Errorf("%d", now)
		}
		return nil
	})
}

// reasonCount is how many packets met a reason.
func reasonCount(r *rig, label string) uint64 {
	r.t.Helper()
	all, err := r.d.ReasonStats()
	if err != nil {
		r.t.Fatal(err)
	}
	for _, s := range all {
		if s.Label == label {
			return s.Packets
		}
	}
	r.t.Fatalf("no reason %s", label)
	return 0
}

// lostOf counts the datagrams that were not echoed, but for the last ones, which may be on their way.
func lostOf(s *lab.Sequence) (lost int) {
	echoed := map[uint64]bool{}
	for _, a := range s.Arrivals() {
		echoed[a.Sequence] = true
	}
	for n := range len(s.Sent()) - 50 {
		if !echoed[uint64(n)] {
			lost++
		}
	}
	return lost
}
