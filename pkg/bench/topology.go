package bench

import (
	"fmt"
	"net"
	"strings"

	"github.com/privlink/privlink/pkg/lab"
)

// Port is one end of a veth pair.
type Port struct {
	NS    *lab.Namespace
	Name  string
	Index int
	MAC   net.HardwareAddr
}

// Topology is a client, a gateway and a server, joined by two veth pairs:
//
//	client -- client side | gateway | server side -- server
//
// The pairs have one queue each, as there is one core.
type Topology struct {
	Client, GatewayClient, GatewayServer, Server Port
}

// takesXDP is what an end needs to take XDP frames while it has no program: with GRO a veth has NAPI.
var takesXDP = lab.EndOptions{On: []string{"gro"}}

// NewTopology makes the namespaces, named after a word, and the pairs, all up, without addresses.
func NewTopology(l *lab.Lab, name string, ends lab.EndOptions) *Topology {
	client, gateway, server := l.Namespace(name+"-client"), l.Namespace(name+"-gateway"), l.Namespace(name+"-server")
	pair := lab.VethOptions{Queues: 1, A: ends, B: ends}
	l.Veth(gateway, "clientside", client, "eth0", pair)
	l.Veth(gateway, "serverside", server, "eth0", pair)
	return &Topology{
		Client: port(client, "eth0"), GatewayClient: port(gateway, "clientside"),
		GatewayServer: port(gateway, "serverside"), Server: port(server, "eth0"),
	}
}

func port(ns *lab.Namespace, name string) Port {
	attrs := ns.Link(name).Attrs()
	return Port{NS: ns, Name: name, Index: attrs.Index, MAC: attrs.HardwareAddr}
}

// Ports are the four devices, from client to server.
func (t *Topology) Ports() []Port {
	return []Port{t.Client, t.GatewayClient, t.GatewayServer, t.Server}
}

// Gateway is the namespace in the middle.
func (t *Topology) Gateway() *lab.Namespace { return t.GatewayClient.NS }

// Close removes the pairs. The namespaces go with the lab.
func (t *Topology) Close() {
	t.Gateway().Delete(t.GatewayClient.Name)
	t.Gateway().Delete(t.GatewayServer.Name)
}

// drops is what the device says it lost, in both directions.
func (p Port) drops() (uint64, error) {
	link, err := p.NS.Netlink().LinkByName(p.Name)
	if err != nil {
		return 0, fmt.Errorf("read counters of %s: %w", p.Name, err)
	}
	s := link.Attrs().Statistics
	return s.RxDropped + s.TxDropped + s.RxErrors + s.TxErrors, nil
}

// String is the port's name for messages.
func (p Port) String() string { return p.NS.String() + "'s " + p.Name }

// hyphens makes a forwarder's name part of a namespace's.
func hyphens(name string) string { return strings.ReplaceAll(name, " ", "-") }
