package splice

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/privlink/privlink/pkg/splice/inner"
)

// fakeGateway stands in for the dataplane: consumers are who they say they are by their address,
// and backends are reached directly.
type fakeGateway struct {
	mu       sync.Mutex
	identity Identity // of everybody; Client and Endpoint are filled in
	targets  []netip.AddrPort
	unknown  bool
	heard    map[netip.AddrPort]time.Time // when a far end last sent a packet
	ready    chan struct{}                // nil = from the start
}

func (g *fakeGateway) Identify(local, peer netip.AddrPort) (Identity, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.unknown {
		return Identity{}, errors.New("no live entry")
	}
	id := g.identity
	id.Client, id.Endpoint = peer, local
	return id, nil
}

func (g *fakeGateway) Targets(_ *Identity, limit int) []netip.AddrPort {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.targets[:min(limit, len(g.targets))]
}

func (g *fakeGateway) Stands(id *Identity) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return id.LinkRef == g.identity.LinkRef
}

func (g *fakeGateway) Heard(_, peer netip.AddrPort) (time.Duration, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	at, ok := g.heard[peer]
	return time.Since(at), ok
}

func (g *fakeGateway) Ready() <-chan struct{} {
	if g.ready != nil {
		return g.ready
	}
	ready := make(chan struct{})
	close(ready)
	return ready
}

func (g *fakeGateway) Admit(netip.AddrPort, inner.Destination) error {
	return errors.New("there is no door")
}
func (g *fakeGateway) Withdraw(netip.AddrPort) {}

// rig is a splice on the loopback interface, with one backend.
type rig struct {
	t       *testing.T
	gateway *fakeGateway
	server  *Server
	backend *net.TCPListener
	stop    func()
}

func startRig(t *testing.T, configure func(*Config, *fakeGateway)) *rig {
	t.Helper()
	r := &rig{t: t, backend: mustListen(t)}
	r.gateway = &fakeGateway{
		identity: Identity{LinkID: 0x20000001, Link: "link", IdleTimeout: time.Minute},
		targets:  []netip.AddrPort{addressOf(r.backend)},
	}
	// A port that was free a moment ago.
	probe := mustListen(t)
	config := Config{Listen: addressOf(probe), Direct: true, Loops: 2}
	probe.Close()
	if configure != nil {
		configure(&config, r.gateway)
	}

	log := logrus.New()
	log.SetOutput(t.Output())
	log.SetLevel(logrus.DebugLevel)
	server, err := New(nil, config, log)
	if err != nil {
		t.Fatal(err)
	}
	r.server = server
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx, r.gateway) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
		if now := server.Stats(); now.Active != 0 || now.Pipes != 0 {
			t.Errorf("after the end: %d connections, %d pipes", now.Active, now.Pipes)
		}
	})
	t.Cleanup(r.stop)
	return r
}

// stopTimer stops the timer that wakes the only loop every second, until the test is over: what nobody else
// wakes the loop for stays undone.
func (r *rig) stopTimer() {
	r.t.Helper()
	timer := r.server.loops[0].timer
	arm := func(ns int64) error {
		every := unix.NsecToTimespec(ns)
		return unix.TimerfdSettime(timer, 0, &unix.ItimerSpec{Interval: every, Value: every}, nil)
	}
	if err := arm(0); err != nil {
		r.t.Fatal(err)
	}
	// So that it ends, however it went; the loop may have ended with the test's context.
	r.t.Cleanup(func() { _ = arm(int64(time.Second)) })
}

func mustListen(t *testing.T) *net.TCPListener {
	t.Helper()
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func addressOf(l *net.TCPListener) netip.AddrPort { return l.Addr().(*net.TCPAddr).AddrPort() }

// dial connects a consumer's client.
func (r *rig) dial() *net.TCPConn {
	r.t.Helper()
	c, err := net.DialTimeout("tcp4", r.server.config.Listen.String(), 5*time.Second)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	bound(r.t, c)
	return c.(*net.TCPConn)
}

// dialReset connects a client whose connection is reset, maybe before connect returns.
func (r *rig) dialReset() {
	r.t.Helper()
	c, err := net.DialTimeout("tcp4", r.server.config.Listen.String(), 5*time.Second)
	if errors.Is(err, syscall.ECONNRESET) {
		return
	}
	if err != nil {
		r.t.Fatal(err)
	}
	defer c.Close()
	bound(r.t, c)
	mustReset(r.t, c)
}

// accept takes the connection at the backend; the header is still to be read.
func (r *rig) accept() *net.TCPConn {
	r.t.Helper()
	if err := r.backend.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		r.t.Fatal(err)
	}
	c, err := r.backend.AcceptTCP()
	if err != nil {
		r.t.Fatalf("accept at the backend: %v", err)
	}
	r.t.Cleanup(func() { c.Close() })
	bound(r.t, c)
	return c
}

// pair connects a client and a backend and reads the header.
func (r *rig) pair() (consumer, server *net.TCPConn) {
	r.t.Helper()
	consumer = r.dial()
	server = r.accept()
	skipHeader(r.t, server)
	return consumer, server
}

// bound makes every test end.
func bound(t *testing.T, c net.Conn) {
	t.Helper()
	if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
}

// skipHeader reads exactly the header.
func skipHeader(t *testing.T, c net.Conn) *proxyproto.Header {
	t.Helper()
	head := make([]byte, 16)
	if _, err := io.ReadFull(c, head); err != nil {
		t.Fatalf("read header: %v", err)
	}
	body := make([]byte, int(head[14])<<8|int(head[15]))
	if _, err := io.ReadFull(c, body); err != nil {
		t.Fatalf("read header: %v", err)
	}
	parsed, err := parseHeader(append(head, body...))
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

func mustWrite(t *testing.T, c net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
}

func mustRead(t *testing.T, c net.Conn, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(c, got); err != nil || string(got) != want {
		t.Fatalf("read %q, %v, want %q", got[:n], err, want)
	}
}

func mustEOF(t *testing.T, c net.Conn) {
	t.Helper()
	if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Fatalf("read: %d bytes, %v, want the end of the stream", n, err)
	}
}

func mustReset(t *testing.T, c net.Conn) {
	t.Helper()
	if _, err := io.Copy(io.Discard, c); !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("read: %v, want a reset", err)
	}
}

// eventually waits for a condition that other goroutines bring about.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !condition(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

// descriptors counts this process's.
func descriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}
