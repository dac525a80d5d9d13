package bench

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"

	"github.com/privlink/privlink/pkg/lab"
)

// Kernel is the host's own IPv4 forwarding, with nftables NAT or without.
type Kernel struct {
	nat     bool
	gateway *lab.Namespace
}

// NewKernelForwarding makes plain IPv4 forwarding: routes, no rules.
func NewKernelForwarding() *Kernel { return &Kernel{} }

// NewNftables makes IPv4 forwarding with an nftables DNAT to one backend and an SNAT over
// eight addresses, the usual way to publish a service without eBPF.
func NewNftables() *Kernel { return &Kernel{nat: true} }

// Name implements Forwarder.
func (k *Kernel) Name() string {
	if k.nat {
		return "nftables"
	}
	return "kernel forwarding"
}

// Up implements Forwarder.
func (k *Kernel) Up(t *Topology) error {
	k.gateway = t.Gateway()
	if err := routes(t); err != nil {
		return err
	}
	if !k.nat {
		return nil
	}
	// Entries must outlive the rounds between two uses of a flow.
	for _, key := range []string{"nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream"} {
		k.gateway.Sysctl("net.netfilter."+key, "3600")
	}
	cmd := exec.Command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader(fmt.Sprintf(`table ip nat {
		chain prerouting {
			type nat hook prerouting priority dstnat
			iifname %s ip daddr %s meta l4proto { tcp, udp } th dport %d dnat ip to %s:%d
			iifname %s ip daddr %s meta l4proto { tcp, udp } th dport %d dnat ip to %s:%d
		}
		chain postrouting {
			type nat hook postrouting priority srcnat
			oifname %s ip daddr %s snat to %s-%s
		}
	}`, t.GatewayClient.Name, endpoint.Addr(), endpoint.Port(), firstServer, backendPort,
		t.GatewayClient.Name, endpoint.Addr(), endpoint.Port()+1, firstServer, backendPort+1,
		t.GatewayServer.Name, firstServer, firstNAT, lastNAT))
	if _, err := k.gateway.RunCommand(context.Background(), cmd); err != nil {
		return fmt.Errorf("load nftables rules: %w", err)
	}
	return nil
}

// routes makes a gateway forward between its two devices.
func routes(t *Topology) error {
	gateway := t.Gateway()
	for _, side := range []struct {
		port, peer Port
		own, next  string
		prefixes   []string
	}{
		{t.GatewayClient, t.Client, "169.254.1.1/30", "169.254.1.2", []string{"10.64.0.0/16"}},
		{t.GatewayServer, t.Server, "169.254.2.1/30", "169.254.2.2", []string{"172.31.0.0/16", "10.80.0.0/16"}},
	} {
		gateway.Addr(side.port.Name, side.own)
		if err := neighbour(side.port, side.next, side.peer.MAC); err != nil {
			return err
		}
		for _, prefix := range side.prefixes {
			gateway.Route(prefix, side.next)
		}
	}
	gateway.Sysctl("net.ipv4.ip_forward", "1")
	for _, name := range []string{"all", "default", t.GatewayClient.Name, t.GatewayServer.Name} {
		gateway.Sysctl("net.ipv4.conf."+name+".rp_filter", "0")
		gateway.Sysctl("net.ipv4.conf."+name+".send_redirects", "0")
	}
	return nil
}

// neighbour gives a device a permanent neighbour, so that nothing asks by ARP.
func neighbour(p Port, ip string, mac net.HardwareAddr) error {
	err := p.NS.Netlink().NeighSet(&netlink.Neigh{
		LinkIndex: p.Index, IP: net.ParseIP(ip), HardwareAddr: mac, State: netlink.NUD_PERMANENT,
	})
	if err != nil {
		return fmt.Errorf("make neighbour %s of %s: %w", ip, p, err)
	}
	return nil
}

// Translation implements Forwarder.
func (k *Kernel) Translation() *Translation {
	if !k.nat {
		return nil
	}
	return &Translation{
		FirstSource: firstNAT, LastSource: lastNAT, FirstSourcePort: 1, LastSourcePort: 65535,
		FirstBackend: firstServer, LastBackend: firstServer, BackendPort: backendPort,
	}
}

// TTL implements Forwarder.
func (*Kernel) TTL() uint8 { return 1 }

// Forget implements Forwarder.
func (k *Kernel) Forget() error {
	if !k.nat {
		return nil
	}
	return k.gateway.Do(func() error { return netlink.ConntrackTableFlush(netlink.ConntrackTable) })
}

// Drops implements Forwarder: what IPv4 and conntrack say they discarded.
func (k *Kernel) Drops() (uint64, error) {
	var drops uint64
	err := k.gateway.Do(func() error {
		n, err := snmpDiscards("/proc/thread-self/net/snmp")
		if err != nil || !k.nat {
			drops = n
			return err
		}
		drops = n
		n, err = conntrackDrops("/proc/thread-self/net/stat/nf_conntrack")
		drops += n
		return err
	})
	return drops, err
}

// snmpDiscards adds up IPv4's error counters (RFC 4293 names).
func snmpDiscards(path string) (uint64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }()
	var names []string
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) == 0 || fields[0] != "Ip:" {
			continue
		}
		if names == nil {
			names = fields
			continue
		}
		var sum uint64
		for i, name := range names {
			switch name {
			case "InHdrErrors", "InAddrErrors", "InDiscards", "OutDiscards", "OutNoRoutes":
				n, err := strconv.ParseUint(fields[i], 10, 64)
				if err != nil {
					return 0, err
				}
				sum += n
			}
		}
		return sum, nil
	}
	return 0, fmt.Errorf("read %s: no IP counters", path)
}

// conntrackDrops is the number of packets that conntrack dropped, over all CPUs. A packet lost in a
// clash of two flows counts as "drop" and as "insert_failed", others as one of them only.
func conntrackDrops(path string) (uint64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }()
	var names []string
	sums := make(map[string]uint64)
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if names == nil {
			names = fields
			continue
		}
		for i, name := range names {
			if name != "drop" && name != "insert_failed" || i >= len(fields) {
				continue
			}
			n, err := strconv.ParseUint(fields[i], 16, 64)
			if err != nil {
				return 0, err
			}
			sums[name] += n
		}
	}
	return max(sums["drop"], sums["insert_failed"]), nil
}

// Close implements Forwarder. What it set up goes with the namespace.
func (*Kernel) Close() error { return nil }
