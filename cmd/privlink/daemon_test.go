package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/lab"
	"github.com/privlink/privlink/pkg/privilege"
	"github.com/privlink/privlink/pkg/store"
)

// These tests run the daemon with its dataplane in a network namespace, as root.

func TestMain(m *testing.M) { lab.Main(m) }

// gateway is a namespace with a running daemon and one interface, eth1, to a VM at 10.0.0.4.
func gateway(t *testing.T) (*lab.Lab, *lab.Daemon) {
	t.Helper()
	l := lab.New(t)
	binary := l.Build(t.Context(), "./cmd/privlink")
	gw, vm := l.Namespace("gateway"), l.Namespace("vm")
	l.Veth(gw, "eth1", vm, "eth0", lab.VethOptions{B: lab.EndOptions{Addr: "10.0.0.4/16"}})
	return l, gw.Daemon(t.Context(), lab.DaemonOptions{Binary: binary})
}

// refusal runs a command that must fail and returns its exit code and message.
func refusal(t *testing.T, d *lab.Daemon, args ...string) (int, string) {
	t.Helper()
	out, err := d.CLI(t.Context(), args...)
	var exit *lab.ExitError
	if !errors.As(err, &exit) {
		t.Fatalf("privlink %s: %v, want a refusal\n%s", strings.Join(args, " "), err, out)
	}
	return exit.Code, exit.Stderr
}

// maps is what all pinned maps hold, by name, but for counters and what ARP answers of others change.
func maps(t *testing.T, bpffs string) map[string]string {
	t.Helper()
	folder := filepath.Join(bpffs, "maps")
	entries, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, e := range entries {
		m, err := ebpf.LoadPinnedMap(filepath.Join(folder, e.Name()), nil)
		if err != nil {
			t.Fatal(err)
		}
		switch m.Type() {
		case ebpf.PerCPUArray, ebpf.RingBuf:
		default:
			if !strings.HasPrefix(e.Name(), "buckets") {
				all[e.Name()] = contentsOf(t, m)
			}
		}
		m.Close()
	}
	if len(all) < 15 {
		t.Fatalf("only %d maps in %s", len(all), folder)
	}
	return all
}

// settledMaps are the maps once they stay as they are: what is found out by itself after a change (MAC addresses,
// probed addresses) is there then.
func settledMaps(l *lab.Lab, t *testing.T, bpffs string) (settled map[string]string) {
	t.Helper()
	settled = maps(t, bpffs)
	l.Wait("the maps to stay as they are", 20*time.Second, func() error {
		before := settled
		if settled = maps(t, bpffs); !reflect.DeepEqual(before, settled) {
			return errors.New("they change")
		}
		return nil
	})
	return settled
}

// contentsOf is a digest of a map: of its memory, or of its elements in the order in which the kernel gives them.
func contentsOf(t *testing.T, m *ebpf.Map) string {
	t.Helper()
	digest := sha256.New()
	if m.Flags()&unix.BPF_F_MMAPABLE != 0 {
		memory, err := m.Memory()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(digest, io.NewSectionReader(memory, 0, int64(memory.Size()))); err != nil {
			t.Fatal(err)
		}
		return hex.EncodeToString(digest.Sum(nil))
	}
	if m.Type() == ebpf.ArrayOfMaps { // one call instead of two an element
		keys, values := make([]uint32, m.MaxEntries()), make([]uint32, m.MaxEntries())
		n, err := m.BatchLookup(new(ebpf.MapBatchCursor), keys, values, nil)
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			t.Fatal(err)
		}
		fmt.Fprint(digest, keys[:n], values[:n])
		return hex.EncodeToString(digest.Sum(nil))
	}
	key, value := make([]byte, m.KeySize()), make([]byte, m.ValueSize())
	entries := m.Iterate()
	for entries.Next(&key, &value) {
		digest.Write(key)
		digest.Write(value)
	}
	if err := entries.Err(); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(digest.Sum(nil))
}

