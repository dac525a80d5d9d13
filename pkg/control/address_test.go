package control

import (
	"fmt"
	"strings"
	"testing"
)

// In /31 and /32 every address is a host's (RFC 3021), and there is none to choose from.
func TestAddress_SmallestSubnets_TakeStaticOnesOnly(t *testing.T) {
	w := newWorld(t)
	w.put(theNetwork, `{'properties':{'addressSpace':{'addressPrefixes':['10.0.0.0/16']},'subnets':[
		{'name':'two','properties':{'addressPrefix':'10.0.1.0/31'}},{'name':'one','properties':{'addressPrefix':'10.0.1.2/32'}},
		{'name':'four','properties':{'addressPrefix':'10.0.1.4/30'}}]}}`)
	nic := func(n int, address, subnet string) error {
		_, err := w.try(fmt.Sprintf("p:networkInterfaces/n%d", n), `{'properties':{'ipConfigurations':[{'name':'i','properties':{%s'subnet':{'id':'virtualNetworks/dc/subnets/%s'}}}]}}`,
			address, subnet)
		return err
	}
	const static = `'privateIPAddress':'10.0.1.%d',`
	for i, c := range []struct {
		address int // last byte; 0 in "two" is an address, so -1 is dynamic
		subnet  string
		want    string // part of the refusal; empty = taken
	}{
		{0, "two", ""},
		{1, "two", ""},
		{2, "one", ""},
		{2, "two", "10.0.1.2 is not within 10.0.1.0/31 of subnet two"},
		{2, "one", "10.0.1.2 is in use by networkInterfaces/n2 (i)"},
		{-1, "two", "subnet two (10.0.1.0/31) is smaller than /29 and takes static addresses only"},
		{-1, "one", "subnet one (10.0.1.2/32) is smaller than /29 and takes static addresses only"},
		{4, "four", "10.0.1.4 is the network address of subnet four (10.0.1.4/30)"},
		{7, "four", "10.0.1.7 is the broadcast address of subnet four (10.0.1.4/30)"},
		{5, "four", ""},
	} {
		address := ""
		if c.address >= 0 {
			address = fmt.Sprintf(static, c.address)
		}
		err := nic(i, address, c.subnet)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.HasSuffix(err.Error(), c.want)) {
			t.Errorf("%d in %s: %v, want %q", c.address, c.subnet, err, c.want)
		}
	}
}
