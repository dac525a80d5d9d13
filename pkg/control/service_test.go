package control

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/auth"
	"github.com/privlink/privlink/pkg/dataplane"
	"github.com/privlink/privlink/pkg/store"
)

// natIPs is a list of n dynamic NAT IP configurations.
func natIPs(n int, subnet string) string {
	var list []string
	for i := range n {
		list = append(list, fmt.Sprintf(`{'name':'nat%d','properties':{'subnet':{'id':'virtualNetworks/dc/subnets/%s'}}}`, i, subnet))
	}
	return "[" + strings.Join(list, ",") + "]"
}

func serviceWith(ipConfigurations string) string {
	return `{'properties':{'loadBalancerFrontendIpConfigurations':[{'id':'loadBalancers/lb/frontendIPConfigurations/fe'}],'ipConfigurations':` +
		ipConfigurations + `}}`
}

func TestService_NATIPCounts(t *testing.T) {
	w := newWorld(t)
	w.provide("")
	must(t, w.delete(theService, false))
	for n, want := range map[int]string{0: "properties.ipConfigurations: 0 NAT IPs, at least 1 required",
		1: "", 2: "", 3: "", 4: "", 5: "", 6: "", 7: "", 8: "", 9: "properties.ipConfigurations: 9 NAT IPs, at most 8 allowed"} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			before := w.dump(t)
			_, err := w.try(theService, "%s", serviceWith(natIPs(n, "nat")))
			if want != "" {
				if err == nil || err.Error() != want {
					t.Errorf("got  %v\nwant %s", err, want)
				}
				if after := w.dump(t); after != before {
					t.Errorf("a refused request changed the store:\n%s\n%s", before, after)
				}
				return
			}
			must(t, err)
			sources := w.kernel.state.RuleSets[1].Sources
			for i, s := range sources {
				if s.Addr != netip.AddrFrom4([4]byte{10, 0, 2, byte(4 + i)}) || s.Draining || s.Frontend {
					t.Errorf("source %d: %+v", i, s)
				}
			}
			if len(sources) != n {
				t.Errorf("%d sources in the kernel", len(sources))
			}
			must(t, w.delete(theService, false))
		})
	}
}

// dump is everything in the store.
func (w *world) dump(t *testing.T) string {
	t.Helper()
	entries, _, err := w.bolt.List(context.Background(), "")
	must(t, err)
	var b bytes.Buffer
	for _, e := range entries {
		fmt.Fprintf(&b, "%s %d %s\n", e.Key, e.Revision, e.Value)
	}
	return b.String()
}

