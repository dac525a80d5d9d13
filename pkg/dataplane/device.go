package dataplane

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// device is a Linux network interface as far as attaching it goes.
type device struct {
	name     string
	ifindex  int
	mtu      int // bytes of an IP packet
	mac      net.HardwareAddr
	kind     string // "veth", "tuntap", ..., "device" for what has no kind
	physical bool   // has a parent device on a bus
	up       bool
	addrs    []netip.Prefix // the host's, without IPv6 link-local
	takesXDP bool           // known to send frames that XDP redirects to it
	xdpKnown bool           // the kernel says so by itself (6.3)
	xdpProg  int            // id of an attached XDP program, 0 if none

	peerElsewhere bool // a veth whose other end is in another namespace
}

// dumpTries bounds how often a list is asked for that changes while the kernel reads it out.
const dumpTries = 50

// dumpWhole asks for a whole list: what a change interrupted (NLM_F_DUMP_INTR) may lack or repeat entries.
func dumpWhole[T any](list func() ([]T, error)) (all []T, err error) {
	for range dumpTries {
		if all, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return all, err
}

// devices reads all interfaces of the namespace, by name.
func (n namespace) devices() (map[string]device, error) {
	devices := make(map[string]device)
	err := n.do(func() error {
		links, err := dumpWhole(netlink.LinkList)
		if err != nil {
			return fmt.Errorf("list interfaces: %w", err)
		}
		addrs, err := dumpWhole(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
		if err != nil {
			return fmt.Errorf("list addresses: %w", err)
		}
		features, known, err := xdpFeatures()
		if err != nil {
			return err
		}
		for _, l := range links {
			a := l.Attrs()
			d := device{
				name: a.Name, ifindex: a.Index, mtu: a.MTU, mac: a.HardwareAddr, kind: l.Type(),
				physical: a.ParentDevBus != "" && l.Type() == "device", up: a.Flags&net.FlagUp != 0,
				takesXDP: features[a.Index]&xdpActNdoXmit != 0, xdpKnown: known,
				peerElsewhere: l.Type() == "veth" && a.NetNsID >= 0,
			}
			if a.Xdp != nil && a.Xdp.Attached {
				d.xdpProg = int(a.Xdp.ProgId)
			}
			for _, addr := range addrs {
				ip, ok := netip.AddrFromSlice(addr.IP)
				ip = ip.Unmap()
				if ok && addr.LinkIndex == a.Index && !(ip.Is6() && ip.IsLinkLocalUnicast()) {
					bits, _ := addr.Mask.Size()
					d.addrs = append(d.addrs, netip.PrefixFrom(ip, bits))
				}
			}
			devices[a.Name] = d
		}
		return nil
	})
	return devices, err
}

// stripsVLAN asks whether the device hides VLAN tags in metadata, which XDP cannot see.
func (n namespace) stripsVLAN(name string) (strips bool, err error) {
	err = n.do(func() error {
		value := struct{ cmd, data uint32 }{cmd: ethtoolGetFlags}
		request, err := unix.NewIfreq(name)
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		raw := struct {
			name [unix.IFNAMSIZ]byte
			data unsafe.Pointer
			_    [16]byte
		}{data: unsafe.Pointer(&value)}
		copy(raw.name[:], request.Name())
		var pin runtime.Pinner
		pin.Pin(&value)
		defer pin.Unpin()
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&raw))); errno != 0 {
			return errno
		}
		strips = value.data&ethtoolFlagRxVLAN != 0
		return nil
	})
	if err != nil {
		return false, fmt.Errorf("read offloads of %s: %w", name, err)
	}
	return strips, nil
}

// From linux/ethtool.h, which golang.org/x/sys has not.
const (
	ethtoolGetFlags   = 0x25
	ethtoolFlagRxVLAN = 1 << 8
)
