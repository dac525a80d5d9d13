package api

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestDecode_Errors_NamePropertyAndRule(t *testing.T) {
	deep := strings.Repeat(`{"tags":`, MaxDepth+2) + "1" + strings.Repeat("}", MaxDepth+2)
	for _, c := range []struct {
		name string
		kind Kind
		mode Strictness
		doc  string
		want string
	}{
		{"empty", VirtualNetworks, Tolerant, ``, "the document ends in the middle"},
		{"cut", VirtualNetworks, Tolerant, `{"name":`, "the document ends in the middle"},
		{"list", VirtualNetworks, Tolerant, `[]`, "the document is not an object"},
		{"two", VirtualNetworks, Tolerant, `{} {}`, "the document goes on behind its end"},
		{"deep", VirtualNetworks, Tolerant, deep, "the document is nested deeper than 32"},
		{"not UTF-8", VirtualNetworks, Tolerant, "{\"name\":\"\xff\"}", "the document is not UTF-8"},
		{"twice", VirtualNetworks, Tolerant, `{"properties":{"subnets":[],"Subnets":[]}}`, "properties.Subnets: appears twice"},
		{"unknown tolerated", VirtualNetworks, Tolerant, `{"properties":{"future":1}}`, ""},
		{"unknown", VirtualNetworks, Strict, `{"properties":{"subnet":[]}}`, "properties.subnet: unknown property (did you mean subnets?)"},
		{"unknown far", VirtualNetworks, Strict, `{"properties":{"zzzzzz":[]}}`, "properties.zzzzzz: unknown property"},
		{"unknown own", PrivateLinkServices, Strict, `{"properties":{"maxFlowPerEndpoint":1}}`,
			"properties.maxFlowPerEndpoint: unknown property (did you mean maxFlowsPerEndpoint?)"},
		{"unknown in own list", VirtualNetworks, Strict, `{"properties":{"attachments":[{"interfase":"eth0"}]}}`,
			"properties.attachments[0].interfase: unknown property (did you mean interface?)"},
		{"exported document", VirtualNetworks, Strict, `{"systemData":{},"properties":{}}`, ""},
		{"wrong type", LoadBalancers, Tolerant, `{"properties":{"probes":[{"properties":{"port":"80"}}]}}`,
			`properties.probes[0].properties.port: "80" found where a whole number is expected`},
		{"fraction", LoadBalancers, Tolerant, `{"properties":{"probes":[{"properties":{"port":80.5}}]}}`,
			`properties.probes[0].properties.port: 80.5 found where a whole number is expected`},
		{"too big", LoadBalancers, Tolerant, `{"properties":{"probes":[{"properties":{"port":4294967376}}]}}`,
			`properties.probes[0].properties.port: 4294967376 found where a whole number is expected`},
		{"own of wrong type", PrivateLinkServices, Tolerant, `{"properties":{"enableTcpReset":"yes"}}`,
			`properties.enableTcpReset: "yes" found where true or false is expected`},
		{"object for list", VirtualNetworks, Tolerant, `{"properties":{"subnets":{}}}`,
			"properties.subnets: an object found where a list is expected"},
		{"unsupported", PrivateLinkServices, Tolerant, `{"properties":{"destinationIPAddress":"10.0.0.4"}}`,
			"properties.destinationIPAddress: destinationIPAddress is not supported: a service stands on load balancer frontends"},
		{"unsupported but empty", LoadBalancers, Strict, `{"properties":{"outboundRules":[],"inboundNatPools":null}}`, ""},
		{"unsupported false", LoadBalancers, Strict, `{"properties":{"loadBalancingRules":[{"properties":{"enableFloatingIP":false}}]}}`, ""},
		{"unsupported true", LoadBalancers, Strict, `{"properties":{"loadBalancingRules":[{"properties":{"enableFloatingIP":true}}]}}`,
			"properties.loadBalancingRules[0].properties.enableFloatingIP: enableFloatingIP is not supported: backends are reached by their own address"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Decode([]byte(c.doc), c.kind, c.mode)
			got := ""
			if err != nil {
				got = err.Error()
			}
			if got != c.want {
				t.Errorf("Decode(%.80s)\n got %q\nwant %q", c.doc, got, c.want)
			}
		})
	}
}

func marshal(t *testing.T, r Resource) string {
	t.Helper()
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