// Requests that are refused: the exact text, and the store as it was.
func TestPut_Refusals(t *testing.T) {
	w := newWorld(t)
	service := w.provide(open)
	w.consume()
	w.put(theEndpoint, "%s", endpointDoc(service.Properties.Alias, ""))
	w.put("p:loadBalancers/lb2", `{'properties':{'frontendIPConfigurations':[{'name':'fe','properties':{'subnet':{'id':'virtualNetworks/dc/subnets/vms'}}}]}}`)
	w.put("p:virtualNetworks/dc2", `{'properties':{'addressSpace':{'addressPrefixes':['10.9.0.0/16']},'subnets':[
		{'name':'small','properties':{'addressPrefix':'10.9.1.0/30'}},{'name':'eight','properties':{'addressPrefix':'10.9.2.0/29'}}]}}`)
	nat := func(address, subnet string) string {
		return serviceWith(fmt.Sprintf(`[{'name':'n','properties':{'privateIPAddress':'%s','subnet':{'id':'virtualNetworks/%s'}}}]`, address, subnet))
	}
	const ip = "properties.ipConfigurations[0].properties.privateIPAddress: "
	for _, c := range []struct {
		what, name, doc, want string
		code                  api.Code
	}{
		{"NAT IP of a NIC", theService, nat("10.0.1.9", "dc/subnets/vms"), ip + "10.0.1.9 is in use by networkInterfaces/vm1 (ip)", api.CodeAddressInUse},
		{"NAT IP of a frontend", theService, nat("10.0.1.4", "dc/subnets/vms"), ip + "10.0.1.4 is in use by loadBalancers/lb (fe)", api.CodeAddressInUse},
		{"NAT IP of another service", "p:privateLinkServices/other", strings.Replace(nat("10.0.2.4", "dc/subnets/nat"), "/fe", "/fe", 1),
			"properties.loadBalancerFrontendIpConfigurations[0].id: loadBalancers/lb/frontendIPConfigurations/fe is used by privateLinkServices/web", api.CodeConflict},
		{"NAT IP outside", theService, nat("10.0.3.4", "dc/subnets/nat"), ip + "10.0.3.4 is not within 10.0.2.0/24 of subnet nat", api.CodeAddressNotInSubnet},
		{"NAT IP network address", theService, nat("10.0.2.0", "dc/subnets/nat"), ip + "10.0.2.0 is the network address of subnet nat (10.0.2.0/24)", api.CodeAddressReserved},
		{"NAT IP broadcast address", theService, nat("10.0.2.255", "dc/subnets/nat"), ip + "10.0.2.255 is the broadcast address of subnet nat (10.0.2.0/24)", api.CodeAddressReserved},
		{"NAT IP twice", theService, serviceWith(`[{'name':'a','properties':{'privateIPAddress':'10.0.2.9','subnet':{'id':'virtualNetworks/dc/subnets/nat'}}},
			{'name':'b','properties':{'privateIPAddress':'10.0.2.9','subnet':{'id':'virtualNetworks/dc/subnets/nat'}}}]`),
			"properties.ipConfigurations[1].properties.privateIPAddress: 10.0.2.9 is the address of a already", api.CodeInvalidParameter},
		{"NAT IP in another network", theService, nat("10.9.2.3", "dc2/subnets/eight"),
			"properties.ipConfigurations[0].properties.subnet.id: virtualNetworks/dc2 is not the virtual network of the load balancer's frontends", api.CodeInvalidReference},
		{"NAT subnet unknown", theService, nat("10.0.2.9", "dc/subnets/nothing"),
			"properties.ipConfigurations[0].properties.subnet.id: virtualNetworks/dc/subnets/nothing was not found", api.CodeInvalidReference},
		{"last NAT IP", theService, serviceWith("[]"), "properties.ipConfigurations: 0 NAT IPs, at least 1 required", api.CodeInvalidParameter},
		{"unknown frontend", theService, strings.Replace(serviceDoc(""), "/fe", "/ef", 1),
			"properties.loadBalancerFrontendIpConfigurations[0].id: loadBalancers/lb/frontendIPConfigurations/ef was not found", api.CodeInvalidReference},
		{"location of the service", "p:privateLinkServices/other", `{'location':'east',` + strings.Replace(serviceDoc("")[1:], "lb/", "lb2/", 1),
			"location: east is not the location of loadBalancers/lb2, west", api.CodeInvalidParameter},
		{"location changed", theService, `{'location':'east',` + serviceDoc("")[1:], "location: cannot be changed from west to east", "InvalidResourceLocation"},
		{"auto-approval outside of visibility", theService, serviceDoc(`,'autoApproval':{'subscriptions':['c']}`),
			`properties.autoApproval.subscriptions[0]: "c" is not in properties.visibility.subscriptions`, api.CodeInvalidParameter},
		{"dynamic in a small subnet", "p:networkInterfaces/n", `{'properties':{'ipConfigurations':[{'name':'i','properties':{'subnet':{'id':'virtualNetworks/dc2/subnets/small'}}}]}}`,
			"properties.ipConfigurations[0].properties.privateIPAllocationMethod: subnet small (10.9.1.0/30) is smaller than /29 and takes static addresses only", api.CodeInvalidParameter},
		{"subnet in use", theNetwork, `{'properties':{'addressSpace':{'addressPrefixes':['10.0.0.0/16']},'subnets':[{'name':'vms','properties':{'addressPrefix':'10.0.1.0/24'}}]}}`,
			"properties.subnets: subnet nat is used by privateLinkServices/web", "InUseSubnetCannotBeDeleted"},
		{"frontend in use", theLB, `{'properties':{}}`, "properties.frontendIPConfigurations: frontend fe is used by privateLinkServices/web", api.CodeInUse},
		{"pool in use", theLB, `{'properties':{'frontendIPConfigurations':[{'name':'fe','properties':{'subnet':{'id':'virtualNetworks/dc/subnets/vms'}}}]}}`,
			"properties.backendAddressPools: pool pool is used by networkInterfaces/vm1", api.CodeInUse},
		{"endpoint's service changed", theEndpoint, endpointDoc("privateLinkServices/x", ""),
			"properties.privateLinkServiceConnections: privateLinkServiceId cannot be changed (delete the endpoint and make another)", api.CodeConflict},
		{"long message", "c:privateEndpoints/p2", strings.Replace(endpointDoc(service.Properties.Alias, ""), "please", strings.Repeat("é", 141), 1),
			"properties.manualPrivateLinkServiceConnections[0].properties.requestMessage: 141 characters, at most 140 allowed", api.CodeLimit},
		{"endpoint's address in use", "c:privateEndpoints/p2", strings.Replace(endpointDoc(service.Properties.Alias, ""), "'subnet'",
			"'ipConfigurations':[{'name':'i','properties':{'privateIPAddress':'10.0.1.4'}}],'subnet'", 1),
			"properties.ipConfigurations[0].properties.privateIPAddress: 10.0.1.4 is in use by privateEndpoints/pe", api.CodeAddressInUse},
		{"NIC of an endpoint", "c:networkInterfaces/pe.nic." + w.endpoint(theEndpoint).Properties.ResourceGUID,
			`{'properties':{'ipConfigurations':[{'name':'i','properties':{'subnet':{'id':'virtualNetworks/home/subnets/default'}}}]}}`, "", api.CodeReadOnly},
		{"somebody else's network", "c:networkInterfaces/spy", `{'properties':{'ipConfigurations':[{'name':'i','properties':{
			'subnet':{'id':'/subscriptions/p/resourceGroups/rg/providers/Microsoft.Network/virtualNetworks/dc/subnets/vms'}}}]}}`,
			"virtualNetworks/dc/subnets/vms was not found", api.CodeInvalidReference},
		{"attachment by a tenant", theConsumer, `{'properties':{'addressSpace':{'addressPrefixes':['10.0.0.0/16']},
			'subnets':[{'name':'default','properties':{'addressPrefix':'10.0.1.0/24'}}],'attachments':[{'interface':'eth0'}]}}`,
			`properties.attachments: principal "c-Owner" may not attach the node's interfaces (needs Contributor on /)`, api.CodeForbidden},
	} {
		t.Run(c.what, func(t *testing.T) {
			before := w.dump(t)
			state := text(w.kernel.state)
			_, err := w.try(c.name, "%s", c.doc)
			switch {
			case err == nil:
				t.Fatal("accepted")
			case c.want == "" && !strings.HasSuffix(err.Error(), "belongs to privateEndpoints/pe and cannot be changed by itself"), c.want != "" && err.Error() != c.want:
				t.Errorf("got  %v\nwant %s", err, c.want)
			case api.AsError(err).Code != c.code:
				t.Errorf("%v: code %s, want %s", err, api.AsError(err).Code, c.code)
			}
			if after := w.dump(t); after != before {
				t.Errorf("the store changed:\n%s\n%s", before, after)
			}
			if after := text(w.kernel.state); after != state {
				t.Errorf("the kernel's state changed:\n%s\n%s", state, after)
			}
		})
	}
}

