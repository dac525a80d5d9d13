package main

import (
	"errors"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/client"
	"github.com/privlink/privlink/pkg/lab"
)

// wire makes a veth look like a cable: complete checksums, no segmentation, and ends that take XDP frames.
func wire(addr string) lab.VethOptions {
	return lab.VethOptions{B: lab.EndOptions{
		Addr: addr, Off: []string{"tx-checksum-ip-generic", "tx-tcp-segmentation", "tx-generic-segmentation"}, On: []string{"rx-gro"},
	}}
}

const reachDocuments = `
type: Microsoft.Network/virtualNetworks
name: datacenter
location: local
properties:
  addressSpace: {addressPrefixes: [10.0.0.0/16]}
  subnets: [{name: default, properties: {addressPrefix: 10.0.0.0/24}}]
  attachments: [{interface: web, mode: MODE}]
---
type: Microsoft.Network/virtualNetworks
name: home
location: local
properties:
  addressSpace: {addressPrefixes: [10.0.0.0/16]}
  subnets: [{name: default, properties: {addressPrefix: 10.0.1.0/24}}]
  attachments: [{interface: first, mode: MODE}, {interface: second, mode: MODE}, {interface: router, mode: MODE}]
---
type: Microsoft.Network/virtualNetworks
name: branch
location: local
properties:
  addressSpace: {addressPrefixes: [10.1.0.0/16]}
  subnets: [{name: default, properties: {addressPrefix: 10.1.0.0/24}}]
  attachments: [{interface: branch, mode: MODE, answerGateway: true}]
---
type: Microsoft.Network/virtualNetworks
name: far
location: local
properties:
  addressSpace: {addressPrefixes: [10.2.0.0/16]}
  subnets: [{name: default, properties: {addressPrefix: 10.2.0.0/24}}]
  attachments: [{interface: far, mode: MODE, answerGateway: true}]
---
type: Microsoft.Network/loadBalancers
name: web
location: local
sku: {name: Standard}
properties:
  frontendIPConfigurations: [{name: front, properties: {subnet: {id: virtualNetworks/datacenter/subnets/default}}}]
  backendAddressPools: [{name: pool, properties: {loadBalancerBackendAddresses: [{name: web, properties: {ipAddress: 10.0.0.4}}]}}]
  loadBalancingRules: [{name: http, properties: {protocol: Tcp, frontendPort: 80,
    frontendIPConfiguration: {id: loadBalancers/web/frontendIPConfigurations/front}, backendAddressPool: {id: loadBalancers/web/backendAddressPools/pool}}},
    {name: tcp, properties: {protocol: Tcp, frontendPort: 7,
    frontendIPConfiguration: {id: loadBalancers/web/frontendIPConfigurations/front}, backendAddressPool: {id: loadBalancers/web/backendAddressPools/pool}}},
    {name: udp, properties: {protocol: Udp, frontendPort: 7,
    frontendIPConfiguration: {id: loadBalancers/web/frontendIPConfigurations/front}, backendAddressPool: {id: loadBalancers/web/backendAddressPools/pool}}}]
---
type: Microsoft.Network/privateLinkServices
name: shop
location: local
properties:
  visibility: {subscriptions: ['*']}
  loadBalancerFrontendIpConfigurations: [{id: loadBalancers/web/frontendIPConfigurations/front}]
  ipConfigurations: [{name: nat, properties: {subnet: {id: virtualNetworks/datacenter/subnets/default}}}]
---
type: Microsoft.Network/privateEndpoints
name: to-shop
location: local
properties:
  subnet: {id: virtualNetworks/home/subnets/default}
  ipConfigurations: [{name: ip, properties: {privateIPAddress: 10.0.1.10}}]
  privateLinkServiceConnections: [{name: c, properties: {privateLinkServiceId: privateLinkServices/shop}}]
`

// conversation is a connection and a flow of datagrams that a machine has open with 10.0.1.10, with both ends of each.
type conversation struct {
	client, served, datagrams net.Conn
	replies                   net.PacketConn
	nat                       net.Addr // whom the server answers
}

// converse opens both to servers on port 7 of web.
func converse(t *testing.T, vm *lab.Namespace, tcp net.Listener, udp net.PacketConn) conversation {
	t.Helper()
	c := conversation{replies: udp}
	var err error
	if c.client, err = vm.Dial(t.Context(), "tcp", "", "10.0.1.10:7"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.client.Close() })
	if c.served, err = tcp.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.served.Close() })
	if c.datagrams, err = vm.Dial(t.Context(), "udp", "", "10.0.1.10:7"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.datagrams.Close() })
	c.goesOn(t, "just opened")
	return c
}

// goesOn wants both to carry bytes, both ways.
func (c *conversation) goesOn(t *testing.T, when string) {
	t.Helper()
	wantFlow(t, when, c.client, c.served)
	deadline := time.Now().Add(5 * time.Second)
	if err := errors.Join(c.replies.SetDeadline(deadline), c.datagrams.SetDeadline(deadline)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1)
	if _, err := c.datagrams.Write([]byte("x")); err != nil {
		t.Errorf("%s: %v", when, err)
	}
	var err error
	if _, c.nat, err = c.replies.ReadFrom(b); err != nil {
		t.Errorf("%s: datagram to the server: %v", when, err)
		return
	}
	if _, err = c.replies.WriteTo(b, c.nat); err != nil {
		t.Errorf("%s: %v", when, err)
	}
	if _, err = c.datagrams.Read(b); err != nil {
		t.Errorf("%s: datagram to the client: %v", when, err)
	}
}

