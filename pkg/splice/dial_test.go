package splice

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// refusing is an address where nobody listens.
func refusing(t *testing.T) netip.AddrPort {
	l := mustListen(t)
	l.Close()
	return addressOf(l)
}

// silent is an address that drops SYNs: a listener whose queue is full.
func silent(t *testing.T) netip.AddrPort {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	address := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(name.(*unix.SockaddrInet4).Port))
	for range 8 {
		c, err := net.DialTimeout("tcp4", address.String(), 100*time.Millisecond)
		if err != nil {
			return address
		}
		t.Cleanup(func() { c.Close() })
	}
	t.Fatal("the queue never fills")
	return address
}

func TestDial_FirstBackendRefuses_NextServes(t *testing.T) {
	r := startRig(t, func(_ *Config, g *fakeGateway) {
		g.targets = append([]netip.AddrPort{refusing(t)}, g.targets...)
	})
	consumer, server := r.pair()
	mustWrite(t, consumer, "hello")
	mustRead(t, server, "hello")
	if s := r.server.Stats(); s.DialFailed != 1 || s.Opened != 1 || s.NoBackend != 0 {
		t.Errorf("%+v", s)
	}
}

func TestDial_FirstBackendSilent_NextServesAfterTheTimeout(t *testing.T) {
	r := startRig(t, func(c *Config, g *fakeGateway) {
		c.DialTimeout = time.Second
		g.targets = append([]netip.AddrPort{silent(t)}, g.targets...)
	})
	consumer, server := r.pair()
	mustWrite(t, consumer, "hello")
	mustRead(t, server, "hello")
	if s := r.server.Stats(); s.DialTimedOut != 1 || s.Opened != 1 {
		t.Errorf("%+v", s)
	}
}

func TestDial_NobodyServes_ClientGetsReset(t *testing.T) {
	for name, targets := range map[string][]netip.AddrPort{
		"all refuse": {refusing(t), refusing(t)},
		"no backend": nil,
	} {
		t.Run(name, func(t *testing.T) {
			r := startRig(t, func(_ *Config, g *fakeGateway) { g.targets = targets })
			r.dialReset()
			eventually(t, "refused and counted", func() bool {
				s := r.server.Stats()
				return s.NoBackend == 1 && s.DialFailed == uint64(len(targets)) && s.Active == 0
			})
		})
	}
}

func TestDial_ClientResetsMeanwhile_DialIsGivenUp(t *testing.T) {
	r := startRig(t, func(_ *Config, g *fakeGateway) { g.targets = []netip.AddrPort{silent(t)} })
	consumer := r.dial()
	eventually(t, "accepted", func() bool { return r.server.Stats().Active == 1 })
	if err := consumer.SetLinger(0); err != nil {
		t.Fatal(err)
	}
	consumer.Close()
	eventually(t, "given up", func() bool { s := r.server.Stats(); return s.Active == 0 && s.Reset == 1 })
}

// A reset that came before anybody looked at the client's socket is met by the look at what it has sent.
func TestDial_ClientResetBefore_DialIsGivenUp(t *testing.T) {
	r := startRig(t, func(_ *Config, g *fakeGateway) { g.targets = []netip.AddrPort{silent(t)} })
	r.gateway.mu.Lock() // the loop waits for it with the connection in its hands
	consumer := r.dial()
	if err := consumer.SetLinger(0); err != nil {
		t.Fatal(err)
	}
	consumer.Close()
	r.gateway.mu.Unlock()
	eventually(t, "given up", func() bool { s := r.server.Stats(); return s.Active == 0 && s.Reset == 1 })
}

func TestIdentify_NoFlow_ClientGetsReset(t *testing.T) {
	r := startRig(t, func(_ *Config, g *fakeGateway) { g.unknown = true })
	r.dialReset()
	eventually(t, "counted", func() bool { s := r.server.Stats(); return s.Unknown == 1 && s.Active == 0 })
}
