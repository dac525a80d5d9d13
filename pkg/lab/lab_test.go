package lab

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netns"
)

func TestMain(m *testing.M) {
	if scenario := os.Getenv(scenarioEnv); scenario != "" && !strings.HasPrefix(scenario, "test") {
		runScenario(scenario)
	}
	Main(m)
}

// pair is two namespaces joined by a veth pair.
func pair(t *testing.T, o VethOptions) (a, b *Namespace) {
	l := New(t)
	a, b = l.Namespace("a"), l.Namespace("b")
	o.A.Addr, o.B.Addr = "10.9.0.1/24", "10.9.0.2/24"
	l.Veth(a, "eth0", b, "eth0", o)
	return a, b
}

func currentNamespace(t *testing.T) string {
	id, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Error(err)
	}
	return id
}

func TestNamespaceDo_Return_ThreadIsHomeAgain(t *testing.T) {
	n := New(t).Namespace("a")
	home := currentNamespace(t)
	var inside string
	if err := n.Do(func() error { inside = currentNamespace(t); return nil }); err != nil {
		t.Fatal(err)
	}
	if inside == home {
		t.Error("function ran in the caller's namespace")
	}
	// As many as there may be threads: none of them may have stayed inside.
	found := make(chan string)
	for range 50 {
		go func() { found <- currentNamespace(t) }()
	}
	for range 50 {
		if got := <-found; got != home {
			t.Fatalf("a goroutine runs in %s, home is %s", got, home)
		}
	}
}

func TestNamespaceDo_Error_IsReturned(t *testing.T) {
	n := New(t).Namespace("a")
	want := errors.New("told")
	if err := n.Do(func() error { return want }); !errors.Is(err, want) {
		t.Errorf("got %v, want %v", err, want)
	}
}

func TestNamespaceDo_Goexit_EndsTheCallerAndReturnsTheThread(t *testing.T) {
	n := New(t).Namespace("a")
	home := currentNamespace(t)
	ended := make(chan bool, 1)
	go func() {
		reached := false
		defer func() { ended <- !reached }()
		_ = n.Do(func() error {
			goexit()
			return nil
		})
		reached = true
	}()
	if !<-ended {
		t.Error("the caller went on after its function had ended the goroutine")
	}
	if now := currentNamespace(t); now != home {
		t.Errorf("now in %s, home is %s", now, home)
	}
}

func TestNamespaceDo_NamespaceThrownAwayInside_NextCallIsRight(t *testing.T) {
	l := New(t)
	n, other := l.Namespace("a"), l.Namespace("b")
	// fn leaves its thread in a third place: only the way home counts.
	err := n.Do(func() error { return netns.Set(other.handle) })
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	if got := currentNamespace(t); got != want {
		t.Errorf("now in %s, want %s", got, want)
	}
}

func TestNamespace_New_HasNoIPv6AndLoopbackUp(t *testing.T) {
	l := New(t)
	n := l.Namespace("a")
	err := n.Do(func() error {
		v, err := os.ReadFile("/proc/sys/net/ipv6/conf/all/disable_ipv6")
		if got := strings.TrimSpace(string(v)); err == nil && got != "1" {
			t.Errorf("disable_ipv6 is %q", got)
		}
		return err
	})
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	ln, err := n.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	conn, err := n.Dial(t.Context(), "tcp4", "", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

func TestNamespaceDial_ManyAtOnce_AllStayInside(t *testing.T) {
	a, b := pair(t, VethOptions{})
	echo := b.EchoServer("10.9.0.2:7")
	const count = 500
	errs := make(chan error, count)
	for range count {
		go func() {
			conn, err := a.Dial(context.Background(), "udp4", "", echo.Addr)
			if err == nil {
				if host := conn.LocalAddr().String(); !strings.HasPrefix(host, "10.9.0.1:") {
					err = errors.New("local address " + host)
				}
				conn.Close()
			}
			errs <- err
		}()
	}
	for range count {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

func TestVeth_Options_AreApplied(t *testing.T) {
	l := New(t)
	gw := l.Namespace("gw")
	vm := l.VM(gw, "vm1", "10.0.0.4/16", VethOptions{MTU: 1400,
		A: EndOptions{MAC: "02:00:00:00:00:01", On: []string{"gro"}},
		B: EndOptions{MAC: "02:00:00:00:00:02", Off: []string{"tx", "gso"}}})
	for _, end := range []struct {
		n                *Namespace
		name, mac        string
		feature, setting string
	}{
		{gw, "vm1", "02:00:00:00:00:01", "generic-receive-offload", "on"},
		{vm, "eth0", "02:00:00:00:00:02", "tx-checksumming", "off"},
		{vm, "eth0", "02:00:00:00:00:02", "tx-tcp-segmentation", "off"},
	} {
		if mac := end.n.MAC(end.name).String(); mac != end.mac {
			t.Errorf("%s: MAC %s, want %s", end.n, mac, end.mac)
		}
		if mtu := end.n.Link(end.name).Attrs().MTU; mtu != 1400 {
			t.Errorf("%s: MTU %d, want 1400", end.n, mtu)
		}
		out, err := end.n.Run(t.Context(), "ethtool", "-k", end.name)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(out, end.feature+": "+end.setting) {
			t.Errorf("%s: %s is not %s:\n%s", end.n, end.feature, end.setting, out)
		}
	}
}

func TestBridge_ThreeVMs_ReachEachOther(t *testing.T) {
	l := New(t)
	net := l.Namespace("switch")
	a := l.VM(net, "a", "10.9.0.1/24", VethOptions{})
	b := l.VM(net, "b", "10.9.0.2/24", VethOptions{})
	net.Bridge("br0", "a", "b")
	server := b.BulkServer("10.9.0.2:9000")
	result, err := a.Transfer(t.Context(), "", server.Addr, Bulk{Put: 1, Get: 1, Seed: 1})
	if err != nil || result.Server != "b" {
		t.Errorf("result %+v, error %v", result, err)
	}
}

func TestBPFFS_PinsBelow_AreRemovedWithTheLab(t *testing.T) {
	var dir string
	t.Run("lab", func(t *testing.T) {
		dir = New(t).BPFFS("gw")
		if err := os.MkdirAll(filepath.Join(dir, "maps"), 0o755); err != nil {
			t.Fatal(err)
		}
	})
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there (%v)", dir, err)
	}
}

func TestRun_BuildingMethodFails_ReturnsItsError(t *testing.T) {
	var id string
	err := Run(t.Context(), Options{Name: "probe"}, func(_ context.Context, l *Lab) error {
		id = l.ID()
		l.Namespace("a").Up("nosuch0")
		t.Error("went on after a failed step")
		return nil
	})
	if err == nil || !strings.Contains(err.Error(), "nosuch0") {
		t.Errorf("got %v", err)
	}
	assertNothingLeft(t, id)
}

func TestRun_FunctionReturnsError_RemovesTheLab(t *testing.T) {
	want := errors.New("told")
	var id string
	err := Run(t.Context(), Options{Keep: true}, func(ctx context.Context, l *Lab) error {
		id = l.ID()
		l.Namespace("a").Start(ctx, "sleep", "1000")
		return want
	})
	if !errors.Is(err, want) {
		t.Errorf("got %v, want %v", err, want)
	}
	assertNothingLeft(t, id)
}
