package main

import (
	"strings"
	"testing"

	"github.com/privlink/privlink/pkg/api"
)

var testScope = api.ID{Subscription: "sub", ResourceGroup: "group"}

func TestReadDocuments_YAMLAndJSON_Same(t *testing.T) {
	const asYAML = `
type: Microsoft.Network/virtualNetworks
name: net
location: local
properties:
  addressSpace: {addressPrefixes: [10.0.0.0/16]}
---
# nothing here
---
type: privateEndpoints
name: pe
resourceGroup: other
location: local
properties:
  subnet: {id: virtualNetworks/net/subnets/a}
  manualPrivateLinkServiceConnections:
  - name: pe
    properties: {privateLinkServiceId: privateLinkServices/web}
`
	const asJSON = `{"type":"Microsoft.Network/virtualNetworks","name":"net","location":"local",
 "properties":{"addressSpace":{"addressPrefixes":["10.0.0.0/16"]}}}
{"type":"privateEndpoints","name":"pe","resourceGroup":"other","location":"local",
 "properties":{"subnet":{"id":"virtualNetworks/net/subnets/a"},"manualPrivateLinkServiceConnections":
 [{"name":"pe","properties":{"privateLinkServiceId":"privateLinkServices/web"}}]}}`
	for form, text := range map[string]string{"YAML": asYAML, "JSON": asJSON} {
		documents, err := readDocuments([]byte(text), testScope)
		if err != nil {
			t.Errorf("%s: %v", form, err)
			continue
		}
		if len(documents) != 2 || documents[0].id.Short() != "virtualNetworks/net" || documents[1].id.ResourceGroup != "other" {
			t.Errorf("%s: got %+v", form, documents)
			continue
		}
		endpoint := documents[1].resource.(*api.PrivateEndpoint)
		const subnet = "/subscriptions/sub/resourceGroups/other/providers/Microsoft.Network/virtualNetworks/net/subnets/a"
		if endpoint.Properties.Subnet.ID != subnet {
			t.Errorf("%s: subnet %s, want %s", form, endpoint.Properties.Subnet.ID, subnet)
		}
	}
}

func TestReadDocuments_Wrong_RefusedByName(t *testing.T) {
	const network = "type: virtualNetworks\nname: net\nlocation: local\nproperties: {addressSpace: {addressPrefixes: [10.0.0.0/16]}}\n"
	for _, c := range []struct{ name, text, want string }{
		{"empty", "", "the file has no documents"},
		{"not YAML", "a: [", "document 1: yaml: line 1: did not find expected node content"},
		{"text", "just words", "document 1: is not an object with type, name, location and properties"},
		{"cut JSON", `{"type":`, "document 1: not JSON at byte 0: unexpected EOF"},
		{"no type", "name: x", "document 1: type is missing, such as Microsoft.Network/virtualNetworks"},
		{"no name", "type: virtualNetworks", "document 1: name is missing"},
		{"type", "type: virtualNetwork\nname: x", `document 1: type: "virtualNetwork" is not a resource type (did you mean virtualNetworks?)`},
		{"unknown property", strings.Replace(network, "addressSpace", "adressSpace", 1),
			"document 1: virtualNetworks/net: properties.adressSpace: unknown property (did you mean addressSpace?)"},
		{"twice", network + "---\n" + strings.Replace(network, "net", "NET", 1), "document 2: virtualNetworks/NET is in document 1 already"},
		{"key twice", network + "---\n" + network + "name: other\n", "document 2: yaml: unmarshal errors:\n  line 10: key \"name\" already set in map"},
	} {
		_, err := readDocuments([]byte(c.text), testScope)
		switch {
		case err == nil:
			t.Errorf("%s: no error, want %s", c.name, c.want)
		case err.Error() != c.want:
			t.Errorf("%s:\n got %s\nwant %s", c.name, err, c.want)
		case exitCode(err) != exitRefused:
			t.Errorf("%s: exit code %d, want %d", c.name, exitCode(err), exitRefused)
		}
	}
}

func TestInOrder_AnyOrder_ReferencesFirst(t *testing.T) {
	var documents []document
	for _, kind := range []api.Kind{api.PrivateEndpoints, api.NetworkInterfaces, api.PrivateLinkServices, api.VirtualNetworks, api.LoadBalancers} {
		documents = append(documents, document{id: testScope.Sibling(kind, "x")})
	}
	var got []string
	for _, d := range inOrder(documents) {
		got = append(got, d.id.Type)
	}
	const want = "virtualNetworks loadBalancers networkInterfaces privateLinkServices privateEndpoints"
	if strings.Join(got, " ") != want {
		t.Errorf("got %s, want %s", strings.Join(got, " "), want)
	}
}
