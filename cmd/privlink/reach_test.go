package main

import (
	"strings"
	"testing"

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
			peer := func(from, to string) api.PeeringState {
				t.Helper()
				document := &api.VirtualNetworkPeering{Properties: api.PeeringProperties{RemoteVirtualNetwork: &api.SubResource{ID: peering(to, "").Parent().String()}}}
				made, err := client.Put[api.VirtualNetworkPeering](ctx, c, peering(from, to), document, client.Conditions{})
				if err != nil {
					t.Fatal(err)
				}
				return made.Properties.PeeringState
			}
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
			if _, err := c.Delete(ctx, peering("branch", "home"), nil, client.Conditions{}); err != nil {
				t.Fatal(err)
			}
			want("a peering deleted", map[string]bool{"branch": false, "first": true})
		})
	}
}
