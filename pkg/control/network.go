package control

import (
	"net/http"
	"net/netip"
	"strings"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/auth"
)

// prepareNetwork checks a virtual network against others: interfaces, peers, and what uses its subnets.
func (t *tx) prepareNetwork(id api.ID, doc, old *api.VirtualNetwork) error {
	if err := t.checkAttachments(id, doc, old); err != nil {
		return err
	}
	for i := range doc.Properties.VirtualNetworkPeerings {
		if err := t.checkPeering(doc, i); err != nil {
			return err
		}
	}
	// Others peered with this one must not overlap its new space.
	for _, peer := range t.view.users(id.Key(), api.VirtualNetworks) {
		other := peer.resource.(*api.VirtualNetwork)
		if a, b, ok := overlap(doc, other); ok {
			return api.Refused(api.CodeOverlappingSpaces, "properties.addressSpace.addressPrefixes",
				"%s overlaps %s of %s, which is peered with this network", a, b, peer.id.Short())
		}
	}
	if old == nil {
		return nil
	}
	for i := range old.Properties.Subnets {
		s := &old.Properties.Subnets[i]
		if doc.Subnet(s.Name) != nil {
			continue
		}
		if user := t.firstUser(id.Sub(api.Subnets, s.Name)); user != "" {
			return api.Refused("InUseSubnetCannotBeDeleted", "properties.subnets", "subnet %s is used by %s", s.Name, user)
		}
	}
	for a, o := range t.view.held[id.Key()] {
		held, err := api.ParseID(o.hold.subnet, api.ID{})
		if err != nil {
			continue
		}
		if s := doc.Subnet(held.Child); s != nil && !prefixOf(s).Contains(a) {
			return api.Refused(api.CodeAddressInUse, "properties.subnets", "%s of %s would not be within %s of subnet %s any more",
				a, o, s.Prefix(), s.Name)
		}
	}
	return nil
}

// firstUser names who refers to an id, or "".
func (t *tx) firstUser(id api.ID) string {
	if users := t.view.users(id.Key(), api.Kinds()...); len(users) > 0 {
		return users[0].id.Short()
	}
	return ""
}

// checkAttachments lets only those change the node's interfaces who administer the node, and gives no
// interface to two networks.
func (t *tx) checkAttachments(id api.ID, doc, old *api.VirtualNetwork) error {
	const target = "properties.attachments"
	list := doc.Properties.Attachments.Or(nil)
	var before []api.Attachment
	if old != nil {
		before = old.Properties.Attachments.Or(nil)
	}
	same := len(list) == len(before)
	for i := range list {
		same = same && list[i] == before[i]
	}
	if same {
		return nil
	}
	if !t.who.May(auth.Write, auth.Everything) {
		return api.NewError(http.StatusForbidden, api.CodeForbidden, target,
			"%s may not attach the node's interfaces (needs Contributor on %s)", t.who, auth.Everything)
	}
	for _, rec := range t.view.records {
		other, ok := rec.resource.(*api.VirtualNetwork)
		if !ok || rec.key == id.Key() {
			continue
		}
		for _, a := range other.Properties.Attachments.Or(nil) {
			for _, b := range list {
				if a.Interface == b.Interface && a.VLAN == b.VLAN {
					return api.Refused(api.CodeConflict, target, "interface %s, vlan %d is attached to %s", b.Interface, b.VLAN, rec.id.Short())
				}
			}
		}
	}
	return nil
}

func (t *tx) checkPeering(doc *api.VirtualNetwork, i int) error {
	p := &doc.Properties.VirtualNetworkPeerings[i]
	rec, remote := find[*api.VirtualNetwork](t.view, p.Properties.RemoteVirtualNetwork.ID)
	target := "properties.virtualNetworkPeerings." + p.Name + ".properties.remoteVirtualNetwork.id"
	if rec == nil {
		return missing(target, p.Properties.RemoteVirtualNetwork.ID)
	}
	if a, b, ok := overlap(doc, remote); ok {
		return api.Refused(api.CodeOverlappingSpaces, target, "%s overlaps %s of %s", a, b, rec.id.Short())
	}
	return nil
}

// overlap finds two prefixes of the networks' address spaces that have addresses in common.
func overlap(a, b *api.VirtualNetwork) (x, y netip.Prefix, ok bool) {
	for _, p := range a.Properties.AddressSpace.AddressPrefixes {
		for _, q := range b.Properties.AddressSpace.AddressPrefixes {
			x, err1 := netip.ParsePrefix(p)
			y, err2 := netip.ParsePrefix(q)
			if err1 == nil && err2 == nil && x.Overlaps(y) {
				return x, y, true
			}
		}
	}
	return x, y, false
}

// peeringState is Connected when the remote network has a peering back, Disconnected when it is gone.
func (v *view) peeringState(id string, p *api.VirtualNetworkPeering) (api.PeeringState, *api.VirtualNetwork) {
	rec, remote := find[*api.VirtualNetwork](v, p.Properties.RemoteVirtualNetwork.ID)
	if rec == nil {
		return api.PeeringDisconnected, nil
	}
	for i := range remote.Properties.VirtualNetworkPeerings {
		if strings.EqualFold(remote.Properties.VirtualNetworkPeerings[i].Properties.RemoteVirtualNetwork.ID, id) {
			return api.PeeringConnected, remote
		}
	}
	return api.PeeringInitiated, remote
}
