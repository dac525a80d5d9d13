package main

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/client"
)

func vnetCommand(env *environment) *cli.Command {
	return noun(env, "vnet", "virtual networks and the interfaces that belong to them",
		verb{
			name: "create", names: "NAME", usage: "create a virtual network, or change one",
			description: "Without --subnet the network has one subnet, \"default\", with the first prefix.\n" +
				"With --interface it is attached in the same step (see vnet attach).",
			flags: createFlags(append([]cli.Flag{
				&cli.StringSliceFlag{Name: "prefix", Usage: "address space, `CIDR`; may be repeated", Required: true},
				&cli.StringSliceFlag{Name: "subnet", Usage: "a subnet, `NAME=CIDR`; may be repeated"},
			}, attachFlags(false)...)...),
			run: createVNet,
		},
		showVerb(api.VirtualNetworks, showVNet),
		listVerb(api.VirtualNetworks, func(t *columns, n *api.VirtualNetwork) {
			var subnets, interfaces []string
			for _, s := range n.Properties.Subnets {
				subnets = append(subnets, s.Name)
			}
			for _, a := range n.Properties.Attachments.Or(nil) {
				interfaces = append(interfaces, attachmentName(a))
			}
			t.row(n.Name, strings.Join(n.Properties.AddressSpace.AddressPrefixes, ","), strings.Join(subnets, ","),
				strings.Join(interfaces, ","), n.Location, string(n.Properties.ProvisioningState))
		}, "NAME", "PREFIXES", "SUBNETS", "INTERFACES", "LOCATION", "STATE"),
		deleteVerb(api.VirtualNetworks),
		verb{
			name: "attach", names: "NAME", usage: "make a Linux interface part of a virtual network",
			description: "The interface then belongs to privlink: what is not for an endpoint, a frontend or a NAT IP is\n" +
				"dropped. --pass-other leaves everything else to the host. Attaching an interface again changes what the\n" +
				"flags name, and nothing else of it.",
			flags: attachFlags(true), run: attachVNet,
		},
		verb{
			name: "detach", names: "NAME", usage: "take a Linux interface out of a virtual network",
			flags: []cli.Flag{
				&cli.StringFlag{Name: "interface", Usage: "the interface's `NAME`", Required: true},
				&cli.IntFlag{Name: "vlan", Usage: "the VLAN `ID` it was attached with", DefaultText: "untagged"},
			},
			run: detachVNet,
		},
	)
}

// attachFlags say what is attached and how; vnet create does without.
func attachFlags(required bool) []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "interface", Usage: "`NAME` of the Linux interface", Required: required},
		&cli.IntFlag{Name: "vlan", Usage: "only frames with this VLAN `ID`, 1..4094", DefaultText: "untagged ones"},
		&cli.StringFlag{Name: "mode", Usage: "`auto|tc|xdp`; auto is XDP for physical NICs and TC otherwise; xdp is XDP in front of TC", Value: string(api.AttachAuto)},
		&cli.BoolFlag{Name: "pass-other", Usage: "leave traffic that is not privlink's to the host"},
		&cli.BoolFlag{Name: "exclusive", Usage: "attach although the host has an address on the interface"},
		&cli.StringFlag{Name: "next-hop", Usage: "router, `IP`, for backends outside of the network's subnets"},
		&cli.BoolFlag{Name: "answer-gateway", Usage: "answer ARP for the first address of each subnet"},
	}
}

// attachment is what the flags of vnet attach make of one that is there, or of none (which has no interface): what no flag
// names stays.
func (c *call) attachment(is api.Attachment) (api.Attachment, error) {
	passOther, exclusive := c.Bool("pass-other"), c.Bool("exclusive")
	switch {
	case c.String("interface") == "":
		return is, usageErrorf("flag --interface is missing")
	case c.IsSet("vlan") && (c.Int("vlan") < 1 || c.Int("vlan") > api.MaxVLAN):
		return is, usageErrorf("flag --vlan: %d is not within 1..%d", c.Int("vlan"), api.MaxVLAN)
	case passOther && exclusive:
		return is, usageErrorf("flags --pass-other and --exclusive exclude each other")
	}
	if is.Mode == "" || c.IsSet("mode") {
		is.Mode = api.AttachmentMode(c.String("mode"))
	}
	switch is.Mode {
	case api.AttachAuto, api.AttachTC, api.AttachXDP:
	default:
		return is, usageErrorf("flag --mode: %q is not one of auto, tc, xdp", is.Mode)
	}
	is.Interface, is.VLAN = c.String("interface"), int32(c.Int("vlan"))
	if c.IsSet("pass-other") || exclusive {
		is.PassOther = passOther
	}
	if c.IsSet("exclusive") || passOther {
		is.Exclusive = exclusive
	}
	if c.IsSet("next-hop") {
		is.NextHop = c.String("next-hop")
	}
	if c.IsSet("answer-gateway") {
		is.AnswerGateway = c.Bool("answer-gateway")
	}
	return is, nil
}

func attachmentName(a api.Attachment) string {
	if a.VLAN == 0 {
		return a.Interface
	}
	return a.Interface + "." + strconv.Itoa(int(a.VLAN))
}

