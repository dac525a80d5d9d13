package main

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/server"
)

// listed is a rig with two services, a connection to each, and a third that waits.
func listed(t *testing.T) *rig {
	t.Helper()
	r := newRig(t)
	r.must("vnet create datacenter --prefix 10.0.0.0/16 --subnet vms=10.0.0.0/24 --subnet nat=10.0.2.0/24 --interface eth1")
	for _, name := range []string{"shop", "data"} {
		r.must("lb create " + name + " --vnet datacenter --subnet vms --rule tcp:80 --backend 10.0.0.20")
		r.must("service create " + name + " --lb " + name + " --nat-ip-count 2 --visibility '*'")
	}
	r.variables["PRIVLINK_SUBSCRIPTION"] = "consumer"
	r.must("vnet create home --prefix 10.0.0.0/16 --interface eth2")
	for _, e := range []struct{ name, service, message string }{{"to-shop", "shop", "order 42"}, {"to-data", "data", ""}, {"again", "shop", "more,\nplease"}} {
		r.must("endpoint create " + e.name + " --vnet home --service " + defaultService(e.service) + " --request-message '" + e.message + "'")
	}
	r.variables["PRIVLINK_SUBSCRIPTION"] = ""
	r.must("connection approve --service shop --name to-shop")
	r.must("connection reject --service data --name to-data")
	return r
}

func defaultService(name string) string {
	return "/subscriptions/" + defaultSubscription + "/resourceGroups/" + defaultResourceGroup + "/providers/Microsoft.Network/privateLinkServices/" + name
}

// linkIDs are the LinkIDs of endpoints by name.
func (r *rig) linkIDs() map[string]string {
	r.t.Helper()
	ids := map[string]string{}
	var connections []api.PrivateEndpointConnection
	read(r.t, r.must("connection list -o json"), &connections)
	for _, c := range connections {
		ids[lastName(c.Properties.PrivateEndpoint)] = c.Properties.LinkIdentifier
	}
	return ids
}

