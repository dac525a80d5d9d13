// Code generated from newest/story.go; DO NOT EDIT.

package oldest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/network/armnetwork"

	"github.com/privlink/privlink/scripts/check-sdk/check"
)

const location = "local"

// clients are the SDK's clients of one subscription.
type clients struct {
	networks  *armnetwork.VirtualNetworksClient
	subnets   *armnetwork.SubnetsClient
	peerings  *armnetwork.VirtualNetworkPeeringsClient
	nics      *armnetwork.InterfacesClient
	nicIPs    *armnetwork.InterfaceIPConfigurationsClient
	nicLBs    *armnetwork.InterfaceLoadBalancersClient
	lbs       *armnetwork.LoadBalancersClient
	frontends *armnetwork.LoadBalancerFrontendIPConfigurationsClient
	pools     *armnetwork.LoadBalancerBackendAddressPoolsClient
	rules     *armnetwork.LoadBalancerLoadBalancingRulesClient
	probes    *armnetwork.LoadBalancerProbesClient
	outbound  *armnetwork.LoadBalancerOutboundRulesClient
	lbNICs    *armnetwork.LoadBalancerNetworkInterfacesClient
	natRules  *armnetwork.InboundNatRulesClient
	services  *armnetwork.PrivateLinkServicesClient
	endpoints *armnetwork.PrivateEndpointsClient
	types     *armnetwork.AvailablePrivateEndpointTypesClient
}

func newClients(s *check.Story, subscription string) (c clients, err error) {
	var failed []error
	keep := func(err error) { failed = append(failed, err) }
	credential := s.Credential(subscription)
	c.networks, err = armnetwork.NewVirtualNetworksClient(subscription, credential, s.Options)
	keep(err)
	c.subnets, err = armnetwork.NewSubnetsClient(subscription, credential, s.Options)
	keep(err)
	c.peerings, err = armnetwork.NewVirtualNetworkPeeringsClient(subscription, credential, s.Options)
	keep(err)
	c.nics, err = armnetwork.NewInterfacesClient(subscription, credential, s.Options)
	keep(err)
	c.nicIPs, err = armnetwork.NewInterfaceIPConfigurationsClient(subscription, credential, s.Options)
	keep(err)
	c.nicLBs, err = armnetwork.NewInterfaceLoadBalancersClient(subscription, credential, s.Options)
	keep(err)
	c.lbs, err = armnetwork.NewLoadBalancersClient(subscription, credential, s.Options)
	keep(err)
	c.frontends, err = armnetwork.NewLoadBalancerFrontendIPConfigurationsClient(subscription, credential, s.Options)
	keep(err)
	c.pools, err = armnetwork.NewLoadBalancerBackendAddressPoolsClient(subscription, credential, s.Options)
	keep(err)
	c.rules, err = armnetwork.NewLoadBalancerLoadBalancingRulesClient(subscription, credential, s.Options)
	keep(err)
	c.probes, err = armnetwork.NewLoadBalancerProbesClient(subscription, credential, s.Options)
	keep(err)
	c.outbound, err = armnetwork.NewLoadBalancerOutboundRulesClient(subscription, credential, s.Options)
	keep(err)
	c.lbNICs, err = armnetwork.NewLoadBalancerNetworkInterfacesClient(subscription, credential, s.Options)
	keep(err)
	c.natRules, err = armnetwork.NewInboundNatRulesClient(subscription, credential, s.Options)
	keep(err)
	c.services, err = armnetwork.NewPrivateLinkServicesClient(subscription, credential, s.Options)
	keep(err)
	c.endpoints, err = armnetwork.NewPrivateEndpointsClient(subscription, credential, s.Options)
	keep(err)
	c.types, err = armnetwork.NewAvailablePrivateEndpointTypesClient(subscription, credential, s.Options)
	keep(err)
	return c, errors.Join(failed...)
}

// teller tells the story; what one part learns the next ones need.
type teller struct {
	*check.Story
	provider, consumer clients
	alias, connection  string
}

// Tell tells the whole story and leaves nothing behind.
func Tell(ctx context.Context, s *check.Story) error {
	t := &teller{Story: s}
	var err error
	if t.provider, err = newClients(s, s.Provider); err != nil {
		return err
	}
	if t.consumer, err = newClients(s, s.Consumer); err != nil {
		return err
	}
	t.makeNetworks(ctx)
	t.peer(ctx)
	t.makeBackends(ctx)
	t.readLoadBalancer(ctx)
	t.publish(ctx)
	t.ask(ctx)
	t.decide(ctx)
	t.readLists(ctx)
	t.tearDown(ctx)
	return nil
}

// id is the id of something of the provider's.
func (t *teller) id(parts string) *string {
	return to.Ptr("/subscriptions/" + t.Provider + "/resourceGroups/" + t.Group + "/providers/Microsoft.Network/" + parts)
}

