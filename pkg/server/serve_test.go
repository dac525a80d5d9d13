package server

import (
	"context"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/privlink/privlink/pkg/auth"
)

// entered is an Identifier that takes everybody for root, and tells of each request.
type entered chan struct{}

func (e entered) Identify(context.Context, Peer) (auth.Actor, error) {
	e <- struct{}{}
	return auth.Root(), nil
}

// Who waits for news of the journal does not hold up the end of the server: that there is none is an answer.
func TestServe_Ends_WhoWaitsForNewsIsAnswered(t *testing.T) {
	w := newWorld(t)
	listener, err := ListenTCP(TCPOptions{Address: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	waiting := make(entered)
	w.options.Identifier = waiting
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	served := make(chan error, 1)
	go func() { served <- New(w.options).Serve(ctx, listener) }()
	answered := make(chan int, 1)
	go func() {
		r, err := http.Get("http://" + listener.Addr().String() + "/privlink/journal?wait=true&after=1000000")
		if err != nil {
			t.Error(err)
			answered <- 0
			return
		}
		r.Body.Close()
		answered <- r.StatusCode
	}()
	<-waiting
	begin := time.Now()
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
	if took := time.Since(begin); took >= closeTimeout {
		t.Errorf("it ended after %v, when it had lost patience", took)
	}
	if status := <-answered; status != http.StatusOK {
		t.Errorf("the answer: %d", status)
	}
}

// counted is a listener that knows how many of its connections are open, and were at most.
type counted struct {
	net.Listener
	open, most atomic.Int64
}

func (l *counted) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		if n := l.open.Add(1); n > l.most.Load() { // one goroutine accepts
			l.most.Store(n)
		}
		c = &countedConn{Conn: c, of: l}
	}
	return c, err
}

type countedConn struct {
	net.Conn
	of   *counted
	once sync.Once
}

func (c *countedConn) Close() error {
	c.once.Do(func() { c.of.open.Add(-1) })
	return c.Conn.Close()
}

// Whoever reaches a listener gets so many of the daemon's descriptors and no more, and keeps nobody from another listener.
func TestServe_ManyConnections_ListenerTakesSoMany(t *testing.T) {
	w := newWorld(t)
	flooded, err := ListenTCP(TCPOptions{Address: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	other, err := ListenTCP(TCPOptions{Address: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	counting := &counted{Listener: flooded}
	w.options.Identifier = root{}
	go func() { served <- New(w.options).Serve(ctx, counting, other) }()
	answers := func(address string) {
		t.Helper()
		r, err := http.Get("http://" + address + "/privlink/journal")
		if err != nil {
			t.Fatal(err)
		}
		r.Body.Close()
		if r.StatusCode != http.StatusOK {
			t.Errorf("status %d", r.StatusCode)
		}
	}
	var silent []net.Conn
	for range maxConnections + 100 {
		c, err := net.Dial("tcp", flooded.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		silent = append(silent, c)
	}
	for began := time.Now(); counting.open.Load() < maxConnections; time.Sleep(time.Millisecond) {
		if time.Since(began) > 20*time.Second {
			t.Fatalf("%d connections were accepted", counting.open.Load())
		}
	}
	answers(other.Addr().String())
	for _, c := range silent {
		c.Close()
	}
	answers(flooded.Addr().String())
	if n := counting.most.Load(); n != maxConnections {
		t.Errorf("%d connections were open at once, want %d", n, maxConnections)
	}
	http.DefaultClient.CloseIdleConnections()
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// root is an Identifier that takes everybody for that.
type root struct{}

func (root) Identify(context.Context, Peer) (auth.Actor, error) { return auth.Root(), nil }
