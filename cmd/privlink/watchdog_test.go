package main

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/privlink/privlink/pkg/control"
	"github.com/privlink/privlink/pkg/dataplane"
	"github.com/privlink/privlink/pkg/lab"
	"github.com/privlink/privlink/pkg/store"
)

// serviceManager is one that only listens (sd_notify(3)).
type serviceManager struct {
	*net.UnixConn
	t *testing.T
}

// watchInterval is how often it wants to hear that all is well.
const watchInterval = 200 * time.Millisecond

func newServiceManager(t *testing.T, l *lab.Lab) serviceManager {
	t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: l.Path("notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return serviceManager{conn, t}
}

// environment is what it gives to those it starts.
func (m serviceManager) environment() []string {
	return []string{"NOTIFY_SOCKET=" + m.LocalAddr().String(), "WATCHDOG_USEC=200000"}
}

// hear is the next word, or none for so long.
func (m serviceManager) hear(patience time.Duration) (word string, said bool) {
	m.t.Helper()
	if err := m.SetReadDeadline(time.Now().Add(patience)); err != nil {
		m.t.Fatal(err)
	}
	buffer := make([]byte, 100)
	n, err := m.Read(buffer)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		m.t.Fatal(err)
	}
	return string(buffer[:n]), err == nil
}

// want wants this word next.
func (m serviceManager) want(word string) {
	m.t.Helper()
	if heard, _ := m.hear(20 * time.Second); heard != word {
		m.t.Fatalf("the service manager heard %q, want %q", heard, word)
	}
}

// The service manager hears that the daemon is ready, that it is well, and that it stops.
func TestRun_ServiceManager_HearsReadyWatchdogAndStopping(t *testing.T) {
	l := lab.New(t)
	binary, gw, manager := l.Build(t.Context(), "./cmd/privlink"), l.Namespace("gateway"), newServiceManager(t, l)
	cmd := exec.Command(binary, "run", "--state-dir", l.Path("state"), "--socket", l.Path("socket"), "--bpffs", l.BPFFS("gateway"))
	cmd.Env = append(os.Environ(), manager.environment()...)
	process := gw.StartCommand(t.Context(), cmd)
	manager.want("READY=1")
	for range 3 {
		manager.want("WATCHDOG=1")
	}
	process.Stop()
	last, _ := manager.hear(20 * time.Second)
	for last == "WATCHDOG=1" {
		last, _ = manager.hear(20 * time.Second)
	}
	if last != "STOPPING=1" {
		t.Errorf("at last it said %q", last)
	}
}

// A dataplane that stands still keeps the watchdog from speaking, though everything else of the daemon runs. Here it waits,
// with its lock, for somebody to read what it logs.
func TestRun_DataplaneStandsStill_WatchdogIsSilentUntilItGoesOn(t *testing.T) {
	l := lab.New(t)
	binary, gw, manager := l.Build(t.Context(), "./cmd/privlink"), l.Namespace("gateway"), newServiceManager(t, l)
	l.Veth(gw, "eth1", l.Namespace("vm"), "eth0", lab.VethOptions{})
	fifo, socket := l.Path("log"), l.Path("socket")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := unix.Open(fifo, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(log)
	cmd := exec.Command("sh", "-c", `exec "$@" 2>"$0"`, fifo,
		binary, "run", "--state-dir", l.Path("state"), "--socket", socket, "--bpffs", l.BPFFS("gateway"))
	cmd.Env = append(os.Environ(), manager.environment()...)
	process := gw.StartCommand(t.Context(), cmd)
	defer process.Kill()
	manager.want("READY=1")
	manager.want("WATCHDOG=1")

	for _, size := range []int{4096, 1} { // until not one byte more goes in
		for err = nil; err == nil; _, err = unix.Write(log, make([]byte, size)) {
		}
		if !errors.Is(err, unix.EAGAIN) {
			t.Fatal(err)
		}
	}
	attach := exec.Command(binary, "vnet", "create", "net", "--prefix", "10.0.0.0/16", "--interface", "eth1")
	attach.Env = append(os.Environ(), "PRIVLINK_SOCKET="+socket)
	attached := gw.StartCommand(t.Context(), attach)
	const silence = 10 * watchInterval
	for begin, said := time.Now(), true; said; {
		if _, said = manager.hear(silence); time.Since(begin) > 20*time.Second {
			t.Fatal("the watchdog says that all is well")
		}
	}
	select {
	case <-process.Exited():
		t.Fatal("the daemon ended")
	case <-attached.Exited():
		t.Fatalf("the interface was attached: %s", attached.Output())
	default:
	}

	read := make([]byte, 1<<16)
	l.Wait("the watchdog to speak again", 20*time.Second, func() error {
		for err = nil; err == nil; _, err = unix.Read(log, read) {
		}
		if word, _ := manager.hear(watchInterval); word != "WATCHDOG=1" {
			return errors.New("silence")
		}
		return nil
	})
	if err := attached.Wait(t.Context()); err != nil {
		t.Errorf("attach: %v\n%s", err, attached.Output())
	}
}

// A sweep that stands still makes the daemon unwell, even if nothing else does.
func TestWatchdog_SweepStandsStill_NothingIsSaid(t *testing.T) {
	l := lab.New(t)
	manager, logged := newServiceManager(t, l), &lines{}
	log := logrus.New()
	log.SetOutput(logged)
	// It does not sweep before it has a State, and gets none.
	plane, err := dataplane.Open(t.Context(), dataplane.Options{BPFFS: l.BPFFS("rig"), NetNS: l.Namespace("gateway").Path(), Pairs: 64, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	defer plane.Close()
	kept, err := store.OpenBolt(filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	controller, err := control.New(t.Context(), control.Options{Store: kept, Applier: plane, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	variables := strings.Join(manager.environment(), "\n") + "\n"
	env := &environment{getenv: func(name string) string {
		_, after, _ := strings.Cut(variables, name+"=")
		value, _, _ := strings.Cut(after, "\n")
		return value
	}}
	for _, c := range []struct {
		name    string
		started time.Time
		well    bool
	}{{"just begun", time.Now(), true}, {"for an hour", time.Now().Add(-time.Hour), false}} {
		t.Run(strings.ReplaceAll(c.name, " ", "_"), func(t *testing.T) {
			d := &daemon{log: log, started: c.started, plane: plane, controller: controller}
			ctx, cancel := context.WithCancel(t.Context())
			var watching sync.WaitGroup
			watching.Go(func() { d.watchdog(ctx, env) })
			if c.well {
				manager.want("WATCHDOG=1")
			} else {
				l.Wait("three complaints", 20*time.Second, func() error {
					if text := logged.String(); strings.Count(text, `error="the flow table was not swept for 1h0m0s"`) < 3 {
						return errors.New(text)
					}
					return nil
				})
			}
			cancel()
			watching.Wait()
			for word, said := manager.hear(time.Millisecond); said; word, said = manager.hear(time.Millisecond) {
				if !c.well {
					t.Errorf("it said %s", word)
				}
			}
		})
	}
}

// lines is a log to look into while it is written.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}
