package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/privlink/privlink/pkg/lab"
	"github.com/privlink/privlink/pkg/privilege"
)

// capabilities is the line of a process's status, as a set.
func capabilities(t *testing.T, pid int, line string) (set uint64) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, after, ok := strings.Cut(string(status), line+":\t")
	if !ok {
		t.Fatalf("no %s in %s", line, status)
	}
	if _, err := fmt.Sscanf(after, "%x", &set); err != nil {
		t.Fatal(err)
	}
	return set
}

func TestRun_Capabilities_AreThoseNeededAndSuffice(t *testing.T) {
	l, d := gateway(t)
	held, err := privilege.Held()
	if err != nil {
		t.Fatal(err)
	}
	var want uint64
	for _, c := range privilege.Needed {
		want |= 1 << c.Number & held
	}
	pid := d.Process().PID()
	for _, line := range []string{"CapPrm", "CapEff", "CapBnd"} {
		if got := capabilities(t, pid, line); got != want {
			t.Errorf("%s is %x, want %x", line, got, want)
		}
	}
	// With these it makes a network, attaches an interface, survives the loss of its pins, and starts again on what it left.
	for _, args := range [][]string{
		{"vnet", "create", "net", "--prefix", "10.0.0.0/16", "--subnet", "default=10.0.0.0/24"},
		{"vnet", "attach", "net", "--interface", "eth1", "--mode", "xdp"},
	} {
		if out, err := d.CLI(t.Context(), args...); err != nil {
			t.Fatalf("privlink %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	attached := func() error {
		out, err := d.CLI(t.Context(), "status")
		if err == nil && !strings.Contains(out, "tcx") {
			err = fmt.Errorf("status says\n%s", out)
		}
		return err
	}
	l.Wait("the interface to be attached", 10*time.Second, attached)
	if err := os.RemoveAll(d.BPFFS); err != nil {
		t.Fatal(err)
	}
	l.Wait("the pins to be back", 10*time.Second, func() error {
		_, err := os.Stat(filepath.Join(d.BPFFS, "links", "tcx-eth1"))
		return err
	})
	d.Kill()
	d.Start(t.Context())
	l.Wait("the interface to be taken over", 10*time.Second, attached)
	if strings.Contains(d.Process().Output(), "level=error") {
		t.Errorf("the daemon complains:\n%s", d.Process().Output())
	}
}

// Every capability of the list is needed: without that one the daemon names it, with what it is for, and fails with just that, or
// goes on without it where it may.
func TestRun_OneCapabilityLess_SaysWhichAndWhatFails(t *testing.T) {
	l := lab.New(t)
	binary, gw := l.Build(t.Context(), "./cmd/privlink"), l.Namespace("gateway")
	cert, key := l.Authority().Issue("gateway", net.IPv4(127, 0, 0, 1))
	const low = "127.0.0.1:443"
	config := l.WriteFile("config.yaml", []byte("listen:\n- {address: \""+low+"\", certificate: "+cert+", key: "+key+"}\n"))
	hint := " (" + privilege.Hint() + ")"
	fails := map[string]func(bpffs string) string{ // the last words of a daemon that lacks it; none: it serves
		"CAP_NET_ADMIN": func(bpffs string) string {
			return "set up the inner network: make veth " + innerConfig(bpffs).Interface + ": operation not permitted" + hint
		},
		"CAP_NET_RAW": func(string) string {
			return "open dataplane: open packet socket: operation not permitted (needs CAP_NET_RAW)" + hint
		},
		"CAP_SYS_ADMIN": func(bpffs string) string {
			return "set up the inner network: make namespace " + innerConfig(bpffs).Namespace + ": make /run/netns a shared mount: operation not permitted (needs CAP_SYS_ADMIN)" + hint
		},
		"CAP_NET_BIND_SERVICE": func(string) string {
			return "listen tcp " + low + ": bind: permission denied" + hint
		},
		"CAP_SYS_RESOURCE": nil,
	}
	for i, c := range privilege.Needed {
		t.Run(c.Name, func(t *testing.T) {
			last, known := fails[c.Name]
			if !known {
				t.Fatal("nobody says what a daemon does without it")
			}
			var all []string // but that one
			for _, other := range privilege.Needed {
				if other.Name != c.Name {
					all = append(all, "+"+strings.ToLower(strings.TrimPrefix(other.Name, "CAP_")))
				}
			}
			bpffs, socket := l.BPFFS(fmt.Sprint("b", i)), l.Path(fmt.Sprint("socket", i))
			process := gw.Start(t.Context(), "setpriv", "--bounding-set", "-all,"+strings.Join(all, ","), "--inh-caps", "-all",
				binary, "run", "--config", config, "--state-dir", l.Path(fmt.Sprint("state", i)), "--socket", socket, "--bpffs", bpffs)
			defer process.Kill()
			l.Wait("the daemon to serve or to give up", 20*time.Second, func() error {
				if strings.Contains(process.Output(), "msg=serving") {
					return nil
				}
				select {
				case <-process.Exited():
					return nil
				default:
					return errors.New(process.Output())
				}
			})
			said := process.Output()
			level, message := "warning", "a capability is missing"
			if c.Optional {
				level, message = "info", "goes without a capability"
			}
			if want := fmt.Sprintf("level=%s msg=%q capability=%s for=%q\n", level, message, c.Name, c.Why); !strings.Contains(said, want) {
				t.Errorf("it said\n%s\nwant %s", said, want)
			}
			if last == nil {
				if !strings.Contains(said, "msg=serving") {
					t.Errorf("it does not serve: %s", said)
				}
				return
			}
			if want := "privlink: " + last(bpffs) + "\n"; !strings.HasSuffix(said, want) {
				t.Errorf("it said\n%s\nand at last not %s", said, want)
			}
		})
	}
}

func TestRun_FilesAndFolders_AreClosedToOthers(t *testing.T) {
	_, d := gateway(t)
	for path, allowed := range map[string]os.FileMode{
		d.BPFFS: 0o700, filepath.Join(d.BPFFS, "maps"): 0o700, filepath.Join(d.BPFFS, "links"): 0o700, filepath.Join(d.BPFFS, "programs"): 0o700,
		d.StateDir: 0o700, filepath.Join(d.StateDir, "state.db"): 0o600, d.Socket: 0o770,
	} {
		info, err := os.Stat(path)
		if err != nil {
			t.Error(err)
			continue
		}
		if mode := info.Mode().Perm(); mode&^allowed != 0 {
			t.Errorf("%s has mode %#o, at most %#o is due", path, mode, allowed)
		}
	}
}