// Refusals that need more around them than one document, each with its code.
func TestPut_RefusedByWhatIsThere_Codes(t *testing.T) {
	w := newWorld(t)
	service := w.provide(open)
	w.consume()
	w.put("p:virtualNetworks/tight", `{'properties':{'addressSpace':{'addressPrefixes':['10.9.0.0/16']},'subnets':[{'name':'eight','properties':{'addressPrefix':'10.9.2.0/29'}}]}}`)
	nic := func(network, more string) string {
		return `{'properties':{'ipConfigurations':[{'name':'i','properties':{` + more + `'subnet':{'id':'virtualNetworks/` + network + `'}}}]}}`
	}
	for i := range 3 { // .4 to .6: the first four and the last are nobody's
		w.put(fmt.Sprintf("p:networkInterfaces/full%d", i), "%s", nic("tight/subnets/eight", ""))
	}
	network := func(prefix, more string) string {
		return `{'properties':{'addressSpace':{'addressPrefixes':['` + prefix + `']}` + more + `}}`
	}
	peered := func(with string) string {
		return `,'virtualNetworkPeerings':[{'name':'to','properties':{'remoteVirtualNetwork':{'id':'virtualNetworks/` + with + `'}}}]`
	}
	w.put("p:virtualNetworks/left", "%s", network("10.20.0.0/16", ""))
	w.put("p:virtualNetworks/right", "%s", network("10.21.0.0/16", peered("left")))
	w.put("p:virtualNetworks/left", "%s", network("10.20.0.0/16", peered("right")))
	writer := root("p")
	reader := auth.Actor{Principal: "r", Tenant: "t", Grants: []auth.Grant{{Role: auth.Reader, Scope: "/subscriptions/p"}, {Role: auth.Owner, Scope: "/subscriptions/c"}}}
	const inP = "/subscriptions/p/resourceGroups/rg/providers/Microsoft.Network/"
	member := strings.Replace(`{'properties':{'frontendIPConfigurations':[{'name':'fe','properties':{'subnet':{'id':'virtualNetworks/dc/subnets/vms'}}}],
		'backendAddressPools':[{'name':'pool','properties':{'loadBalancerBackendAddresses':[{'name':'m','properties':{'ipAddress':'ADDRESS'}}]}}]}}`, "ADDRESS", "10.0.2.4", 1)
	for _, c := range []struct {
		what   string
		who    auth.Actor
		name   string
		doc    string
		status int
		code   api.Code
	}{
		{"no address left", writer, "p:networkInterfaces/one-more", nic("tight/subnets/eight", ""), 409, api.CodeSubnetFull},
		{"reserved by the platform", writer, "p:networkInterfaces/one-more", nic("tight/subnets/eight", `'privateIPAddress':'10.9.2.0',`), 400, api.CodeAddressReserved},
		{"outside of the subnet", writer, "p:networkInterfaces/one-more", nic("tight/subnets/eight", `'privateIPAddress':'10.9.3.4',`), 400, api.CodeAddressNotInSubnet},
		{"address of another", writer, "p:networkInterfaces/one-more", nic("tight/subnets/eight", `'privateIPAddress':'10.9.2.4',`), 409, api.CodeAddressInUse},
		{"a backend with the address of a NAT IP", writer, "p:loadBalancers/lb3", member, 409, api.CodeAddressInUse},
		{"peering of overlapping spaces", writer, "p:virtualNetworks/third", network("10.20.5.0/24", peered("left")), 409, api.CodeOverlappingSpaces},
		{"a peered space grows into the other", writer, "p:virtualNetworks/left", network("10.20.0.0/15", peered("right")), 409, api.CodeOverlappingSpaces},
		{"a space without its subnets", writer, "p:virtualNetworks/tight", network("10.10.0.0/16", ""), 409, "InUseSubnetCannotBeDeleted"},
		{"NIC in a network that is readable only", reader, "c:networkInterfaces/guest",
			`{'properties':{'ipConfigurations':[{'name':'i','properties':{'subnet':{'id':'` + inP + `virtualNetworks/dc/subnets/vms'}}}]}}`, 403, api.CodeLinkedForbidden},
		{"service of a load balancer that is readable only", reader, "c:privateLinkServices/guest",
			`{'properties':{'loadBalancerFrontendIpConfigurations':[{'id':'` + inP + `loadBalancers/lb/frontendIPConfigurations/fe'}],
			'ipConfigurations':[{'name':'n','properties':{'subnet':{'id':'` + inP + `virtualNetworks/dc/subnets/nat'}}}]}}`, 403, api.CodeLinkedForbidden},
		{"the NIC of a service", writer, "p:" + strings.SplitN(service.Properties.NetworkInterfaces[0].ID, "Microsoft.Network/", 2)[1], nic("dc/subnets/vms", ""), 409, api.CodeReadOnly},
		{"automatic connection without the right to approve", reader, "c:privateEndpoints/pe2", `{'properties':{'subnet':{'id':'virtualNetworks/home/subnets/default'},
			'privateLinkServiceConnections':[{'name':'l','properties':{'privateLinkServiceId':'` + inP + `privateLinkServices/web'}}]}}`, 403, api.CodeApproval},
	} {
		at := id(c.name)
		before := w.dump(t)
		_, err := w.Put(t.Context(), c.who, at, doc(api.Kind(at.Type), "%s", c.doc), Conditions{})
		if got := api.AsError(err); got == nil || got.Status != c.status || got.Code != c.code {
			t.Errorf("%s: %+v, want %d %s", c.what, got, c.status, c.code)
		}
		if w.dump(t) != before {
			t.Errorf("%s: the store changed", c.what)
		}
	}
}

