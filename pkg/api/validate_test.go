package api

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

func testID(kind Kind) ID {
	return ID{Subscription: "s", ResourceGroup: "g", Type: string(kind), Name: "n"}
}

// check decodes a document in 'single quotes', validates it and returns the error's text and code.
func check(t *testing.T, kind Kind, document string) (string, Code) {
	t.Helper()
	r, err := Decode([]byte(strings.ReplaceAll(document, "'", `"`)), kind, Strict)
	if err != nil {
		t.Fatalf("%s: %v", document, err)
	}
	if err = r.Validate(testID(kind)); err != nil {
		if refused := AsError(err); refused.Status != http.StatusBadRequest {
			t.Errorf("%s: status %d", document, refused.Status)
		}
		return err.Error(), AsError(err).Code
	}
	return "", ""
}

const (
	vnetHead = `{'location':'West Europe','properties':{'addressSpace':{'addressPrefixes':['10.0.0.0/16']}`
	nicHead  = `{'location':'w','properties':{'ipConfigurations':[`
	aSubnet  = `'subnet':{'id':'virtualNetworks/v/subnets/s'}`
	aFront   = `'frontendIPConfigurations':[{'name':'f','properties':{` + aSubnet + `}}]`
	aPool    = `'backendAddressPools':[{'name':'p'}]`
	toFront  = `'frontendIPConfiguration':{'id':'loadBalancers/n/frontendIPConfigurations/f'}`
	toPool   = `'backendAddressPool':{'id':'loadBalancers/n/backendAddressPools/p'}`
	aService = `'loadBalancerFrontendIpConfigurations':[{'id':'loadBalancers/l/frontendIPConfigurations/f'}],'ipConfigurations':[{'name':'a','properties':{` + aSubnet + `}}]`
)

func vnetDoc(more string) string { return vnetHead + more + `}}` }

func subnetsDoc(prefixes ...string) string {
	var list []string
	for i, p := range prefixes {
		list = append(list, fmt.Sprintf(`{'name':'s%d','properties':{'addressPrefix':'%s'}}`, i, p))
	}
	return vnetDoc(`,'subnets':[` + strings.Join(list, ",") + `]`)
}

func lbDoc(more string) string { return `{'location':'w','properties':{` + more + `}}` }

func ruleDoc(more string) string {
	return lbDoc(aFront + `,` + aPool + `,'loadBalancingRules':[{'name':'r','properties':{` + toFront + `,` + toPool + `,` + more + `}}]`)
}

func probeDoc(more string) string {
	return lbDoc(`'probes':[{'name':'p','properties':{` + more + `}}]`)
}

func serviceDoc(more string) string {
	return `{'location':'w','properties':{` + aService + more + `}}`
}

func endpointDoc(more string) string {
	return `{'location':'w','properties':{` + aSubnet + more + `}}`
}

func manual(target string) string {
	return `,'manualPrivateLinkServiceConnections':[{'name':'c','properties':{'privateLinkServiceId':'` + target + `'}}]`
}

const anAlias = "web.0a1b2c3d-0000-4000-8000-0123456789ab.west.azure.privatelinkservice"

