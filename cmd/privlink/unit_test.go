package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/privlink/privlink/pkg/lab"
	"github.com/privlink/privlink/pkg/lab/load"
	"github.com/privlink/privlink/pkg/privilege"
)

// A real systemd, as the first process of a container with the lab's network: what it needs of a machine's folders is copied or
// empty, and no bpffs is mounted. $1 is a folder for all of that, $2 the cgroup to make for it, $3 the folder with the binary.
const (
	bootSystemd = `mount --make-rprivate /
mkdir "$1/cgroup" "$1/etc" "$1/lib"
mount -t cgroup2 none "$1/cgroup"
mkdir "$1/cgroup/$2"
echo $$ >"$1/cgroup/$2/cgroup.procs"
cp -r "$1/etc.d/." "$1/etc"
for name in passwd group nsswitch.conf ld.so.cache; do if [ -e "/etc/$name" ]; then cp "/etc/$name" "$1/etc"; fi; done
exec unshare --mount --pid --fork --kill-child --uts --ipc --cgroup --mount-proc sh -ec "$4" sh "$@"`
	insideSystemd = `mount -t tmpfs none /run
mount -t cgroup2 none /sys/fs/cgroup
while mountpoint -q /sys/fs/bpf; do umount -l /sys/fs/bpf; done
mount --bind "$1/etc" /etc
mount --bind "$1/lib" /var/lib
mount --bind "$3" /usr/local/bin
export container=lab SYSTEMD_UNIT_PATH="$1/units"
exec /lib/systemd/systemd --system --unit=lab.target`
	removeSystemd = `mount -t cgroup2 none "$1/cgroup"
if [ -d "$1/cgroup/$2" ]; then find "$1/cgroup/$2" -depth -type d -exec rmdir {} +; fi`
)

// managed is a daemon that a real systemd runs from the unit in scripts/.
type managed struct {
	t      *testing.T
	lab    *lab.Lab
	gw     *lab.Namespace
	daemon *lab.Daemon
	folder string
	first  string // systemd's process id
}

// newManaged boots it, with files below /etc by their names, and waits until the daemon says that it is ready.
func newManaged(t *testing.T, l *lab.Lab, gw *lab.Namespace, etc map[string]string) *managed {
	t.Helper()
	m := &managed{t: t, lab: l, gw: gw, folder: l.Path("systemd")}
	unit, err := os.ReadFile("../../scripts/privlink.service")
	if err != nil {
		t.Fatal(err)
	}
	binary := l.Build(t.Context(), "./cmd/privlink")
	m.write("units/privlink.service", string(unit))
	m.write("units/lab.target", "[Unit]\nWants=privlink.service\n")
	for _, name := range []string{"sysinit", "basic", "shutdown", "network-pre"} {
		m.write("units/"+name+".target", "[Unit]\nDefaultDependencies=no\n") // every service wants them
	}
	// Nobody keeps a journal there; and the configuration is named as the unit says.
	m.write("units/privlink.service.d/lab.conf", "[Service]\nStandardOutput=append:/run/daemon.log\nStandardError=inherit\nEnvironment=PRIVLINK_CONFIG=%E/privlink/privlink.yaml\n")
	for name, content := range etc {
		m.write(filepath.Join("etc.d", name), content)
	}
	process := gw.StartCommand(t.Context(), exec.Command("unshare", "--mount", "sh", "-ec", bootSystemd, "sh", m.folder, l.ID(), filepath.Dir(binary), insideSystemd))
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the daemon said\n%s\nand systemd\n%s", m.log(), process.Output())
		}
	})
	l.OnClose(func() {
		process.Kill()
		// The last of its processes may still be on its way out of the cgroup.
		if err := lab.Poll(10*time.Second, func() error {
			return exec.Command("unshare", "--mount", "sh", "-ec", removeSystemd, "sh", m.folder, l.ID()).Run()
		}); err != nil {
			t.Errorf("remove the cgroup: %v", err)
		}
	})
	l.Wait("systemd to start", 20*time.Second, func() error {
		children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", process.PID()))
		if err != nil {
			return err
		}
		m.first = strings.TrimSpace(string(children))
		if comm, err := os.ReadFile("/proc/" + m.first + "/comm"); err != nil || string(comm) != "systemd\n" {
			return fmt.Errorf("its shell still runs %q (%w)", comm, err)
		}
		return nil
	})
	m.daemon = &lab.Daemon{Namespace: gw, Binary: binary, Socket: "/proc/" + m.first + "/root/run/privlink/privlink.sock"}
	m.active()
	return m
}