// over wants both to have ended: a RST at each silent end, and no datagram of the server's that comes through.
func (c *conversation) over(t *testing.T, when string) {
	t.Helper()
	wantReset(t, when+": client", c.client)
	wantReset(t, when+": server", c.served)
	// Both flows end in one look at the table, and the RSTs were sent after it.
	if _, err := c.replies.WriteTo([]byte("x"), c.nat); err != nil {
		t.Error(err)
	}
	if err := c.datagrams.SetDeadline(time.Now().Add(300 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.datagrams.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%s: the client's flow of datagrams: %v", when, err)
	}
}

// Who reaches an endpoint: every machine of its network, whatever the interface; those behind a router of its network, with
// any address; those of networks peered with it in both directions, and nobody that is only a peer's peer.
func TestRun_Reach_NetworkRouterAndPeers(t *testing.T) {
	for _, mode := range []string{"tc", "xdp"} {
		t.Run(mode, func(t *testing.T) {
			ctx, l := t.Context(), lab.New(t)
			gw := l.Namespace("gateway")
			vms := map[string]*lab.Namespace{}
			for name, addr := range map[string]string{"web": "10.0.0.4/16", "first": "10.0.1.4/16", "second": "10.0.1.5/16", "router": "10.0.1.6/16",
				"branch": "10.1.0.4/24", "far": "10.2.0.4/24"} {
				vms[name] = l.Namespace(name)
				l.Veth(gw, name, vms[name], "eth0", wire(addr))
			}
			// Somebody on premises, whose address belongs to none of the networks.
			vms["onprem"] = l.Namespace("onprem")
			l.Veth(vms["router"], "inside", vms["onprem"], "eth0", lab.VethOptions{A: lab.EndOptions{Addr: "192.168.7.1/24"}, B: lab.EndOptions{Addr: "192.168.7.2/24"}})
			vms["router"].Sysctl("net.ipv4.ip_forward", "1")
			vms["onprem"].Route("0.0.0.0/0", "192.168.7.1")
			vms["branch"].Route("0.0.0.0/0", "10.1.0.1")
			vms["far"].Route("0.0.0.0/0", "10.2.0.1")
			vms["web"].Nginx(ctx, lab.NginxOptions{Listen: []string{"80"}, Files: map[string]string{"index.html": "hello"}})
			d := gw.Daemon(ctx, lab.DaemonOptions{Binary: l.Build(ctx, "./cmd/privlink")})
			if out, err := d.CLIInput(ctx, strings.ReplaceAll(reachDocuments, "MODE", mode), "apply", "-f", "-"); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			// Who gets an answer gets it at once; patience is for a machine that is busy.
			patience := map[bool]string{true: "5", false: "0.3"}
			want := func(when string, who map[string]bool) {
				t.Helper()
				for name, expected := range who {
					out, err := vms[name].Run(ctx, "curl", "-sS", "--connect-timeout", patience[expected], "-m", "5", "http://10.0.1.10/")
					if got := err == nil && out == "hello"; got != expected {
						t.Errorf("%s: %s reaches the endpoint: %v", when, name, got)
					}
				}
			}
			c, err := client.New(client.Options{Socket: d.Socket})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			peering := func(from, to string) api.ID {
				return api.ID{Subscription: defaultSubscription, ResourceGroup: "default", Type: string(api.VirtualNetworks), Name: from}.Sub(api.Peerings, "to-"+to)
			}
			let := func(from, to string, access bool) api.PeeringState {
				t.Helper()
				document := &api.VirtualNetworkPeering{Properties: api.PeeringProperties{AllowVirtualNetworkAccess: &access,
					RemoteVirtualNetwork: &api.SubResource{ID: peering(to, "").Parent().String()}}}
				made, err := client.Put[api.VirtualNetworkPeering](ctx, c, peering(from, to), document, client.Conditions{})
				if err != nil {
					t.Fatal(err)
				}
				return made.Properties.PeeringState
			}
			peer := func(from, to string) api.PeeringState { t.Helper(); return let(from, to, true) }
			want("unpeered", map[string]bool{"first": true, "second": true, "onprem": true, "branch": false, "far": false})
			if state := peer("home", "branch"); state != api.PeeringInitiated {
				t.Errorf("peered one way: %s", state)
			}
			want("peered one way", map[string]bool{"branch": false})
			peer("branch", "far")
			for _, state := range []api.PeeringState{peer("branch", "home"), peer("far", "branch")} {
				if state != api.PeeringConnected {
					t.Errorf("peered both ways: %s", state)
				}
			}
			want("peered", map[string]bool{"branch": true, "far": false, "first": true})
			tcp, err := vms["web"].Listen("tcp", "10.0.0.4:7")
			if err != nil {
				t.Fatal(err)
			}
			defer tcp.Close()
			udp, err := vms["web"].ListenPacket("udp", "10.0.0.4:7")
			if err != nil {
				t.Fatal(err)
			}
			defer udp.Close()
			own := converse(t, vms["first"], tcp, udp)
			cut := func(when string, how func()) {
				t.Helper()
				peers := converse(t, vms["branch"], tcp, udp)
				how()
				peers.over(t, when)
				own.goesOn(t, when)
				want(when, map[string]bool{"branch": false, "first": true})
			}
			cut("access withdrawn", func() { let("branch", "home", false) })
			peer("branch", "home")
			cut("a peering deleted", func() {
				if _, err := c.Delete(ctx, peering("branch", "home"), nil, client.Conditions{}); err != nil {
					t.Fatal(err)
				}
			})
		})
	}
}