func (t *teller) makeNetworks(ctx context.Context) {
	network := armnetwork.VirtualNetwork{
		Location: to.Ptr(location),
		Properties: &armnetwork.VirtualNetworkPropertiesFormat{
			AddressSpace: &armnetwork.AddressSpace{AddressPrefixes: []*string{to.Ptr("10.0.0.0/16")}},
			Subnets: []*armnetwork.Subnet{{
				Name:       to.Ptr("default"),
				Properties: &armnetwork.SubnetPropertiesFormat{AddressPrefix: to.Ptr("10.0.0.0/23")},
			}},
		},
	}
	t.Do("virtualNetworks CreateOrUpdate", func() error {
		for _, n := range []struct {
			*armnetwork.VirtualNetworksClient
			name string
		}{{t.provider.networks, "datacenter"}, {t.consumer.networks, "home"}} {
			poller, err := n.BeginCreateOrUpdate(ctx, t.Group, n.name, network, nil)
			made, err := check.Done(ctx, poller, err)
			if err != nil {
				return err
			}
			if err := check.Same("provisioningState", made.Properties.ProvisioningState, armnetwork.ProvisioningStateSucceeded); err != nil {
				return err
			}
		}
		return nil
	})
	t.Do("virtualNetworks attached to interfaces", func() error { return t.Attach(ctx) })
	t.Do("virtualNetworks Get", func() error {
		got, err := t.provider.networks.Get(ctx, strings.ToUpper(t.Group), "DataCenter", nil)
		if err != nil {
			return err
		}
		return check.Same("name", got.Name, "datacenter")
	})
	t.Do("virtualNetworks UpdateTags", func() error {
		got, err := t.provider.networks.UpdateTags(ctx, t.Group, "datacenter", armnetwork.TagsObject{Tags: map[string]*string{"env": to.Ptr("test")}}, nil)
		if err != nil {
			return err
		}
		return check.Same("tag env", got.Tags["env"], "test")
	})
	t.Do("virtualNetworks List", func() error {
		return check.Some(check.All(ctx, t.provider.networks.NewListPager(t.Group, nil), func(p armnetwork.VirtualNetworksClientListResponse) []*armnetwork.VirtualNetwork { return p.Value }))
	})
	t.Do("virtualNetworks ListAll", func() error {
		return check.Some(check.All(ctx, t.provider.networks.NewListAllPager(nil), func(p armnetwork.VirtualNetworksClientListAllResponse) []*armnetwork.VirtualNetwork { return p.Value }))
	})
	t.Do("virtualNetworks ListUsage", func() error {
		return check.Some(check.All(ctx, t.provider.networks.NewListUsagePager(t.Group, "datacenter", nil), func(p armnetwork.VirtualNetworksClientListUsageResponse) []*armnetwork.VirtualNetworkUsage {
			return p.Value
		}))
	})
	t.Do("virtualNetworks CheckIPAddressAvailability", func() error {
		got, err := t.provider.networks.CheckIPAddressAvailability(ctx, t.Group, "datacenter", check.FrontIP, nil)
		if err != nil {
			return err
		}
		return check.Same("available", got.Available, true)
	})
	t.Do("subnets CreateOrUpdate", func() error {
		poller, err := t.provider.subnets.BeginCreateOrUpdate(ctx, t.Group, "datacenter", "nat", armnetwork.Subnet{Properties: &armnetwork.SubnetPropertiesFormat{
			AddressPrefix:                     to.Ptr("10.0.2.0/24"),
			PrivateLinkServiceNetworkPolicies: to.Ptr(armnetwork.VirtualNetworkPrivateLinkServiceNetworkPoliciesDisabled),
		}}, nil)
		made, err := check.Done(ctx, poller, err)
		if err != nil {
			return err
		}
		return check.Same("addressPrefix", made.Properties.AddressPrefix, "10.0.2.0/24")
	})
	t.Do("subnets Get", func() error {
		got, err := t.provider.subnets.Get(ctx, t.Group, "datacenter", "nat", nil)
		if err != nil {
			return err
		}
		return check.Same("name", got.Name, "nat")
	})
	t.Do("subnets List", func() error {
		return check.Some(check.All(ctx, t.provider.subnets.NewListPager(t.Group, "datacenter", nil), func(p armnetwork.SubnetsClientListResponse) []*armnetwork.Subnet { return p.Value }))
	})
	t.Do("subnets PrepareNetworkPolicies", func() error {
		poller, err := t.provider.subnets.BeginPrepareNetworkPolicies(ctx, t.Group, "datacenter", "nat", armnetwork.PrepareNetworkPoliciesRequest{}, nil)
		_, err = check.Done(ctx, poller, err)
		return err
	})
	t.Do("subnets UnprepareNetworkPolicies", func() error {
		poller, err := t.provider.subnets.BeginUnprepareNetworkPolicies(ctx, t.Group, "datacenter", "nat", armnetwork.UnprepareNetworkPoliciesRequest{}, nil)
		_, err = check.Done(ctx, poller, err)
		return err
	})
}