func createVNet(ctx context.Context, c *call) error {
	id, err := c.resource(api.VirtualNetworks, c.Args().First())
	if err != nil {
		return err
	}
	network := &api.VirtualNetwork{}
	network.Location = c.location("")
	if network.Tags, err = c.tags(); err != nil {
		return err
	}
	network.Properties.AddressSpace.AddressPrefixes = c.StringSlice("prefix")
	subnets := c.StringSlice("subnet")
	if len(subnets) == 0 {
		subnets = []string{"default=" + c.StringSlice("prefix")[0]}
	}
	for _, word := range subnets {
		name, prefix, ok := strings.Cut(word, "=")
		if !ok {
			return usageErrorf("flag --subnet: %q is not NAME=CIDR", word)
		}
		subnet := api.Subnet{}
		subnet.Name = name
		subnet.Properties.AddressPrefix = prefix
		network.Properties.Subnets = append(network.Properties.Subnets, subnet)
	}
	if c.IsSet("interface") {
		attachment, err := c.attachment(api.Attachment{})
		if err != nil {
			return err
		}
		network.Properties.Attachments = api.Set([]api.Attachment{attachment})
	} else {
		for _, flag := range attachFlags(false) {
			if name := flag.Names()[0]; c.IsSet(name) {
				return usageErrorf("flag --%s: goes with --interface", name)
			}
		}
	}
	stored, err := client.Put[api.VirtualNetwork](ctx, c.api, id, network, client.Conditions{})
	if err != nil {
		return err
	}
	return showVNet(ctx, c, id, stored)
}

func showVNet(_ context.Context, c *call, _ api.ID, n *api.VirtualNetwork) error {
	return c.out.value(n, func(t *columns) {
		t.field("Network", n.Name)
		t.field("Id", n.ID)
		t.field("Location", n.Location)
		t.field("Prefixes", strings.Join(n.Properties.AddressSpace.AddressPrefixes, ", "))
		t.field("State", string(n.Properties.ProvisioningState))
		t.field("Reason", n.Properties.FailureReason)
		for _, s := range n.Properties.Subnets {
			t.field("Subnet", s.Name+" "+s.Prefix())
		}
		for _, a := range n.Properties.Attachments.Or(nil) {
			t.field("Interface", describeAttachment(a))
		}
		for _, p := range n.Properties.VirtualNetworkPeerings {
			t.field("Peering", p.Name+" with "+lastName(p.Properties.RemoteVirtualNetwork)+", "+string(p.Properties.PeeringState))
		}
		for _, warning := range n.Properties.Warnings {
			t.field("Warning", warning)
		}
	})
}

func describeAttachment(a api.Attachment) string {
	words := []string{a.Interface}
	if a.VLAN != 0 {
		words = append(words, "vlan "+strconv.Itoa(int(a.VLAN)))
	}
	words = append(words, "mode "+string(a.Mode))
	if a.PassOther {
		words = append(words, "pass-other")
	}
	if a.Exclusive {
		words = append(words, "exclusive")
	}
	if a.NextHop != "" {
		words = append(words, "next hop "+a.NextHop)
	}
	if a.AnswerGateway {
		words = append(words, "answers for the gateway")
	}
	return strings.Join(words, ", ")
}

func attachVNet(ctx context.Context, c *call) error {
	attachment, err := c.attachment(api.Attachment{})
	if err != nil {
		return err
	}
	return changeAttachments(ctx, c, func(list []api.Attachment) ([]api.Attachment, error) {
		for i := range list {
			if list[i].Interface == attachment.Interface && list[i].VLAN == attachment.VLAN {
				list[i], err = c.attachment(list[i])
				return list, err
			}
		}
		return append(list, attachment), nil
	})
}

func detachVNet(ctx context.Context, c *call) error {
	gone := api.Attachment{Interface: c.String("interface"), VLAN: int32(c.Int("vlan"))}
	return changeAttachments(ctx, c, func(list []api.Attachment) ([]api.Attachment, error) {
		kept := []api.Attachment{}
		for _, a := range list {
			if a.Interface != gone.Interface || a.VLAN != gone.VLAN {
				kept = append(kept, a)
			}
		}
		if len(kept) == len(list) {
			return nil, notFoundErrorf("%s is not attached to virtual network %s", attachmentName(gone), c.Args().First())
		}
		return kept, nil
	})
}

// changeAttachments reads the network, changes its attachments and writes it, again if somebody else wrote it meanwhile.
func changeAttachments(ctx context.Context, c *call, change func([]api.Attachment) ([]api.Attachment, error)) error {
	id, err := c.resource(api.VirtualNetworks, c.Args().First())
	if err != nil {
		return err
	}
	for {
		network, err := client.Get[api.VirtualNetwork](ctx, c.api, id)
		if err != nil {
			return err
		}
		list, err := change(network.Properties.Attachments.Or(nil))
		if err != nil {
			return err
		}
		network.Properties.Attachments = api.Set(list)
		stored, err := client.Put[api.VirtualNetwork](ctx, c.api, id, network, client.Conditions{IfMatch: network.Etag})
		if overtaken(err) {
			continue
		}
		if err != nil {
			return err
		}
		return showVNet(ctx, c, id, stored)
	}
}

// overtaken says that somebody else changed the resource between our reading and our writing it.
func overtaken(err error) bool {
	var refused *api.Error
	return errors.As(err, &refused) && refused.Status == http.StatusPreconditionFailed
}
