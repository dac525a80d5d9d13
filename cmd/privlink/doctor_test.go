package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/privlink/privlink/pkg/lab"
)

// A machine in order: exit code 0. Something wrong: 1, and what to do. Repaired: 0, and clean afterwards.
func TestDoctor_FolderOpenToOthers_FoundRepairedAndClean(t *testing.T) {
	_, d := gateway(t)
	args := []string{"doctor", "--bpffs", d.BPFFS, "--state-dir", d.StateDir}
	var out string
	var err error
	// right after its start the daemon is still at its first revision, which the doctor says
	if late := lab.Poll(10*time.Second, func() error {
		if out, err = d.CLI(t.Context(), args...); err != nil || !strings.Contains(out, "nothing is wrong") {
			return fmt.Errorf("%v\n%s", err, out)
		}
		return nil
	}); late != nil {
		t.Fatalf("a healthy machine: %v", late)
	}
	if err := os.Chmod(d.BPFFS, 0o755); err != nil {
		t.Fatal(err)
	}
	if code, _ := refusal(t, d, args...); code != exitFailed {
		t.Errorf("exit code %d with an open folder", code)
	}
	out, err = d.CLI(t.Context(), append(args, "--fix")...)
	if err != nil || !strings.Contains(out, "repaired") || !strings.Contains(out, "chmod 0700 "+d.BPFFS) {
		t.Errorf("repairing: %v\n%s", err, out)
	}
	if out, err = d.CLI(t.Context(), args...); err != nil {
		t.Errorf("after the repair: %v\n%s", err, out)
	}
	d.Stop()
	if code, _ := refusal(t, d, args...); code != exitFailed {
		t.Errorf("exit code %d without a daemon", code)
	}
}

// Attachments of different MTUs may be meant so: it is said, and the exit code is 0.
func TestDoctor_MTUsDiffer_SaidAndNothingWrong(t *testing.T) {
	l, d := gateway(t)
	l.Veth(d.Namespace, "small", l.Namespace("small"), "eth0", lab.VethOptions{MTU: 1400})
	for _, name := range []string{"eth1", "small"} {
		if out, err := d.CLI(t.Context(), "vnet", "create", "of-"+name, "--prefix", "10.0.0.0/16", "--interface", name); err != nil {
			t.Fatalf("attach %s: %v\n%s", name, err, out)
		}
	}
	out, err := d.CLI(t.Context(), "doctor", "--bpffs", d.BPFFS, "--state-dir", d.StateDir)
	if err != nil || !strings.Contains(out, "mtu-differs") || !strings.Contains(out, "info") {
		t.Errorf("with MTUs that differ: %v\n%s", err, out)
	}
}

// What is wrong with a running daemon's interface and pins, as the doctor finds it in the daemon's namespace.
func TestDoctor_RealDaemon_InterfaceDownAndPinLeft_RepairedAndClean(t *testing.T) {
	l, d := gateway(t)
	if out, err := d.CLI(t.Context(), "vnet", "create", "net", "--prefix", "10.0.0.0/16", "--interface", "eth1"); err != nil {
		t.Fatalf("attach eth1: %v\n%s", err, out)
	}
	look := func(args ...string) (string, error) {
		return d.Namespace.Run(t.Context(), d.Binary, append([]string{"doctor", "--socket", d.Socket, "--bpffs", d.BPFFS, "--state-dir", d.StateDir}, args...)...)
	}
	if out, err := look(); err != nil {
		t.Fatalf("a healthy machine: %v\n%s", err, out)
	}
	d.Namespace.Down("eth1")
	left := filepath.Join(d.BPFFS, "links", "tcx-gone")
	config, err := ebpf.LoadPinnedMap(filepath.Join(d.BPFFS, "maps", "config_v1"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer config.Close()
	if again, err := config.Clone(); err != nil {
		t.Fatal(err)
	} else if err := errors.Join(again.Pin(left), again.Close()); err != nil {
		t.Fatal(err)
	}
	if out, err := look(); err == nil || !strings.Contains(out, "interface-down") || !strings.Contains(out, "pin-left") {
		t.Errorf("eth1 down and a pin left: %v\n%s", err, out)
	}
	if out, err := look("--fix"); err != nil || strings.Count(out, "repaired") != 2 {
		t.Errorf("repairing: %v\n%s", err, out)
	}
	d.Namespace.WaitUp("eth1")
	l.Wait("a clean examination", 15*time.Second, func() error {
		out, err := look()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
}
