package main

import (
	"os"
	"strings"
	"testing"

	"github.com/privlink/privlink/pkg/lab"
)

// A machine in order: exit code 0. Something wrong: 1, and what to do. Repaired: 0, and clean afterwards.
func TestDoctor_FolderOpenToOthers_FoundRepairedAndClean(t *testing.T) {
	_, d := gateway(t)
	args := []string{"doctor", "--bpffs", d.BPFFS, "--state-dir", d.StateDir}
	out, err := d.CLI(t.Context(), args...)
	if err != nil || !strings.Contains(out, "nothing is wrong") {
		t.Fatalf("a healthy machine: %v\n%s", err, out)
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