func TestDelete_InUse_IsRefused(t *testing.T) {
	w := newWorld(t)
	w.provide(open)
	for name, want := range map[string]string{
		theNetwork: "virtualNetworks/dc is used by loadBalancers/lb",
		theLB:      "loadBalancers/lb is used by networkInterfaces/vm1",
	} {
		if err := w.delete(name, true); err == nil || err.Error() != want {
			t.Errorf("%s: got %v, want %s", name, err, want)
		}
	}
	for _, name := range []string{theService, "p:networkInterfaces/vm1", theLB, theNetwork, theNetwork} {
		must(t, w.delete(name, false))
	}
	if n := len(w.view.records) + len(w.view.refs) + len(w.view.held[id(theNetwork).Key()]) + len(w.view.aliases); n != 0 {
		t.Errorf("%d things are left: %+v", n, w.view)
	}
}

func TestService_NATIPTakenOut_Drains(t *testing.T) {
	w := newWorld(t)
	w.provide(open)
	w.put(theService, "%s", strings.Replace(serviceWith(natIPs(3, "nat")), "{'properties':{", "{'properties':{'natDrainPeriodInSeconds':60,", 1))
	w.put(theService, "%s", serviceWith(natIPs(1, "nat")))
	sources := func() string {
		list := []string{}
		for _, s := range w.kernel.state.RuleSets[1].Sources {
			list = append(list, fmt.Sprint(s.Addr, " ", s.Draining))
		}
		return strings.Join(list, ", ")
	}
	if got := sources(); got != "10.0.2.4 false, 10.0.2.5 true, 10.0.2.6 true" {
		t.Errorf("drains: %s", got)
	}
	if d := w.service(theService).Properties.DrainingIPs; len(d) != 2 || !d[0].Until.Equal(w.clock.Now().Add(time.Minute)) {
		t.Errorf("shown: %+v", d)
	}
	// A draining address is nobody else's, and may come back.
	w.put("p:networkInterfaces/vm2", `{'properties':{'ipConfigurations':[{'name':'i','properties':{'subnet':{'id':'virtualNetworks/dc/subnets/nat'}}}]}}`)
	if a := w.get("p:networkInterfaces/vm2").(*api.NetworkInterface).Properties.IPConfigurations[0].Properties.PrivateIPAddress; a != "10.0.2.7" {
		t.Errorf("a new NIC got %s", a)
	}
	w.put(theService, "%s", serviceWith(strings.Replace(natIPs(2, "nat"), "'nat1','properties':{", "'nat1','properties':{'privateIPAddress':'10.0.2.6',", 1)))
	if got := sources(); got != "10.0.2.4 false, 10.0.2.6 false, 10.0.2.5 true" {
		t.Errorf("one comes back: %s", got)
	}
	w.restart()
	w.clock.advance(time.Minute)
	w.sync()
	if got := sources(); got != "10.0.2.4 false, 10.0.2.6 false" {
		t.Errorf("after the drain: %s", got)
	}
}