// peer makes a network of the provider's a peer of its data center, in both directions, and takes it away again.
func (t *teller) peer(ctx context.Context) {
	peering := func(remote string) armnetwork.VirtualNetworkPeering {
		return armnetwork.VirtualNetworkPeering{Properties: &armnetwork.VirtualNetworkPeeringPropertiesFormat{
			RemoteVirtualNetwork:      &armnetwork.SubResource{ID: t.id("virtualNetworks/" + remote)},
			AllowVirtualNetworkAccess: to.Ptr(true),
		}}
	}
	t.Do("virtualNetworkPeerings CreateOrUpdate", func() error {
		branch := armnetwork.VirtualNetwork{Location: to.Ptr(location), Properties: &armnetwork.VirtualNetworkPropertiesFormat{
			AddressSpace: &armnetwork.AddressSpace{AddressPrefixes: []*string{to.Ptr("10.9.0.0/16")}}}}
		made, err := t.provider.networks.BeginCreateOrUpdate(ctx, t.Group, "branch", branch, nil)
		if _, err = check.Done(ctx, made, err); err != nil {
			return err
		}
		first, err := t.provider.peerings.BeginCreateOrUpdate(ctx, t.Group, "branch", "to-datacenter", peering("datacenter"), nil)
		half, err := check.Done(ctx, first, err)
		if err != nil {
			return err
		}
		if err := check.Same("peeringState of one side", half.Properties.PeeringState, armnetwork.VirtualNetworkPeeringStateInitiated); err != nil {
			return err
		}
		second, err := t.provider.peerings.BeginCreateOrUpdate(ctx, t.Group, "datacenter", "to-branch", peering("branch"), nil)
		whole, err := check.Done(ctx, second, err)
		if err != nil {
			return err
		}
		return check.Same("peeringState of both", whole.Properties.PeeringState, armnetwork.VirtualNetworkPeeringStateConnected)
	})
	t.Do("virtualNetworkPeerings Get", func() error {
		got, err := t.provider.peerings.Get(ctx, t.Group, "branch", "to-datacenter", nil)
		if err != nil {
			return err
		}
		return check.Same("peeringState", got.Properties.PeeringState, armnetwork.VirtualNetworkPeeringStateConnected)
	})
	t.Do("virtualNetworkPeerings List", func() error {
		return check.Some(check.All(ctx, t.provider.peerings.NewListPager(t.Group, "datacenter", nil), func(p armnetwork.VirtualNetworkPeeringsClientListResponse) []*armnetwork.VirtualNetworkPeering {
			return p.Value
		}))
	})
	t.Do("virtualNetworkPeerings Delete", func() error {
		poller, err := t.provider.peerings.BeginDelete(ctx, t.Group, "datacenter", "to-branch", nil)
		if _, err = check.Done(ctx, poller, err); err != nil {
			return err
		}
		got, err := t.provider.peerings.Get(ctx, t.Group, "branch", "to-datacenter", nil)
		if err != nil {
			return err
		}
		if *got.Properties.PeeringState == armnetwork.VirtualNetworkPeeringStateConnected {
			return errors.New("the other side is still Connected")
		}
		return nil
	})
	t.Do("virtualNetworks Delete", func() error {
		poller, err := t.provider.networks.BeginDelete(ctx, t.Group, "branch", nil)
		if _, err = check.Done(ctx, poller, err); err != nil {
			return err
		}
		_, err = t.provider.networks.Get(ctx, t.Group, "branch", nil)
		return check.Refused(err, 404, "ResourceNotFound")
	})
}

