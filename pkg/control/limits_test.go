package control

import (
	"errors"
	"fmt"
	"testing"

	"github.com/privlink/privlink/pkg/api"
)

// Azure's limits that only the other resources show: the last that fits is taken, one more is refused with the number.
func TestLimits_OneMore_RefusedWithTheNumber(t *testing.T) {
	refused := func(w *world, name, doc, want string) {
		t.Helper()
		_, err := w.try(name, "%s", doc)
		var e *api.Error
		if !errors.As(err, &e) || e.Code != api.CodeLimit || e.Status != 400 || err.Error() != want {
			t.Errorf("%s: %v\nwant %s", name, err, want)
		}
	}
	serviceOn := func(lb, frontend int) string {
		return fmt.Sprintf(`{'properties':{'loadBalancerFrontendIpConfigurations':[{'id':'loadBalancers/lb%d/frontendIPConfigurations/fe%d'}],
			'ipConfigurations':[{'name':'n','properties':{'subnet':{'id':'virtualNetworks/dc/subnets/vms'}}}]}}`, lb, frontend)
	}
	t.Run("services of a subscription", func(t *testing.T) {
		w := newWorld(t)
		crowd(w, api.MaxServices, 0)
		w.put("p:loadBalancers/lb999", `{'properties':{'frontendIPConfigurations':[{'name':'fe0','properties':{'subnet':{'id':'virtualNetworks/dc/subnets/vms'}}}]}}`)
		refused(w, "p:privateLinkServices/more", serviceOn(999, 0), "subscription p has 800 private link services, at most 800 allowed")
		must(t, w.delete("p:privateLinkServices/s0", false))
		w.put("p:privateLinkServices/more", "%s", serviceOn(999, 0))
	})
	t.Run("services on a load balancer, endpoints of a service and of a network", func(t *testing.T) {
		w := newWorld(t)
		crowd(w, api.MaxServicesPerLoadBalancer, api.MaxEndpointsPerService)
		lb := w.get("p:loadBalancers/lb0").(*api.LoadBalancer)
		lb.Properties.FrontendIPConfigurations = append(lb.Properties.FrontendIPConfigurations, api.FrontendIPConfiguration{
			Part:       api.Part{Name: "fe8"},
			Properties: api.FrontendIPConfigurationProperties{Subnet: lb.Properties.FrontendIPConfigurations[0].Properties.Subnet}})
		_, err := w.Put(t.Context(), root("p"), id("p:loadBalancers/lb0"), lb, Conditions{})
		must(t, err)
		refused(w, "p:privateLinkServices/ninth", serviceOn(0, 8),
			"properties.loadBalancerFrontendIpConfigurations: loadBalancers/lb0 has 8 private link services, at most 8 allowed")
		alias := w.service("p:privateLinkServices/s0").Properties.Alias
		refused(w, "c:privateEndpoints/more", endpointDoc(alias, ""), "virtualNetworks/home has 1000 private endpoints, at most 1000 allowed")
	})
	t.Run("endpoints of a service", func(t *testing.T) {
		w := newWorld(t)
		crowd(w, 1, api.MaxEndpointsPerService)
		alias := w.service("p:privateLinkServices/s0").Properties.Alias
		w.put("d:virtualNetworks/home", `{'properties':{'addressSpace':{'addressPrefixes':['10.0.0.0/16']},'subnets':[{'name':'default','properties':{'addressPrefix':'10.0.1.0/24'}}]}}`)
		refused(w, "d:privateEndpoints/more", endpointDoc(alias, ""),
			"properties.privateLinkServiceConnections: the private link service has 1000 private endpoints, at most 1000 allowed")
		must(t, w.delete("c:privateEndpoints/pe7", false))
		w.put("d:privateEndpoints/more", "%s", endpointDoc(alias, ""))
	})
}
