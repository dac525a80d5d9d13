package control_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/sirupsen/logrus"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/auth"
	"github.com/privlink/privlink/pkg/control"
	"github.com/privlink/privlink/pkg/dataplane"
	"github.com/privlink/privlink/pkg/store"
)

// agree is a kernel that agrees with everything.
type agree struct{}

func (agree) Apply(_ context.Context, s dataplane.State) (dataplane.Result, error) {
	return dataplane.Result{Revision: s.Revision}, nil
}

// The whole story: a provider publishes, a consumer asks, the provider approves.
func Example_flow() {
	dir, err := os.MkdirTemp("", "privlink-example")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	bolt, err := store.OpenBolt(filepath.Join(dir, "state.db"))
	if err != nil {
		panic(err)
	}
	defer bolt.Close()
	log := logrus.New()
	log.SetOutput(io.Discard)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	c, err := control.New(ctx, control.Options{Store: bolt, Applier: agree{}, Log: log})
	if err != nil {
		panic(err)
	}
	go func() { _ = c.Run(ctx) }()

	provider := auth.Actor{Principal: "alice", Tenant: "acme", Grants: []auth.Grant{{Role: auth.Owner, Scope: "/subscriptions/acme"}}}
	consumer := auth.Actor{Principal: "bob", Tenant: "shop", Grants: []auth.Grant{{Role: auth.Owner, Scope: "/subscriptions/shop"}}}
	put := func(who auth.Actor, path, body string) api.Resource {
		id, err := api.ParseID(path, api.ID{Subscription: who.Tenant, ResourceGroup: "prod"})
		if err != nil {
			panic(err)
		}
		doc, err := api.Decode([]byte(body), api.Kind(id.Type), api.Strict)
		if err != nil {
			panic(err)
		}
		if _, err = c.Put(ctx, who, id, doc, control.Conditions{}); err != nil {
			panic(err)
		}
		if err := c.Wait(ctx, id); err != nil {
			panic(err)
		}
		r, err := c.Get(ctx, who, id)
		if err != nil {
			panic(err)
		}
		fmt.Println(id.Short(), *r.State())
		return r
	}
	const network = `{"location":"west","properties":{"addressSpace":{"addressPrefixes":["10.0.0.0/16"]},
		"subnets":[{"name":"default","properties":{"addressPrefix":"10.0.1.0/24"}}]}}`
	put(provider, "virtualNetworks/dc", network)
	put(provider, "loadBalancers/lb", `{"location":"west","properties":{
		"frontendIPConfigurations":[{"name":"fe","properties":{"subnet":{"id":"virtualNetworks/dc/subnets/default"}}}],
		"backendAddressPools":[{"name":"vms","properties":{"loadBalancerBackendAddresses":[{"name":"vm1","properties":{"ipAddress":"10.0.1.200"}}]}}],
		"loadBalancingRules":[{"name":"web","properties":{"protocol":"Tcp","frontendPort":80,
			"frontendIPConfiguration":{"id":"loadBalancers/lb/frontendIPConfigurations/fe"},
			"backendAddressPool":{"id":"loadBalancers/lb/backendAddressPools/vms"}}}]}}`)
	service := put(provider, "privateLinkServices/shopfront", `{"location":"west","properties":{
		"loadBalancerFrontendIpConfigurations":[{"id":"loadBalancers/lb/frontendIPConfigurations/fe"}],
		"ipConfigurations":[{"name":"nat","properties":{"subnet":{"id":"virtualNetworks/dc/subnets/default"}}}],
		"visibility":{"subscriptions":["*"]}}}`).(*api.PrivateLinkService)

	put(consumer, "virtualNetworks/home", network)
	put(consumer, "privateEndpoints/pe", `{"location":"west","properties":{"subnet":{"id":"virtualNetworks/home/subnets/default"},
		"manualPrivateLinkServiceConnections":[{"name":"shop","properties":{
			"privateLinkServiceId":"`+service.Properties.Alias+`","requestMessage":"hello"}}]}}`)

	inbox, err := c.Inbox(ctx, provider, control.Scope{})
	if err != nil {
		panic(err)
	}
	request := inbox[0]
	p := request.Properties
	fmt.Println("asked by", p.Subscription, "saying", p.RequestMessage, "link", p.LinkIdentifier, p.PrivateLinkServiceConnectionState.Status)
	id, err := api.ParseID(request.ID, api.ID{})
	if err != nil {
		panic(err)
	}
	decided, err := c.Decide(ctx, provider, id, api.PrivateEndpointConnection{Properties: api.ConnectionProperties{
		PrivateLinkServiceConnectionState: &api.ConnectionState{Status: api.Approved, Description: "welcome"}}}, control.Conditions{})
	if err != nil {
		panic(err)
	}
	fmt.Println("provider says", decided.Properties.PrivateLinkServiceConnectionState.Status)

	// Output:
	// virtualNetworks/dc Succeeded
	// loadBalancers/lb Succeeded
	// privateLinkServices/shopfront Succeeded
	// virtualNetworks/home Succeeded
	// privateEndpoints/pe Succeeded
	// asked by shop saying hello link 536870913 Pending
	// provider says Approved
}