func (t *teller) makeBackends(ctx context.Context) {
	subnet := &armnetwork.Subnet{ID: t.id("virtualNetworks/datacenter/subnets/default")}
	t.Do("loadBalancers CreateOrUpdate", func() error {
		poller, err := t.provider.lbs.BeginCreateOrUpdate(ctx, t.Group, "web", armnetwork.LoadBalancer{
			Location: to.Ptr(location),
			SKU:      &armnetwork.LoadBalancerSKU{Name: to.Ptr(armnetwork.LoadBalancerSKUNameStandard)},
			Properties: &armnetwork.LoadBalancerPropertiesFormat{
				FrontendIPConfigurations: []*armnetwork.FrontendIPConfiguration{{
					Name: to.Ptr("front"),
					Properties: &armnetwork.FrontendIPConfigurationPropertiesFormat{
						PrivateIPAddress: to.Ptr(check.FrontIP), PrivateIPAllocationMethod: to.Ptr(armnetwork.IPAllocationMethodStatic), Subnet: subnet,
					},
				}},
				BackendAddressPools: []*armnetwork.BackendAddressPool{{Name: to.Ptr("vms")}},
				Probes: []*armnetwork.Probe{{
					Name:       to.Ptr("tcp"),
					Properties: &armnetwork.ProbePropertiesFormat{Protocol: to.Ptr(armnetwork.ProbeProtocolTCP), Port: to.Ptr[int32](80), IntervalInSeconds: to.Ptr[int32](5), NumberOfProbes: to.Ptr[int32](2)},
				}},
				LoadBalancingRules: []*armnetwork.LoadBalancingRule{{
					Name: to.Ptr("http"),
					Properties: &armnetwork.LoadBalancingRulePropertiesFormat{
						FrontendIPConfiguration: &armnetwork.SubResource{ID: t.id("loadBalancers/web/frontendIPConfigurations/front")},
						BackendAddressPool:      &armnetwork.SubResource{ID: t.id("loadBalancers/web/backendAddressPools/vms")},
						Protocol:                to.Ptr(armnetwork.TransportProtocolTCP), FrontendPort: to.Ptr[int32](80), BackendPort: to.Ptr[int32](80),
					},
				}},
			},
		}, nil)
		made, err := check.Done(ctx, poller, err)
		if err != nil {
			return err
		}
		return check.Same("provisioningState", made.Properties.ProvisioningState, armnetwork.ProvisioningStateSucceeded)
	})
	t.Do("networkInterfaces CreateOrUpdate", func() error {
		poller, err := t.provider.nics.BeginCreateOrUpdate(ctx, t.Group, "vm", armnetwork.Interface{
			Location: to.Ptr(location),
			Properties: &armnetwork.InterfacePropertiesFormat{IPConfigurations: []*armnetwork.InterfaceIPConfiguration{{
				Name: to.Ptr("ipconfig"),
				Properties: &armnetwork.InterfaceIPConfigurationPropertiesFormat{
					PrivateIPAddress: to.Ptr(check.BackendIP), PrivateIPAllocationMethod: to.Ptr(armnetwork.IPAllocationMethodStatic), Subnet: subnet,
					LoadBalancerBackendAddressPools: []*armnetwork.BackendAddressPool{{ID: t.id("loadBalancers/web/backendAddressPools/vms")}},
				},
			}}},
		}, nil)
		made, err := check.Done(ctx, poller, err)
		if err != nil {
			return err
		}
		return check.Same("privateIPAddress", made.Properties.IPConfigurations[0].Properties.PrivateIPAddress, check.BackendIP)
	})
	t.Do("networkInterfaces Get", func() error {
		got, err := t.provider.nics.Get(ctx, t.Group, "vm", nil)
		if err != nil {
			return err
		}
		return check.Same("name", got.Name, "vm")
	})
	t.Do("networkInterfaces UpdateTags", func() error {
		got, err := t.provider.nics.UpdateTags(ctx, t.Group, "vm", armnetwork.TagsObject{Tags: map[string]*string{"a": to.Ptr("b")}}, nil)
		if err != nil {
			return err
		}
		return check.Same("tag a", got.Tags["a"], "b")
	})
	t.Do("networkInterfaces List", func() error {
		return check.Some(check.All(ctx, t.provider.nics.NewListPager(t.Group, nil), func(p armnetwork.InterfacesClientListResponse) []*armnetwork.Interface { return p.Value }))
	})
	t.Do("networkInterfaces ListAll", func() error {
		return check.Some(check.All(ctx, t.provider.nics.NewListAllPager(nil), func(p armnetwork.InterfacesClientListAllResponse) []*armnetwork.Interface { return p.Value }))
	})
	t.Do("networkInterfaces ipConfigurations List", func() error {
		return check.Some(check.All(ctx, t.provider.nicIPs.NewListPager(t.Group, "vm", nil), func(p armnetwork.InterfaceIPConfigurationsClientListResponse) []*armnetwork.InterfaceIPConfiguration {
			return p.Value
		}))
	})
	t.Do("networkInterfaces ipConfigurations Get", func() error {
		got, err := t.provider.nicIPs.Get(ctx, t.Group, "vm", "ipconfig", nil)
		if err != nil {
			return err
		}
		return check.Same("privateIPAddress", got.Properties.PrivateIPAddress, check.BackendIP)
	})
	t.Do("networkInterfaces loadBalancers List", func() error {
		return check.Some(check.All(ctx, t.provider.nicLBs.NewListPager(t.Group, "vm", nil), func(p armnetwork.InterfaceLoadBalancersClientListResponse) []*armnetwork.LoadBalancer { return p.Value }))
	})
}

