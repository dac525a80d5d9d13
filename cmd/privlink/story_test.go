package main

import (
	"strings"
	"testing"
)

// The story of the README on the command line: publish, ask, approve, reject, remove, delete.
func TestStory_PublishAskApproveReject_StatesAndOutput(t *testing.T) {
	r := newRig(t)
	r.must("vnet create datacenter --prefix 10.0.0.0/16 --interface eth1")
	r.must("lb create web --vnet datacenter --rule tcp:80 --backend 10.0.0.4")
	published := r.must("service create shop --lb web --nat-ip-count 1 --visibility '*'")
	lines := strings.Split(strings.TrimSpace(published), "\n")
	alias := strings.TrimSpace(strings.TrimPrefix(lines[len(lines)-2], "Alias:"))
	if !strings.HasPrefix(alias, "shop.") || !strings.HasSuffix(alias, ".local.azure.privatelinkservice") {
		t.Errorf("service create does not end with alias and id:\n%s", published)
	}
	if want := "/privateLinkServices/shop"; !strings.HasSuffix(lines[len(lines)-1], want) {
		t.Errorf("last line of service create is %q, want ...%s", lines[len(lines)-1], want)
	}
	r.variables["PRIVLINK_SUBSCRIPTION"] = "consumer"
	r.must("vnet create home --prefix 10.0.0.0/16 --interface eth2 --pass-other")
	asked := r.must("endpoint create to-shop --vnet home --ip 10.0.1.10 --service " + alias + " --request-message 'order 42'")
	for _, want := range []string{"10.0.1.10 in home/default", "Pending", alias, "order 42"} {
		if !strings.Contains(asked, want) {
			t.Errorf("endpoint create does not show %q:\n%s", want, asked)
		}
	}
	for _, hidden := range []string{"datacenter", "10.0.0.4", "privateLinkServices/shop"} {
		if strings.Contains(asked, hidden) || strings.Contains(r.must("endpoint show to-shop -o yaml"), hidden) {
			t.Errorf("the consumer sees %q of the provider:\n%s", hidden, asked)
		}
	}
	r.variables["PRIVLINK_SUBSCRIPTION"] = ""
	inbox := r.must("connection list --status pending")
	for _, want := range []string{"shop", "consumer", "to-shop", "order 42", "Pending"} {
		if !strings.Contains(inbox, want) {
			t.Errorf("inbox does not show %q:\n%s", want, inbox)
		}
	}
	approved := r.must("connection approve --service shop --name to-shop --description welcome")
	if !strings.Contains(approved, "Approved") || !strings.Contains(approved, "welcome") {
		t.Errorf("approve shows\n%s", approved)
	}
	links := r.applier.state().Links
	if len(links) != 2 {
		t.Errorf("%d links compiled, want the endpoint's and the frontend's: %+v", len(links), links)
	}
	r.variables["PRIVLINK_SUBSCRIPTION"] = "consumer"
	if seen := r.must("endpoint wait to-shop --for approved"); !strings.Contains(seen, "welcome") {
		t.Errorf("the consumer does not see the provider's description:\n%s", seen)
	}
	r.variables["PRIVLINK_SUBSCRIPTION"] = ""
	refused := r.run("service delete shop")
	if refused.code != exitRefused || !strings.Contains(refused.stderr, "1 approved connection") {
		t.Errorf("delete of a service in use: %+v", refused)
	}
	r.must("connection reject --name to-shop --service shop --description 'too late'")
	r.must("connection approve --name to-shop --service shop")
	r.must("connection remove --name to-shop --service shop")
	r.variables["PRIVLINK_SUBSCRIPTION"] = "consumer"
	if seen := r.must("endpoint show to-shop"); !strings.Contains(seen, "Disconnected") {
		t.Errorf("after remove the consumer sees\n%s", seen)
	}
	if again := r.must("endpoint reconnect to-shop --request-message 'please'"); !strings.Contains(again, "Pending") || !strings.Contains(again, "please") {
		t.Errorf("reconnect shows\n%s", again)
	}
	if twice := r.run("endpoint reconnect to-shop"); twice.code != exitRefused {
		t.Errorf("reconnect of a pending endpoint: %+v", twice)
	}
	r.must("endpoint delete to-shop")
	r.variables["PRIVLINK_SUBSCRIPTION"] = ""
	r.must("service delete shop")
	r.must("lb delete web")
	r.must("vnet delete datacenter")
	if again := r.must("vnet delete datacenter"); again != "virtual network datacenter did not exist\n" {
		t.Errorf("second delete says %q", again)
	}
	if gone := r.run("vnet show datacenter"); gone.code != exitNotFound || gone.stderr != "privlink: virtualNetworks/datacenter was not found (privlink vnet list; --subscription and --resource-group say whose)\n" {
		t.Errorf("show of what is gone: %+v", gone)
	}
}
