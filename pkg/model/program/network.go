package program

import (
	"fmt"
	"net"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/privlink/privlink/pkg/model"
)

// InNetwork runs f in a fresh network namespace with one Ethernet device for each MAC, up, and passes
// their interface numbers. The namespace has no name and goes when f returns; f must do its test
// runs on the goroutine it is called on.
func InNetwork(macs []model.MAC, f func(indexes []uint32) error) error {
	done := make(chan error)
	go func() {
		// Never unlocked: the thread ends with the goroutine, and with it the namespace.
		runtime.LockOSThread()
		done <- inNetwork(macs, f)
	}()
	return <-done
}

func inNetwork(macs []model.MAC, f func(indexes []uint32) error) error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("make a network namespace: %w (needs root)", err)
	}
	indexes := make([]uint32, len(macs))
	for i, mac := range macs {
		name := fmt.Sprintf("fuzz%d", i)
		attrs := netlink.NewLinkAttrs()
		attrs.Name = name
		attrs.HardwareAddr = net.HardwareAddr(mac[:])
		veth := &netlink.Veth{LinkAttrs: attrs, PeerName: fmt.Sprintf("peer%d", i)}
		if err := netlink.LinkAdd(veth); err != nil {
			return fmt.Errorf("make device %s: %w", name, err)
		}
		link, err := netlink.LinkByName(name)
		if err != nil {
			return fmt.Errorf("find device %s: %w", name, err)
		}
		if err := netlink.LinkSetUp(link); err != nil {
			return fmt.Errorf("raise device %s: %w", name, err)
		}
		indexes[i] = uint32(link.Attrs().Index)
	}
	return f(indexes)
}