func (t *teller) readLoadBalancer(ctx context.Context) {
	t.Do("loadBalancers Get with expand", func() error {
		got, err := t.provider.lbs.Get(ctx, t.Group, "web", &armnetwork.LoadBalancersClientGetOptions{Expand: to.Ptr("frontendIPConfigurations")})
		if err != nil {
			return err
		}
		return check.Same("backends", to.Ptr(len(got.Properties.BackendAddressPools[0].Properties.BackendIPConfigurations)), 1)
	})
	t.Do("loadBalancers UpdateTags", func() error {
		got, err := t.provider.lbs.UpdateTags(ctx, t.Group, "web", armnetwork.TagsObject{Tags: map[string]*string{"a": to.Ptr("b")}}, nil)
		if err != nil {
			return err
		}
		return check.Same("tag a", got.Tags["a"], "b")
	})
	t.Do("loadBalancers List", func() error {
		return check.Some(check.All(ctx, t.provider.lbs.NewListPager(t.Group, nil), func(p armnetwork.LoadBalancersClientListResponse) []*armnetwork.LoadBalancer { return p.Value }))
	})
	t.Do("loadBalancers ListAll", func() error {
		return check.Some(check.All(ctx, t.provider.lbs.NewListAllPager(nil), func(p armnetwork.LoadBalancersClientListAllResponse) []*armnetwork.LoadBalancer { return p.Value }))
	})
	t.Do("frontendIPConfigurations List", func() error {
		return check.Some(check.All(ctx, t.provider.frontends.NewListPager(t.Group, "web", nil), func(p armnetwork.LoadBalancerFrontendIPConfigurationsClientListResponse) []*armnetwork.FrontendIPConfiguration {
			return p.Value
		}))
	})
	t.Do("frontendIPConfigurations Get", func() error {
		got, err := t.provider.frontends.Get(ctx, t.Group, "web", "front", nil)
		if err != nil {
			return err
		}
		return check.Same("privateIPAddress", got.Properties.PrivateIPAddress, check.FrontIP)
	})
	t.Do("backendAddressPools CreateOrUpdate", func() error {
		poller, err := t.provider.pools.BeginCreateOrUpdate(ctx, t.Group, "web", "spare", armnetwork.BackendAddressPool{}, nil)
		made, err := check.Done(ctx, poller, err)
		if err != nil {
			return err
		}
		return check.Same("name", made.Name, "spare")
	})
	t.Do("backendAddressPools Get", func() error {
		got, err := t.provider.pools.Get(ctx, t.Group, "web", "spare", nil)
		if err != nil {
			return err
		}
		return check.Same("name", got.Name, "spare")
	})
	t.Do("backendAddressPools List", func() error {
		got, err := check.All(ctx, t.provider.pools.NewListPager(t.Group, "web", nil), func(p armnetwork.LoadBalancerBackendAddressPoolsClientListResponse) []*armnetwork.BackendAddressPool {
			return p.Value
		})
		if err != nil {
			return err
		}
		return check.Same("pools", to.Ptr(len(got)), 2)
	})
	t.Do("backendAddressPools Delete", func() error {
		poller, err := t.provider.pools.BeginDelete(ctx, t.Group, "web", "spare", nil)
		_, err = check.Done(ctx, poller, err)
		return err
	})
	t.Do("inboundNatRules CreateOrUpdate", func() error {
		poller, err := t.provider.natRules.BeginCreateOrUpdate(ctx, t.Group, "web", "ssh", armnetwork.InboundNatRule{Properties: &armnetwork.InboundNatRulePropertiesFormat{
			FrontendIPConfiguration: &armnetwork.SubResource{ID: t.id("loadBalancers/web/frontendIPConfigurations/front")},
			Protocol:                to.Ptr(armnetwork.TransportProtocolTCP), FrontendPort: to.Ptr[int32](2222), BackendPort: to.Ptr[int32](22),
		}}, nil)
		made, err := check.Done(ctx, poller, err)
		if err != nil {
			return err
		}
		return check.Same("frontendPort", made.Properties.FrontendPort, 2222)
	})
	t.Do("inboundNatRules Get", func() error {
		got, err := t.provider.natRules.Get(ctx, t.Group, "web", "ssh", nil)
		if err != nil {
			return err
		}
		return check.Same("backendPort", got.Properties.BackendPort, 22)
	})
	t.Do("inboundNatRules List", func() error {
		return check.Some(check.All(ctx, t.provider.natRules.NewListPager(t.Group, "web", nil), func(p armnetwork.InboundNatRulesClientListResponse) []*armnetwork.InboundNatRule { return p.Value }))
	})
	t.Do("inboundNatRules Delete", func() error {
		poller, err := t.provider.natRules.BeginDelete(ctx, t.Group, "web", "ssh", nil)
		_, err = check.Done(ctx, poller, err)
		return err
	})
	t.Do("loadBalancingRules List", func() error {
		return check.Some(check.All(ctx, t.provider.rules.NewListPager(t.Group, "web", nil), func(p armnetwork.LoadBalancerLoadBalancingRulesClientListResponse) []*armnetwork.LoadBalancingRule {
			return p.Value
		}))
	})
	t.Do("loadBalancingRules Get", func() error {
		got, err := t.provider.rules.Get(ctx, t.Group, "web", "http", nil)
		if err != nil {
			return err
		}
		return check.Same("frontendPort", got.Properties.FrontendPort, 80)
	})
	t.Do("probes List", func() error {
		return check.Some(check.All(ctx, t.provider.probes.NewListPager(t.Group, "web", nil), func(p armnetwork.LoadBalancerProbesClientListResponse) []*armnetwork.Probe { return p.Value }))
	})
	t.Do("probes Get", func() error {
		got, err := t.provider.probes.Get(ctx, t.Group, "web", "tcp", nil)
		if err != nil {
			return err
		}
		return check.Same("port", got.Properties.Port, 80)
	})
	t.Do("outboundRules List", func() error {
		got, err := check.All(ctx, t.provider.outbound.NewListPager(t.Group, "web", nil), func(p armnetwork.LoadBalancerOutboundRulesClientListResponse) []*armnetwork.OutboundRule {
			return p.Value
		})
		if err != nil {
			return err
		}
		return check.Same("outbound rules", to.Ptr(len(got)), 0)
	})
	t.Do("loadBalancers networkInterfaces List", func() error {
		return check.Some(check.All(ctx, t.provider.lbNICs.NewListPager(t.Group, "web", nil), func(p armnetwork.LoadBalancerNetworkInterfacesClientListResponse) []*armnetwork.Interface {
			return p.Value
		}))
	})
}

func (t *teller) service(visible, approved []*string) armnetwork.PrivateLinkService {
	return armnetwork.PrivateLinkService{
		Location: to.Ptr(location),
		Properties: &armnetwork.PrivateLinkServiceProperties{
			LoadBalancerFrontendIPConfigurations: []*armnetwork.FrontendIPConfiguration{{ID: t.id("loadBalancers/web/frontendIPConfigurations/front")}},
			IPConfigurations: []*armnetwork.PrivateLinkServiceIPConfiguration{{
				Name: to.Ptr("nat"),
				Properties: &armnetwork.PrivateLinkServiceIPConfigurationProperties{
					Primary: to.Ptr(true), PrivateIPAddress: to.Ptr(check.NATIP), PrivateIPAllocationMethod: to.Ptr(armnetwork.IPAllocationMethodStatic),
					Subnet: &armnetwork.Subnet{ID: t.id("virtualNetworks/datacenter/subnets/nat")},
				},
			}},
			Visibility:   &armnetwork.PrivateLinkServicePropertiesVisibility{Subscriptions: visible},
			AutoApproval: &armnetwork.PrivateLinkServicePropertiesAutoApproval{Subscriptions: approved},
			Fqdns:        []*string{to.Ptr("shop.example")},
		},
	}
}

