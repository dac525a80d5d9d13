package dataplane

import (
	"strings"
	"testing"

	"github.com/privlink/privlink/pkg/lab"
)

// XDP on a veth switches its peer's segmentation off, and a tap is where virtual machines are: what is not a NIC gets
// it only when asked.
func TestAuto_VirtualInterface_StaysInTCAndCarries(t *testing.T) {
	for kind, vm := range map[string]func(g *gateway, name, cidr string) *lab.Namespace{
		"veth":   func(g *gateway, name, cidr string) *lab.Namespace { return g.VM(g.ns, name, cidr, lab.VethOptions{}) },
		"tuntap": func(g *gateway, name, cidr string) *lab.Namespace { return g.TapVM(g.ns, name, cidr) },
	} {
		t.Run(kind, func(t *testing.T) {
			g := newGateway(t)
			consumer, provider := vm(g, "consumer", "10.0.1.4/16"), vm(g, "provider", "10.0.1.4/16")
			g.open()
			echo(t, provider, "10.0.1.4:8080")
			s := small()
			s.Networks[0].Attachments[0].Mode = ModeAuto
			s.Networks[1].Attachments[0].Mode = "" // the same
			for _, a := range g.apply(s).Attachments {
				if a.Err != nil || a.Mode != ModeTC || !strings.Contains(a.Why, "only on physical NICs, this is a "+kind) || len(a.Warnings) > 0 {
					t.Errorf("attachment: %+v", a)
				}
			}
			if err := works(consumer, "10.0.1.10:80"); err != nil {
				t.Error(err)
			}
			for _, name := range []string{"consumer", "provider"} {
				if xdp := g.ns.Link(name).Attrs().Xdp; xdp != nil && xdp.Attached {
					t.Errorf("%s has a program in XDP: %+v", name, xdp)
				}
			}
		})
	}
}