func (m *managed) write(name, content string) {
	m.t.Helper()
	name = filepath.Join(m.folder, name)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		m.t.Fatal(err)
	}
}

// run runs a command among systemd's mounts and processes.
func (m *managed) run(args ...string) (string, error) {
	return m.gw.Run(m.t.Context(), "nsenter", append([]string{"-t", m.first, "-m", "-p"}, args...)...)
}

func (m *managed) must(args ...string) string {
	m.t.Helper()
	out, err := m.run(args...)
	if err != nil {
		m.t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// property is one that systemd shows of the unit.
func (m *managed) property(name string) string {
	m.t.Helper()
	return m.must("systemctl", "show", "--value", "-p", name, "privlink")
}

func (m *managed) log() string {
	said, _ := os.ReadFile("/proc/" + m.first + "/root/run/daemon.log")
	return string(said)
}

func (m *managed) active() {
	m.t.Helper()
	m.lab.Wait("the unit to be active", 20*time.Second, func() error {
		if out, err := m.run("systemctl", "is-active", "privlink"); err != nil || strings.TrimSpace(out) != "active" {
			return fmt.Errorf("it is %q (%w)", out, err)
		}
		return nil
	})
}

// well waits until doctor, among the same mounts, finds nothing wrong.
func (m *managed) well(after string) {
	m.t.Helper()
	m.lab.Wait("doctor to be content after "+after, 20*time.Second, func() error {
		out, err := m.run("privlink", "doctor")
		if err != nil {
			return fmt.Errorf("%w\n%s", err, out)
		}
		return nil
	})
}

// The unit as it is, under a real systemd: its sandbox lets the daemon do all that it does (mount a bpffs, make the splice
// path's namespace and enter it again, probe, proxy, listen for TLS on a low port, repair), it is ready when it says so, and what
// ends it has it started again while traffic notices nothing.
func TestUnit_UnderSystemd_SandboxSufficesAndTrafficGoesOn(t *testing.T) {
	l := lab.New(t)
	gw := l.Namespace("gateway")
	web := l.VM(gw, "web", "10.0.0.4/16", lab.VethOptions{})
	vm := l.VM(gw, "vm", "10.0.1.4/16", lab.VethOptions{})
	if err := load.Serve(web, "10.0.0.4"); err != nil {
		t.Fatal(err)
	}
	cert, key := l.Authority().Issue("gateway")
	const low = "127.0.0.1:443"
	m := newManaged(t, l, gw, map[string]string{
		"privlink/privlink.yaml": fmt.Sprintf("listen:\n- {address: '%s', certificate: %s, key: %s}\n", low, cert, key),
	})
	for _, line := range []string{
		"vnet create provider --prefix 10.0.0.0/16 --interface web",
		fmt.Sprintf("lb create web --vnet provider --rule all:0 --backend 10.0.0.4 --probe tcp:%d", load.PortEcho),
		fmt.Sprintf("lb create proxied --vnet provider --rule tcp:%d --backend 10.0.0.4 --probe tcp:%[1]d", load.PortEcho),
		"service create shop --lb web --nat-ip-count 1 --visibility * --auto-approval *",
		"service create proxied --lb proxied --proxy-protocol --nat-ip-count 1 --visibility * --auto-approval *",
		"vnet create consumer --prefix 10.0.0.0/16 --interface vm --mode xdp",
		"endpoint create to-shop --vnet consumer --ip 10.0.1.10 --service " + defaultService("shop"),
		"endpoint create to-proxied --vnet consumer --ip 10.0.1.11 --service " + defaultService("proxied"),
	} {
		mustRun(t, m.daemon, line)
	}
	proxied := func(after string) {
		t.Helper()
		l.Wait("a proxied connection after "+after, 20*time.Second, func() error {
			conn, err := vm.Dial(t.Context(), "tcp4", "", fmt.Sprintf("10.0.1.11:%d", load.PortEcho))
			if err != nil {
				return err
			}
			defer conn.Close()
			return echoes(conn)
		})
	}
	proxied("the start")
	c, err := load.Start(t.Context(), vm, "10.0.1.10", load.Options{Bulk: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	moreLoad(l, c, 3)
	m.well("the start")

	status := m.must("cat", "/proc/"+m.property("MainPID")+"/status")
	var want uint64
	held, err := privilege.Held()
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range privilege.Needed {
		want |= 1 << n.Number & held
	}
	for _, line := range []string{"NoNewPrivs:\t1\n", "Seccomp:\t2\n", fmt.Sprintf("CapBnd:\t%016x\n", want), fmt.Sprintf("CapEff:\t%016x\n", want)} {
		if !strings.Contains(status+"\n", line) {
			t.Errorf("the daemon is not confined, no %q in\n%s", line, status)
		}
	}
	if mode := m.must("stat", "-c", "%a", "/run/netns"); mode != "755" {
		t.Errorf("/run/netns, which is everybody's, has mode %s", mode)
	}
	secure, err := gw.Dial(t.Context(), "tcp4", "", low)
	if err != nil {
		t.Fatal(err)
	}
	defer secure.Close()
	if err := tls.Client(secure, &tls.Config{InsecureSkipVerify: true}).HandshakeContext(t.Context()); err != nil {
		t.Errorf("TLS at %s: %v", low, err)
	}

	// What it repairs, it may.
	m.must("umount", "-l", "/sys/fs/bpf")
	m.well("the bpffs went")
	if err := gw.Netlink().LinkDel(gw.Link("plinner")); err != nil {
		t.Fatal(err)
	}
	proxied("its own interface went")
	m.must("privlink", "backup", filepath.Join(m.folder, "copy"))
	moreLoad(l, c, 3)

	// It is started again, and takes over what it left.
	m.must("systemctl", "kill", "--signal=KILL", "privlink")
	l.Wait("systemd to start it again", 20*time.Second, func() error {
		if n := m.property("NRestarts"); n != "1" {
			return fmt.Errorf("%s restarts", n)
		}
		return nil
	})
	m.active()
	proxied("a crash")
	m.must("systemctl", "stop", "privlink")
	moreLoad(l, c, 3)
	m.must("systemctl", "start", "privlink")
	proxied("a stop")
	m.well("a stop")
	wantNothingLost(t, c)
	if n := m.property("NRestarts"); n != "0" { // since the start by hand
		t.Errorf("the daemon was started again %s times", n)
	}
	if said := m.log(); strings.Contains(said, "level=error") || strings.Contains(said, "not permitted") {
		t.Errorf("the daemon complains:\n%s", said)
	}

	// One that hangs is ended by the watchdog, here after two seconds instead of thirty.
	m.write("units/privlink.service.d/watchdog.conf", "[Service]\nWatchdogSec=2\n")
	m.must("systemctl", "daemon-reload")
	m.must("systemctl", "restart", "privlink")
	m.must("systemctl", "kill", "--signal=STOP", "--kill-whom=main", "privlink")
	l.Wait("the watchdog", 20*time.Second, func() error {
		if n := m.property("NRestarts"); n == "0" {
			return errors.New("no restart")
		}
		return nil
	})
	m.active()
	proxied("a hang")
}
