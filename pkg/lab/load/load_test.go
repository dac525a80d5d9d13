package load

import (
	"context"
	"testing"
	"time"

	"github.com/privlink/privlink/pkg/lab"
)

func TestMain(m *testing.M) { lab.Main(m) }

// wired are two namespaces on one wire, the second with the servers.
func wired(t *testing.T) (l *lab.Lab, a, b *lab.Namespace) {
	l = lab.New(t)
	a, b = l.Namespace("a"), l.Namespace("b")
	l.Veth(a, "eth0", b, "eth0", lab.VethOptions{A: lab.EndOptions{Addr: "10.0.0.1/24"}, B: lab.EndOptions{Addr: "10.0.0.2/24"}})
	if err := Serve(b, "10.0.0.2"); err != nil {
		t.Fatal(err)
	}
	return l, a, b
}

func TestLoad_UndisturbedWire_NothingLost(t *testing.T) {
	l, a, _ := wired(t)
	c, err := Start(context.Background(), a, "10.0.0.2", Options{})
	if err != nil {
		t.Fatal(err)
	}
	wantConnections(l, c, 20)
	r := c.Stop()
	t.Log(r)
	if len(r.Lost) != 0 || len(r.Broken) != 0 || r.Packets < 100 {
		t.Error(r)
	}
}

func TestLoad_WireCut_LossesLieInTheWindow(t *testing.T) {
	l, a, b := wired(t)
	c, err := Start(context.Background(), a, "10.0.0.2", Options{Bulk: -1, Steady: -1})
	if err != nil {
		t.Fatal(err)
	}
	wantConnections(l, c, 5)
	cut, from := time.Now(), c.Known()
	b.Down("eth0")
	l.Wait("datagrams into the dark", 5*time.Second, func() error {
		if time.Since(cut) < 100*time.Millisecond {
			return context.DeadlineExceeded
		}
		return nil
	})
	b.Up("eth0")
	a.WaitUp("eth0")
	wantConnections(l, c, c.Report().Connections+5)
	to := time.Now() // by now the machines have found each other again
	wantConnections(l, c, c.Report().Connections+5)
	r := c.Stop()
	if len(r.Lost) < 50 {
		t.Errorf("the cut lost %d datagrams only", len(r.Lost))
	}
	if out := r.Outside([]Window{{from, to}}); len(out.Lost) != 0 || len(out.Broken) != 0 {
		t.Errorf("outside of the cut: %v, gaps %v", out, out.Gaps())
	}
}

func wantConnections(l *lab.Lab, c *Client, n int) {
	l.Wait("connections to be checked", 20*time.Second, func() error {
		if c.Report().Connections < n {
			return context.DeadlineExceeded
		}
		return nil
	})
}
