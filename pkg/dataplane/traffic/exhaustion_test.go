package traffic

import (
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/privlink/privlink/pkg/dataplane"
	"github.com/privlink/privlink/pkg/lab"
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

// An endpoint that takes all the ports that it may leaves the others of its service, and of the same backend, enough.
func TestExhaustion_OneEndpoint_LeavesPortsToOthers(t *testing.T) {
	// A quarter of this table's pairs is more than there are ports.
	r := newRig(t, rigOptions{consumers: 2, wire: wire(), pairs: 1 << 18})
	r.backend.EchoServer(backendIP + ":7")
	limit := func() uint32 {
		t.Helper()
		stats, err := r.d.LinkStats()
		if err != nil {
			t.Fatal(err)
		}
		return stats[0].MaxFlows
	}
	if n := limit(); n != portCount/2 {
		t.Fatalf("an endpoint may have %d flows, want %d", n, portCount/2)
	}
	takePorts(r, portCount/2)
	sprayPorts(r, portCount)
	if n := reasonCount(r, "quota"); n < portCount/4 {
		t.Fatalf("only %d flows were refused for the quota: that was no attempt on the ports", n)
	}
	const others = 1000
	if n := echoed(r, 20_000, others); n < others*99/100 {
		t.Errorf("the other endpoint opened %d of %d flows", n, others)
	}
	if n := reasonCount(r, "ports"); n > 0 {
		t.Errorf("%d packets found no port", n)
	}

	// The same attempt takes everything where the provider allows it: the ports of the two are the same ones.
	r.state.Links[0].MaxFlows = 1 << 17
	r.apply()
	sprayPorts(r, portCount)
	sprayPorts(r, portCount) // what was lost on the way
	if n := echoed(r, 30_000, others); n >= others*99/100 {
		t.Errorf("with all ports taken the other endpoint opened %d of %d flows", n, others)
	}

	// With two NAT IPs the quarter is less than half of the ports; one that drains gives none.
	r.state.Links[0].MaxFlows = 0
	r.state.RuleSets[0].Sources = sources(3)
	r.apply()
	if n := limit(); n != 1<<16 {
		t.Errorf("with three NAT IPs an endpoint may have %d flows, want %d", n, 1<<16)
	}
	r.state.RuleSets[0].Sources[0].Draining, r.state.RuleSets[0].Sources[2].Draining = true, true
	r.apply()
	if n := limit(); n != portCount/2 {
		t.Errorf("with two of three NAT IPs draining an endpoint may have %d flows, want %d", n, portCount/2)
	}
}

// echoed is how many of n new flows of the second consumer's to port 7, from ports of its own, got an echo. A datagram that the wire lost is
// sent again, as any client does.
func echoed(r *rig, from, n int) (got int) {
	r.t.Helper()
	done := make(chan bool, n)
	for i := range n {
		c, err := r.consumers[1].Dial(r.t.Context(), "udp", fmt.Sprintf("%s:%d", clientIP, from+i), endpointIP+":7")
		if err != nil {
			r.t.Fatal(err)
		}
		defer c.Close()
		go func() {
			for range 4 {
				_, err := c.Write(make([]byte, 16))
				if err == nil {
					err = c.SetReadDeadline(time.Now().Add(time.Second))
				}
				if err == nil {
					_, err = c.Read(make([]byte, 64))
				}
				if err == nil {
					done <- true
					return
				}
			}
			done <- false
		}()
	}
	for range n {
		if <-done {
			got++
		}
	}
	return got
}

// takePorts opens n flows from the client to port 7 of the endpoint. Nothing answers them: the header checksum is
// not right, which is for the backend to notice.
func takePorts(r *rig, n int) {
	r.t.Helper()
	opened := func() int {
		stats, err := r.d.LinkStats()
		if err != nil {
			r.t.Fatal(err)
		}
		return int(stats[0].Opened)
	}
	before := opened()
	r.Wait(fmt.Sprintf("%d flows", n), 20*time.Second, func() error {
		sprayPorts(r, n)
		if now := opened() - before; now != n { // some were lost: once more
			return fmt.Errorf("%d", now)
		}
		return nil
	})
}

// sprayPorts asks once for each of the flows that takePorts opens.
func sprayPorts(r *rig, n int) {
	r.t.Helper()
	s := fragmented{src: clientIP, dst: endpointIP, sport: 1024, dport: 7, size: 8, split: 16}.sentBy(r.consumers[0], r.gw.MAC("c1"))
	frame := s.datagram(r, 0, 1)[0]
	binary.BigEndian.PutUint16(frame[20:], 0) // a whole one
	for i := range n {
		binary.BigEndian.PutUint16(frame[34:], uint16(1024+i))
		if err := s.wire.Send(frame); err != nil {
			r.t.Fatal(err)
		}
	}
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