// A drain is over when no flow is left, and the service is Updating until then.
func TestService_NATIPWithoutFlows_IsDrained(t *testing.T) {
	w := newWorld(t)
	flows := []Flow{}
	w.options.Flows = func(yield func(Flow) bool) error {
		for _, f := range flows {
			yield(f)
		}
		return nil
	}
	w.provide(open)
	w.consume()
	w.put(theEndpoint, "%s", endpointDoc(w.service(theService).Properties.Alias, ""))
	must(t, w.decide(theService, api.Approved, "yes"))
	left := func() string {
		t.Helper()
		p := w.service(theService).Properties
		list := []string{string(p.ProvisioningState)}
		for _, d := range p.DrainingIPs {
			list = append(list, d.Address)
		}
		return strings.Join(list, " ")
	}
	shrink := func() {
		t.Helper()
		w.put(theService, "%s", serviceWith(natIPs(3, "nat")))
		w.put(theService, "%s", serviceWith(natIPs(1, "nat")))
	}
	link, nat := id(theEndpoint).Key(), netip.MustParseAddr("10.0.2.5")
	flows = []Flow{{Link: link, NAT: netip.MustParseAddr("10.0.2.4")}, {Link: "another", NAT: nat}, {Link: link, NAT: nat, Inner: true}}
	shrink()
	if got := left(); got != "Updating 10.0.2.5" {
		t.Errorf("a flow left on one of two: %s", got)
	}
	if _, next := w.drained(); !next.Equal(w.clock.Now().Add(drainAsks)) {
		t.Errorf("asks again at %v", next)
	}
	flows = nil
	w.sync()
	if got := left(); got != "Succeeded" {
		t.Errorf("no flow left: %s", got)
	}
	// Nobody counts before the kernel gives it no new ones.
	w.kernel.set(func(k *kernel) { k.err = errors.New("no") })
	shrink()
	if got := left(); got != "Failed 10.0.2.5 10.0.2.6" {
		t.Errorf("the kernel does not agree: %s", got)
	}
	w.kernel.set(func(k *kernel) { k.err = nil })
	w.sync()
	if got := left(); got != "Succeeded" {
		t.Errorf("the kernel agrees: %s", got)
	}
	// A count that fails decides nothing, and time does.
	w.options.Flows = func(func(Flow) bool) error { return errors.New("no table") }
	shrink()
	if got := left(); got != "Updating 10.0.2.5 10.0.2.6" {
		t.Errorf("the count failed: %s", got)
	}
	w.clock.advance(api.DefaultDrain * time.Second)
	w.sync()
	if got := left(); got != "Succeeded" {
		t.Errorf("the time is over: %s", got)
	}
}

func TestService_Primary_IsTheFirstSource(t *testing.T) {
	w := newWorld(t)
	w.provide(open)
	w.put(theService, "%s", serviceWith(strings.Replace(natIPs(3, "nat"), "'nat2','properties':{", "'nat2','properties':{'primary':true,", 1)))
	if s := w.kernel.state.RuleSets[1].Sources; s[0].Addr.String() != "10.0.2.6" || s[1].Addr.String() != "10.0.2.4" {
		t.Errorf("%+v", s)
	}
	_, err := w.try(theService, "%s", serviceWith(strings.ReplaceAll(natIPs(2, "nat"), "'properties':{", "'properties':{'primary':true,")))
	const want = "properties.ipConfigurations[1].properties.primary: exactly one may be primary, and properties.ipConfigurations[0] is"
	if err == nil || err.Error() != want {
		t.Errorf("two: %v", err)
	}
}

func TestService_Warnings(t *testing.T) {
	w := newWorld(t)
	w.put(theNetwork, `{'properties':{'addressSpace':{'addressPrefixes':['10.0.0.0/16']},'subnets':[
		{'name':'vms','properties':{'addressPrefix':'10.0.1.0/24'}},{'name':'nat','properties':{'addressPrefix':'10.0.2.0/28'}}]}}`)
	w.provideOn()
	w.put(theService, "%s", serviceWith(natIPs(4, "nat")))
	got := w.service(theService).Properties.Warnings
	want := []string{
		"subnet nat (10.0.2.0/28) has 7 free addresses left for NAT IPs",
		"NAT IP 10.0.2.4 is outside of the subnet of backend 10.0.1.9 in subnet vms, which could not answer it (attach with --answer-gateway or --next-hop, or use a NAT IP of that subnet)",
	}
	if len(got) != 5 || got[0] != want[0] || got[1] != want[1] {
		t.Errorf("got  %q\nwant %q ...", got, want)
	}
}

