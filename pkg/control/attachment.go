package control

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/dataplane"
)

// AttachmentChecker is an Applier that can tell beforehand whether an interface can be attached. What could not be is
// refused then, instead of stored and Failed. dataplane.Dataplane is one.
type AttachmentChecker interface {
	CheckAttachment(a dataplane.Attachment) error
}

// attachmentOf is an attachment as the dataplane takes it.
func attachmentOf(a *api.Attachment) dataplane.Attachment {
	hop, _ := netip.ParseAddr(a.NextHop) // "" is the zero Addr
	return dataplane.Attachment{Interface: a.Interface, VLAN: uint16(a.VLAN), Mode: dataplane.Mode(a.Mode),
		PassOther: a.PassOther, Exclusive: a.Exclusive, NextHop: hop}
}

// checkOutcome refuses what only the kernel knows to be impossible.
func (c *Controller) checkOutcome(o Outcome) error {
	if err := c.checkInterfaces(o); err != nil {
		return err
	}
	return c.checkServiceFlows(o)
}

// checkInterfaces refuses attachments that a write adds or changes and that cannot be. Those that were there before stay,
// though their interface may be gone: it may come back.
func (c *Controller) checkInterfaces(o Outcome) error {
	checker, ok := c.options.Applier.(AttachmentChecker)
	network, isNetwork := o.Resource.(*api.VirtualNetwork)
	if !ok || !isNetwork {
		return nil
	}
	var before []api.Attachment
	if was, ok := o.Before.(*api.VirtualNetwork); ok {
		before = was.Properties.Attachments.Or(nil)
	}
	list := network.Properties.Attachments.Or(nil)
	for i := range list {
		if slices.Contains(before, list[i]) {
			continue
		}
		if err := checker.CheckAttachment(attachmentOf(&list[i])); err != nil {
			return api.Invalid(fmt.Sprintf("properties.attachments[%d].interface", i), "%v", err)
		}
	}
	return nil
}
