package splice

import (
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"
	"time"
)

// early connects a client that speaks before its connection is accepted; serve lets the splice begin.
func early(t *testing.T, configure func(*Config, *fakeGateway)) (r *rig, consumer *net.TCPConn, serve func()) {
	t.Helper()
	ready := make(chan struct{})
	r = startRig(t, func(c *Config, g *fakeGateway) {
		g.ready = ready
		if configure != nil {
			configure(c, g)
		}
	})
	return r, r.dial(), func() { close(ready) }
}

func TestFirst_ClientHasSpoken_GoesWithTheHeaderInOneRead(t *testing.T) {
	r, consumer, serve := early(t, nil)
	mustWrite(t, consumer, "hello")
	serve()
	server := r.accept()
	got := make([]byte, 512)
	n, err := server.Read(got)
	if err != nil {
		t.Fatal(err)
	}
	h := (&Identity{Client: consumer.LocalAddr().(*net.TCPAddr).AddrPort(), Endpoint: consumer.RemoteAddr().(*net.TCPAddr).AddrPort(), LinkID: 0x20000001}).header()
	if want := string(h.Append(nil)) + "hello"; string(got[:n]) != want {
		t.Errorf("the first read brought\n%q, want\n%q", got[:n], want)
	}
	mustWrite(t, consumer, "more")
	mustRead(t, server, "more")
	eventually(t, "nine bytes counted", func() bool { return r.server.Stats().BytesIn == uint64(len("hello")+len("more")) })
}

// TestFirst_MoreThanGoesWithTheHeader_EveryByteOnce has the client fill its window before anybody accepts.
func TestFirst_MoreThanGoesWithTheHeader_EveryByteOnce(t *testing.T) {
	r, consumer, serve := early(t, nil)
	const size = 5*smallSize + 1
	sent := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{3}).Read(sent)
	mustWrite(t, consumer, string(sent))
	if err := consumer.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	serve()
	server := r.accept()
	skipHeader(t, server)
	got, err := io.ReadAll(server)
	if err != nil || sha256.Sum256(got) != sha256.Sum256(sent) {
		t.Errorf("%d of %d bytes, or others: %v", len(got), size, err)
	}
	eventually(t, "every byte counted once", func() bool { return r.server.Stats().BytesIn == size })
}

// TestFirst_BackendRefuses_NextHasWhatTheClientSent checks that a backend which never read takes nothing away.
func TestFirst_BackendRefuses_NextHasWhatTheClientSent(t *testing.T) {
	r, consumer, serve := early(t, func(_ *Config, g *fakeGateway) {
		g.targets = append([]netip.AddrPort{refusing(t)}, g.targets...)
	})
	mustWrite(t, consumer, "hello")
	serve()
	server := r.accept()
	skipHeader(t, server)
	mustRead(t, server, "hello")
	eventually(t, "one refusal and five bytes counted", func() bool {
		s := r.server.Stats()
		return s.DialFailed == 1 && s.BytesIn == uint64(len("hello"))
	})
}

func TestFirst_UrgentByte_IsAmongThem(t *testing.T) {
	r, consumer, serve := early(t, nil)
	mustWriteUrgent(t, consumer, "!")
	mustWrite(t, consumer, "after")
	serve()
	server := r.accept()
	skipHeader(t, server)
	mustRead(t, server, "!after")
}

// TestLoop_NoTimer_NobodyIsForgotten has many clients talk, come and go while connections are asked to be cut, with
// the timers stopped that would wake the loops every second: a wake-up that is lost leaves somebody waiting for ever.
func TestLoop_NoTimer_NobodyIsForgotten(t *testing.T) {
	r := startRig(t, func(c *Config, _ *fakeGateway) { c.Loops = 1 })
	r.stopTimer()
	go func() {
		for {
			c, err := r.backend.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				head := make([]byte, 36)
				if _, err := io.ReadFull(c, head); err == nil {
					_, _ = io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c})
				}
			}()
		}
	}()
	const talkers, rounds = 48, 40
	failed := make(chan error, talkers)
	for n := range talkers {
		go func() { failed <- talk(r.server.config.Listen.String(), rounds, n) }()
	}
	for left := talkers; left > 0; {
		select {
		case err := <-failed:
			if left--; err != nil {
				t.Error(err)
			}
		default:
			answered := make(chan int, 1)
			go func() { answered <- r.server.Cut(func(*Identity) bool { return false }) }()
			select {
			case <-answered:
			case <-time.After(10 * time.Second):
				t.Fatal("the loop does not take what is posted")
			}
		}
	}
	eventually(t, "all ended", func() bool { s := r.server.Stats(); return s.Active == 0 && s.Finished == talkers*rounds })
}

// talk has some connections one after the other, each with some words of different lengths.
func talk(to string, connections, seed int) error {
	for i := range connections {
		c, err := net.DialTimeout("tcp4", to, 10*time.Second)
		if err != nil {
			return err
		}
		if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			return err
		}
		for round := range 10 {
			word := make([]byte, 1+(seed*31+i*17+round*977)%20000)
			if _, err := c.Write(word); err != nil {
				return err
			}
			if _, err := io.ReadFull(c, word); err != nil {
				return err
			}
		}
		if err := c.(*net.TCPConn).CloseWrite(); err != nil {
			return err
		}
		if _, err := io.Copy(io.Discard, c); err != nil {
			return err
		}
		if err := c.Close(); err != nil {
			return err
		}
	}
	return nil
}