// provideOn makes load balancer and VM in a network that is there.
func (w *world) provideOn() {
	w.Helper()
	w.put(theLB, `{'properties':{
		'frontendIPConfigurations':[{'name':'fe','properties':{'subnet':{'id':'virtualNetworks/dc/subnets/vms'}}}],
		'backendAddressPools':[{'name':'pool'}],
		'loadBalancingRules':[{'name':'http','properties':{'protocol':'Tcp','frontendPort':80,
			'frontendIPConfiguration':{'id':'loadBalancers/lb/frontendIPConfigurations/fe'},
			'backendAddressPool':{'id':'loadBalancers/lb/backendAddressPools/pool'}}}]}}`)
	w.put("p:networkInterfaces/vm1", `{'properties':{'ipConfigurations':[{'name':'ip','properties':{'privateIPAddress':'10.0.1.9',
		'subnet':{'id':'virtualNetworks/dc/subnets/vms'},'loadBalancerBackendAddressPools':[{'id':'loadBalancers/lb/backendAddressPools/pool'}]}}]}}`)
}

func TestService_OwnProperties_AbsentStaysNullResets(t *testing.T) {
	w := newWorld(t)
	all := `,'idleTimeoutInSeconds':77,'enableTcpReset':true,'maxFlowsPerEndpoint':5,'proxyTlv':'AWS','proxyCrc32c':true,'proxyProbes':false,` +
		`'natDrainPeriodInSeconds':9,'approvals':[{'subscription':'c','status':'Approved'}]`
	w.provide(all)
	before := text(w.service(theService).Properties.ServiceOwn)
	w.put(theService, "%s", serviceDoc(open))
	if after := text(w.service(theService).Properties.ServiceOwn); after != before || !strings.Contains(after, `"proxyTlv":"aws"`) {
		t.Errorf("absent changed them:\n%s\n%s", before, after)
	}
	w.put(theService, "%s", serviceDoc(`,'idleTimeoutInSeconds':null,'enableTcpReset':null,'maxFlowsPerEndpoint':null,'proxyTlv':null,`+
		`'proxyCrc32c':null,'proxyProbes':null,'natDrainPeriodInSeconds':null,'approvals':null`))
	if after := text(w.service(theService).Properties.ServiceOwn); after != "{}" {
		t.Errorf("null left %s", after)
	}
}

func TestAlias_UniqueAndImmutableAndTellsNothing(t *testing.T) {
	w := newWorld(t)
	alias := w.provide(open).Properties.Alias
	if !api.IsAlias(alias) || !strings.HasPrefix(alias, "web.") || !strings.HasSuffix(alias, ".west.azure.privatelinkservice") || strings.Contains(alias, "lb") {
		t.Errorf("alias %s", alias)
	}
	w.put(theService, "%s", strings.Replace(serviceDoc(open), "'properties':{", "'properties':{'alias':'mine.guid.x.azure.privatelinkservice',", 1))
	w.restart()
	if now := w.service(theService).Properties.Alias; now != alias {
		t.Errorf("alias changed to %s", now)
	}
	for _, a := range []string{alias, strings.ToUpper(alias)} {
		if ok, err := w.CheckVisibility(context.Background(), root("c"), Scope{Subscription: "c"}, a); !ok || err != nil {
			t.Errorf("%s: visible %v, %v", a, ok, err)
		}
	}
}

func TestLinkID_BytesBelow128NeverTwice(t *testing.T) {
	const all = 1<<28 - 1
	seen := map[uint32]bool{}
	check := func(n uint64) {
		v, ok := linkID(n)
		if !ok || v == 0 || v&0x80808080 != 0 || seen[v] {
			t.Fatalf("number %d: %#x, ok %v, seen %v", n, v, ok, seen[v])
		}
		seen[v] = true
	}
	for n := uint64(1); n <= 100_000; n++ {
		check(n)
	}
	wrap := uint64(all - linkIDFirst) // the last one before the numbers go around
	for n := wrap - 1000; n <= wrap+1000; n++ {
		check(n)
	}
	for n := uint64(all - 1000); n <= all; n++ {
		check(n)
	}
	for _, n := range []uint64{0, all + 1} {
		if v, ok := linkID(n); ok {
			t.Errorf("number %d: %#x", n, v)
		}
	}
}

func TestLinkID_SurvivesRestartAndRestore(t *testing.T) {
	w := newWorld(t)
	service := w.provide(open)
	w.consume()
	var backup bytes.Buffer
	must(t, w.Backup(context.Background(), &backup))
	w.put(theEndpoint, "%s", endpointDoc(service.Properties.Alias, ""))
	first := w.link(theEndpoint).ID
	must(t, w.delete(theEndpoint, false))
	w.restart()
	w.put(theEndpoint, "%s", endpointDoc(service.Properties.Alias, ""))
	second := w.link(theEndpoint).ID
	must(t, w.Restore(context.Background(), operator(), &backup))
	w.sync()
	w.put(theEndpoint, "%s", endpointDoc(service.Properties.Alias, ""))
	third := w.link(theEndpoint).ID
	if first == second || second == third || first == third {
		t.Errorf("LinkIDs %#x %#x %#x", first, second, third)
	}
}

