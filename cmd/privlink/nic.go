package main

import (
	"context"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/client"
)

func nicCommand(env *environment) *cli.Command {
	return noun(env, "nic", "network interfaces: the VMs' places in their virtual networks",
		verb{
			name: "create", names: "NAME", usage: "create a network interface, or change one",
			flags: createFlags(
				&cli.StringFlag{Name: "vnet", Usage: "`NAME` of the virtual network", Required: true},
				&cli.StringFlag{Name: "subnet", Usage: "`NAME` of its subnet", Value: "default"},
				&cli.StringFlag{Name: "ip", Usage: "the VM's `IP` (default: the lowest free)"},
				&cli.StringFlag{Name: "mac", Usage: "the VM's `MAC` address"},
				&cli.StringSliceFlag{Name: "pool", Usage: "backend pool that it joins, `LB/POOL`; may be repeated"},
			),
			run: createNIC,
		},
		showVerb(api.NetworkInterfaces, showNIC),
		listVerb(api.NetworkInterfaces, func(t *columns, n *api.NetworkInterface) {
			var addresses []string
			network := ""
			for _, ip := range n.Properties.IPConfigurations {
				addresses = append(addresses, ip.Properties.PrivateIPAddress)
				network = ownerName(ip.Properties.Subnet)
			}
			t.row(n.Name, network, strings.Join(addresses, ","), n.Properties.MACAddress, lastOf(n.Owner()), string(n.Properties.ProvisioningState))
		}, "NAME", "NETWORK", "IP", "MAC", "BELONGS TO", "STATE"),
		deleteVerb(api.NetworkInterfaces),
	)
}

func createNIC(ctx context.Context, c *call) error {
	id, err := c.resource(api.NetworkInterfaces, c.Args().First())
	if err != nil {
		return err
	}
	network, subnet, err := c.subnet(ctx, c.String("vnet"), c.String("subnet"))
	if err != nil {
		return err
	}
	nic := &api.NetworkInterface{}
	nic.Location = c.location(network.Location)
	if nic.Tags, err = c.tags(); err != nil {
		return err
	}
	nic.Properties.MACAddress = c.String("mac")
	ip := api.NICIPConfiguration{}
	ip.Name = "ipconfig"
	ip.Properties.Subnet = ref(subnet)
	ip.Properties.PrivateIPAddress = c.String("ip")
	for _, word := range c.StringSlice("pool") {
		pool, err := c.part(api.ID{Type: string(api.LoadBalancers)}, api.BackendAddressPools, word)
		if err != nil {
			return err
		}
		ip.Properties.LoadBalancerBackendAddressPools = append(ip.Properties.LoadBalancerBackendAddressPools, *ref(pool))
	}
	nic.Properties.IPConfigurations = []api.NICIPConfiguration{ip}
	stored, err := client.Put[api.NetworkInterface](ctx, c.api, id, nic, client.Conditions{})
	if err != nil {
		return err
	}
	return showNIC(ctx, c, id, stored)
}

// subnet reads the network that --vnet names and finds the subnet's id.
func (c *call) subnet(ctx context.Context, vnet, subnet string) (*api.VirtualNetwork, api.ID, error) {
	id, err := c.resource(api.VirtualNetworks, vnet)
	if err != nil {
		return nil, api.ID{}, err
	}
	network, err := client.Get[api.VirtualNetwork](ctx, c.api, id)
	if err != nil {
		return nil, api.ID{}, err
	}
	part, err := c.part(id, api.Subnets, subnet)
	if err != nil {
		return nil, api.ID{}, err
	}
	if part.Parent().Equal(id) && network.Subnet(part.Child) == nil {
		var names []string
		for _, s := range network.Properties.Subnets {
			names = append(names, s.Name)
		}
		if !c.IsSet("subnet") {
			return nil, api.ID{}, usageErrorf("flag --subnet is missing: virtual network %s has %s", id.Name, strings.Join(names, ", "))
		}
		return nil, api.ID{}, notFoundErrorf("virtual network %s has no subnet %q (it has %s)", id.Name, part.Child, strings.Join(names, ", "))
	}
	return network, part, nil
}

func showNIC(_ context.Context, c *call, _ api.ID, n *api.NetworkInterface) error {
	return c.out.value(n, func(t *columns) {
		t.field("Interface", n.Name)
		t.field("Id", n.ID)
		t.field("Location", n.Location)
		t.field("MAC", n.Properties.MACAddress)
		t.field("Belongs to", n.Owner())
		t.field("State", string(n.Properties.ProvisioningState))
		for _, ip := range n.Properties.IPConfigurations {
			text := ip.Properties.PrivateIPAddress + " in " + ownerName(ip.Properties.Subnet) + "/" + lastName(ip.Properties.Subnet)
			for _, pool := range ip.Properties.LoadBalancerBackendAddressPools {
				text += ", backend of " + ownerName(&pool) + "/" + lastName(&pool)
			}
			t.field("IP", text)
		}
	})
}
