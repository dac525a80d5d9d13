package main

import (
	"reflect"
	"strings"
	"testing"
)

// Every refused input has its exact text and exit code, and leaves the store and all maps as they were. The rows
// follow one another: `before` adds to what is there.
func TestRefused_BadInput_ExactTextNothingChanged(t *testing.T) {
	const provider = "vnet create datacenter --prefix 10.0.0.0/16 --subnet vms=10.0.0.0/24 --subnet nat=10.0.1.0/24 --interface eth1; " +
		"lb create web --vnet datacenter --subnet vms --rule tcp:80 --backend 10.0.0.100; " +
		"nic create vm --vnet datacenter --subnet nat --ip 10.0.1.99"
	const published = "service create shop --lb web --nat-subnet nat --nat-ip 10.0.1.4 --visibility '*'"
	const others = "lb create two --vnet datacenter --subnet vms --rule tcp:80; " +
		"vnet create home --prefix 10.0.0.0/16; endpoint create e --vnet home --service ALIAS"
	r, bpffs := newKernelRig(t)
	alias := ""
	var before map[string]string
	for _, c := range []struct {
		name, before, input, stdin string
		want                       string
		code                       int
	}{
		{"malformed file", "", "apply -f -", "type: [", "-: document 1: yaml: line 1: did not find expected node content", exitRefused},
		{"property misspelt", "", "apply -f -", "type: virtualNetworks\nname: net\nlocation: local\nproperties: {adressSpace: {}}",
			"-: document 1: virtualNetworks/net: properties.adressSpace: unknown property (did you mean addressSpace?)", exitRefused},
		{"name that YAML reads as false", "", "apply -f -", "type: virtualNetworks\nname: n",
			"-: document 1: name: false found where a string is expected (put it in quotes)", exitRefused},
		{"no such file", "", "apply -f /nonexistent", "", "read /nonexistent: no such file or directory", exitFailed},
		{"overlapping subnets", "", "vnet create n --prefix 10.0.0.0/16 --subnet a=10.0.0.0/24 --subnet b=10.0.0.128/25", "",
			"properties.subnets[1].properties.addressPrefix: 10.0.0.128/25 overlaps 10.0.0.0/24 of subnet a", exitRefused},
		{"host bits", "", "vnet create n --prefix 10.0.0.1/16", "",
			"properties.addressSpace.addressPrefixes[0]: 10.0.0.1/16 has host bits set (did you mean 10.0.0.0/16?)\n" +
				"properties.subnets[0].properties.addressPrefix: 10.0.0.1/16 has host bits set (did you mean 10.0.0.0/16?)", exitRefused},
		{"file that applies in part", "", "apply -f -",
			"type: virtualNetworks\nname: a\nlocation: local\nproperties: {addressSpace: {addressPrefixes: [10.0.0.0/16]}}\n---\n" +
				"type: networkInterfaces\nname: vm\nlocation: local\nproperties: {ipConfigurations: [{name: i, properties: {subnet: {id: virtualNetworks/a/subnets/none}}}]}\n",
			"networkInterfaces/vm: properties.ipConfigurations[0].properties.subnet.id: virtualNetworks/a/subnets/none was not found", exitRefused},
		{"status misspelt", "", "connection list --status Approve", "",
			`flag --status: "Approve" is not one of Pending, Approved, Rejected, Disconnected (did you mean Approved?)`, exitUsage},
		{"unknown load balancer", provider, "service create shop --lb wbe --nat-ip-count 1", "", "loadBalancers/wbe was not found (privlink lb list; --subscription and --resource-group say whose)", exitNotFound},
		{"unknown frontend", "", "service create shop --lb web --frontend frontent --nat-ip-count 1", "",
			`load balancer web has no frontend "frontent" (did you mean frontend?)`, exitNotFound},
		{"unknown subnet", "", "nic create n --vnet datacenter --subnet vm", "",
			`virtual network datacenter has no subnet "vm" (it has vms, nat)`, exitNotFound},
		{"subnet left out", "", "nic create n --vnet datacenter", "",
			"flag --subnet is missing: virtual network datacenter has vms, nat", exitUsage},
		{"unknown NAT subnet", "", "service create shop --lb web --nat-subnet nta --nat-ip-count 1", "",
			"properties.ipConfigurations[0].properties.subnet.id: virtualNetworks/datacenter/subnets/nta was not found", exitRefused},
		{"no NAT IP", "", "service create shop --lb web", "",
			"NAT IPs are missing: --nat-ip-count N for N free ones of the subnet, or --nat-ip IP", exitUsage},
		{"0 NAT IPs", "", "service create shop --lb web --nat-ip-count 0", "",
			"properties.ipConfigurations: 0 NAT IPs, at least 1 required", exitRefused},
		{"9 NAT IPs", "", "service create shop --lb web --nat-ip-count 9", "",
			"properties.ipConfigurations: 9 NAT IPs, at most 8 allowed", exitRefused},
		{"the same NAT IP twice", "", "service create shop --lb web --nat-ip 10.0.1.7,10.0.1.7", "",
			"properties.ipConfigurations[1].properties.privateIPAddress: 10.0.1.7 is the address of nat-1 already", exitRefused},
		{"NAT IP of a VM", "", "service create shop --lb web --nat-ip 10.0.1.99", "",
			"properties.ipConfigurations[0].properties.privateIPAddress: 10.0.1.99 is in use by networkInterfaces/vm (ipconfig)", exitRefused},
		{"NAT IP of a frontend", "", "service create shop --lb web --nat-ip 10.0.0.4", "",
			"properties.ipConfigurations[0].properties.privateIPAddress: 10.0.0.4 is in use by loadBalancers/web (frontend)", exitRefused},
		{"NAT IP of a backend", "", "service create shop --lb web --nat-ip 10.0.0.100", "",
			"properties.ipConfigurations[0].properties.privateIPAddress: 10.0.0.100 is the address of a backend", exitRefused},
		{"NAT IP is broadcast", "", "service create shop --lb web --nat-ip 10.0.1.255", "",
			"properties.ipConfigurations[0].properties.privateIPAddress: 10.0.1.255 is the broadcast address of subnet nat (10.0.1.0/24)", exitRefused},
		{"interface attached twice", "", "vnet create home --prefix 10.0.0.0/16 --interface eth1", "",
			"properties.attachments: interface eth1, vlan 0 is attached to virtualNetworks/datacenter", exitRefused},
		{"detach what is not attached", "", "vnet detach datacenter --interface eth9", "",
			"eth9 is not attached to virtual network datacenter", exitNotFound},
		{"no such interface", "", "vnet attach datacenter --interface nosuch", "",
			"properties.attachments[1].interface: attach nosuch: no such interface", exitRefused},
		{"bad rule", "", "lb create x --vnet datacenter --subnet vms --rule http:80", "",
			`flag --rule: "http:80" is not [FRONTEND/]PROTOCOL:PORT[:BACKENDPORT], such as tcp:80 or all:0`, exitUsage},
		{"frontend of another service", published, "service create other --lb web --nat-ip-count 1", "",
			"properties.loadBalancerFrontendIpConfigurations[0].id: loadBalancers/web/frontendIPConfigurations/frontend is used by privateLinkServices/shop", exitRefused},
		{"ninth NAT IP", "", "service update shop --nat-subnet nat --nat-ip-count 9", "",
			"properties.ipConfigurations: 9 NAT IPs, at most 8 allowed", exitRefused},
		{"last NAT IP removed", "", "service update shop --nat-ip-count 0", "",
			"properties.ipConfigurations: 0 NAT IPs, at least 1 required", exitRefused},
		{"more flows than the table holds", "", "service update shop --max-flows-per-endpoint 65", "",
			"properties.maxFlowsPerEndpoint: 65 is not within 1..64: the flow table holds no more (a larger `flows` in the daemon's configuration makes room at its next start)", exitRefused},
		{"load balancer in use", "", "lb delete web", "", "loadBalancers/web is used by privateLinkServices/shop", exitRefused},
		{"network in use", "", "vnet delete datacenter", "", "virtualNetworks/datacenter is used by loadBalancers/web", exitRefused},
		{"unknown connection", "", "connection approve --service shop --name nobody", "",
			"service shop has no connections", exitNotFound},
		{"NAT IP of another service", others,
			"service create other --lb two --nat-ip 10.0.1.4", "",
			"properties.ipConfigurations[0].properties.privateIPAddress: 10.0.1.4 is in use by privateLinkServices/shop (nat-1)", exitRefused},
		{"service in use", "",
			"service delete shop", "",
			"privateLinkServices/shop has 1 pending connection (reject or remove them, or delete with --cascade)", exitRefused},
		{"unknown alias", "",
			"endpoint create new --vnet home --service shop.00000000-0000-4000-8000-000000000000.local.azure.privatelinkservice", "",
			"properties.manualPrivateLinkServiceConnections[0].properties.privateLinkServiceId: there is no private link service \"shop.00000000-0000-4000-8000-000000000000.local.azure.privatelinkservice\" that subscription \"00000000-0000-0000-0000-000000000001\" can see", exitRefused},
		{"service by its name", "", "endpoint create new --vnet home --service shop", "",
			"flag --service: \"shop\" is a name: say the alias or the resource id, with which the provider's `privlink service show` ends", exitUsage},
		{"address outside the subnet", "", "nic create n --vnet home --ip 10.1.0.5", "",
			"properties.ipConfigurations[0].properties.privateIPAddress: 10.1.0.5 is not within 10.0.0.0/16 of subnet default", exitRefused},
		{"message too long", "",
			"endpoint create new --vnet home --service ALIAS --request-message " + strings.Repeat("x", 141), "",
			"properties.manualPrivateLinkServiceConnections[0].properties.requestMessage: 141 characters, at most 140 allowed", exitRefused},
	} {
		t.Run(strings.ReplaceAll(c.name, " ", "_"), func(t *testing.T) {
			for line := range strings.SplitSeq(c.before, "; ") {
				if line == "" {
					continue
				}
				shown := r.must(strings.ReplaceAll(line, "ALIAS", alias))
				for text := range strings.SplitSeq(shown, "\n") {
					if value, ok := strings.CutPrefix(text, "Alias:"); ok {
						alias = strings.TrimSpace(value)
					}
				}
			}
			if c.before != "" || before == nil {
				last := before
				if before = settledMaps(r.lab, t, bpffs); reflect.DeepEqual(before, last) {
					t.Error("the dump of the maps does not show what was made")
				}
			}
			r.stdin = c.stdin
			contents := r.contents()
			got := r.run(strings.ReplaceAll(c.input, "ALIAS", alias))
			if got.stderr != "privlink: "+c.want+"\n" || got.code != c.code || got.stdout != "" {
				t.Errorf("privlink %s\n got (%d) %s%s\nwant (%d) privlink: %s", c.input, got.code, got.stdout, got.stderr, c.code, c.want)
			}
			if after := r.contents(); after != contents {
				t.Errorf("the store was changed:\n%s\n%s", contents, after)
			}
			for name, after := range maps(t, bpffs) {
				if after != before[name] {
					t.Errorf("map %s was changed", name)
				}
			}
		})
	}
}

func TestRefused_NoDaemon_SaysWhatToDo(t *testing.T) {
	r := newRig(t)
	got := r.run("vnet list --socket /nonexistent/socket")
	const want = "privlink: reach the daemon at /nonexistent/socket: no such file or directory (is `privlink run` running? --socket or PRIVLINK_SOCKET names another place)\n"
	if got.stderr != want || got.code != exitFailed {
		t.Errorf("got %+v, want\n%s", got, want)
	}
}