func (t *teller) publish(ctx context.Context) {
	t.Do("privateLinkServices CreateOrUpdate", func() error {
		poller, err := t.provider.services.BeginCreateOrUpdate(ctx, t.Group, "shop", t.service([]*string{to.Ptr(t.Consumer)}, nil), nil)
		made, err := check.Done(ctx, poller, err)
		if err != nil {
			return err
		}
		if made.Properties.Alias == nil || !strings.HasSuffix(*made.Properties.Alias, ".azure.privatelinkservice") {
			return errors.New("there is no alias")
		}
		t.alias = *made.Properties.Alias
		return check.Same("provisioningState", made.Properties.ProvisioningState, armnetwork.ProvisioningStateSucceeded)
	})
	t.Do("privateLinkServices Get with expand", func() error {
		got, err := t.provider.services.Get(ctx, t.Group, "SHOP", &armnetwork.PrivateLinkServicesClientGetOptions{Expand: to.Ptr("ipConfigurations")})
		if err != nil {
			return err
		}
		return check.Same("alias", got.Properties.Alias, t.alias)
	})
	t.Do("privateLinkServices List", func() error {
		return check.Some(check.All(ctx, t.provider.services.NewListPager(t.Group, nil), func(p armnetwork.PrivateLinkServicesClientListResponse) []*armnetwork.PrivateLinkService {
			return p.Value
		}))
	})
	t.Do("privateLinkServices ListBySubscription", func() error {
		return check.Some(check.All(ctx, t.provider.services.NewListBySubscriptionPager(nil), func(p armnetwork.PrivateLinkServicesClientListBySubscriptionResponse) []*armnetwork.PrivateLinkService {
			return p.Value
		}))
	})
	question := armnetwork.CheckPrivateLinkServiceVisibilityRequest{PrivateLinkServiceAlias: to.Ptr(strings.ToUpper(t.alias))}
	t.Do("privateLinkServices CheckPrivateLinkServiceVisibility", func() error {
		poller, err := t.consumer.services.BeginCheckPrivateLinkServiceVisibility(ctx, location, question, nil)
		got, err := check.Done(ctx, poller, err)
		if err != nil {
			return err
		}
		return check.Same("visible", got.Visible, true)
	})
	t.Do("privateLinkServices CheckPrivateLinkServiceVisibilityByResourceGroup", func() error {
		nobody := armnetwork.CheckPrivateLinkServiceVisibilityRequest{PrivateLinkServiceAlias: to.Ptr("shop.00000000-0000-4000-8000-000000000000.local.azure.privatelinkservice")}
		poller, err := t.consumer.services.BeginCheckPrivateLinkServiceVisibilityByResourceGroup(ctx, location, t.Group, nobody, nil)
		got, err := check.Done(ctx, poller, err)
		if err != nil {
			return err
		}
		return check.Same("visible", got.Visible, false)
	})
	t.Do("availablePrivateEndpointTypes List", func() error {
		return check.Some(check.All(ctx, t.consumer.types.NewListPager(location, nil), func(p armnetwork.AvailablePrivateEndpointTypesClientListResponse) []*armnetwork.AvailablePrivateEndpointType {
			return p.Value
		}))
	})
	t.Do("availablePrivateEndpointTypes ListByResourceGroup", func() error {
		return check.Some(check.All(ctx, t.consumer.types.NewListByResourceGroupPager(location, t.Group, nil), func(p armnetwork.AvailablePrivateEndpointTypesClientListByResourceGroupResponse) []*armnetwork.AvailablePrivateEndpointType {
			return p.Value
		}))
	})
}

// endpoint is a request for the service by its alias.
func (t *teller) endpoint() armnetwork.PrivateEndpoint {
	home := "/subscriptions/" + t.Consumer + "/resourceGroups/" + t.Group + "/providers/Microsoft.Network/virtualNetworks/home/subnets/default"
	return armnetwork.PrivateEndpoint{
		Location: to.Ptr(location),
		Properties: &armnetwork.PrivateEndpointProperties{
			Subnet: &armnetwork.Subnet{ID: to.Ptr(home)},
			IPConfigurations: []*armnetwork.PrivateEndpointIPConfiguration{{
				Name:       to.Ptr("ipconfig"),
				Properties: &armnetwork.PrivateEndpointIPConfigurationProperties{PrivateIPAddress: to.Ptr(check.EndpointIP)},
			}},
			ManualPrivateLinkServiceConnections: []*armnetwork.PrivateLinkServiceConnection{{
				Name:       to.Ptr("ask"),
				Properties: &armnetwork.PrivateLinkServiceConnectionProperties{PrivateLinkServiceID: to.Ptr(t.alias), RequestMessage: to.Ptr("please")},
			}},
		},
	}
}