func TestValidate_NamesPropertyAndRule(t *testing.T) {
	const subnet0, subnet1 = "properties.subnets[0].properties.addressPrefix: ", "properties.subnets[1].properties.addressPrefix: "
	const rule = "properties.loadBalancingRules[0].properties."
	for _, c := range []struct {
		kind      Kind
		doc, want string
		code      Code
	}{
		// Every resource.
		{VirtualNetworks, vnetDoc(""), "", ""},
		{VirtualNetworks, `{'location':'w','name':'m','properties':{'addressSpace':{'addressPrefixes':['10.0.0.0/16']}}}`, `name: "m" is not the name in the resource id, "n"`, CodeInvalidParameter},
		{VirtualNetworks, `{'location':'w','type':'Microsoft.Network/loadBalancers','properties':{'addressSpace':{'addressPrefixes':['10.0.0.0/16']}}}`,
			`type: "Microsoft.Network/loadBalancers" is not the type in the resource id, "Microsoft.Network/virtualNetworks"`, CodeInvalidParameter},
		{VirtualNetworks, `{'properties':{'addressSpace':{'addressPrefixes':['10.0.0.0/16']}}}`, "location: is required", CodeInvalidParameter},
		{VirtualNetworks, `{'location':'w.e','properties':{'addressSpace':{'addressPrefixes':['10.0.0.0/16']}}}`, `location: "w.e" may contain letters, digits and '-' only`, CodeInvalidParameter},
		{VirtualNetworks, `{'location':'w','tags':{'a':'` + strings.Repeat("x", 257) + `'},'properties':{'addressSpace':{'addressPrefixes':['10.0.0.0/16']}}}`, "tags.a: 257 characters, at most 256 allowed", CodeLimit},
		// Virtual networks.
		{VirtualNetworks, `{'location':'w','properties':{}}`, "properties.addressSpace.addressPrefixes: is required", CodeInvalidParameter},
		{VirtualNetworks, `{'location':'w','properties':{'addressSpace':{'addressPrefixes':['fd00::/8']}}}`, `properties.addressSpace.addressPrefixes[0]: "fd00::/8" is an IPv6 prefix, only IPv4 is supported`, CodeInvalidParameter},
		{VirtualNetworks, `{'location':'w','properties':{'addressSpace':{'addressPrefixes':['0.0.0.0/0']}}}`, `properties.addressSpace.addressPrefixes[0]: "0.0.0.0/0" would be every address`, CodeInvalidParameter},
		{VirtualNetworks, `{'location':'w','properties':{'addressSpace':{'addressPrefixes':['10.0.0.0/8','10.1.0.0/16']}}}`,
			"properties.addressSpace.addressPrefixes[1]: 10.1.0.0/16 overlaps 10.0.0.0/8 (properties.addressSpace.addressPrefixes[0])", CodeInvalidParameter},
		{VirtualNetworks, subnetsDoc("10.0.0.0/31", "10.0.0.2/32", "10.0.1.0/24"), "", ""},
		{VirtualNetworks, subnetsDoc("10.0.0.4/24"), subnet0 + "10.0.0.4/24 has host bits set (did you mean 10.0.0.0/24?)", CodeInvalidParameter},
		{VirtualNetworks, subnetsDoc("10.0.0.0"), subnet0 + `"10.0.0.0" is not an address prefix (such as 10.0.0.0/16)`, CodeInvalidParameter},
		{VirtualNetworks, subnetsDoc("10.1.0.0/24"), subnet0 + "10.1.0.0/24 is not within the address space of the virtual network", CodeInvalidParameter},
		{VirtualNetworks, subnetsDoc("10.0.0.0/24", "10.0.0.128/25"), subnet1 + "10.0.0.128/25 overlaps 10.0.0.0/24 of subnet s0", CodeInvalidParameter},
		{VirtualNetworks, vnetDoc(`,'subnets':[{'name':'a'}]`), subnet0 + "is required", CodeInvalidParameter},
		{VirtualNetworks, vnetDoc(`,'subnets':[{'name':'a','properties':{'addressPrefixes':['10.0.0.0/24','10.0.1.0/24']}}]`), "properties.subnets[0].properties.addressPrefixes: a subnet has one prefix", CodeInvalidParameter},
		{VirtualNetworks, vnetDoc(`,'subnets':[{'name':'a','properties':{'addressPrefix':'10.0.1.0/24'}},{'name':'A','properties':{'addressPrefix':'10.0.2.0/24'}}]`), `properties.subnets[1].name: "A" appears twice`, CodeInvalidParameter},
		{VirtualNetworks, vnetDoc(`,'subnets':[{'name':'ä','properties':{'addressPrefix':'10.0.1.0/24'}}]`), `properties.subnets[0].name: "ä" may contain letters, digits, '_', '.' and '-' only`, CodeInvalidParameter},
		{VirtualNetworks, vnetDoc(`,'virtualNetworkPeerings':[{'name':'p','properties':{'remoteVirtualNetwork':{'id':'virtualNetworks/N'}}}]`),
			"properties.virtualNetworkPeerings[0].properties.remoteVirtualNetwork.id: a virtual network cannot be peered with itself", CodeInvalidReference},
		{VirtualNetworks, vnetDoc(`,'virtualNetworkPeerings':[{'name':'p'}]`), "properties.virtualNetworkPeerings[0].properties.remoteVirtualNetwork.id: is required", CodeInvalidParameter},
		{VirtualNetworks, vnetDoc(`,'attachments':[{'interface':'eth0','vlan':4094,'mode':'XDP'}]`), "", ""},
		{VirtualNetworks, vnetDoc(`,'attachments':[{}]`), "properties.attachments[0].interface: is required", CodeInvalidParameter},
		{VirtualNetworks, vnetDoc(`,'attachments':[{'interface':'eth0/1'}]`), `properties.attachments[0].interface: "eth0/1" is not an interface name (1..15 visible ASCII characters, no '/' or ':')`, CodeInvalidParameter},
		{VirtualNetworks, vnetDoc(`,'attachments':[{'interface':'e','vlan':4095}]`), "properties.attachments[0].vlan: 4095 is not within 0..4094", CodeInvalidParameter},
		{VirtualNetworks, vnetDoc(`,'attachments':[{'interface':'e','mode':'fast'}]`), `properties.attachments[0].mode: "fast" is not one of auto, tc, xdp`, CodeInvalidParameter},
		{VirtualNetworks, vnetDoc(`,'attachments':[{'interface':'e','passOther':true,'exclusive':true}]`), "properties.attachments[0].exclusive: passOther and exclusive exclude each other", CodeInvalidParameter},
		{VirtualNetworks, vnetDoc(`,'attachments':[{'interface':'e'},{'interface':'e'}]`), "properties.attachments[1]: interface e, vlan 0 appears twice", CodeInvalidParameter},
		{VirtualNetworks, vnetDoc(`,'attachments':[{'interface':'e','nextHop':'::1'}]`), `properties.attachments[0].nextHop: "::1" is an IPv6 address, only IPv4 is supported`, CodeInvalidParameter},
		// Network interfaces.
		{NetworkInterfaces, nicHead + `{'name':'i','properties':{` + aSubnet + `}}]}}`, "", ""},
		{NetworkInterfaces, nicHead + `]}}`, "properties.ipConfigurations: at least one is required", CodeInvalidParameter},
		{NetworkInterfaces, nicHead + `{'name':'i'}]}}`, "properties.ipConfigurations[0].properties.subnet.id: is required", CodeInvalidParameter},
		{NetworkInterfaces, nicHead + `{'name':'i','properties':{'subnet':{'id':'virtualNetworks/v'}}}]}}`,
			"properties.ipConfigurations[0].properties.subnet.id: virtualNetworks/v does not name one of virtualNetworks/subnets", CodeInvalidReference},
		{NetworkInterfaces, nicHead + `{'name':'i','properties':{'subnet':{'id':'virtualNetwork/v/subnets/s'}}}]}}`,
			`properties.ipConfigurations[0].properties.subnet.id: "virtualNetwork" is not a resource type (did you mean virtualNetworks?)`, CodeInvalidType},
		{NetworkInterfaces, nicHead + `{'name':'i','properties':{'privateIPAllocationMethod':'static',` + aSubnet + `}}]}}`,
			"properties.ipConfigurations[0].properties.privateIPAddress: is required with privateIPAllocationMethod Static", CodeInvalidParameter},
		{NetworkInterfaces, nicHead + `{'name':'i','properties':{'privateIPAddress':'10.0.0.300',` + aSubnet + `}}]}}`,
			`properties.ipConfigurations[0].properties.privateIPAddress: "10.0.0.300" is not an IPv4 address`, CodeInvalidParameter},
		{NetworkInterfaces, nicHead + `{'name':'i','properties':{'privateIPAddress':'224.0.0.1',` + aSubnet + `}}]}}`,
			"properties.ipConfigurations[0].properties.privateIPAddress: 224.0.0.1 cannot be the address of a host", CodeInvalidParameter},
		{NetworkInterfaces, nicHead + `{'name':'i','properties':{'privateIPAddressVersion':'IPv6',` + aSubnet + `}}]}}`,
			"properties.ipConfigurations[0].properties.privateIPAddressVersion: IPv6 is not supported, only IPv4", CodeUnsupportedProperty},
		{NetworkInterfaces, `{'location':'w','properties':{'macAddress':'01:00:5e:00:00:01','ipConfigurations':[{'name':'i','properties':{` + aSubnet + `}}]}}`,
			`properties.macAddress: "01:00:5e:00:00:01" is not a unicast MAC address`, CodeInvalidParameter},
		// Load balancers.
		{LoadBalancers, lbDoc(aFront), "", ""},
		{LoadBalancers, `{'location':'w','sku':{'name':'Basic'},'properties':{}}`, "sku.name: Basic is not supported, only Standard", CodeUnsupportedProperty},
		{LoadBalancers, `{'location':'w','sku':{'name':'standard','tier':'Global'},'properties':{}}`, "sku.tier: Global is not supported, only Regional", CodeUnsupportedProperty},
		{LoadBalancers, ruleDoc(`'protocol':'Tcp','frontendPort':80`), "", ""},
		{LoadBalancers, ruleDoc(`'protocol':'All','frontendPort':0`), "", ""},
		{LoadBalancers, ruleDoc(`'frontendPort':80`), rule + "protocol: is required", CodeInvalidParameter},
		{LoadBalancers, ruleDoc(`'protocol':'Quic','frontendPort':80`), rule + "protocol: Quic is not supported (a rule for Udp carries it)", CodeUnsupportedProperty},
		{LoadBalancers, ruleDoc(`'protocol':'Icmp','frontendPort':80`), rule + `protocol: "Icmp" is not one of Tcp, Udp, All`, CodeInvalidParameter},
		{LoadBalancers, ruleDoc(`'protocol':'Tcp','frontendPort':65535`), rule + "frontendPort: 65535 is not within 0..65534", CodeInvalidParameter},
		{LoadBalancers, ruleDoc(`'protocol':'Tcp','frontendPort':0`), rule + "frontendPort: 0 (every port) needs protocol All", CodeInvalidParameter},
		{LoadBalancers, ruleDoc(`'protocol':'All','frontendPort':80`), rule + "frontendPort: protocol All needs frontendPort and backendPort 0", CodeInvalidParameter},
		{LoadBalancers, ruleDoc(`'protocol':'Tcp','frontendPort':80,'backendPort':-1`), rule + "backendPort: -1 is not within 0..65535", CodeInvalidParameter},
		{LoadBalancers, ruleDoc(`'protocol':'Tcp','frontendPort':80,'idleTimeoutInMinutes':31`), rule + "idleTimeoutInMinutes: 31 is not within 4..30", CodeInvalidParameter},
		{LoadBalancers, ruleDoc(`'protocol':'Tcp','frontendPort':80,'loadDistribution':'Random'`), rule + `loadDistribution: "Random" is not one of Default, SourceIP, SourceIPProtocol`, CodeInvalidParameter},
		{LoadBalancers, ruleDoc(`'protocol':'Tcp','frontendPort':80,'probe':{'id':'loadBalancers/n/probes/x'}`), rule + "probe.id: loadBalancers/n/probes/x does not exist", CodeInvalidReference},
		{LoadBalancers, ruleDoc(`'protocol':'Tcp','frontendPort':80,'probe':{'id':'loadBalancers/m/probes/x'}`), rule + "probe.id: loadBalancers/m/probes/x belongs to another load balancer", CodeInvalidReference},
		{LoadBalancers, lbDoc(aFront + `,` + aPool + `,'loadBalancingRules':[{'name':'a','properties':{` + toFront + `,` + toPool + `,'protocol':'Tcp','frontendPort':80}},{'name':'b','properties':{` +
			toFront + `,` + toPool + `,'protocol':'Tcp','frontendPort':80}}]`), "properties.loadBalancingRules[1].properties.frontendPort: port 80 Tcp is used by rule a of the same frontend", CodeInvalidParameter},
		{LoadBalancers, lbDoc(aFront + `,` + aPool + `,'inboundNatRules':[{'name':'a','properties':{` + toFront + `,` + toPool + `,'protocol':'Tcp','frontendPortRangeStart':100,'frontendPortRangeEnd':99,'backendPort':22}}]`),
			"properties.inboundNatRules[0].properties.frontendPortRangeEnd: 99 is not within 100..65534", CodeInvalidParameter},
		{LoadBalancers, probeDoc(`'protocol':'Tcp','port':80,'intervalInSeconds':5,'numberOfProbes':1`), "", ""},
		{LoadBalancers, probeDoc(`'protocol':'Tcp','port':0`), "properties.probes[0].properties.port: 0 is not within 1..65535", CodeInvalidParameter},
		{LoadBalancers, probeDoc(`'protocol':'Http','port':80`), `properties.probes[0].properties.requestPath: "" is not a path (must begin with '/', visible ASCII characters)`, CodeInvalidParameter},
		{LoadBalancers, probeDoc(`'protocol':'Http','port':80,'requestPath':'/a\r\nHost: b'`),
			"properties.probes[0].properties.requestPath: \"/a\\r\\nHost: b\" is not a path (must begin with '/', visible ASCII characters)\nproperties.probes[0].properties.requestPath: contains control characters or is not UTF-8", CodeInvalidParameter},
		{LoadBalancers, probeDoc(`'protocol':'Tcp','port':80,'requestPath':'/'`), "properties.probes[0].properties.requestPath: is for protocols Http and Https", CodeInvalidParameter},
		{LoadBalancers, probeDoc(`'protocol':'Tcp','port':80,'intervalInSeconds':4`), "properties.probes[0].properties.intervalInSeconds: 4 is not within 5..2147483", CodeInvalidParameter},
		{LoadBalancers, lbDoc(`'backendAddressPools':[{'name':'p','properties':{'loadBalancerBackendAddresses':[{'name':'a','properties':{'ipAddress':'10.0.0.4'}},{'name':'b','properties':{'ipAddress':'10.0.0.4'}}]}}]`),
			"properties.backendAddressPools[0].properties.loadBalancerBackendAddresses[1].properties.ipAddress: 10.0.0.4 is the address of a already", CodeInvalidParameter},
		{LoadBalancers, lbDoc(`'backendAddressPools':[{'name':'p','properties':{'loadBalancerBackendAddresses':[{'name':'a','properties':{'ipAddress':'10.0.0.4','weight':101}}]}}]`),
			"properties.backendAddressPools[0].properties.loadBalancerBackendAddresses[0].properties.weight: 101 is not within 1..100", CodeInvalidParameter},
		// Services.
		{PrivateLinkServices, serviceDoc(""), "", ""},
		{PrivateLinkServices, `{'location':'w','properties':{'ipConfigurations':[{'name':'a','properties':{` + aSubnet + `}}]}}`, "properties.loadBalancerFrontendIpConfigurations: at least one is required", CodeInvalidParameter},
		{PrivateLinkServices, serviceDoc(`,'visibility':{'subscriptions':['a','A']}`), `properties.visibility.subscriptions[1]: "A" appears twice`, CodeInvalidParameter},
		{PrivateLinkServices, serviceDoc(`,'visibility':{'subscriptions':['` + manyNames(101) + `']}`), "properties.visibility.subscriptions: 101 subscriptions, at most 100 allowed", CodeLimit},
		{PrivateLinkServices, serviceDoc(`,'visibility':{'subscriptions':['*']},'autoApproval':{'subscriptions':['` + manyNames(101) + `']}`), "properties.autoApproval.subscriptions: 101 subscriptions, at most 100 allowed", CodeLimit},
		{PrivateLinkServices, serviceDoc(`,'visibility':{'subscriptions':['*']},'autoApproval':{'subscriptions':['*']}`), "", ""},
		{PrivateLinkServices, serviceDoc(`,'visibility':{'subscriptions':['a']},'autoApproval':{'subscriptions':['*']}`), `properties.autoApproval.subscriptions[0]: "*" is not in properties.visibility.subscriptions`, CodeInvalidParameter},
		{PrivateLinkServices, serviceDoc(`,'accessMode':'Restricted','visibility':{'subscriptions':['*']}`), `properties.accessMode: Restricted and a visibility of "*" contradict each other`, CodeInvalidParameter},
		{PrivateLinkServices, serviceDoc(`,'fqdns':['a..b']`), `properties.fqdns[0]: "a..b" is not a domain name`, CodeInvalidParameter},
		{PrivateLinkServices, serviceDoc(`,'idleTimeoutInSeconds':9`), "properties.idleTimeoutInSeconds: 9 is not within 10..86400", CodeInvalidParameter},
		{PrivateLinkServices, serviceDoc(`,'maxFlowsPerEndpoint':0`), "properties.maxFlowsPerEndpoint: 0 is not within 1..1073741824", CodeInvalidParameter},
		{PrivateLinkServices, serviceDoc(`,'proxyTlv':'ibm'`), `properties.proxyTlv: "ibm" is not one of azure, aws, gcp, none`, CodeInvalidParameter},
		{PrivateLinkServices, serviceDoc(`,'natDrainPeriodInSeconds':86401`), "properties.natDrainPeriodInSeconds: 86401 is not within 0..86400", CodeInvalidParameter},
		{PrivateLinkServices, serviceDoc(`,'approvals':[{'status':'Approved'}]`), "properties.approvals[0]: exactly one of subscription and privateEndpoint is required", CodeInvalidParameter},
		{PrivateLinkServices, serviceDoc(`,'approvals':[{'subscription':'a','status':'Pending'}]`), `properties.approvals[0].status: "Pending" is not one of Approved, Rejected`, CodeInvalidParameter},
		{PrivateLinkServices, serviceDoc(`,'approvals':[{'privateEndpoint':'privateEndpoints/p','status':'Approved'}]`),
			`properties.approvals[0].privateEndpoint: "privateEndpoints/p" is not the full resource id of a private endpoint`, CodeInvalidParameter},
		{PrivateLinkServices, `{'location':'w','properties':{'loadBalancerFrontendIpConfigurations':[{'id':'loadBalancers/l/frontendIPConfigurations/f'},{'id':'loadBalancers/m/frontendIPConfigurations/f'}],
			'ipConfigurations':[{'name':'a','properties':{` + aSubnet + `}}]}}`,
			"properties.loadBalancerFrontendIpConfigurations[1].id: loadBalancers/m/frontendIPConfigurations/f is on another load balancer than loadBalancers/l/frontendIPConfigurations/f; a service has one", CodeInvalidReference},
		// Endpoints.
		{PrivateEndpoints, endpointDoc(manual(anAlias)), "", ""},
		{PrivateEndpoints, endpointDoc(manual(strings.ToUpper(anAlias))), "", ""},
		{PrivateEndpoints, endpointDoc(manual("privateLinkServices/web")), "", ""},
		{PrivateEndpoints, endpointDoc(""), "properties.privateLinkServiceConnections: 0 connections, exactly 1 required (here or in properties.manualPrivateLinkServiceConnections)", CodeInvalidParameter},
		{PrivateEndpoints, endpointDoc(manual("web")), `properties.manualPrivateLinkServiceConnections[0].properties.privateLinkServiceId: "web" is neither the resource id of a private link service nor an alias (such as name.guid.region.azure.privatelinkservice)`, CodeInvalidParameter},
		{PrivateEndpoints, endpointDoc(manual("loadBalancers/x")), `properties.manualPrivateLinkServiceConnections[0].properties.privateLinkServiceId: "loadBalancers/x" is neither the resource id of a private link service nor an alias (such as name.guid.region.azure.privatelinkservice)`, CodeInvalidParameter},
		{PrivateEndpoints, endpointDoc(manual(anAlias) + `,'ipVersionType':'DualStack'`), "properties.ipVersionType: DualStack is not supported, only IPv4", CodeUnsupportedProperty},
		{PrivateEndpoints, endpointDoc(strings.Replace(manual(anAlias), `'privateLink`, `'groupIds':['blob'],'privateLink`, 1)), "", CodeUnsupportedProperty},
		{PrivateEndpoints, endpointDoc(manual(anAlias) + `,'ipConfigurations':[{'name':'a','properties':{'privateIPAddress':'10.0.0.4'}},{'name':'b','properties':{'privateIPAddress':'10.0.0.5'}}]`),
			"properties.ipConfigurations: 2 IP configurations, at most 1 allowed", CodeLimit},
	} {
		got, code := check(t, c.kind, c.doc)
		if strings.Contains(c.doc, "groupIds") {
			c.want = "properties.manualPrivateLinkServiceConnections[0].properties.groupIds: groupIds is not supported: a private link service has no groups"
		}
		if got != c.want {
			t.Errorf("%s %s\n got %s\nwant %s", c.kind, c.doc, got, c.want)
		}
		if code != c.code {
			t.Errorf("%s %s: %s\ncode %s, want %s", c.kind, c.doc, got, code, c.code)
		}
	}
}

