package dataplane

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/sirupsen/logrus"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// gateway is a network namespace for one test, and a bpffs folder of its own.
type gateway struct {
	t     *testing.T
	netns string
	bpffs string
}

func newGateway(t *testing.T) *gateway {
	t.Helper()
	name := fmt.Sprintf("dp%d-%d", os.Getpid(), gateways)
	gateways++
	g := &gateway{t: t, netns: filepath.Join("/run/netns", name), bpffs: filepath.Join("/sys/fs/bpf", "privlink-test-"+name)}
	if err := (namespace{}).named(name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := Down(context.Background(), Options{BPFFS: g.bpffs, NetNS: g.netns}); err != nil {
			t.Errorf("down: %v", err)
		}
		if _, err := os.Stat(g.bpffs); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the bpffs folder is left: %v", err)
		}
		if err := netns.DeleteNamed(name); err != nil {
			t.Errorf("delete namespace: %v", err)
		}
	})
	return g
}

// gateways numbers the namespaces of this process; tests of one package run one after the other unless they ask otherwise, and these do not.
var gateways int

// named makes a network namespace without moving this thread into it for good.
func (namespace) named(name string) error {
	result := make(chan error, 1)
	go func() {
		result <- namespace{path: "/proc/self/ns/net"}.enter(func() error {
			handle, err := netns.NewNamed(name)
			if err != nil {
				return err
			}
			return handle.Close()
		})
	}()
	return <-result
}

func (g *gateway) options() Options {
	log := logrus.New()
	log.SetOutput(g.t.Output())
	return Options{BPFFS: g.bpffs, NetNS: g.netns, Pairs: 1024, Log: log}
}

func (g *gateway) open() *Dataplane {
	g.t.Helper()
	d, err := Open(context.Background(), g.options())
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { d.Close() })
	return d
}

// veth makes a pair whose both ends are in the gateway.
func (g *gateway) veth(name, peer string) {
	g.t.Helper()
	err := namespace{g.netns}.do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = name
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: peer}); err != nil {
			return err
		}
		for _, n := range []string{name, peer} {
			l, err := netlink.LinkByName(n)
			if err != nil {
				return err
			}
			if err := netlink.LinkSetUp(l); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		g.t.Fatal(err)
	}
}

func (g *gateway) address(name, addr string) {
	g.t.Helper()
	err := namespace{g.netns}.do(func() error {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		_, network, err := net.ParseCIDR(addr)
		if err != nil {
			return err
		}
		network.IP = net.ParseIP(addr[:len(addr)-3])
		return netlink.AddrAdd(l, &netlink.Addr{IPNet: network})
	})
	if err != nil {
		g.t.Fatal(err)
	}
}

// small is a State with one link between two networks on eth0 and eth1.
func small() State {
	return State{
		Revision: 1,
		Networks: []Network{
			{Key: "consumer", Attachments: []Attachment{{Interface: "eth0", Mode: ModeTC}}, Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16")}},
			{Key: "provider", Attachments: []Attachment{{Interface: "eth1", Mode: ModeTC}}, Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16")}},
		},
		Pools: []Pool{{Key: "pool", Members: []netip.Addr{netip.MustParseAddr("10.0.1.4")}}},
		RuleSets: []RuleSet{{
			Key: "service", Network: "provider", Sources: []Source{{Addr: netip.MustParseAddr("10.0.2.5")}},
			Rules: []Rule{{Key: "web", Protocol: ProtocolTCP, Port: 80, BackendPort: 8080, IdleTCP: 300, IdleUDP: 300,
				Targets: []Target{{Pool: "pool", Addr: netip.MustParseAddr("10.0.1.4"), Weight: 1, Healthy: true}}}},
		}},
		Links: []Link{{Key: "endpoint", ID: 0x01020304, Network: "consumer", Addr: netip.MustParseAddr("10.0.1.10"), RuleSet: "service", State: LinkApproved, Epoch: 1}},
	}
}

func TestOpen_TwoDaemons_SecondRefused(t *testing.T) {
	g := newGateway(t)
	g.open()
	if _, err := Open(context.Background(), g.options()); !errors.Is(err, ErrLocked) {
		t.Fatalf("second daemon: %v", err)
	}
	if err := Down(context.Background(), g.options()); !errors.Is(err, ErrLocked) {
		t.Fatalf("down while a daemon runs: %v", err)
	}
}

func TestApply_Twice_WritesTheSame(t *testing.T) {
	g := newGateway(t)
	g.veth("eth0", "peer0")
	g.veth("eth1", "peer1")
	d := g.open()
	for range 2 {
		r, err := d.Apply(context.Background(), small())
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range r.Attachments {
			if a.Err != nil {
				t.Errorf("attach %s: %v", a.Attachment.Interface, a.Err)
			}
		}
	}
	slot := d.links.find(ident("link", "endpoint"))
	if l := d.k.links.load(slot); l.LinkId != 0x01020304 || l.State != uint8(LinkApproved) || l.Gen != 1 {
		t.Errorf("link: %+v", l)
	}
}