func TestRun_BadAttachment_RefusedMapsUnchanged(t *testing.T) {
	l, d := gateway(t)
	l.Veth(d.Namespace, "eth2", l.Namespace("other"), "eth0", lab.VethOptions{A: lab.EndOptions{Addr: "192.0.2.1/24"}})
	if _, err := d.CLI(t.Context(), "vnet", "create", "datacenter", "--prefix", "10.0.0.0/16"); err != nil {
		t.Fatal(err)
	}
	before := settledMaps(l, t, d.BPFFS)
	for _, c := range []struct{ iface, want string }{
		{"nosuch", "properties.attachments[0].interface: attach nosuch: no such interface"},
		{"lo", "properties.attachments[0].interface: attach lo: it is no Ethernet interface"},
		{"eth2", "properties.attachments[0].interface: attach eth2: the host has an address on it: 192.0.2.1/24 " +
			"(say --pass-other to leave the host's traffic alone, or --exclusive if it may stop working)"},
	} {
		code, message := refusal(t, d, "vnet", "attach", "datacenter", "--interface", c.iface)
		if code != exitRefused || message != "privlink: "+c.want {
			t.Errorf("%s: (%d) %s\nwant (%d) privlink: %s", c.iface, code, message, exitRefused, c.want)
		}
	}
	for name, after := range maps(t, d.BPFFS) {
		if after != before[name] {
			t.Errorf("a refused attachment changed map %s", name)
		}
	}
	if _, err := d.CLI(t.Context(), "vnet", "attach", "datacenter", "--interface", "eth2", "--pass-other"); err != nil {
		t.Errorf("with --pass-other: %v", err)
	}
}

// What keeps a daemon from starting is said in one line, and leaves store and maps as they were.
func TestRun_CannotStart_ExactTextNothingChanged(t *testing.T) {
	l, d := gateway(t)
	cli := func(args ...string) {
		t.Helper()
		if _, err := d.CLI(t.Context(), args...); err != nil {
			t.Fatal(err)
		}
	}
	cli("vnet", "create", "datacenter", "--prefix", "10.0.0.0/16", "--interface", "eth1")
	cli("lb", "create", "web", "--vnet", "datacenter", "--rule", "tcp:80", "--backend", "10.0.0.4")
	outer := t.Context()
	own := []string{"--state-dir", d.StateDir, "--socket", d.Socket, "--bpffs", d.BPFFS}
	powerless := []string{"setpriv", "--bounding-set", "-all", "--inh-caps", "-all"} // not even those of root, so that files are no hindrance
	const setUp = "set up the inner network: "
	refusedByKernel := setUp + "replace " + innerConfig(d.BPFFS).Interface + ": operation not permitted (" + privilege.Hint() + ")"
	release, err := exec.Command("setarch", "--uname-2.6", "uname", "-r").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name    string
		stopped bool     // the first daemon
		before  []string // of the command
		args    []string
		want    string
		code    int
	}{
		{"same state", false, nil, []string{"--state-dir", d.StateDir, "--socket", l.Path("s2"), "--bpffs", l.BPFFS("b2")},
			"another privlink daemon uses the state folder " + d.StateDir + " (stop it, or choose another --state-dir)", exitRefused},
		{"same bpffs", false, nil, []string{"--state-dir", l.Path("state2"), "--socket", l.Path("s2"), "--bpffs", d.BPFFS},
			setUp + "lock namespace " + innerConfig(d.BPFFS).Namespace + ": another privlink uses it (stop the other daemon, or choose another --bpffs)", exitRefused},
		{"same socket", false, nil, []string{"--state-dir", l.Path("state3"), "--socket", d.Socket, "--bpffs", l.BPFFS("b3")},
			"listen on " + d.Socket + ": another daemon answers there (stop it, or choose another --socket)", exitRefused},
		{"no privileges", true, powerless, own,
			refusedByKernel, exitFailed},
		{"another user", true, []string{"setpriv", "--reuid", "65534", "--clear-groups", "--bounding-set", "-all"}, own,
			"lock state folder: open " + filepath.Join(d.StateDir, "lock") + ": permission denied (" + privilege.Hint() + ")", exitFailed},
		{"old kernel", true, append([]string{"setarch", "--uname-2.6"}, powerless...), own,
			"kernel " + strings.TrimSpace(string(release)) + " is too old, privlink needs 6.1 or newer: " + refusedByKernel, exitFailed},
	} {
		t.Run(strings.ReplaceAll(c.name, " ", "_"), func(t *testing.T) {
			if c.stopped {
				d.Stop()
				defer d.Start(outer)
			}
			stored, before := storedIn(t, d), settledMaps(l, t, d.BPFFS)
			command := append(append(c.before, d.Binary, "run"), c.args...)
			process := d.Namespace.Start(t.Context(), command[0], command[1:]...)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			code := 0
			var exit *exec.ExitError
			if err := process.Wait(ctx); errors.As(err, &exit) {
				code = exit.ExitCode()
			}
			said := strings.TrimSpace(process.Output())
			if last := said[strings.LastIndexByte(said, '\n')+1:]; code != c.code || last != "privlink: "+c.want {
				t.Errorf("(%d) %s\nwant (%d) privlink: %s", code, said, c.code, c.want)
			}
			if after := storedIn(t, d); after != stored {
				t.Error("the store was changed")
			}
			for name, after := range maps(t, d.BPFFS) {
				if after != before[name] {
					t.Errorf("map %s was changed", name)
				}
			}
		})
	}
	if _, err := d.CLI(t.Context(), "status"); err != nil {
		t.Errorf("the daemon afterwards: %v", err)
	}
}