func manyNames(n int) string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf("sub-%d", i)
	}
	return strings.Join(list, "','")
}

func TestValidate_References_AreCompleted(t *testing.T) {
	r, err := Decode([]byte(strings.ReplaceAll(ruleDoc(`'protocol':'tcp','frontendPort':80`), "'", `"`)), LoadBalancers, Strict)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Validate(testID(LoadBalancers)); err != nil {
		t.Fatal(err)
	}
	p := r.(*LoadBalancer).Properties
	const want = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/v/subnets/s"
	if got := p.FrontendIPConfigurations[0].Properties.Subnet.ID; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if p.LoadBalancingRules[0].Properties.Protocol != TransportTCP || r.(*LoadBalancer).SKU.Name != "Standard" {
		t.Errorf("spelling: %+v", p.LoadBalancingRules[0].Properties)
	}
}

func TestParseID_Forms(t *testing.T) {
	base := ID{Subscription: "s", ResourceGroup: "g"}
	for in, want := range map[string]string{
		"virtualNetworks/v":                           "/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/v",
		"VIRTUALNETWORKS/V/SUBNETS/a":                 "/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/V/subnets/a",
		"Microsoft.Network/loadBalancers/l":           "/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/loadBalancers/l",
		"providers/Microsoft.Network/loadBalancers/l": "/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/loadBalancers/l",
		"/subscriptions/T/resourcegroups/H/providers/microsoft.network/privateEndpoints/p": "/subscriptions/T/resourceGroups/H/providers/Microsoft.Network/privateEndpoints/p",
	} {
		if got, err := ParseID(in, base); err != nil || got.String() != want {
			t.Errorf("ParseID(%q) = %q, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "/", "v", "virtualNetworks", "virtualNetworks/v/subnets", "virtualNetworks//x", "/subscriptions/s", "virtualNetworks/v/rules/r",
		"/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/virtualMachines/v"} {
		if got, err := ParseID(in, base); err == nil {
			t.Errorf("ParseID(%q) = %q", in, got)
		}
	}
}

func TestInherit_AbsentNullSet(t *testing.T) {
	old := &PrivateLinkService{}
	old.Properties.IdleTimeoutInSeconds = Set[int32](60)
	old.Properties.ProxyTLV = Set(ProxyTLVAWS)
	old.Properties.EnableTCPReset = Set(true)
	next := &PrivateLinkService{}
	next.Properties.ProxyTLV = Null[ProxyTLV]()
	next.Properties.EnableTCPReset = Set(false)
	Inherit(next, old)
	p := next.Properties
	if v, ok := p.IdleTimeoutInSeconds.Get(); !ok || v != 60 {
		t.Errorf("absent: %v %v", v, ok)
	}
	if p.ProxyTLV.IsSet() || p.ProxyTLV.IsNull() {
		t.Error("null is kept")
	}
	if v, ok := p.EnableTCPReset.Get(); !ok || v {
		t.Errorf("set: %v %v", v, ok)
	}
	Inherit(next, nil)
}

func TestInherit_MembersByName(t *testing.T) {
	pool := func(names ...string) *LoadBalancer {
		lb := &LoadBalancer{}
		p := BackendAddressPool{Part: Part{Name: "p"}}
		for _, n := range names {
			p.Properties.LoadBalancerBackendAddresses = append(p.Properties.LoadBalancerBackendAddresses, BackendAddress{Name: n})
		}
		lb.Properties.BackendAddressPools = []BackendAddressPool{p}
		return lb
	}
	old := pool("a", "b")
	old.Properties.BackendAddressPools[0].Properties.LoadBalancerBackendAddresses[1].Properties.Weight = Set[int32](3)
	next := pool("c", "B", "a")
	Inherit(next, old)
	for i, want := range []int32{1, 3, 1} {
		if got := next.Properties.BackendAddressPools[0].Properties.LoadBalancerBackendAddresses[i].Properties.Weight.Or(1); got != want {
			t.Errorf("member %d: weight %d, want %d", i, got, want)
		}
	}
}

func TestCheckVersion(t *testing.T) {
	for v, ok := range map[string]bool{"": false, "2022-01-01": true, LatestVersion: true, "2021-12-01": false, "2025-05-01-preview": false} {
		if err := CheckVersion(v); (err == nil) != ok {
			t.Errorf("%q: %v", v, err)
		}
	}
}

func TestClone_SharesNothing(t *testing.T) {
	a := &VirtualNetwork{}
	a.Tags = map[string]string{"k": "v"}
	a.Properties.Subnets = []Subnet{{Part: Part{Name: "s"}}}
	a.Properties.VirtualNetworkPeerings = []VirtualNetworkPeering{{Properties: PeeringProperties{RemoteVirtualNetwork: &SubResource{ID: "x"}}}}
	b := Clone(a)
	b.Tags["k"], b.Properties.Subnets[0].Name, b.Properties.VirtualNetworkPeerings[0].Properties.RemoteVirtualNetwork.ID = "w", "t", "y"
	if a.Tags["k"] != "v" || a.Properties.Subnets[0].Name != "s" || a.Properties.VirtualNetworkPeerings[0].Properties.RemoteVirtualNetwork.ID != "x" {
		t.Errorf("%+v", a)
	}
}

func TestClearReadOnly_KeepsWhatIsTheCallers(t *testing.T) {
	s := &PrivateLinkService{}
	s.Etag, s.Properties.Alias, s.Properties.Warnings = "e", "a", []string{"w"}
	s.Properties.PrivateEndpointConnections = []PrivateEndpointConnection{{}}
	s.Properties.IPConfigurations = []NATIPConfiguration{{Part: Part{ID: "i", Name: "n"}, Properties: NATIPConfigurationProperties{ProvisioningState: Failed, PrivateIPAddress: "10.0.0.4"}}}
	ClearReadOnly(s)
	c := s.Properties.IPConfigurations[0]
	if s.Etag != "" || s.Properties.Alias != "" || s.Properties.Warnings != nil || s.Properties.PrivateEndpointConnections != nil || c.ID != "" || c.Properties.ProvisioningState != "" {
		t.Errorf("left: %+v", s)
	}
	if c.Name != "n" || c.Properties.PrivateIPAddress != "10.0.0.4" {
		t.Errorf("lost: %+v", c)
	}
}

// Whatever the document, decoding and validation end without panic, a decoded document decodes again from its
// own JSON, and validation of what was validated changes nothing.
func FuzzDecode(f *testing.F) {
	for _, k := range Kinds() {
		for _, d := range []string{`{}`, vnetDoc(`,'attachments':null`), subnetsDoc("10.0.0.0/31", "10.0.0.2/32"), ruleDoc(`'protocol':'Tcp','frontendPort':80`),
			serviceDoc(`,'approvals':[{'subscription':'a','status':'Approved'}]`), endpointDoc(manual(anAlias)), nicHead + `{'name':'i','properties':{` + aSubnet + `}}]}}`} {
			f.Add(string(k), strings.ReplaceAll(d, "'", `"`), true)
		}
	}
	f.Fuzz(func(t *testing.T, kind, document string, strict bool) {
		k, err := KindOf(kind)
		if err != nil {
			return
		}
		r, err := Decode([]byte(document), k, Strictness(strict))
		if err != nil {
			if e := AsError(err); e.Status < 400 || e.Status > 499 {
				t.Fatalf("status %d: %v", e.Status, err)
			}
			return
		}
		err = r.Validate(testID(k))
		if err != nil {
			if e := AsError(err); e.Status < 400 || e.Status > 499 {
				t.Fatalf("status %d: %v", e.Status, err)
			}
			return
		}
		first := marshal(t, r)
		again, err := Decode([]byte(first), k, Strict)
		if err != nil {
			t.Fatalf("own JSON %s: %v", first, err)
		}
		if err := again.Validate(testID(k)); err != nil {
			t.Fatalf("validated twice %s: %v", first, err)
		}
		if second := marshal(t, again); second != first {
			t.Fatalf("first  %s\nsecond %s", first, second)
		}
		ClearReadOnly(r)
		FillParts(r)
		Inherit(r, again)
		References(r)
		Clone(r)
	})
}
