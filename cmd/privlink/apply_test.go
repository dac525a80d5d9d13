package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// providerFile has its documents in no particular order.
const providerFile = `
type: Microsoft.Network/privateLinkServices
name: shop
location: local
properties:
  loadBalancerFrontendIpConfigurations:
  - id: loadBalancers/web/frontendIPConfigurations/front
  ipConfigurations:
  - name: nat
    properties: {subnet: {id: virtualNetworks/datacenter/subnets/default}}
  visibility: {subscriptions: ['*']}
---
type: Microsoft.Network/loadBalancers
name: web
location: local
sku: {name: Standard}
properties:
  frontendIPConfigurations:
  - name: front
    properties: {subnet: {id: virtualNetworks/datacenter/subnets/default}}
  backendAddressPools:
  - name: pool
    properties:
      loadBalancerBackendAddresses:
      - name: one
        properties: {ipAddress: 10.0.0.4, virtualNetwork: {id: virtualNetworks/datacenter}}
  loadBalancingRules:
  - name: http
    properties:
      frontendIPConfiguration: {id: loadBalancers/web/frontendIPConfigurations/front}
      backendAddressPool: {id: loadBalancers/web/backendAddressPools/pool}
      protocol: Tcp
      frontendPort: 80
      backendPort: 8080
---
type: Microsoft.Network/virtualNetworks
name: datacenter
location: local
properties:
  addressSpace: {addressPrefixes: [10.0.0.0/16]}
  subnets:
  - name: default
    properties: {addressPrefix: 10.0.0.0/24}
  attachments:
  - {interface: eth1, mode: tc}
`

func writeFile(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file.yaml")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestApply_File_LinesSayWhatIsDone(t *testing.T) {
	r := newRig(t)
	file := writeFile(t, providerFile)
	const created = "create virtualNetworks/datacenter\ncreate loadBalancers/web\ncreate privateLinkServices/shop\n"
	before := r.contents()
	if got := r.must("apply --dry-run -f " + file); got != created {
		t.Errorf("dry run prints\n%s", got)
	}
	if after := r.contents(); after != before {
		t.Errorf("a dry run changed the store:\n%s\n%s", before, after)
	}
	if got := r.must("apply -f " + file); got != created {
		t.Errorf("apply prints\n%s", got)
	}
	const nothing = "nothing virtualNetworks/datacenter\nnothing loadBalancers/web\nnothing privateLinkServices/shop\n"
	before = r.contents()
	if got := r.must("apply -f " + file); got != nothing {
		t.Errorf("the second apply prints\n%s", got)
	}
	if after := r.contents(); after != before {
		t.Errorf("an apply of what is there changed the store")
	}
	changed := strings.NewReplacer("frontendPort: 80", "frontendPort: 81", "visibility: {subscriptions: ['*']}",
		"visibility: {subscriptions: [s1]}\n  idleTimeoutInSeconds: 60", "mode: tc", "mode: tc, passOther: true").Replace(providerFile)
	const lines = "change virtualNetworks/datacenter: properties.attachments: [{\"interface\":\"eth1\",\"mode\":\"tc\"}] -> [{\"interface\":\"eth1\",\"mode\":\"tc\",\"passOther\":true}]\n" +
		"change loadBalancers/web: properties.loadBalancingRules[http].properties.frontendPort: 80 -> 81\n" +
		"change privateLinkServices/shop: properties.idleTimeoutInSeconds: (none) -> 60\n" +
		"change privateLinkServices/shop: properties.visibility.subscriptions: [\"*\"] -> [\"s1\"]\n"
	r.stdin = changed
	if got := r.must("apply -f - --dry-run"); got != lines {
		t.Errorf("dry run of a change prints\n%s\nwant\n%s", got, lines)
	}
	if got := r.must("apply -f -"); got != lines {
		t.Errorf("a change prints\n%s\nwant\n%s", got, lines)
	}
	// What the file leaves out gets its default again.
	if got := r.must("apply -f " + file); !strings.Contains(got, "properties.idleTimeoutInSeconds: 60 -> (none)") {
		t.Errorf("an own property that the file leaves out stays:\n%s", got)
	}
	const deleted = "delete privateLinkServices/shop\ndelete loadBalancers/web\ndelete virtualNetworks/datacenter\n"
	if got := r.must("delete --dry-run -f " + file); got != deleted {
		t.Errorf("dry run of delete prints\n%s", got)
	}
	if got := r.must("delete -f " + file); got != deleted {
		t.Errorf("delete prints\n%s", got)
	}
	if got := r.must("delete -f " + file); got != strings.ReplaceAll(deleted, "delete", "nothing") {
		t.Errorf("the second delete prints\n%s", got)
	}
	if n := len(r.applier.state().Networks); n != 0 {
		t.Errorf("%d networks compiled after all was deleted", n)
	}
}

func TestApply_OneWrongDocument_NothingIsDone(t *testing.T) {
	r := newRig(t)
	before := r.contents()
	r.stdin = strings.Replace(providerFile, "subnets/default}}\n  visibility", "subnets/other}}\n  visibility", 1)
	got := r.run("apply -f -")
	const want = "privlink: privateLinkServices/shop: properties.ipConfigurations[0].properties.subnet.id: virtualNetworks/datacenter/subnets/other was not found\n"
	if got.code != exitRefused || got.stderr != want || got.stdout != "" {
		t.Errorf("got %+v, want\n%s", got, want)
	}
	if after := r.contents(); after != before {
		t.Error("a refused file changed the store")
	}
}

// Two networks peered with each other in one file.
func TestApply_PeeredNetworks_BothConnected(t *testing.T) {
	r := newRig(t)
	network := func(name, prefix, peer string) string {
		return "type: virtualNetworks\nname: " + name + "\nlocation: local\nproperties:\n  addressSpace: {addressPrefixes: [" + prefix + "]}\n" +
			"  virtualNetworkPeerings:\n  - {name: peer, properties: {remoteVirtualNetwork: {id: virtualNetworks/" + peer + "}}}\n"
	}
	r.stdin = network("a", "10.1.0.0/16", "b") + "---\n" + network("b", "10.2.0.0/16", "a")
	if got := r.must("apply -f -"); got != "create virtualNetworks/a\ncreate virtualNetworks/b\n" {
		t.Errorf("apply prints\n%s", got)
	}
	for _, name := range []string{"a", "b"} {
		if got := r.must("vnet show " + name); !strings.Contains(got, "Connected") {
			t.Errorf("network %s:\n%s", name, got)
		}
	}
}
