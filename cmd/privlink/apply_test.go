package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/privlink/privlink/pkg/lab"
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

// apply and delete end when the kernel agrees, not when the store does.
func TestApply_KernelAgreesLate_Waits(t *testing.T) {
	r := newRig(t)
	file := writeFile(t, providerFile)
	for _, command := range []string{"apply", "delete"} {
		t.Run(command, func(t *testing.T) {
			revision := r.applier.state().Revision
			r.applier.held.Lock()
			agree := sync.OnceFunc(r.applier.held.Unlock)
			defer agree()
			ended := make(chan ran, 1)
			go func() { ended <- r.run(command + " -f " + file) }()
			r.wantWritten(t, command)
			select {
			case result := <-ended:
				t.Errorf("it ended before the kernel agreed: %+v", result)
				ended <- result
			case <-time.After(200 * time.Millisecond):
			}
			agree()
			if result := <-ended; result.code != exitOK {
				t.Errorf("(%d) %s", result.code, result.stderr)
			}
			if at := r.applier.state().Revision; at <= revision {
				t.Errorf("the kernel is at revision %d, as before", at)
			}
		})
	}
}

// wantWritten waits until a command's writes are in the store: the service is Updating, or is gone or Deleting.
func (r *rig) wantWritten(t *testing.T, command string) {
	t.Helper()
	want := func(shown ran) bool { return shown.code == exitOK && strings.Contains(shown.stdout, "Updating") }
	if command == "delete" {
		want = func(shown ran) bool { return shown.code == exitNotFound || strings.Contains(shown.stdout, "Deleting") }
	}
	var shown ran
	if err := lab.Poll(10*time.Second, func() error {
		if shown = r.run("service show shop"); !want(shown) {
			return errors.New("not yet")
		}
		return nil
	}); err != nil {
		t.Fatalf("%s: (%d) %s%s", command, shown.code, shown.stdout, shown.stderr)
	}
}

// What the kernel refuses is an error of apply, although the store took it.
func TestApply_KernelRefuses_SaysWhy(t *testing.T) {
	r := newRig(t)
	r.applier.refuse("eth1", errors.New("attach eth1: device or resource busy"))
	got := r.run("apply -f " + writeFile(t, providerFile))
	const want = "privlink: virtualNetworks/datacenter: the kernel did not take it: attach eth1: device or resource busy\n"
	if got.code != exitFailed || got.stderr != want || !strings.HasPrefix(got.stdout, "create virtualNetworks/datacenter\n") {
		t.Errorf("(%d) %s%s\nwant (%d) %s", got.code, got.stdout, got.stderr, exitFailed, want)
	}
}
