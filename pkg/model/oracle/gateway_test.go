package oracle

import (
	"context"
	"errors"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/privlink/privlink/pkg/dataplane"
	"github.com/privlink/privlink/pkg/lab"
)

func TestMain(m *testing.M) { lab.Main(m) }

// The topology, with either gateway.
//
//	client 10.0.1.4 -> endpoint 10.0.1.10 | NAT IP 10.0.0.100 -> server 10.0.0.4
const (
	clientIP   = "10.0.1.4"
	endpointIP = "10.0.1.10"
	serverIP   = "10.0.0.4"
	natIP      = "10.0.0.100"

	servedPort      = "7000"
	closedPort      = "7001" // published, nobody listens
	unpublishedPort = "7002"
)

// network is a client and a server with a gateway between them.
type network struct {
	name           string
	client, server *lab.Namespace
}

// wires makes the namespaces and their veth pairs.
func wires(t *testing.T, name string) (*lab.Lab, *lab.Namespace, network) {
	t.Helper()
	l := lab.New(t)
	gateway := l.Namespace("gw")
	n := network{name: name}
	n.client = l.VM(gateway, "client", clientIP+"/16", lab.VethOptions{})
	n.server = l.VM(gateway, "server", serverIP+"/16", lab.VethOptions{})
	// Linux sends one port unreachable a second to a host; the comparison asks for hundreds.
	for _, host := range []*lab.Namespace{gateway, n.server} {
		host.Sysctl("net/ipv4/icmp_ratemask", "0")
	}
	return l, gateway, n
}

// throughPrivlink has privlink as its gateway.
func throughPrivlink(t *testing.T) network {
	t.Helper()
	l, gateway, n := wires(t, "privlink")
	prefixes := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16")}
	rule := func(key string, proto dataplane.Protocol, port uint16) dataplane.Rule {
		return dataplane.Rule{
			Key: key, Protocol: proto, Port: port, IdleTCP: 300, IdleUDP: 300,
			Targets: []dataplane.Target{{Pool: "pool", Addr: netip.MustParseAddr(serverIP), Weight: 1, Healthy: true}},
		}
	}
	state := dataplane.State{
		Revision: 1,
		Networks: []dataplane.Network{
			{Key: "consumer", Attachments: []dataplane.Attachment{{Interface: "client", Mode: dataplane.ModeTC}}, Prefixes: prefixes},
			{Key: "provider", Attachments: []dataplane.Attachment{{Interface: "server", Mode: dataplane.ModeTC}}, Prefixes: prefixes},
		},
		Pools: []dataplane.Pool{{Key: "pool", Members: []netip.Addr{netip.MustParseAddr(serverIP)}}},
		RuleSets: []dataplane.RuleSet{{
			Key: "service", Network: "provider", Sources: []dataplane.Source{{Addr: netip.MustParseAddr(natIP)}},
			Rules: []dataplane.Rule{
				rule("tcp", dataplane.ProtocolTCP, 7000), rule("tcp closed", dataplane.ProtocolTCP, 7001),
				rule("udp", dataplane.ProtocolUDP, 7000), rule("udp closed", dataplane.ProtocolUDP, 7001),
			},
		}},
		Links: []dataplane.Link{{
			Key: "endpoint", ID: 0x01010101, Network: "consumer", Addr: netip.MustParseAddr(endpointIP), RuleSet: "service",
			State: dataplane.LinkApproved, Epoch: 1,
		}},
	}
	log := logrus.New()
	log.SetOutput(t.Output())
	d, err := dataplane.Open(context.Background(), dataplane.Options{BPFFS: l.BPFFS("pins"), NetNS: gateway.Path(), Pairs: 1 << 17, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	if _, err := d.Apply(context.Background(), state); err != nil {
		t.Fatal(err)
	}
	l.Wait("the kernel to agree", 10*time.Second, func() error {
		if result := d.Result(); !result.Settled() || len(result.Unresolved) > 0 {
			return errors.New("addresses are being probed or resolved")
		}
		return nil
	})
	return n
}

// throughNftables has the kernel's forwarding and NAT as its gateway. Both sides use one prefix, so
// the gateway has a route to each host.
func throughNftables(t *testing.T) network {
	t.Helper()
	_, gateway, n := wires(t, "nftables")
	gateway.Sysctl("net/ipv4/ip_forward", "1")
	gateway.Addr("client", endpointIP+"/32")
	gateway.Addr("server", natIP+"/32")
	for _, route := range [][]string{
		{"route", "add", clientIP, "dev", "client", "src", endpointIP},
		{"route", "add", serverIP, "dev", "server", "src", natIP},
	} {
		if out, err := gateway.Run(context.Background(), "ip", route...); err != nil {
			t.Fatalf("%v: %v\n%s", route, err, out)
		}
	}
	rules := `table ip oracle {
	chain in { type nat hook prerouting priority dstnat
		iifname client ip daddr ` + endpointIP + ` tcp dport { 7000, 7001 } dnat to ` + serverIP + `
		iifname client ip daddr ` + endpointIP + ` udp dport { 7000, 7001 } dnat to ` + serverIP + `
	}
	chain out { type nat hook postrouting priority srcnat
		oifname server snat to ` + natIP + `
	}
}
`
	cmd := exec.Command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader(rules)
	if out, err := gateway.RunCommand(context.Background(), cmd); err != nil {
		t.Fatalf("load nftables rules: %v\n%s", err, out)
	}
	return n
}