func TestProvisioning_FollowsTheKernel(t *testing.T) {
	w := newWorld(t)
	w.kernel.set(func(k *kernel) { k.err = fmt.Errorf("no map") })
	w.provide(open)
	if p := w.service(theService).Properties; p.ProvisioningState != api.Failed || p.FailureReason != "no map" {
		t.Errorf("kernel refuses: %s %q", p.ProvisioningState, p.FailureReason)
	}
	w.kernel.set(func(k *kernel) { k.err = nil })
	w.sync()
	if s := w.service(theService).Properties.ProvisioningState; s != api.Succeeded {
		t.Errorf("kernel agrees again: %s", s)
	}
	network := id(theNetwork).Key()
	nat := dataplane.Address{Network: network, Addr: netip.MustParseAddr("10.0.2.4")}
	r := w.Status().Result
	r.Pending = []dataplane.Address{nat}
	w.Report(r)
	if s := w.service(theService).Properties.ProvisioningState; s != api.Updating {
		t.Errorf("address being probed: %s", s)
	}
	r.Pending, r.Conflicts = nil, []dataplane.Conflict{{Address: nat, MAC: []byte{2, 0, 0, 0, 0, 9}, Interface: "eth1"}}
	w.Report(r)
	if p := w.service(theService).Properties; p.ProvisioningState != api.Failed || p.FailureReason != "10.0.2.4 is in use by 02:00:00:00:00:09 on eth1" {
		t.Errorf("conflict: %s %q", p.ProvisioningState, p.FailureReason)
	}
	r.Conflicts = nil
	r.Attachments = []dataplane.AttachmentStatus{{Network: network, Err: fmt.Errorf("attach eth9: no such interface")}}
	w.Report(r)
	if p := w.get(theNetwork).(*api.VirtualNetwork).Properties; p.ProvisioningState != api.Failed || p.FailureReason != "attach eth9: no such interface" {
		t.Errorf("interface: %s %q", p.ProvisioningState, p.FailureReason)
	}
	r.Failed = []dataplane.Failure{{Key: id(theService).Key(), Reason: "all rule sets are in use"}, {Key: id("p:loadBalancers/lb/frontendIPConfigurations/fe").Key(), Reason: "all rules are in use"}}
	w.Report(r)
	if p := w.service(theService).Properties; p.ProvisioningState != api.Failed || p.FailureReason != "all rule sets are in use" {
		t.Errorf("left out of the kernel: %s %q", p.ProvisioningState, p.FailureReason)
	}
	if p := w.get(theLB).(*api.LoadBalancer).Properties; p.ProvisioningState != api.Failed || p.FailureReason != "all rules are in use" {
		t.Errorf("a frontend's rule set left out: %s %q", p.ProvisioningState, p.FailureReason)
	}
	if s := w.get("p:networkInterfaces/vm1").(*api.NetworkInterface).Properties.ProvisioningState; s != api.Succeeded {
		t.Errorf("what is not left out: %s", s)
	}
	r.Revision = 0 // found out before the network was written as it is now
	w.Report(r)
	if p := w.get(theNetwork).(*api.VirtualNetwork).Properties; p.ProvisioningState != api.Updating || p.FailureReason != "" {
		t.Errorf("what is known is older than the resource: %s %q", p.ProvisioningState, p.FailureReason)
	}
}

func TestConflict_DynamicAddressMovesStaticFails(t *testing.T) {
	w := newWorld(t)
	w.provide(open)
	network := id(theNetwork).Key()
	conflicts := func(addrs ...string) (list []dataplane.Conflict) {
		for _, a := range addrs {
			list = append(list, dataplane.Conflict{Address: dataplane.Address{Network: network, Addr: netip.MustParseAddr(a)}, MAC: []byte{2, 0, 0, 0, 0, 9}, Interface: "eth1"})
		}
		return list
	}
	w.kernel.set(func(k *kernel) { k.with.Conflicts = conflicts("10.0.2.5", "10.0.2.99") })
	w.put(theService, "%s", serviceWith(`[{'name':'nat0','properties':{'subnet':{'id':'virtualNetworks/dc/subnets/nat'}}},
		{'name':'dynamic','properties':{'subnet':{'id':'virtualNetworks/dc/subnets/nat'}}},
		{'name':'static','properties':{'privateIPAddress':'10.0.2.99','subnet':{'id':'virtualNetworks/dc/subnets/nat'}}}]`))
	w.sync()
	p := w.service(theService).Properties
	if a := p.IPConfigurations[1].Properties.PrivateIPAddress; a != "10.0.2.6" {
		t.Errorf("the dynamic address is %s", a)
	}
	if p.ProvisioningState != api.Failed || p.FailureReason != "10.0.2.99 is in use by 02:00:00:00:00:09 on eth1" || len(p.DrainingIPs) != 0 {
		t.Errorf("static: %s %q, draining %v", p.ProvisioningState, p.FailureReason, p.DrainingIPs)
	}
	// An address that was served stays where its clients look for it.
	w.kernel.set(func(k *kernel) { k.with.Conflicts = conflicts("10.0.2.6") })
	w.sync()
	w.sync()
	if a := w.service(theService).Properties.IPConfigurations[1].Properties.PrivateIPAddress; a != "10.0.2.6" {
		t.Errorf("a served address moved to %s", a)
	}
}

