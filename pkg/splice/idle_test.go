package splice

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

// idleRig ends silent connections after two seconds. Like the flow table, its gateway sees every
// packet of both legs.
func idleRig(t *testing.T) *rig {
	r := startRig(t, func(_ *Config, g *fakeGateway) {
		g.identity.IdleTimeout = 2 * time.Second
		g.heard = make(map[netip.AddrPort]time.Time)
	})
	socket, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatalf("watch packets: %v (needs root)", err)
	}
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	const ethIP = 0x0008 // ETH_P_IP in network order
	if err := unix.Bind(socket, &unix.SockaddrLinklayer{Protocol: ethIP, Ifindex: lo.Index}); err != nil {
		t.Fatal(err)
	}
	limit := unix.NsecToTimeval(int64(100 * time.Millisecond))
	if err := unix.SetsockoptTimeval(socket, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		packet := make([]byte, 64)
		for t.Context().Err() == nil {
			n, _, err := unix.Recvfrom(socket, packet, 0)
			if err != nil || n < 40 || packet[0] != 0x45 || packet[9] != unix.IPPROTO_TCP {
				continue
			}
			from := netip.AddrPortFrom(netip.AddrFrom4([4]byte(packet[12:16])), uint16(packet[20])<<8|uint16(packet[21]))
			r.gateway.mu.Lock()
			r.gateway.heard[from] = time.Now()
			r.gateway.mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		<-done
		unix.Close(socket)
	})
	return r
}

// untilReset returns how long a connection still lives.
func untilReset(t *testing.T, c net.Conn) time.Duration {
	t.Helper()
	start := time.Now()
	mustReset(t, c)
	return time.Since(start)
}

// keepalive switches an end's keepalives on, one a second, or off.
func keepalive(t *testing.T, c *net.TCPConn, on bool) {
	t.Helper()
	err := c.SetKeepAliveConfig(net.KeepAliveConfig{Enable: on, Idle: time.Second, Interval: time.Second, Count: 5})
	if err != nil {
		t.Fatal(err)
	}
}

// silentPair connects two ends neither of which sends keepalives, which net switches on.
func (r *rig) silentPair() (consumer, server *net.TCPConn) {
	consumer, server = r.pair()
	keepalive(r.t, consumer, false)
	keepalive(r.t, server, false)
	return consumer, server
}

func TestIdle_NobodyHeard_BothAreResetInTime(t *testing.T) {
	t.Parallel()
	r := idleRig(t)
	consumer, server := r.silentPair()
	if took := untilReset(t, consumer); took < time.Second || took > 5*time.Second {
		t.Errorf("ended after %v, want 2 s and the clock's second", took)
	}
	mustReset(t, server)
	eventually(t, "counted", func() bool { s := r.server.Stats(); return s.Idle == 1 && s.Active == 0 })
}

func TestIdle_BytesNowAndThen_ConnectionStays(t *testing.T) {
	t.Parallel()
	r := idleRig(t)
	consumer, server := r.silentPair()
	for range 5 {
		time.Sleep(time.Second) // the timeout is a real one
		mustWrite(t, consumer, "x")
		mustRead(t, server, "x")
	}
	if s := r.server.Stats(); s.Idle != 0 || s.Active != 1 {
		t.Errorf("%+v", s)
	}
}

// TestIdle_OneEndSendsKeepalives_ConnectionStaysUntilTheyStop: the answers that the other end gives
// to the splice's questions must not count, or two such connections would live for ever.
func TestIdle_OneEndSendsKeepalives_ConnectionStaysUntilTheyStop(t *testing.T) {
	for name, byConsumer := range map[string]bool{"consumer": true, "backend": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := idleRig(t)
			consumer, server := r.silentPair()
			talker, asked := consumer, server
			if !byConsumer {
				talker, asked = server, consumer
			}
			keepalive(t, talker, true)
			before := time.Now()
			time.Sleep(7 * time.Second) // three timeouts
			if s := r.server.Stats(); s.Idle != 0 || s.Active != 1 {
				t.Fatalf("ended in spite of keepalives: %+v", s)
			}
			from := addressOf(r.backend)
			if !byConsumer {
				from = asked.LocalAddr().(*net.TCPAddr).AddrPort()
			}
			r.gateway.mu.Lock()
			heard := r.gateway.heard[from]
			r.gateway.mu.Unlock()
			if heard.Before(before.Add(2 * time.Second)) {
				t.Error("the other leg was not refreshed: its flow would end")
			}

			keepalive(t, talker, false)
			took := untilReset(t, talker)
			t.Logf("ended %v after the last keepalive", took)
			if took > 4500*time.Millisecond {
				t.Errorf("ended %v after the last keepalive, want 2 s and two of the clocks' seconds", took)
			}
			mustReset(t, asked)
		})
	}
}

// clockGateway answers for a fixed second.
type clockGateway struct {
	fakeGateway
	now   *uint32
	heard map[netip.AddrPort]uint32
}

func (g *clockGateway) Heard(_, peer netip.AddrPort) (time.Duration, bool) {
	at, ok := g.heard[peer]
	return time.Duration(*g.now-at) * time.Second, ok
}

// TestCheckIdle_AnswerToOurQuestion_DoesNotCount runs the same with time as an input.
func TestCheckIdle_AnswerToOurQuestion_DoesNotCount(t *testing.T) {
	gateway := &clockGateway{heard: make(map[netip.AddrPort]uint32)}
	log := logrus.New()
	log.SetOutput(t.Output())
	l := &loop{server: &Server{gateway: gateway, log: log, occupancy: occupancy{max: 1, maxPerLink: 1, links: make(map[string]*share)}}}
	gateway.now = &l.now

	consumer, server := netip.MustParseAddrPort("100.64.1.1:5000"), netip.MustParseAddrPort("100.65.0.0:443")
	share, err := l.server.occupancy.enter("")
	if err != nil {
		t.Fatal(err)
	}
	c := &conn{state: open, share: share, identity: Identity{IdleTimeout: 100 * time.Second}, moved: 1000, check: 1100}
	l.conns = []*conn{c}
	for which, peer := range []netip.AddrPort{consumer, server} {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		c.ends[which] = end{fd: fd, peer: peer}
		gateway.heard[peer] = 1000
	}
	l.slots = make([]slot, max(c.ends[0].fd, c.ends[1].fd)+1)

	l.now, gateway.heard[consumer] = 1100, 1090
	l.checkIdle(c)
	if c.state != open || c.check != 1190 || !c.ends[backend].asking || c.ends[client].asking {
		t.Fatalf("with a consumer heard 10 s ago: %+v", c)
	}
	gateway.heard[server] = 1101
	l.now = 1102
	l.hearAnswers()
	if c.ends[backend].asking {
		t.Fatal("the question is still asked after its answer")
	}
	l.now = 1189
	l.checkIdle(c)
	if c.state != open {
		t.Fatal("ended before its time")
	}
	l.now = 1190
	l.checkIdle(c)
	if c.state != gone {
		t.Fatalf("alive by the answer to our own question: next look at %d", c.check)
	}
}