func TestConnectionList_Inbox_AllColumns(t *testing.T) {
	r := listed(t)
	later := time.Now().Add(3*time.Hour + time.Minute)
	r.now = func() time.Time { return later }
	const (
		guid    = "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx"
		head    = "SERVICE CONNECTION STATUS SUBSCRIPTION ENDPOINT LINKID AGE MESSAGE\n"
		data    = "data to-data." + guid + " Rejected consumer to-data DATA 3h -\n"
		waiting = "shop again." + guid + " Pending consumer again AGAIN 3h more, please\n"
		shop    = "shop to-shop." + guid + " Approved consumer to-shop SHOP 3h order 42\n"
	)
	ids := r.linkIDs()
	for _, c := range []struct{ filter, want string }{
		{"", head + data + waiting + shop},
		{"--service data", head + data},
		{"--service shop --status pending", head + waiting},
		{"--status Approved", head + shop},
		{"--status Disconnected", head},
	} {
		got := regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`).ReplaceAllString(r.must("connection list "+c.filter), guid)
		if want := strings.NewReplacer("DATA", ids["to-data"], "AGAIN", ids["again"], "SHOP", ids["to-shop"]).Replace(c.want); squeezed(got) != want {
			t.Errorf("connection list %s prints\n%s\nwant, but for the columns' widths,\n%s", c.filter, got, want)
		}
	}
}

// squeezed is a table with one space between its columns, which are as wide as their widest cells.
func squeezed(table string) string {
	var text strings.Builder
	for line := range strings.Lines(table) {
		text.WriteString(strings.Join(strings.Fields(line), " ") + "\n")
	}
	return text.String()
}

func TestFlowList_Filters_TakeTheirFlows(t *testing.T) {
	r := listed(t)
	key := func(kind, subscription, name string) string {
		return strings.ToLower("/subscriptions/" + subscription + "/resourceGroups/default/providers/Microsoft.Network/" + kind + "/" + name)
	}
	for i, f := range []struct{ client, endpoint, service, protocol, state string }{
		{"10.0.0.4:40000", "to-shop", "shop", "tcp", "open"},
		{"10.0.0.40:40001", "to-shop", "shop", "udp", "open"},
		{"10.0.0.4:40002", "to-data", "data", "tcp", "syn"},
	} {
		r.observed.flows = append(r.observed.flows, server.Flow{
			Flow: api.Flow{
				Protocol: f.protocol, State: f.state, Client: f.client, Endpoint: "10.0.0.9:80", NAT: "10.0.0.5:1024", Backend: "10.0.0.20:80",
				LinkID: uint32(77 + i), IdleSeconds: uint32(i), Slot: uint32(i + 1), TwinSlot: uint32(i + 11),
			},
			Link: key("privateEndpoints", "consumer", f.endpoint), RuleSet: key("privateLinkServices", defaultSubscription, f.service),
		})
	}
	const (
		head  = "PROTOCOL  CLIENT           ENDPOINT     LINKID  NAT            BACKEND       STATE  IDLE\n"
		web   = "tcp       10.0.0.4:40000   10.0.0.9:80  77      10.0.0.5:1024  10.0.0.20:80  open   0s\n"
		dns   = "udp       10.0.0.40:40001  10.0.0.9:80  78      10.0.0.5:1024  10.0.0.20:80  open   1s\n"
		table = "tcp       10.0.0.4:40002   10.0.0.9:80  79      10.0.0.5:1024  10.0.0.20:80  syn    2s\n"
	)
	const endpoint = "/subscriptions/consumer/resourceGroups/default/providers/Microsoft.Network/privateEndpoints/"
	for _, c := range []struct{ filter, want string }{
		{"", head + web + dns + table},
		{"--service shop", head + web + dns},
		{"--service data", head + table},
		{"--endpoint " + endpoint + "to-shop", head + web + dns},
		{"--endpoint to-data --subscription consumer", head + table},
		{"--client 10.0.0.4", head + web + table}, // and not 10.0.0.40
		{"--client 10.0.0.4 --service shop", head + web},
		{"--client 10.0.0.5", head},
	} {
		if got := r.must("flow list " + c.filter); squeezed(got) != squeezed(c.want) || c.filter == "" && got != c.want {
			t.Errorf("flow list %s prints\n%s\nwant\n%s", c.filter, got, c.want)
		}
	}
	for _, c := range []struct {
		filter, want string
		code         int
	}{
		{"--service shoop", "privateLinkServices/shoop was not found (privlink service list; --subscription and --resource-group say whose)", exitNotFound},
		{"--endpoint to-shop", "privateEndpoints/to-shop was not found (privlink endpoint list; --subscription and --resource-group say whose)", exitNotFound}, // of another subscription
		{"--client 10.0.0", `flag --client: "10.0.0" is not an IP address`, exitUsage},
	} {
		if got := r.run("flow list " + c.filter); got.code != c.code || got.stderr != "privlink: "+c.want+"\n" || got.stdout != "" {
			t.Errorf("flow list %s: (%d) %s%s", c.filter, got.code, got.stdout, got.stderr)
		}
	}
}

// service show says how much of every NAT IP is used, and to whom: a port is free for one backend where it is taken for another.
func TestServiceShow_PortsUsed_PerNATIPAndBackend(t *testing.T) {
	r := listed(t)
	network := strings.ToLower("/subscriptions/" + defaultSubscription + "/resourceGroups/default/providers/Microsoft.Network/virtualNetworks/datacenter")
	use := func(address, protocol, backend string, used uint32) {
		r.observed.ports = append(r.observed.ports, server.Ports{Network: network, PortUse: api.PortUse{
			Address: address, Protocol: protocol, Backend: backend, Used: used, Size: 64512,
		}})
	}
	var service api.PrivateLinkService
	read(t, r.must("service show shop -o json"), &service)
	first, second := natAddresses(&service)[0], natAddresses(&service)[1]
	use(first, "tcp", "10.0.0.20:80", 3)
	use(first, "udp", "10.0.0.20:53", 0)
	use(first, "tcp", "10.0.0.21:80", 64512)
	use(second, "udp", "10.0.0.20:53", 1)
	use("10.0.0.99", "tcp", "10.0.0.20:80", 5) // of another service
	var got []string
	for line := range strings.Lines(r.must("service show shop")) {
		if strings.HasPrefix(line, "NAT IP:") || strings.HasPrefix(line, "Ports:") {
			got = append(got, strings.Join(strings.Fields(line), " "))
		}
	}
	want := []string{
		"NAT IP: " + first + " in datacenter/vms, 64515 ports used, primary",
		"Ports: " + first + " to tcp 10.0.0.21:80, 64512 of 64512 used",
		"Ports: " + first + " to tcp 10.0.0.20:80, 3 of 64512 used",
		"NAT IP: " + second + " in datacenter/vms, 1 port used",
		"Ports: " + second + " to udp 10.0.0.20:53, 1 of 64512 used",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("service show says\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// A backend whose subnet the NAT IP is not in asks its gateway; where privlink is that, or a router is, all is well.
func TestServiceShow_BackendCouldNotAnswer_WarnsUntilThereIsAWay(t *testing.T) {
	r := listed(t)
	const warning = "NAT IP 10.0.2.4 is outside of the subnet of backend 10.0.0.20 in subnet vms, which could not answer it " +
		"(attach with --answer-gateway or --next-hop, or use a NAT IP of that subnet)"
	r.must("service update shop --nat-drain 0 --nat-subnet nat --nat-ip-count 1")
	wants := func(when string, want bool) {
		t.Helper()
		if shown := r.must("service show shop"); strings.Contains(shown, warning) != want {
			t.Errorf("%s: the warning is there: %v\n%s", when, !want, shown)
		}
	}
	wants("no way", true)
	r.must("vnet attach datacenter --interface eth1 --answer-gateway")
	wants("--answer-gateway", false)
	r.must("vnet attach datacenter --interface eth1 --answer-gateway=false")
	wants("no way again", true)
	r.must("vnet attach datacenter --interface eth1 --next-hop 10.0.0.1")
	wants("--next-hop", false)
	r.must("vnet attach datacenter --interface eth1 --next-hop=")
	r.must("service update shop --nat-subnet vms --nat-ip-count 1")
	wants("NAT IP of the backend's subnet", false)
}
