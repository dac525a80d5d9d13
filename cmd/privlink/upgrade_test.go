package main

import (
	"context"
	"errors"
	"fmt"
	gomaps "maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	ebpflink "github.com/cilium/ebpf/link"

	"github.com/privlink/privlink/pkg/lab"
	"github.com/privlink/privlink/pkg/lab/load"
)

// loadedGateway is a daemon with a service and an endpoint, and a client whose traffic runs through them.
func loadedGateway(t *testing.T, o lab.DaemonOptions) (*lab.Lab, *lab.Daemon, *load.Client) {
	t.Helper()
	ctx, l := t.Context(), lab.New(t)
	gw := l.Namespace("gateway")
	web := l.VM(gw, "web", "10.0.0.4/16", lab.VethOptions{})
	if err := load.Serve(web, "10.0.0.4"); err != nil {
		t.Fatal(err)
	}
	vm := l.VM(gw, "vm", "10.0.1.4/16", lab.VethOptions{})
	o.Binary = l.Build(ctx, "./cmd/privlink")
	d := gw.Daemon(ctx, o)
	for _, line := range []string{
		"vnet create provider --prefix 10.0.0.0/16 --interface web",
		"lb create web --vnet provider --rule all:0 --backend 10.0.0.4",
		"service create shop --lb web --nat-ip-count 1 --visibility * --auto-approval *",
		"vnet create consumer --prefix 10.0.0.0/16 --interface vm",
		"endpoint create to-shop --vnet consumer --ip 10.0.1.10 --service " + defaultService("shop"),
	} {
		if out, err := d.CLI(ctx, strings.Fields(line)...); err != nil {
			t.Fatalf("privlink %s: %v\n%s", line, err, out)
		}
	}
	l.Wait("the service to answer", 20*time.Second, func() error {
		conn, err := vm.Dial(ctx, "tcp4", "", fmt.Sprintf("10.0.1.10:%d", load.PortEcho))
		if err == nil {
			conn.Close()
		}
		return err
	})
	c, err := load.Start(ctx, vm, "10.0.1.10", load.Options{Bulk: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	moreLoad(l, c, 3)
	return l, d, c
}

// moreLoad waits until so many more connections have come to their end.
func moreLoad(l *lab.Lab, c *load.Client, n int) {
	want := c.Report().Connections + n
	l.Wait("connections under load", 20*time.Second, func() error {
		if got := c.Report().Connections; got < want {
			return fmt.Errorf("%d of %d", got, want)
		}
		return nil
	})
}

// wantNothingLost ends the traffic, and says how much it was.
func wantNothingLost(t *testing.T, c *load.Client) {
	t.Helper()
	r := c.Stop()
	t.Log(r)
	if len(r.Lost) > 0 || len(r.Broken) > 0 || r.Packets == 0 || r.Connections == 0 {
		t.Error("plain traffic was disturbed")
	}
}

// attachedPrograms are the programs of all pinned links, by name.
func attachedPrograms(t *testing.T, bpffs string) map[string]ebpf.ProgramID {
	t.Helper()
	pins, err := filepath.Glob(filepath.Join(bpffs, "links", "*"))
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]ebpf.ProgramID)
	for _, pin := range pins {
		l, err := ebpflink.LoadPinnedLink(pin, nil)
		if err != nil {
			t.Fatal(err)
		}
		info, err := l.Info()
		l.Close()
		if err != nil {
			t.Fatal(err)
		}
		all[filepath.Base(pin)] = info.Program
	}
	return all
}

// wantReplaced wants other programs wherever there was one before.
func wantReplaced(t *testing.T, before, now map[string]ebpf.ProgramID) {
	t.Helper()
	same := func(name string) bool { return before[name] == now[name] }
	if len(now) == 0 || len(now) != len(before) || slices.ContainsFunc(slices.Collect(gomaps.Keys(now)), same) {
		t.Errorf("programs were %v, are %v after a start that went well", before, now)
	}
}