// storedIn is everything in the daemon's store, to compare; of a running daemon that nobody writes to.
func storedIn(t *testing.T, d *lab.Daemon) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(d.StateDir, "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "state.db")
	if err := os.WriteFile(name, text, 0o600); err != nil {
		t.Fatal(err)
	}
	kept, err := store.OpenBolt(name)
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	return everything(t, kept)
}

// An address that a machine on the network has already is nobody's until it is free: what asked for it has Failed, and
// the text names who has it.
func TestRun_AddressTaken_FailedUntilItIsFree(t *testing.T) {
	l, d := gateway(t)
	other := l.VM(d.Namespace, "other", "10.0.0.50/16", lab.VethOptions{})
	other.Addr("eth0", "10.0.0.52/16")
	home := l.VM(d.Namespace, "home", "10.0.0.60/16", lab.VethOptions{})
	cli := func(line string) string {
		t.Helper()
		out, err := d.CLI(t.Context(), strings.Fields(line)...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	cli("vnet create datacenter --prefix 10.0.0.0/16 --interface eth1")
	cli("vnet attach datacenter --interface other")
	cli("vnet create home --prefix 10.0.0.0/16 --interface home")
	cli("lb create web --vnet datacenter --rule tcp:80 --backend 10.0.0.4")
	var service api.PrivateLinkService
	read(t, cli("service create free --lb web --nat-ip 10.0.0.51 --visibility * -o json"), &service)
	cli("lb create two --vnet datacenter --rule tcp:80 --backend 10.0.0.4")
	for _, c := range []struct {
		name, input, show string
		at, on            string
		mac               net.HardwareAddr
	}{
		{"NAT IP", "service create shop --lb two --nat-ip 10.0.0.50", "service show shop", "10.0.0.50", "other", other.MAC("eth0")},
		{"frontend", "lb create three --vnet datacenter --frontend f=10.0.0.52 --rule tcp:80", "lb show three", "10.0.0.52", "other", other.MAC("eth0")},
		{"endpoint", "endpoint create e --vnet home --ip 10.0.0.60 --service " + service.Properties.Alias, "endpoint show e", "10.0.0.60", "home", home.MAC("eth0")},
	} {
		t.Run(strings.ReplaceAll(c.name, " ", "_"), func(t *testing.T) {
			code, message := refusal(t, d, strings.Fields(c.input)...)
			want := c.at + " is in use by " + c.mac.String() + " on " + c.on
			if code != exitRefused || message != "privlink: "+want {
				t.Errorf("(%d) %s\nwant (%d) privlink: %s", code, message, exitRefused, want)
			}
			shown := strings.Join(strings.Fields(cli(c.show)), " ")
			if !strings.Contains(shown, "State: Failed Reason: "+want) {
				t.Errorf("%s: %s", c.show, shown)
			}
			if answered := answeredAddresses(t, d); answered[c.at] || !answered["10.0.0.51"] {
				t.Errorf("privlink answers ARP for %v", answered)
			}
			var exit *lab.ExitError
			if out, err := d.CLI(t.Context(), "status"); !errors.As(err, &exit) || exit.Code != exitFailed || !strings.Contains(out, c.at+" of ") {
				t.Errorf("status: %v\n%s", err, out)
			}
		})
	}
	for _, n := range []*lab.Namespace{other, home} {
		if _, err := n.Run(t.Context(), "ip", "address", "flush", "dev", "eth0"); err != nil {
			t.Fatal(err)
		}
	}
	l.Wait("what failed to have its address", 60*time.Second, func() error {
		for _, show := range []string{"service show shop", "lb show three", "endpoint show e"} {
			if shown := cli(show); !strings.Contains(shown, "Succeeded") {
				return errors.New(shown)
			}
		}
		return nil
	})
}

// answeredAddresses are those for which privlink answers ARP.
func answeredAddresses(t *testing.T, d *lab.Daemon) map[string]bool {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "bpftool", "-j", "map", "dump", "pinned", filepath.Join(d.BPFFS, "maps", "addresses_v1")).Output()
	if err != nil {
		t.Fatal(err)
	}
	var elements []struct {
		Formatted struct {
			Key   struct{ Addr uint32 }
			Value struct{ ARP int }
		}
	}
	read(t, string(out), &elements)
	answered := map[string]bool{}
	for _, e := range elements {
		if e.Formatted.Value.ARP == 1 {
			answered[ipOf(e.Formatted.Key.Addr)] = true
		}
	}
	return answered
}

func TestRun_InterfaceVanishes_DegradedUntilItReturns(t *testing.T) {
	l, d := gateway(t)
	cli := func(args ...string) string {
		t.Helper()
		out, err := d.CLI(t.Context(), args...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	cli("vnet", "create", "datacenter", "--prefix", "10.0.0.0/16", "--interface", "eth1")
	status := func() (s api.Status, code int) {
		t.Helper()
		out, err := d.CLI(t.Context(), "status", "-o", "json")
		var exit *lab.ExitError
		if errors.As(err, &exit) {
			code = exit.Code
		} else if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal([]byte(out), &s); err != nil {
			t.Fatalf("status: %v\n%s", err, out)
		}
		return s, code
	}
	s, code := status()
	if code != exitOK || s.Degraded || len(s.Interfaces) != 1 || s.Interfaces[0].Hook == "" || s.Interfaces[0].Mode != "tc" || s.Interfaces[0].Why == "" {
		t.Errorf("status of a sound daemon: exit code %d, %+v", code, s)
	}
	stored := storedIn(t, d)
	if s.AppliedRevision != s.WantedRevision || len(s.Maps) == 0 {
		t.Errorf("revisions %d and %d, %d maps", s.AppliedRevision, s.WantedRevision, len(s.Maps))
	}
	d.Namespace.Delete("eth1")
	l.Wait("status to be degraded", 5*time.Second, func() error {
		const want = "interface eth1 carries no traffic: attach eth1: no such interface"
		if s, code := status(); code != exitFailed || !s.Degraded || len(s.Problems) != 1 || s.Problems[0] != want {
			return fmt.Errorf("exit code %d, problems %q", code, s.Problems)
		}
		return nil
	})
	const reason = "State: Failed Reason: attach eth1: no such interface "
	if out := cli("vnet", "show", "datacenter"); !strings.Contains(strings.Join(strings.Fields(out), " "), reason) {
		t.Errorf("the network of a vanished interface:\n%s", out)
	}
	if after := storedIn(t, d); after != stored {
		t.Errorf("the store was changed:\n%s\n%s", stored, after)
	}
	l.Veth(d.Namespace, "eth1", l.Namespace("vm2"), "eth0", lab.VethOptions{B: lab.EndOptions{Addr: "10.0.0.5/16"}})
	l.Wait("status to be sound again", 5*time.Second, func() error {
		if s, code := status(); code != exitOK {
			return errors.New(strings.Join(s.Problems, "; "))
		}
		return nil
	})
}

func TestRun_Metrics_PromtoolFindsNothing(t *testing.T) {
	_, d := gateway(t)
	if _, err := d.CLI(t.Context(), "vnet", "create", "datacenter", "--prefix", "10.0.0.0/16", "--interface", "eth1"); err != nil {
		t.Fatal(err)
	}
	page, err := exec.CommandContext(t.Context(), "curl", "-sf", "--unix-socket", d.Socket, "http://privlink/metrics").Output()
	if err != nil {
		t.Fatal(err)
	}
	check := exec.CommandContext(context.WithoutCancel(t.Context()), "promtool", "check", "metrics")
	check.Stdin = strings.NewReader(string(page))
	if out, err := check.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("promtool: %v\n%s", err, out)
	}
	if !strings.Contains(string(page), `privlink_attachment_up{hook=`) {
		t.Errorf("no attachment in the metrics:\n%s", page)
	}
}

func TestExplainKernel_OldOrLacking_SaysWhatIsNeeded(t *testing.T) {
	cause := errors.New("load programs: invalid argument")
	lacks := "the kernel lacks what privlink needs: helper bpf_loop for tc programs, iterator ksym: load programs: invalid argument"
	for _, c := range []struct {
		release string
		missing []string
		errAsk  error
		want    string
	}{
		{"5.10.0-30-amd64", nil, nil, "kernel 5.10.0-30-amd64 is too old, privlink needs 6.1 or newer: load programs: invalid argument"},
		{"6.0.19", nil, nil, "kernel 6.0.19 is too old, privlink needs 6.1 or newer: load programs: invalid argument"},
		{"6.1.0-18-amd64", nil, nil, cause.Error()},
		{"6.18.44", nil, nil, cause.Error()},
		{"", nil, errors.New("operation not permitted"), cause.Error()},
		{"6.18.44", []string{"helper bpf_loop for tc programs", "iterator ksym"}, nil, lacks},
		{"6.0.19", []string{"helper bpf_loop for tc programs", "iterator ksym"}, nil, "kernel 6.0.19 is too old, privlink needs 6.1 or newer: " + lacks},
	} {
		got := explainKernel(cause, c.release, func() ([]string, error) { return c.missing, c.errAsk })
		if got.Error() != c.want || !errors.Is(got, cause) {
			t.Errorf("%q: %v, want %s", c.release, got, c.want)
		}
	}
}
