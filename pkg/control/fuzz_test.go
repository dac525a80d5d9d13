package control

import (
	"testing"

	"github.com/privlink/privlink/pkg/api"
)

// Whatever the documents of a batch, nothing panics, a refused batch leaves store and memory as they were, and an
// accepted one can be read, loaded again and compiled to the same State.
func FuzzPut(f *testing.F) {
	f.Add(byte(0), `{"location":"west","properties":{"addressSpace":{"addressPrefixes":["10.0.0.0/16"]}}}`)
	f.Add(byte(1), `{"location":"west","properties":{"backendAddressPools":[{"name":"pool","properties":{"loadBalancerBackendAddresses":[{"name":"vm1","properties":{"adminState":"Down"}}]}}]}}`)
	f.Add(byte(2), `{"location":"west","properties":{"visibility":{"subscriptions":["*"]},"loadBalancerFrontendIpConfigurations":[{"id":"loadBalancers/lb/frontendIPConfigurations/fe"}],
		"ipConfigurations":[{"name":"a","properties":{"subnet":{"id":"virtualNetworks/dc/subnets/nat"}}}]}}`)
	f.Add(byte(3), `{"location":"west","properties":{"ipConfigurations":[{"name":"a","properties":{"subnet":{"id":"virtualNetworks/dc/subnets/nat"},
		"loadBalancerBackendAddressPools":[{"id":"loadBalancers/lb/backendAddressPools/pool"}]}}]}}`)
	f.Add(byte(4), `{"location":"west","properties":{"subnet":{"id":"virtualNetworks/dc/subnets/vms"},
		"privateLinkServiceConnections":[{"name":"a","properties":{"privateLinkServiceId":"privateLinkServices/web"}}]}}`)
	kinds := []api.Kind{api.VirtualNetworks, api.LoadBalancers, api.PrivateLinkServices, api.NetworkInterfaces, api.PrivateEndpoints}
	f.Fuzz(func(t *testing.T, kind byte, text string) {
		k := kinds[int(kind)%len(kinds)]
		d, err := api.Decode([]byte(text), k, api.Tolerant)
		if err != nil {
			return
		}
		w := newWorld(t)
		w.provide(open)
		before := w.dump(t)
		names := map[api.Kind]string{api.VirtualNetworks: theNetwork, api.LoadBalancers: theLB, api.PrivateLinkServices: theService,
			api.NetworkInterfaces: "p:networkInterfaces/vm1", api.PrivateEndpoints: "p:privateEndpoints/pe"}
		_, err = w.Put(t.Context(), operator(), id(names[k]), d, Conditions{})
		if err != nil {
			if e := api.AsError(err); e.Status < 400 || e.Status > 499 {
				t.Fatalf("status %d: %v", e.Status, err)
			}
			if after := w.dump(t); after != before {
				t.Fatalf("half applied:\n%s\n%s", before, after)
			}
		}
		w.get(names[api.VirtualNetworks])
		w.sync()
		running := stateText(w)
		w.restart()
		if again := stateText(w); again != running {
			t.Fatalf("in memory %s\nin the store %s", running, again)
		}
	})
}

// stateText is the State as text.
func stateText(w *world) string {
	s, _ := compile(w.view.snapshot(), nil)
	return text(s)
}
