package doctor

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/dataplane"
	"github.com/privlink/privlink/pkg/lab"
)

func TestMain(m *testing.M) { lab.Main(m) }

// clinic is a subject with nothing wrong: an attached interface in a namespace of its own, and files as the daemon makes them.
type clinic struct {
	Subject
	gw       *lab.Namespace
	offloads fakeOffloads
}

type fakeOffloads map[string]uint32

func (f fakeOffloads) Flags(device string) (uint32, error)        { return f[device], nil }
func (f fakeOffloads) SetFlags(device string, flags uint32) error { f[device] = flags; return nil }

func newClinic(t *testing.T) *clinic {
	t.Helper()
	l := lab.New(t)
	c := &clinic{gw: l.Namespace("gw"), offloads: fakeOffloads{}}
	l.Veth(c.gw, "c1", l.Namespace("peer"), "eth0", lab.VethOptions{})
	c.gw.Bridge("lan", "c1")
	dir := t.TempDir()
	proc := filepath.Join(dir, "proc")
	if err := os.MkdirAll(filepath.Join(proc, "sys/net/core"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(proc, "sys/net/core/bpf_jit_enable"), []byte("1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.Subject = Subject{
		Kernel: api.Examination{NetworkNamespace: c.namespace(t)},
		Status: &api.Status{
			WantedRevision: 7, AppliedRevision: 7, SweepAgeSeconds: 1,
			Interfaces: []api.InterfaceStatus{{Network: "consumers", Interface: "lan", Hook: "tcx", Mode: "xdp", MTU: 1500}},
		},
		BPFFS: l.BPFFS("gw"), StateDir: filepath.Join(dir, "state"), Socket: filepath.Join(dir, "socket"),
		Release: "6.1.0-test", Proc: proc, Offloads: c.offloads,
		Features: []dataplane.Feature{{Name: "tc programs"}, {Name: "tcx", Instead: "clsact is used"}},
	}
	return c
}

// namespace is what NetworkNamespace says inside.
func (c *clinic) namespace(t *testing.T) (name string) {
	t.Helper()
	err := c.gw.Do(func() (err error) {
		name, err = NetworkNamespace()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// examine looks, inside the namespace.
func (c *clinic) examine(t *testing.T) (found []Finding) {
	t.Helper()
	err := c.gw.Do(func() (err error) {
		found, err = Examine(c.Subject)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func (c *clinic) repair(found []Finding) {
	_ = c.gw.Do(func() error {
		Repair(found)
		return nil
	})
}

func checks(found []Finding) []string {
	var names []string
	for _, f := range found {
		names = append(names, f.Check)
	}
	return names
}

// What cannot be done to this machine, each once. Where Repair can do it, it does; where it cannot, what the finding says to do is
// done by hand. In both cases the next examination is clean. What can be done, cmd/privlink does to a daemon.
func TestExamine_EachFinding_IsFoundRepairedAndGone(t *testing.T) {
	for _, c := range []struct {
		name     string
		severity Severity
		provoke  func(*testing.T, *clinic)
		byHand   func(*clinic) // nil: Repair does it
	}{
		{
			"kernel-too-old", Error,
			func(_ *testing.T, c *clinic) { c.Release = "5.15.0-91-generic" },
			func(c *clinic) { c.Release = "6.12.0" },
		},
		{
			"feature-missing", Error,
			func(_ *testing.T, c *clinic) { c.Features[0].Missing = true },
			func(c *clinic) { c.Features[0].Missing = false },
		},
		{
			"feature-missing", Info,
			func(_ *testing.T, c *clinic) { c.Features[1].Missing = true },
			func(c *clinic) { c.Features[1].Missing = false },
		},
		{"jit-off", Error, func(t *testing.T, c *clinic) {
			if err := os.WriteFile(filepath.Join(c.Proc, "sys/net/core/bpf_jit_enable"), []byte("0\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, nil},
		{
			"being-applied", Info,
			func(_ *testing.T, c *clinic) { c.Status.AppliedRevision = 6 },
			func(c *clinic) { c.Status.AppliedRevision = 7 },
		},
		{
			"not-applied", Error,
			func(_ *testing.T, c *clinic) { c.Status.AppliedRevision, c.Status.Problems = 6, []string{"no room"} },
			func(c *clinic) { c.Status.AppliedRevision, c.Status.Problems = 7, nil },
		},
		{
			"left-out", Error,
			func(_ *testing.T, c *clinic) {
				c.Status.LeftOut = []api.LeftOut{{ID: "/x/privateendpoints/e", Reason: "all 65536 addresses are in use"}}
			},
			func(c *clinic) { c.Status.LeftOut = nil },
		},
		{
			"neighbour-asked", Info,
			func(_ *testing.T, c *clinic) {
				c.Status.Unresolved = []api.UnresolvedBackend{{Network: "/x/virtualnetworks/n", Address: "10.0.0.4", Asking: true}}
			},
			func(c *clinic) { c.Status.Unresolved = nil },
		},
		{
			"sweep-late", Error,
			func(_ *testing.T, c *clinic) { c.Status.SweepAgeSeconds = 60 },
			func(c *clinic) { c.Status.SweepAgeSeconds = 0.5 },
		},
		{"lro-on", Error, func(_ *testing.T, c *clinic) { c.offloads["lan"] = flagLRO }, nil},
		{"vlan-hidden", Error, func(_ *testing.T, c *clinic) { c.offloads["lan"] = flagRxVLAN }, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newClinic(t)
			if found := s.examine(t); len(found) != 0 {
				t.Fatalf("before: %+v", found)
			}
			c.provoke(t, s)
			found := s.examine(t)
			if got := checks(found); !slices.Equal(got, []string{c.name}) {
				t.Fatalf("found %q", got)
			}
			if f := found[0]; f.What == "" || f.Do == "" || f.Severity != c.severity || f.Repairable != (c.byHand == nil) {
				t.Errorf("the finding: %+v", f)
			}
			s.repair(found)
			if c.byHand == nil && !found[0].Repaired {
				t.Errorf("it was not repaired: %+v", found[0])
			}
			if c.byHand != nil {
				c.byHand(s)
			}
			if again := s.examine(t); len(again) != 0 {
				t.Errorf("afterwards: %+v", again)
			}
		})
	}
}

// Who empties a map changes thousands of entries: the first are shown, and how many more there are.
func TestExamine_ManyEntriesDiffer_FirstAreShown(t *testing.T) {
	s := newClinic(t)
	for i := range 1000 {
		s.Kernel.Differences = append(s.Kernel.Differences, api.KernelDifference{Object: fmt.Sprint("address ", i), Want: "an endpoint"})
	}
	found := s.examine(t)
	if len(found) != mostEntries+1 || !strings.Contains(found[mostEntries].What, "980 entries more") {
		t.Errorf("%d findings, the last %+v", len(found), found[len(found)-1])
	}
}

// What is to be done is said in commands that do it: with the VLAN, with the id where the name alone would be another network's,
// and for every attachment that asks for XDP.
func TestExamine_VLANsOfAnotherScope_CommandsNameThem(t *testing.T) {
	s := newClinic(t)
	s.Scope = "/subscriptions/a/resourcegroups/default/"
	const mine, other = "/subscriptions/a/resourceGroups/default/providers/x/virtualNetworks/mine", "/subscriptions/b/resourceGroups/default/providers/x/virtualNetworks/other"
	s.Status.Interfaces = []api.InterfaceStatus{
		{Network: mine, Interface: "lan", VLAN: 7, Hook: "tcx", Mode: "tc", Asked: "tc", Warnings: []string{"it has VLANs"}},
		{Network: mine, Interface: "lan", VLAN: 8, Hook: "tcx", Mode: "tc", Asked: "xdp", Warnings: []string{"it has VLANs"}},
		{Network: other, Interface: "lan", Hook: "tcx", Mode: "tc", Asked: "auto", Warnings: []string{"it has VLANs"}},
		{Network: other, Interface: "gone", VLAN: 9, Error: "no such interface"},
	}
	found := s.examine(t)
	if got := checks(found); !slices.Equal(got, []string{"xdp-refused", "not-attached"}) {
		t.Fatalf("found %q", got)
	}
	for i, want := range []string{
		"with TC: privlink vnet attach mine --interface lan --vlan 8 --mode tc; privlink vnet attach " + other + " --interface lan --mode tc",
		"privlink vnet detach " + other + " --interface gone --vlan 9",
	} {
		if !strings.HasSuffix(found[i].Do, want) {
			t.Errorf("%s: do %q, want %q", found[i].Check, found[i].Do, want)
		}
	}
}

// Each thing that a backend can lack has its own advice; one that this version does not know has some, too.
func TestExamine_BackendUnresolved_AdviceIsForWhatIsMissing(t *testing.T) {
	s := newClinic(t)
	for missing, want := range map[string]string{
		"interface": "attach the interface that it is behind", "answer": "start the machine", "nextHop": "name the router that it is behind",
		"nextHopsAnswer": "start that router", "more": "see to what is missing",
	} {
		s.Status.Unresolved = []api.UnresolvedBackend{{Network: "/x/virtualnetworks/n", Address: "10.0.0.4", Missing: missing, Why: "so"}}
		if found := s.examine(t); len(found) != 1 || found[0].Check != "neighbour-unresolved" || !strings.HasPrefix(found[0].Do, want) {
			t.Errorf("%s: %+v", missing, found)
		}
	}
}
