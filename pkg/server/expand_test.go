package server

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/auth"
)

// at is the value at a path of names and indices in JSON, as text.
func at(t *testing.T, body, path string) string {
	t.Helper()
	var value any
	if err := json.Unmarshal([]byte(body), &value); err != nil {
		t.Fatalf("%v: %.300s", err, body)
	}
	for _, step := range strings.Split(path, ".") {
		switch v := value.(type) {
		case map[string]any:
			value = v[step]
		case []any:
			i := 0
			if _, err := fmt.Sscan(step, &i); err != nil || i >= len(v) {
				return "none"
			}
			value = v[i]
		}
	}
	return fmt.Sprint(value)
}

func TestExpand_ReferencesOfEveryKind_AreInTheAnswer(t *testing.T) {
	w := newWorld(t)
	w.make()
	pooled := strings.Replace(nicBody, `"properties":{"subnet"`, `"properties":{"loadBalancerBackendAddressPools":[{"id":"`+lbPath+`/backendAddressPools/p"}],"subnet"`, 1)
	if got := w.do("root", "PUT", nicPath, pooled); got.status != 200 {
		t.Fatal(got.body)
	}
	connection := plsPath + "/privateEndpointConnections/" + w.connection()
	for _, c := range []struct{ path, expand, at, want string }{
		{pePath, "networkInterfaces", "properties.networkInterfaces.0.properties.privateEndpoint.id", pePath},
		{pePath, "subnet", "properties.subnet.properties.addressPrefix", "10.0.0.0/24"},
		{pePath, "NETWORKINTERFACES, Subnet", "properties.subnet.properties.addressPrefix", "10.0.0.0/24"},
		{pePath, "networkInterfaces", "properties.subnet.properties", "<nil>"}, // nothing that was not asked for
		{plsPath, "networkInterfaces", "properties.networkInterfaces.0.properties.privateLinkService.id", plsPath},
		{plsPath, "loadBalancerFrontendIpConfigurations", "properties.loadBalancerFrontendIpConfigurations.0.properties.privateIPAllocationMethod", "Dynamic"},
		{plsPath, "ipConfigurations/subnet", "properties.ipConfigurations.0.properties.subnet.name", "a"},
		{plsPath, "privateEndpointConnections/privateEndpoint", "properties.privateEndpointConnections.0.properties.privateEndpoint.location", "local"},
		{plsPath, "privateEndpointConnections", "properties.privateEndpointConnections.0.properties.privateEndpoint.id", pePath},
		{connection, "privateEndpoint", "properties.privateEndpoint.properties.subnet.id", netPath + "/subnets/a"},
		{nicPath, "ipConfigurations/subnet", "properties.ipConfigurations.0.properties.subnet.properties.addressPrefix", "10.0.0.0/24"},
		{nicPath, "ipConfigurations/loadBalancerBackendAddressPools", "properties.ipConfigurations.0.properties.loadBalancerBackendAddressPools.0.name", "p"},
		{lbPath, "backendAddressPools/backendIPConfigurations", "properties.backendAddressPools.0.properties.backendIPConfigurations.0.properties.privateIPAllocationMethod", "Dynamic"},
		{lbPath, "frontendIPConfigurations/subnet", "properties.frontendIPConfigurations.0.properties.subnet.properties.addressPrefix", "10.0.0.0/24"},
		{lbPath, "loadBalancingRules/backendAddressPool", "properties.loadBalancingRules.0.properties.backendAddressPool.name", "p"},
		{lbPath + "/inboundNatRules/ssh", "frontendIPConfiguration", "properties.frontendIPConfiguration.name", "f"},
		{netPath, "subnets", "properties.subnets.0.name", "a"},
		{netPath, "subnets/ipConfigurations", "properties.subnets.0.properties.ipConfigurations.0.properties.subnet.id", netPath + "/subnets/a"},
		{netPath + "/subnets/a", "ipConfigurations", "properties.ipConfigurations.0.name", "i"},
		{netPath + "/subnets/a", "privateEndpoints", "properties.privateEndpoints.0.name", "pe"},
	} {
		got := w.do("root", "GET", c.path+"?$expand="+strings.ReplaceAll(c.expand, " ", "%20"), "")
		if got.status != 200 || got.header.Get("ETag") == "" {
			t.Errorf("%s $expand=%s: %d %s", c.path, c.expand, got.status, got.body)
			continue
		}
		if text := at(t, got.body, c.at); text != c.want {
			t.Errorf("%s $expand=%s: %s is %s, want %s", c.path, c.expand, c.at, text, c.want)
		}
	}
	for path, want := range map[string]string{
		pePath: `"nothing" cannot be expanded here (ipConfigurations, manualPrivateLinkServiceConnections, networkInterfaces, privateLinkServiceConnections, subnet can)`,
		netPath: `"nothing" cannot be expanded here (subnets, subnets/ipConfigurations, subnets/privateEndpoints, virtualNetworkPeerings, ` +
			`virtualNetworkPeerings/remoteVirtualNetwork can)`,
		connection: `"nothing" cannot be expanded here (privateEndpoint can)`,
	} {
		got := w.do("root", "GET", path+"?$expand=nothing", "")
		if got.status != 400 || got.code() != string(api.CodeInvalidParameter) || at(t, got.body, "error.target") != "$expand" || at(t, got.body, "error.message") != want {
			t.Errorf("%s: %d %s", path, got.status, got.body)
		}
	}
}

// Nobody sees by $expand what he may not read: the reference stays.
func TestExpand_NotReadable_StaysAReference(t *testing.T) {
	w := newWorld(t)
	w.make()
	w.principal("consumer", auth.Reader, pePath)
	w.principal("provider", auth.Reader, plsPath)
	for _, c := range []struct{ as, path, expand, at, id string }{
		{"consumer", pePath, "subnet", "properties.subnet", netPath + "/subnets/a"},
		{"provider", plsPath, "privateEndpointConnections/privateEndpoint", "properties.privateEndpointConnections.0.properties.privateEndpoint", pePath},
		{"provider", plsPath + "/privateEndpointConnections/" + w.connection(), "privateEndpoint", "properties.privateEndpoint", pePath},
	} {
		got := w.do(c.as, "GET", c.path+"?$expand="+c.expand, "")
		if text, want := at(t, got.body, c.at), "map[id:"+c.id+"]"; got.status != 200 || text != want {
			t.Errorf("%s of %s: %d %s, want %s", c.as, c.path, got.status, text, want)
		}
	}
}
