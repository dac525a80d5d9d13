//go:build machine

package dataplane

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/privlink/privlink/pkg/lab/vm"
)

// A real NIC, of a machine of scripts/test-kernels: in mode auto it gets XDP, but not while it takes VLAN tags off the frames, and
// where its driver has no XDP (vmxnet3 before 6.6) TC carries all and the status says why.
func TestMachine_NICInModeAuto_XDPUnlessTagsHide(t *testing.T) {
	g := newGateway(t)
	drivers, err := filepath.Glob("/sys/class/net/*/device/driver")
	if err != nil {
		t.Fatal(err)
	}
	name := ""
	for _, link := range drivers {
		if to, err := os.Readlink(link); err == nil && filepath.Base(to) == vm.NICDriver {
			name = strings.Split(link, "/")[4]
		}
	}
	nic, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	inside, err := os.Open(g.ns.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer inside.Close()
	if err := netlink.LinkSetNsFd(nic, int(inside.Fd())); err != nil { // it comes back when the namespace ends
		t.Fatal(err)
	}
	g.ns.Up(name)
	g.open()
	s := small()
	s.Networks[0].Attachments = []Attachment{{Interface: name, Mode: ModeAuto}}
	s.Networks[1].Attachments = nil
	// becomes waits until a look at the interface, which is due every few seconds, has found it out.
	becomes := func(what string, right func(a AttachmentStatus) bool) {
		t.Helper()
		g.Wait(what, 60*time.Second, func() error {
			s.Revision++
			if _, err := g.d.Apply(context.Background(), s); err != nil {
				return err
			}
			if a := g.d.Result().Attachments[0]; a.Err != nil || !right(a) {
				return fmt.Errorf("%+v", a)
			}
			return nil
		})
	}
	hidden := func(a AttachmentStatus) bool {
		return a.Mode == ModeTC && strings.Contains(a.Why, "rx-vlan-offload is on") && len(a.Warnings) == 0
	}
	g.ns.SetFeatures(name, true, "rxvlan")
	becomes("TC as tags hide", hidden)
	g.ns.SetFeatures(name, false, "rxvlan")
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		t.Fatal(err)
	}
	if strings.HasPrefix(string(release), "6.1.") {
		becomes("TC as the driver has no XDP", func(a AttachmentStatus) bool {
			return a.Mode == ModeTC && strings.Contains(a.Why, "xdp refused") && len(a.Warnings) == 1
		})
	} else {
		becomes("XDP as no tag hides", func(a AttachmentStatus) bool {
			xdp := g.ns.Link(name).Attrs().Xdp
			return a.Mode == ModeXDP && a.Why == "auto: a physical NIC" && len(a.Warnings) == 0 && xdp != nil && xdp.Attached
		})
	}
	g.ns.SetFeatures(name, true, "rxvlan")
	becomes("TC as tags hide again", hidden)
	if xdp := g.ns.Link(name).Attrs().Xdp; xdp != nil && xdp.Attached {
		t.Errorf("the program in XDP is still there: %+v", xdp)
	}
}
