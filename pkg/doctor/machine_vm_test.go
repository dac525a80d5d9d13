//go:build machine

package doctor

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/dataplane"
	"github.com/privlink/privlink/pkg/lab/vm"
)

// These are for a machine that is nobody's, of scripts/test-kernels: a real kernel, its settings and a real NIC.

// nic finds the machine's.
func nic(t *testing.T) string {
	t.Helper()
	drivers, err := filepath.Glob("/sys/class/net/*/device/driver")
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range drivers {
		if to, err := os.Readlink(link); err == nil && filepath.Base(to) == vm.NICDriver {
			return strings.Split(link, "/")[4]
		}
	}
	t.Fatalf("no NIC among %q", drivers)
	return ""
}

// patient is a subject with nothing made up but the daemon.
func patient(t *testing.T, name, mode string) Subject {
	t.Helper()
	l, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(l); err != nil {
		t.Fatal(err)
	}
	here, err := NetworkNamespace()
	if err != nil {
		t.Fatal(err)
	}
	state := t.TempDir()
	if err := os.Chmod(state, 0o700); err != nil {
		t.Fatal(err)
	}
	return Subject{
		Kernel: api.Examination{NetworkNamespace: here},
		Status: &api.Status{
			WantedRevision: 7, AppliedRevision: 7,
			Interfaces: []api.InterfaceStatus{{Network: "consumers", Interface: name, Hook: "clsact", Mode: mode, MTU: 1500}},
		},
		BPFFS: "/sys/fs/bpf/privlink", StateDir: state, Socket: filepath.Join(t.TempDir(), "socket"),
	}
}

// look is Examine without what this kernel goes without, of which TestMachine_Kernel says.
func look(t *testing.T, s Subject) []Finding {
	t.Helper()
	found, err := Examine(s)
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(found, func(f Finding) bool { return f.Check == "feature-missing" && f.Severity == Info })
}

// repairs wants just that finding, and after Repair none.
func repairs(t *testing.T, s Subject, want string) {
	t.Helper()
	found := look(t, s)
	if got := checks(found); !slices.Equal(got, []string{want}) {
		t.Fatalf("found %q: %+v", got, found)
	}
	Repair(found)
	if !found[0].Repaired {
		t.Errorf("not repaired: %+v", found[0])
	}
	if again := look(t, s); len(again) > 0 {
		t.Errorf("afterwards: %+v", again)
	}
}

func TestMachine_NICOffloads_AreFoundRepairedAndGone(t *testing.T) {
	name := nic(t)
	before, err := ethtool{}.Flags(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := (ethtool{}).SetFlags(name, before); err != nil {
			t.Error(err)
		}
	})
	for _, c := range []struct {
		finds, mode string
		on          uint32
	}{{"lro-on", "tc", flagLRO | flagRxVLAN}, {"vlan-hidden", "xdp", flagRxVLAN}} {
		if err := (ethtool{}).SetFlags(name, before&^(flagLRO|flagRxVLAN)|c.on); err != nil {
			t.Fatalf("%s: %v", c.finds, err)
		}
		repairs(t, patient(t, name, c.mode), c.finds)
	}
}

// A daemon that cannot start for it says so.
func TestMachine_JITOff_IsFoundRepairedAndGone(t *testing.T) {
	const setting = "/proc/sys/net/core/bpf_jit_enable"
	if err := os.WriteFile(setting, []byte("0\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.WriteFile(setting, []byte("1\n"), 0o644) })
	lacks := func() string {
		t.Helper()
		missing, err := dataplane.MissingFeatures()
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(missing, ", ")
	}
	if got := lacks(); got != "compiled BPF programs (sysctl net.core.bpf_jit_enable=1)" {
		t.Errorf("the kernel lacks %q", got)
	}
	repairs(t, patient(t, "lo", "tc"), "jit-off")
	if got := lacks(); got != "" {
		t.Errorf("afterwards the kernel lacks %q", got)
	}
	if now, err := os.ReadFile(setting); err != nil || string(now) != "1\n" {
		t.Errorf("the setting is %q, %v", now, err)
	}
}

// What this kernel goes without is said, and what it has is not: TCX came with 6.6.
func TestMachine_Kernel_SaysWhatItGoesWithout(t *testing.T) {
	found, err := Examine(patient(t, "lo", "tc"))
	if err != nil {
		t.Fatal(err)
	}
	var lacks []string
	for _, f := range found {
		if f.Check != "feature-missing" || f.Severity != Info || f.Repairable {
			t.Errorf("%+v", f)
		}
		lacks = append(lacks, f.Object)
	}
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		t.Fatal(err)
	}
	if old := strings.HasPrefix(string(release), "6.1."); slices.Contains(lacks, "tcx") != old {
		t.Errorf("Linux %s goes without %q", release, lacks)
	}
	t.Logf("Linux %s goes without %q", release, lacks)
}
