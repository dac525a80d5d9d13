package control

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/privlink/privlink/pkg/api"
)

// crowd makes services on one network, and endpoints spread over them, all pending.
func crowd(w *world, services, endpoints int) {
	w.Helper()
	w.put(theNetwork, `{'properties':{'addressSpace':{'addressPrefixes':['10.0.0.0/8']},'subnets':[{'name':'vms','properties':{'addressPrefix':'10.0.0.0/16'}}]}}`)
	w.put("c:virtualNetworks/home", `{'properties':{'addressSpace':{'addressPrefixes':['10.0.0.0/16']},'subnets':[{'name':'default','properties':{'addressPrefix':'10.0.0.0/16'}}]}}`)
	var steps []Step
	step := func(name, format string, args ...any) {
		at := id(name)
		steps = append(steps, Step{ID: at, Put: doc(api.Kind(at.Type), format, args...)})
	}
	for i := range services {
		lb := i / api.MaxServicesPerLoadBalancer
		if i%api.MaxServicesPerLoadBalancer == 0 {
			var frontends, rules, members []string
			for j := range api.MaxServicesPerLoadBalancer {
				frontends = append(frontends, fmt.Sprintf(`{'name':'fe%d','properties':{'subnet':{'id':'virtualNetworks/dc/subnets/vms'}}}`, j))
				members = append(members, fmt.Sprintf(`{'name':'b%d','properties':{'ipAddress':'10.9.%d.%d'}}`, j, lb, j+1))
				rules = append(rules, fmt.Sprintf(`{'name':'r%d','properties':{'protocol':'Tcp','frontendPort':80,'frontendIPConfiguration':{'id':'loadBalancers/lb%d/frontendIPConfigurations/fe%d'},
					'backendAddressPool':{'id':'loadBalancers/lb%d/backendAddressPools/p'}}}`, j, lb, j, lb))
			}
			step(fmt.Sprintf("p:loadBalancers/lb%d", lb), `{'properties':{'frontendIPConfigurations':[%s],'backendAddressPools':[{'name':'p','properties':{'loadBalancerBackendAddresses':[%s]}}],
				'loadBalancingRules':[%s]}}`, strings.Join(frontends, ","), strings.Join(members, ","), strings.Join(rules, ","))
		}
		step(fmt.Sprintf("p:privateLinkServices/s%d", i), `{'properties':{'visibility':{'subscriptions':['*']},'loadBalancerFrontendIpConfigurations':[{'id':'loadBalancers/lb%d/frontendIPConfigurations/fe%d'}],
			'ipConfigurations':[{'name':'n','properties':{'subnet':{'id':'virtualNetworks/dc/subnets/vms'}}}]}}`, lb, i%api.MaxServicesPerLoadBalancer)
	}
	out, err := w.Batch(context.Background(), operator(), steps, false)
	if err != nil {
		w.Fatal(err)
	}
	var aliases []string
	for _, o := range out {
		if s, ok := o.Resource.(*api.PrivateLinkService); ok {
			aliases = append(aliases, s.Properties.Alias)
		}
	}
	steps = nil
	for i := range endpoints {
		step(fmt.Sprintf("c:privateEndpoints/pe%d", i), "%s", endpointDoc(aliases[i%len(aliases)], ""))
	}
	if _, err := w.Batch(context.Background(), operator(), steps, false); err != nil {
		w.Fatal(err)
	}
	w.sync()
}

// The control plane's part of what an operator waits for, with 1,000 endpoints on 100 services.
func BenchmarkControl(b *testing.B) {
	w := newWorld(b)
	crowd(w, 100, 1000)
	ctx := context.Background()
	b.Run("ListEndpoints", func(b *testing.B) {
		for range b.N {
			if list, err := w.List(ctx, operator(), api.PrivateEndpoints, Scope{Subscription: "c"}); err != nil || len(list) != 1000 {
				b.Fatal(len(list), err)
			}
		}
	})
	b.Run("Inbox", func(b *testing.B) {
		for range b.N {
			if list, err := w.Inbox(ctx, operator(), Scope{}); err != nil || len(list) != 1000 {
				b.Fatal(len(list), err)
			}
		}
	})
	b.Run("ApproveAndCompile", func(b *testing.B) {
		list, err := w.Inbox(ctx, operator(), Scope{})
		if err != nil {
			b.Fatal(err)
		}
		worst := time.Duration(0)
		for i := range b.N {
			status := api.Approved
			if i/len(list)%2 == 1 {
				status = api.Rejected
			}
			at, _ := api.ParseID(list[i%len(list)].ID, api.ID{})
			start := time.Now()
			if _, err := w.Decide(ctx, operator(), at, api.PrivateEndpointConnection{Properties: api.ConnectionProperties{
				PrivateLinkServiceConnectionState: &api.ConnectionState{Status: status}}}, Conditions{}); err != nil {
				b.Fatal(err)
			}
			w.sync()
			worst = max(worst, time.Since(start))
		}
		b.ReportMetric(float64(worst.Microseconds())/1000, "worst-ms")
	})
	b.Run("Restart", func(b *testing.B) {
		for range b.N {
			w.restart()
		}
	})
}
