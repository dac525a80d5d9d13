package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
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

// The service manager hears that the daemon is ready, that it is well, and that it stops.
func TestRun_ServiceManager_HearsReadyWatchdogAndStopping(t *testing.T) {
	l := lab.New(t)
	binary := l.Build(t.Context(), "./cmd/privlink")
	gw := l.Namespace("gateway")
	socket := l.Path("notify")
	listener, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	cmd := exec.Command(binary, "run", "--state-dir", l.Path("state"), "--socket", l.Path("socket"), "--bpffs", l.BPFFS("gateway"))
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+socket, "WATCHDOG_USEC=200000")
	process := gw.StartCommand(t.Context(), cmd)
	hear := func() string {
		t.Helper()
		if err := listener.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		buffer := make([]byte, 100)
		n, err := listener.Read(buffer)
		if err != nil {
			t.Fatalf("%v\n%s", err, process.Output())
		}
		return string(buffer[:n])
	}
	if first := hear(); first != "READY=1" {
		t.Errorf("first it said %q", first)
	}
	for range 3 {
		if again := hear(); again != "WATCHDOG=1" {
			t.Errorf("then it said %q", again)
		}
	}
	process.Stop()
	last := hear()
	for last == "WATCHDOG=1" {
		last = hear()
	}
	if last != "STOPPING=1" {
		t.Errorf("at last it said %q", last)
	}
}