func (t *teller) ask(ctx context.Context) {
	t.Do("privateEndpoints CreateOrUpdate", func() error {
		poller, err := t.consumer.endpoints.BeginCreateOrUpdate(ctx, t.Group, "to-shop", t.endpoint(), nil)
		made, err := check.Done(ctx, poller, err)
		if err != nil {
			return err
		}
		state := made.Properties.ManualPrivateLinkServiceConnections[0].Properties.PrivateLinkServiceConnectionState
		return check.Same("status", state.Status, "Pending")
	})
	t.Do("privateEndpoints Get with expand", func() error {
		got, err := t.consumer.endpoints.Get(ctx, t.Group, "to-shop", &armnetwork.PrivateEndpointsClientGetOptions{Expand: to.Ptr("networkInterfaces")})
		if err != nil {
			return err
		}
		return check.Same("network interfaces", to.Ptr(len(got.Properties.NetworkInterfaces)), 1)
	})
	t.Do("privateEndpoints List", func() error {
		return check.Some(check.All(ctx, t.consumer.endpoints.NewListPager(t.Group, nil), func(p armnetwork.PrivateEndpointsClientListResponse) []*armnetwork.PrivateEndpoint { return p.Value }))
	})
	t.Do("privateEndpoints ListBySubscription", func() error {
		return check.Some(check.All(ctx, t.consumer.endpoints.NewListBySubscriptionPager(nil), func(p armnetwork.PrivateEndpointsClientListBySubscriptionResponse) []*armnetwork.PrivateEndpoint {
			return p.Value
		}))
	})
	t.Do("networkInterfaces of an endpoint are read-only", func() error {
		got, err := t.consumer.endpoints.Get(ctx, t.Group, "to-shop", nil)
		if err != nil {
			return err
		}
		id := *got.Properties.NetworkInterfaces[0].ID
		name := id[strings.LastIndexByte(id, '/')+1:]
		nic, err := t.consumer.nics.Get(ctx, t.Group, name, nil)
		if err != nil {
			return err
		}
		if nic.Properties.PrivateEndpoint == nil {
			return fmt.Errorf("%s does not name its endpoint", name)
		}
		poller, err := t.consumer.nics.BeginDelete(ctx, t.Group, name, nil)
		if _, err = check.Done(ctx, poller, err); err == nil {
			return fmt.Errorf("%s could be deleted", name)
		}
		return nil
	})
	t.Do("packets before approval do not pass", func() error { return t.passes(ctx, false) })
}

// passes is an error if requests to the endpoint are answered and should not be, or the other way round.
func (t *teller) passes(ctx context.Context, want bool) error {
	if got := t.Passes(ctx); got != want {
		return fmt.Errorf("requests pass: %v, want %v", got, want)
	}
	return nil
}

// settle decides the connection.
func (t *teller) settle(ctx context.Context, status string) error {
	got, err := t.provider.services.UpdatePrivateEndpointConnection(ctx, t.Group, "shop", t.connection, armnetwork.PrivateEndpointConnection{
		Name: to.Ptr(t.connection),
		Properties: &armnetwork.PrivateEndpointConnectionProperties{
			PrivateLinkServiceConnectionState: &armnetwork.PrivateLinkServiceConnectionState{Status: to.Ptr(status), Description: to.Ptr("so be it")},
		},
	}, nil)
	if err != nil {
		return err
	}
	return check.Same("status", got.Properties.PrivateLinkServiceConnectionState.Status, status)
}

func (t *teller) decide(ctx context.Context) {
	t.Do("privateEndpointConnections List", func() error {
		got, err := check.All(ctx, t.provider.services.NewListPrivateEndpointConnectionsPager(t.Group, "shop", nil), func(p armnetwork.PrivateLinkServicesClientListPrivateEndpointConnectionsResponse) []*armnetwork.PrivateEndpointConnection {
			return p.Value
		})
		if err := check.Some(got, err); err != nil {
			return err
		}
		t.connection = *got[0].Name
		return check.Same("description", got[0].Properties.PrivateLinkServiceConnectionState.Description, "please")
	})
	t.Do("privateEndpointConnections Update: approve", func() error { return t.settle(ctx, "Approved") })
	t.Do("packets after approval pass", func() error { return t.passes(ctx, true) })
	t.Do("privateEndpointConnections Get with expand", func() error {
		got, err := t.provider.services.GetPrivateEndpointConnection(ctx, t.Group, "shop", t.connection, &armnetwork.PrivateLinkServicesClientGetPrivateEndpointConnectionOptions{Expand: to.Ptr("privateEndpoint")})
		if err != nil {
			return err
		}
		if got.Properties.LinkIdentifier == nil || *got.Properties.LinkIdentifier == "" {
			return errors.New("there is no linkIdentifier")
		}
		return check.Same("status", got.Properties.PrivateLinkServiceConnectionState.Status, "Approved")
	})
	t.Do("privateEndpoints customDnsConfigs", func() error {
		got, err := t.consumer.endpoints.Get(ctx, t.Group, "to-shop", nil)
		if err != nil {
			return err
		}
		if len(got.Properties.CustomDNSConfigs) == 0 {
			return errors.New("there are none")
		}
		return check.Same("fqdn", got.Properties.CustomDNSConfigs[0].Fqdn, "shop.example")
	})
	t.Do("privateLinkServices Delete is refused while in use", func() error {
		poller, err := t.provider.services.BeginDelete(ctx, t.Group, "shop", nil)
		_, err = check.Done(ctx, poller, err)
		return check.Refused(err, 409, "PrivateLinkServiceWithPrivateEndpointConnectionsCannotBeDeleted")
	})
	t.Do("privateEndpointConnections Update: reject", func() error { return t.settle(ctx, "Rejected") })
	t.Do("packets after rejection do not pass", func() error { return t.passes(ctx, false) })
	t.Do("privateEndpointConnections Update: approve again", func() error { return t.settle(ctx, "Approved") })
	t.Do("packets pass again", func() error { return t.passes(ctx, true) })
	t.Do("privateEndpointConnections Delete", func() error {
		poller, err := t.provider.services.BeginDeletePrivateEndpointConnection(ctx, t.Group, "shop", t.connection, nil)
		if _, err = check.Done(ctx, poller, err); err != nil {
			return err
		}
		got, err := t.consumer.endpoints.Get(ctx, t.Group, "to-shop", nil)
		if err != nil {
			return err
		}
		return check.Same("status", got.Properties.ManualPrivateLinkServiceConnections[0].Properties.PrivateLinkServiceConnectionState.Status, "Disconnected")
	})
	t.Do("packets after removal do not pass", func() error { return t.passes(ctx, false) })
}

