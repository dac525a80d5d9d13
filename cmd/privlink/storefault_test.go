package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/privlink/privlink/pkg/lab"
	"golang.org/x/sys/unix"
)

// smallDisk is a gateway whose daemon keeps its state on a file system of its own, of 1 MiB.
func smallDisk(t *testing.T) (*lab.Lab, *lab.Daemon) {
	t.Helper()
	l := lab.New(t)
	gw, vm := l.Namespace("gateway"), l.Namespace("vm")
	l.Veth(gw, "eth1", vm, "eth0", lab.VethOptions{B: lab.EndOptions{Addr: "10.0.0.4/16"}})
	d := &lab.Daemon{Namespace: gw, Binary: l.Build(t.Context(), "./cmd/privlink"), Socket: l.Path("socket"), StateDir: l.Path("disk"), BPFFS: l.BPFFS("gateway")}
	if err := os.Mkdir(d.StateDir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", d.StateDir, "tmpfs", 0, "size=1m,mode=0700"); err != nil {
		t.Fatal(err)
	}
	l.OnClose(func() { _ = unix.Unmount(d.StateDir, unix.MNT_DETACH) })
	d.Start(t.Context())
	for _, args := range [][]string{
		{"vnet", "create", "net", "--prefix", "10.0.0.0/16", "--subnet", "default=10.0.0.0/24"},
		{"vnet", "attach", "net", "--interface", "eth1"},
	} {
		if out, err := d.CLI(t.Context(), args...); err != nil {
			t.Fatalf("privlink %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	return l, d
}

// refusesToStart starts the daemon, which must end with a message, and leave what is attached alone.
func refusesToStart(t *testing.T, l *lab.Lab, d *lab.Daemon, want string) {
	t.Helper()
	p := d.Namespace.Start(t.Context(), d.Binary, "run", "--state-dir", d.StateDir, "--socket", d.Socket, "--bpffs", d.BPFFS)
	l.Wait("the daemon to refuse", 20*time.Second, func() error {
		select {
		case <-p.Exited():
			return nil
		default:
			return errors.New(p.Output())
		}
	})
	if out := p.Output(); !strings.Contains(out, want) || strings.Contains(out, "panic") {
		t.Errorf("it said: %s\nwant %q", out, want)
	}
	if _, err := os.Stat(filepath.Join(d.BPFFS, "links", "tcx-eth1")); err != nil {
		t.Errorf("the attachment of before: %v", err)
	}
}

func TestStore_DiskFull_WriteIsRefusedAndNothingElse(t *testing.T) {
	_, d := smallDisk(t)
	filler := fillDisk(t, d.StateDir)
	var failed error
	for i := 0; failed == nil && i < 200; i++ { // the file may have some room left inside
		_, failed = d.CLI(t.Context(), "vnet", "create", "net"+strings.Repeat("x", i%50+1), "--prefix", "10.0.0.0/16", "--subnet", "default=10.0.0.0/24")
	}
	var exit *lab.ExitError
	if !errors.As(failed, &exit) || !strings.Contains(exit.Stderr, "no space left") {
		t.Errorf("a write on a full disk: %v", failed)
	}
	if out, err := d.CLI(t.Context(), "vnet", "show", "net"); err != nil || !strings.Contains(out, "eth1") {
		t.Errorf("reading on a full disk: %v\n%s", err, out)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	if out, err := d.CLI(t.Context(), "vnet", "create", "later", "--prefix", "10.0.0.0/16", "--subnet", "default=10.0.0.0/24"); err != nil {
		t.Errorf("with room again: %v\n%s", err, out)
	}
	d.Kill()
	d.Start(t.Context())
	if out, err := d.CLI(t.Context(), "vnet", "show", "later"); err != nil {
		t.Errorf("after a restart: %v\n%s", err, out)
	}
}

func TestStore_DamagedOrReadOnly_DaemonRefusesAndTheKernelGoesOn(t *testing.T) {
	l, d := smallDisk(t)
	d.Kill()
	name := filepath.Join(d.StateDir, "state.db")
	good, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for what, bad := range map[string][]byte{
		"cut short": good[:1000], "overwritten": []byte(strings.Repeat("not a store\n", len(good)/12)), "empty pages": make([]byte, len(good)),
	} {
		if err := os.WriteFile(name, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		t.Log(what)
		refusesToStart(t, l, d, "state.db")
	}
	if err := os.WriteFile(name, good, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("", d.StateDir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	refusesToStart(t, l, d, "read-only file system")
	if err := unix.Mount("", d.StateDir, "", unix.MS_REMOUNT, ""); err != nil {
		t.Fatal(err)
	}
	d.Start(t.Context())
	if out, err := d.CLI(t.Context(), "vnet", "show", "net"); err != nil || !strings.Contains(out, "eth1") {
		t.Errorf("with the store as it was: %v\n%s", err, out)
	}
}

// A store that is whole and cannot be opened must not be called damaged: the advice for that is to start without it, which ends
// everything it has.
func TestStore_CannotBeOpened_SaysWhyAndNotDamaged(t *testing.T) {
	l, d := smallDisk(t)
	d.Kill()
	name := filepath.Join(d.StateDir, "state.db")
	if err := errors.Join(unix.Mount(name, name, "", unix.MS_BIND, ""), unix.Mount("", name, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, "")); err != nil {
		t.Fatal(err)
	}
	refusesToStart(t, l, d, "open state: open store "+name+": open "+name+": read-only file system (make that file system writable again")
	if err := unix.Unmount(name, 0); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(name, name+".away"); err != nil {
		t.Fatal(err)
	}
	filler := fillDisk(t, d.StateDir)
	refusesToStart(t, l, d, "open state: open store "+name+": write "+name+": no space left on device (make room there; what is in the file is whole)")
	if err := errors.Join(os.Remove(filler), os.Rename(name+".away", name)); err != nil {
		t.Fatal(err)
	}
	filler = fillDisk(t, d.StateDir)
	d.Start(t.Context()) // a restart takes no room
	if out, err := d.CLI(t.Context(), "vnet", "show", "net"); err != nil || !strings.Contains(out, "eth1") {
		t.Errorf("restarted on a full disk: %v\n%s", err, out)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
}

// fillDisk writes a file until there is no room for more.
func fillDisk(t *testing.T, dir string) (filler string) {
	t.Helper()
	filler = filepath.Join(dir, "filler")
	file, err := os.Create(filler)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for err == nil {
		_, err = file.Write(make([]byte, 4096))
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	return filler
}

// A store on a disk that refuses writes, or a damaged one, is no business of plain flows.
func TestStore_FaultsUnderTraffic_NothingLost(t *testing.T) {
	l, d, c := loadedGateway(t, lab.DaemonOptions{})
	// No byte more on any disk. The kernel makes no file system read-only while a file on it is open for writing.
	limited := unix.Rlimit{Cur: 0, Max: unix.RLIM_INFINITY}
	var before unix.Rlimit
	if err := unix.Prlimit(d.Process().PID(), unix.RLIMIT_FSIZE, &limited, &before); err != nil {
		t.Fatal(err)
	}
	if out, err := d.CLI(t.Context(), "vnet", "create", "more", "--prefix", "10.0.0.0/16"); err == nil {
		t.Errorf("a write that the disk refuses: %s", out)
	}
	moreLoad(l, c, 3)
	if err := unix.Prlimit(d.Process().PID(), unix.RLIMIT_FSIZE, &before, nil); err != nil {
		t.Fatal(err)
	}
	if out, err := d.CLI(t.Context(), "vnet", "create", "more", "--prefix", "10.0.0.0/16"); err != nil {
		t.Errorf("a write when the disk takes it again: %v\n%s", err, out)
	}
	d.Kill()
	name := filepath.Join(d.StateDir, "state.db")
	good, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, good[:1000], 0o600); err != nil {
		t.Fatal(err)
	}
	p := d.Launch(t.Context())
	l.Wait("the daemon to refuse", 20*time.Second, func() error {
		select {
		case <-p.Exited():
			return nil
		default:
			return errors.New(p.Output())
		}
	})
	if !strings.Contains(p.Output(), "state.db") {
		t.Errorf("with a damaged store it said: %s", p.Output())
	}
	moreLoad(l, c, 3)
	if err := os.WriteFile(name, good, 0o600); err != nil {
		t.Fatal(err)
	}
	d.Start(t.Context())
	moreLoad(l, c, 3)
	wantNothingLost(t, c)
}

// Who removes the daemon's file, or mounts something over its folder, ends what is written: it would be lost with the next start,
// which would take everything out of the kernel. What is known can be put back.
func TestStore_FileGone_WritesAreRefusedAndABackupPutsItBack(t *testing.T) {
	l, d := smallDisk(t)
	name := filepath.Join(d.StateDir, "state.db")
	for what, lose := range map[string]func() error{
		"removed":  func() error { return os.Remove(name) },
		"replaced": func() error { return errors.Join(os.Rename(name, name+".old"), os.WriteFile(name, nil, 0o600)) },
	} {
		if err := lose(); err != nil {
			t.Fatal(err)
		}
		const text = "removed or replaced (`privlink backup "
		if code, said := refusal(t, d, "vnet", "create", what, "--prefix", "10.0.0.0/16"); code != exitFailed || !strings.Contains(said, "was removed or replaced, `privlink doctor` says what to do") {
			t.Errorf("%s: a write: (%d) %s", what, code, said)
		}
		if out, err := d.CLI(t.Context(), "status"); err == nil || !strings.Contains(out, text) {
			t.Errorf("%s: status: %v\n%s", what, err, out)
		}
		mustRun(t, d, "backup "+name)
		d.Kill()
		d.Start(t.Context())
		if out, err := d.CLI(t.Context(), "vnet", "show", "net"); err != nil || !strings.Contains(out, "eth1") {
			t.Errorf("%s: with the store put back: %v\n%s", what, err, out)
		}
		mustRun(t, d, "vnet create "+what+" --prefix 10.0.0.0/16")
		l.Wait("the status to be well", 20*time.Second, func() error {
			_, err := d.CLI(t.Context(), "status")
			return err
		})
	}
}

// A start without the store, or with another one, would take everything out of the kernel.
func TestStore_NewBesideWhatTheKernelCarries_DaemonRefusesAndTheKernelGoesOn(t *testing.T) {
	l, d := smallDisk(t)
	d.Kill()
	name := filepath.Join(d.StateDir, "state.db")
	if err := os.Rename(name, name+".old"); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the file that the first one made is as good as none
		refusesToStart(t, l, d, "has no resources, and the kernel carries networks (1), which a start would take out: put the file back (a backup is one)")
	}
	if err := os.Rename(name+".old", name); err != nil {
		t.Fatal(err)
	}
	d.Start(t.Context())
	if out, err := d.CLI(t.Context(), "vnet", "show", "net"); err != nil || !strings.Contains(out, "eth1") {
		t.Errorf("with the store put back: %v\n%s", err, out)
	}
	// Who wants to begin anew says so.
	d.Stop()
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	mustRun(t, d, "down --bpffs "+d.BPFFS)
	d.Start(t.Context())
	if out, err := d.CLI(t.Context(), "vnet", "list"); err != nil || strings.Contains(out, "eth1") {
		t.Errorf("begun anew: %v\n%s", err, out)
	}
	// A store without resources is one when they were there once.
	mustRun(t, d, "vnet create net --prefix 10.0.0.0/16 --interface eth1")
	mustRun(t, d, "vnet delete net")
	d.Kill()
	d.Start(t.Context())
}
