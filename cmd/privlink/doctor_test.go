package main

import (
	"os"
	"strings"
	"testing"
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