func (t *teller) readLists(ctx context.Context) {
	t.Do("privateLinkServices CreateOrUpdate: approve a subscription by itself", func() error {
		poller, err := t.provider.services.BeginCreateOrUpdate(ctx, t.Group, "shop", t.service([]*string{to.Ptr(t.Consumer)}, []*string{to.Ptr(t.Consumer)}), nil)
		got, err := check.Done(ctx, poller, err)
		if err != nil {
			return err
		}
		return check.Same("alias", got.Properties.Alias, t.alias)
	})
	t.Do("privateLinkServices ListAutoApprovedPrivateLinkServices", func() error {
		got, err := check.All(ctx, t.consumer.services.NewListAutoApprovedPrivateLinkServicesPager(location, nil), func(p armnetwork.PrivateLinkServicesClientListAutoApprovedPrivateLinkServicesResponse) []*armnetwork.AutoApprovedPrivateLinkService {
			return p.Value
		})
		if err := check.Some(got, err); err != nil {
			return err
		}
		return check.Same("privateLinkService", got[0].PrivateLinkService, *t.id("privateLinkServices/shop"))
	})
	t.Do("privateLinkServices ListAutoApprovedPrivateLinkServicesByResourceGroup", func() error {
		return check.Some(check.All(ctx, t.consumer.services.NewListAutoApprovedPrivateLinkServicesByResourceGroupPager(location, t.Group, nil), func(p armnetwork.PrivateLinkServicesClientListAutoApprovedPrivateLinkServicesByResourceGroupResponse) []*armnetwork.AutoApprovedPrivateLinkService {
			return p.Value
		}))
	})
	t.Do("privateEndpoints CreateOrUpdate: ask again", func() error {
		again := t.endpoint()
		again.Properties.ManualPrivateLinkServiceConnections[0].Properties.PrivateLinkServiceConnectionState = &armnetwork.PrivateLinkServiceConnectionState{Status: to.Ptr("Pending")}
		poller, err := t.consumer.endpoints.BeginCreateOrUpdate(ctx, t.Group, "to-shop", again, nil)
		got, err := check.Done(ctx, poller, err)
		if err != nil {
			return err
		}
		return check.Same("status", got.Properties.ManualPrivateLinkServiceConnections[0].Properties.PrivateLinkServiceConnectionState.Status, "Approved")
	})
	t.Do("packets pass without anybody's decision", func() error { return t.passes(ctx, true) })
	t.Do("an unknown api-version is refused", func() error {
		options := *t.Options
		options.APIVersion = "2019-01-01"
		old, err := armnetwork.NewPrivateLinkServicesClient(t.Provider, t.Credential(t.Provider), &options)
		if err != nil {
			return err
		}
		_, err = old.Get(ctx, t.Group, "shop", nil)
		return check.Refused(err, 400, "InvalidApiVersionParameter")
	})
}

func (t *teller) tearDown(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	t.Do("privateEndpoints Delete", func() error {
		poller, err := t.consumer.endpoints.BeginDelete(ctx, t.Group, "to-shop", nil)
		_, err = check.Done(ctx, poller, err)
		return err
	})
	t.Do("privateLinkServices Delete", func() error {
		poller, err := t.provider.services.BeginDelete(ctx, t.Group, "shop", nil)
		_, err = check.Done(ctx, poller, err)
		return err
	})
	t.Do("networkInterfaces Delete", func() error {
		poller, err := t.provider.nics.BeginDelete(ctx, t.Group, "vm", nil)
		_, err = check.Done(ctx, poller, err)
		return err
	})
	t.Do("loadBalancers Delete", func() error {
		poller, err := t.provider.lbs.BeginDelete(ctx, t.Group, "web", nil)
		_, err = check.Done(ctx, poller, err)
		return err
	})
	t.Do("subnets Delete", func() error {
		poller, err := t.provider.subnets.BeginDelete(ctx, t.Group, "datacenter", "nat", nil)
		_, err = check.Done(ctx, poller, err)
		return err
	})
	t.Do("everything is gone", func() error {
		for _, n := range []struct {
			*armnetwork.VirtualNetworksClient
			name string
		}{{t.provider.networks, "datacenter"}, {t.consumer.networks, "home"}} {
			poller, err := n.BeginDelete(ctx, t.Group, n.name, nil)
			if _, err = check.Done(ctx, poller, err); err != nil {
				return err
			}
		}
		left, err := check.All(ctx, t.provider.nics.NewListAllPager(nil), func(p armnetwork.InterfacesClientListAllResponse) []*armnetwork.Interface { return p.Value })
		if err != nil {
			return err
		}
		return check.Same("network interfaces left", to.Ptr(len(left)), 0)
	})
}