// A start that fails leaves the programs of the daemon before it attached, whether it fails before it has any of its own
// in the kernel or after.
func TestUpgrade_StartFails_OldProgramsStayAndNothingLost(t *testing.T) {
	l, d, c := loadedGateway(t, lab.DaemonOptions{})
	cert, key := l.Authority().Issue("gateway", net.IPv4(127, 0, 0, 1))
	listen := "listen:\n- {address: \"127.0.0.1:9443\", certificate: " + cert + ", key: " + key + "}\n"
	config, badSuffix := l.WriteFile("config.yaml", []byte(listen)), l.WriteFile("suffix.yaml", []byte(listen+"aliasSuffix: one-label\n"))
	before := attachedPrograms(t, d.BPFFS)
	if len(before) < 3 {
		t.Fatalf("attached are %v", before)
	}
	d.Stop()
	for _, test := range []struct {
		what, says, config string
		loads              bool // its programs
		occupy             func() (net.Listener, error)
	}{
		{"TLS port", "address already in use", config, false, func() (net.Listener, error) { return d.Namespace.Listen("tcp4", "127.0.0.1:9443") }},
		{"control plane", `make controller: alias suffix "one-label"`, badSuffix, true, func() (net.Listener, error) { return d.Namespace.Listen("tcp4", "127.0.0.1:9444") }},
		{"socket", "choose another --socket", config, true, func() (net.Listener, error) {
			if err := os.Remove(d.Socket); err != nil && !errors.Is(err, os.ErrNotExist) {
				return nil, err
			}
			return net.Listen("unix", d.Socket)
		}},
	} {
		other, err := test.occupy()
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			p := d.Namespace.Start(t.Context(), d.Binary, "run", "--state-dir", d.StateDir, "--socket", d.Socket, "--bpffs", d.BPFFS, "--config", test.config)
			l.Wait("the daemon to give up", 20*time.Second, func() error {
				select {
				case <-p.Exited():
					return nil
				default:
					return errors.New(p.Output())
				}
			})
			out := p.Output()
			if !strings.Contains(out, test.says) || strings.Contains(out, "dataplane is loaded") != test.loads {
				t.Errorf("%s: it said %s", test.what, out)
			}
			if now := attachedPrograms(t, d.BPFFS); !gomaps.Equal(now, before) {
				t.Errorf("%s: programs were %v, are %v", test.what, before, now)
			}
			moreLoad(l, c, 2)
		}
		other.Close()
	}
	d.Start(t.Context())
	wantReplaced(t, before, attachedPrograms(t, d.BPFFS))
	moreLoad(l, c, 2)
	wantNothingLost(t, c)
}

// A version whose configuration has another layout writes it anew from its store, and puts it in force at once.
func TestUpgrade_OtherLayoutOfConfiguration_NothingLost(t *testing.T) {
	l, d, c := loadedGateway(t, lab.DaemonOptions{})
	const name = "services_v1"
	path := filepath.Join(d.BPFFS, "maps", name)
	before := attachedPrograms(t, d.BPFFS)
	for range 2 {
		d.Stop()
		moreLoad(l, c, 1)
		if err := lab.HalveArray(path, "name"); err != nil {
			t.Fatal(err)
		}
		d.Start(t.Context())
		moreLoad(l, c, 1)
		m, err := ebpf.LoadPinnedMap(path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if m.MaxEntries() != 1<<16 {
			t.Errorf("map %s has %d elements still", name, m.MaxEntries())
		}
		m.Close()
		now := attachedPrograms(t, d.BPFFS)
		for hook, id := range now {
			if len(now) != len(before) || before[hook] == id {
				t.Fatalf("programs were %v, are %v", before, now)
			}
		}
		before = now
	}
	wantNothingLost(t, c)
}

// A first start that fails, wherever that is, leaves nothing in the kernel of what it had made until then.
func TestRun_FirstStartFails_NothingIsLeft(t *testing.T) {
	l := lab.New(t)
	binary, gw := l.Build(t.Context(), "./cmd/privlink"), l.Namespace("gateway")
	for _, name := range []string{"eth1", "eth2"} {
		l.Veth(gw, name, l.Namespace(name), "eth0", lab.VethOptions{})
	}
	occupied := l.Path("occupied")
	other, err := net.Listen("unix", occupied)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	suffix, proxied := l.WriteFile("suffix.yaml", []byte("aliasSuffix: one-label\n")), l.WriteFile("proxied.yaml", []byte("proxyConnections: 1000000000\n"))
	without := func(capability string) []string {
		return []string{"setpriv", "--bounding-set", "-" + capability, "--inh-caps", "-all"}
	}
	for i, test := range []struct {
		what, says string
		before     []string // of the command
		args       []string
		bare       bool // the folder of the pins is there, with nothing in it
	}{
		{"veth", "make veth", without("net_admin"), nil, false},
		{"splice", "1000000000", nil, []string{"--config", proxied}, false},
		{"dataplane", "open packet socket", without("net_raw"), nil, false},
		{"control plane", "make controller", nil, []string{"--config", suffix}, false},
		{"socket", "another daemon answers", nil, []string{"--socket", occupied}, false},
		{"socket, bare folder", "another daemon answers", nil, []string{"--socket", occupied}, true},
	} {
		t.Run(strings.ReplaceAll(test.what, " ", "_"), func(t *testing.T) {
			bpffs := l.BPFFS(fmt.Sprint("pins", i))
			if test.bare {
				if err := os.MkdirAll(bpffs, 0o700); err != nil {
					t.Fatal(err)
				}
				defer os.Remove(bpffs)
			}
			before := surroundings(t, l, gw)
			command := append(slices.Clone(test.before), binary, "run", "--state-dir", filepath.Join(t.TempDir(), "state"), "--bpffs", bpffs)
			if !slices.Contains(test.args, "--socket") {
				command = append(command, "--socket", l.Path("socket"))
			}
			p := gw.Start(t.Context(), command[0], append(command[1:], test.args...)...)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			var exit *exec.ExitError
			if err := p.Wait(ctx); !errors.As(err, &exit) || !strings.Contains(p.Output(), test.says) {
				t.Fatalf("it ended with %v and said\n%s\nwant %q", err, p.Output(), test.says)
			}
			wantSame(t, "a start that failed", before, surroundings(t, l, gw))
		})
	}
}
