package doctor

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/lab"
)

func TestMain(m *testing.M) { lab.Main(m) }

// clinic is a subject with nothing wrong: two attached interfaces in a namespace of their own, and files as the daemon makes them.
type clinic struct {
	Subject
	gw, peer *lab.Namespace
	offloads fakeOffloads
	silent   *api.Status // of a daemon that does not answer
}

type fakeOffloads map[string]uint32

func (f fakeOffloads) Flags(device string) (uint32, error)        { return f[device], nil }
func (f fakeOffloads) SetFlags(device string, flags uint32) error { f[device] = flags; return nil }

func newClinic(t *testing.T) *clinic {
	t.Helper()
	l := lab.New(t)
	c := &clinic{gw: l.Namespace("gw"), peer: l.Namespace("peer"), offloads: fakeOffloads{}}
	l.Veth(c.gw, "c1", c.peer, "eth0", lab.VethOptions{})
	l.Veth(c.gw, "web", c.peer, "eth1", lab.VethOptions{})
	c.gw.Bridge("lan")
	c.gw.Up("lan")
	dir := t.TempDir()
	write := func(name string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("1\n"), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("bpf/maps/config_v1", 0o600)
	write("bpf/links/tcx-c1", 0o600)
	write("bpf/links/tcx-web", 0o600)
	write("bpf/links/tcx-pli-00000001", 0o600)
	write("state/state.db", 0o600)
	write("proc/sys/net/core/bpf_jit_enable", 0o600)
	c.Subject = Subject{
		Status: &api.Status{
			WantedRevision: 7, AppliedRevision: 7, SweepAgeSeconds: 1,
			Interfaces: []api.InterfaceStatus{
				{Network: "consumers", Interface: "c1", Hook: "tcx", Mode: "tc", MTU: 1500},
				{Network: "providers", Interface: "web", Hook: "tcx", Mode: "tc", MTU: 1500},
			},
			Maps: []api.MapStatus{{Name: "flows_v1", Used: 79, Size: 100}, {Name: "links_v1", Used: 1, Size: 100}},
		},
		Ports: []api.PortUse{{Address: "10.0.0.5", Protocol: "tcp", Backend: "10.0.0.4:80", Used: 100, Size: 64512}},
		BPFFS: filepath.Join(dir, "bpf"), StateDir: filepath.Join(dir, "state"), Socket: write("socket", 0o600),
		Release: "6.1.0-test", Proc: filepath.Join(dir, "proc"), Offloads: c.offloads,
	}
	return c
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

func TestExamine_NothingWrong_FindsNothing(t *testing.T) {
	if found := newClinic(t).examine(t); len(found) != 0 {
		t.Errorf("found %+v", found)
	}
}

// Each finding is provoked once. Where Repair can do it, it does; where it cannot, what the finding says to do is
// done by hand. In both cases the next examination is clean.
func TestExamine_EachFinding_IsFoundRepairedAndGone(t *testing.T) {
	chmod := func(path func(*clinic) string, mode os.FileMode) func(*testing.T, *clinic) {
		return func(t *testing.T, c *clinic) {
			if err := os.Chmod(path(c), mode); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, c := range map[string]struct {
		provoke func(*testing.T, *clinic)
		byHand  func(*testing.T, *clinic) // nil: Repair does it
	}{
		"kernel-too-old": {
			func(_ *testing.T, c *clinic) { c.Release = "5.15.0-91-generic" },
			func(_ *testing.T, c *clinic) { c.Release = "6.12.0" },
		},
		"jit-off": {func(t *testing.T, c *clinic) {
			if err := os.WriteFile(filepath.Join(c.Proc, "sys/net/core/bpf_jit_enable"), []byte("0\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, nil},
		"daemon-down": {
			func(_ *testing.T, c *clinic) {
				c.silent, c.Status = c.Status, nil
				c.StatusError = errors.New("no such file")
			},
			func(_ *testing.T, c *clinic) { c.Status = c.silent },
		},
		"being-applied": {
			func(_ *testing.T, c *clinic) { c.Status.AppliedRevision = 6 },
			func(_ *testing.T, c *clinic) { c.Status.AppliedRevision = 7 },
		},
		"not-applied": {
			func(_ *testing.T, c *clinic) { c.Status.AppliedRevision, c.Status.Problems = 6, []string{"no room"} },
			func(_ *testing.T, c *clinic) { c.Status.AppliedRevision, c.Status.Problems = 7, nil },
		},
		"address-conflict": {
			func(_ *testing.T, c *clinic) {
				c.Status.Problems = []string{"10.0.0.9 of consumers is in use by 02:00:00:00:00:01 on c1"}
			},
			func(_ *testing.T, c *clinic) { c.Status.Problems = nil },
		},
		"neighbour-unresolved": {
			func(_ *testing.T, c *clinic) {
				c.Status.Warnings = []string{"nobody answers for backend 10.0.0.4 of providers"}
			},
			func(_ *testing.T, c *clinic) { c.Status.Warnings = nil },
		},
		"sweep-late": {
			func(_ *testing.T, c *clinic) { c.Status.SweepAgeSeconds = 60 },
			func(_ *testing.T, c *clinic) { c.Status.SweepAgeSeconds = 0.5 },
		},
		"bpffs-open":  {chmod(func(c *clinic) string { return c.BPFFS }, 0o755), nil},
		"state-open":  {chmod(func(c *clinic) string { return c.StateDir }, 0o755), nil},
		"store-open":  {chmod(func(c *clinic) string { return filepath.Join(c.StateDir, "state.db") }, 0o644), nil},
		"socket-open": {chmod(func(c *clinic) string { return c.Socket }, 0o666), nil},
		"pin-left": {func(t *testing.T, c *clinic) {
			if err := os.WriteFile(filepath.Join(c.BPFFS, "links", "xdp-old~1eth"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}, nil},
		"pin-missing": {
			func(t *testing.T, c *clinic) {
				if err := os.Remove(filepath.Join(c.BPFFS, "links", "tcx-c1")); err != nil {
					t.Fatal(err)
				}
			},
			func(t *testing.T, c *clinic) {
				if err := os.WriteFile(filepath.Join(c.BPFFS, "links", "tcx-c1"), nil, 0o600); err != nil {
					t.Fatal(err)
				}
			},
		},
		"not-attached": {
			func(_ *testing.T, c *clinic) { c.Status.Interfaces[1].Error = "attach web: no such interface" },
			func(_ *testing.T, c *clinic) { c.Status.Interfaces[1].Error = "" },
		},
		"interface-down": {func(_ *testing.T, c *clinic) { c.gw.Down("c1") }, nil},
		"no-carrier": {
			func(_ *testing.T, c *clinic) { c.peer.Down("eth1") },
			func(_ *testing.T, c *clinic) { c.peer.Up("eth1"); c.gw.WaitUp("web") },
		},
		"xdp-refused": {
			func(_ *testing.T, c *clinic) {
				c.Status.Interfaces[0].Warnings = []string{"c1 runs without xdp: device or resource busy"}
			},
			func(_ *testing.T, c *clinic) { c.Status.Interfaces[0].Warnings = nil },
		},
		"mtu-differs": {
			func(_ *testing.T, c *clinic) { c.Status.Interfaces[0].MTU = 9000 },
			func(_ *testing.T, c *clinic) { c.Status.Interfaces[0].MTU = 1500 },
		},
		"lro-on": {func(_ *testing.T, c *clinic) { c.offloads["web"] = flagLRO }, nil},
		"vlan-hidden": {func(_ *testing.T, c *clinic) {
			c.Status.Interfaces[0] = api.InterfaceStatus{Network: "consumers", Interface: "lan", Mode: "xdp", MTU: 1500}
			c.Status.Interfaces = append(c.Status.Interfaces, api.InterfaceStatus{Network: "consumers", Interface: "c1", Hook: "tcx", Mode: "tc", MTU: 1500})
			c.offloads["lan"] = flagRxVLAN
		}, nil},
		"table-pressure": {
			func(_ *testing.T, c *clinic) { c.Status.Maps[0].Used = 80 },
			func(_ *testing.T, c *clinic) { c.Status.Maps[0].Used = 10 },
		},
		"port-pressure": {
			func(_ *testing.T, c *clinic) { c.Ports[0].Used = 60000 },
			func(_ *testing.T, c *clinic) { c.Ports[0].Used = 5 },
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newClinic(t)
			c.provoke(t, s)
			found := s.examine(t)
			if got := checks(found); !slices.Equal(got, []string{name}) {
				t.Fatalf("found %q", got)
			}
			if f := found[0]; f.What == "" || f.Do == "" || f.Severity == "" || f.Repairable != (c.byHand == nil) {
				t.Errorf("the finding: %+v", f)
			}
			s.repair(found)
			if c.byHand == nil && !found[0].Repaired {
				t.Errorf("it was not repaired: %+v", found[0])
			}
			if c.byHand != nil {
				c.byHand(t, s)
			}
			if name == "interface-down" {
				s.gw.WaitUp("c1")
			}
			if again := s.examine(t); len(again) != 0 {
				t.Errorf("afterwards: %+v", again)
			}
		})
	}
}
