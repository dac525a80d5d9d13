package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/privlink/privlink/pkg/api"
)

func TestDifferences_PropertyByProperty(t *testing.T) {
	const before = `{"id":"/x","name":"net","etag":"1","location":"local","properties":{"provisioningState":"Succeeded",
 "addressSpace":{"addressPrefixes":["10.0.0.0/16"]},
 "subnets":[{"name":"a","id":"/x/a","etag":"1","properties":{"addressPrefix":"10.0.0.0/24"}},{"name":"gone","properties":{"addressPrefix":"10.0.9.0/24"}}]}}`
	const after = `{"id":"/x","name":"net","etag":"2","location":"local","tags":{"env":"test"},"properties":{"provisioningState":"Updating",
 "addressSpace":{"addressPrefixes":["10.0.0.0/16","10.1.0.0/16"]},
 "subnets":[{"name":"new","properties":{"addressPrefix":"10.0.2.0/24"}},{"name":"A","id":"/x/a","etag":"2","properties":{"addressPrefix":"10.0.1.0/24"}}]}}`
	changes, err := differences(api.VirtualNetworks, json.RawMessage(before), json.RawMessage(after))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range changes {
		got = append(got, c.Property+": "+show(c.From)+" -> "+show(c.To))
	}
	want := []string{
		`properties.addressSpace.addressPrefixes: ["10.0.0.0/16"] -> ["10.0.0.0/16","10.1.0.0/16"]`,
		`properties.subnets[a].properties.addressPrefix: 10.0.0.0/24 -> 10.0.1.0/24`,
		`properties.subnets[gone]: {"name":"gone","properties":{"addressPrefix":"10.0.9.0/24"}} -> (none)`,
		`properties.subnets[new]: (none) -> {"name":"new","properties":{"addressPrefix":"10.0.2.0/24"}}`,
		`tags: (none) -> {"env":"test"}`,
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if changes, err := differences(api.VirtualNetworks, json.RawMessage(before), json.RawMessage(before)); err != nil || len(changes) > 0 {
		t.Errorf("same resource: %v, %v", changes, err)
	}
}
