package server

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/privlink/privlink/pkg/api"
)

// A member has its ports of inbound NAT rules however it joined the pool, and whichever way it is asked for.
func TestPortMapping_MembersByNICAndByAddress_AreFound(t *testing.T) {
	w := newWorld(t)
	w.make()
	const pool = lbPath + "/backendAddressPools/p"
	// In this order: who is there first has the first port.
	for _, put := range [][2]string{
		{nicPath, strings.Replace(nicBody, `{"subnet"`, `{"privateIPAddress":"10.0.0.77","loadBalancerBackendAddressPools":[{"id":"`+pool+`"}],"subnet"`, 1)},
		{lbPath, strings.NewReplacer(`{"name":"p"}`, `{"name":"p","properties":{"loadBalancerBackendAddresses":[{"name":"x","properties":{"ipAddress":"10.0.0.99"}}]}}`,
			`"frontendPort":22,`, `"frontendPortRangeStart":2200,"frontendPortRangeEnd":2209,"backendAddressPool":{"id":"`+pool+`"},`).Replace(lbBody)},
	} {
		if got := w.do("root", http.MethodPut, put[0], put[1]); got.status != http.StatusOK {
			t.Fatalf("PUT %s: %d %s", put[0], got.status, got.body)
		}
	}
	for _, c := range []struct {
		question string
		port     int32 // 0 = none
	}{
		{`{"ipAddress":"10.0.0.77"}`, 2200},
		{`{"ipAddress":"10.0.0.99"}`, 2201},
		{`{"ipAddress":"10.0.0.78"}`, 0},
		{`{"ipConfiguration":{"id":"` + nicPath + `/ipConfigurations/i"}}`, 2200},
		{`{"ipConfiguration":{"id":"` + nicPath + `/ipConfigurations/other"}}`, 0},
		{`{}`, 0},
	} {
		got := w.do("root", http.MethodPost, pool+"/queryInboundNatRulePortMapping", c.question)
		var answer api.PortMappings
		if err := json.Unmarshal([]byte(got.body), &answer); err != nil || got.status != http.StatusOK {
			t.Fatalf("%s: %d %s", c.question, got.status, got.body)
		}
		port := int32(0)
		if len(answer.Value) > 0 {
			port = answer.Value[0].FrontendPort
		}
		if port != c.port || len(answer.Value) > 1 {
			t.Errorf("%s: %s, want port %d", c.question, got.body, c.port)
		}
	}
}