func TestPut_ConcurrentWriter_IsSeen(t *testing.T) {
	w := newWorld(t)
	w.provide(open)
	// Somebody else writes to the same store.
	e, err := w.bolt.Get(context.Background(), prefixResource+id(theNetwork).Key())
	must(t, err)
	_, err = w.bolt.Commit(context.Background(), store.Txn{Put: []store.Entry{{Key: e.Key, Value: bytes.Replace(e.Value, []byte(`"west"`), []byte(`"west","tags":{"other":"writer"}`), 1)}}})
	must(t, err)
	w.put(theNetwork, `{'tags':{'mine':'1'},'properties':{'addressSpace':{'addressPrefixes':['10.0.0.0/16']},'subnets':[
		{'name':'vms','properties':{'addressPrefix':'10.0.1.0/24'}},{'name':'nat','properties':{'addressPrefix':'10.0.2.0/24'}}]}}`)
	if r := w.get(theNetwork); r.Meta().Tags["mine"] != "1" {
		t.Errorf("%+v", r.Meta())
	}
	w.restart()
	if r := w.get(theNetwork); r.Meta().Tags["mine"] != "1" || r.Meta().Tags["other"] != "" {
		t.Errorf("%+v", r.Meta())
	}
}

func TestPut_Conditions(t *testing.T) {
	w := newWorld(t)
	w.consume()
	at, ctx := id(theConsumer), context.Background()
	body := func(tag string) api.Resource {
		return doc(api.VirtualNetworks, `{'tags':{'t':'%s'},'properties':{'addressSpace':{'addressPrefixes':['10.0.0.0/16']},'subnets':[
			{'name':'default','properties':{'addressPrefix':'10.0.1.0/24'}}]}}`, tag)
	}
	tag := w.get(theConsumer).Meta().Etag
	for i, c := range []struct {
		when Conditions
		code api.Code
	}{
		{Conditions{IfNoneMatch: "*"}, api.CodePrecondition},
		{Conditions{IfMatch: `W/"999"`}, api.CodePrecondition},
		{Conditions{IfMatch: tag, DryRun: true}, ""},
		{Conditions{IfMatch: tag}, ""},
		{Conditions{IfMatch: tag}, api.CodePrecondition}, // it changed
		{Conditions{IfMatch: "*"}, ""},
	} {
		_, err := w.Put(ctx, root("c"), at, body(fmt.Sprint(i)), c.when)
		if (err == nil) != (c.code == "") || err != nil && api.AsError(err).Code != c.code {
			t.Errorf("%+v: %v", c.when, err)
		}
	}
	// The same again changes nothing.
	revision := w.Revision()
	out, err := w.Put(ctx, root("c"), at, w.get(theConsumer), Conditions{})
	if err != nil || out.Changed || w.Revision() != revision {
		t.Errorf("unchanged: %+v %v, revision %d to %d", out.Changed, err, revision, w.Revision())
	}
}

func TestBatch_AllOrNone(t *testing.T) {
	w := newWorld(t)
	network := doc(api.VirtualNetworks, `{'properties':{'addressSpace':{'addressPrefixes':['10.0.0.0/16']},'subnets':[{'name':'a','properties':{'addressPrefix':'10.0.1.0/24'}}]}}`)
	nic := func(subnet string) api.Resource {
		return doc(api.NetworkInterfaces, `{'properties':{'ipConfigurations':[{'name':'i','properties':{'subnet':{'id':'virtualNetworks/n/subnets/%s'}}}]}}`, subnet)
	}
	steps := func(subnet string) []Step {
		return []Step{{ID: id("c:virtualNetworks/n"), Put: network}, {ID: id("c:networkInterfaces/i"), Put: nic(subnet)}}
	}
	before, revision := w.dump(t), w.Revision()
	_, err := w.Batch(context.Background(), root("c"), steps("b"), false)
	if err == nil || err.Error() != "networkInterfaces/i: properties.ipConfigurations[0].properties.subnet.id: virtualNetworks/n/subnets/b was not found" {
		t.Errorf("%v", err)
	}
	out, err := w.Batch(context.Background(), root("c"), steps("a"), true)
	if err != nil || len(out) != 2 || !out[1].Created() {
		t.Errorf("dry run: %+v %v", out, err)
	}
	if after := w.dump(t); after != before || len(w.view.records)+len(w.view.refs) != 0 {
		t.Errorf("something was left: %s %v", after, w.view)
	}
	if out, err = w.Batch(context.Background(), root("c"), steps("a"), false); err != nil || !out[0].Changed || w.Revision() != revision+1 {
		t.Errorf("%+v %v", out, err)
	}
}
