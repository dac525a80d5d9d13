package dataplane

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// From linux/netdev.h (6.3).
const (
	netdevFamily        = "netdev"
	netdevGroup         = "mgmt"
	netdevCmdDevGet     = 1
	netdevAttrIfindex   = 1
	netdevAttrFeatures  = 3
	xdpActNdoXmit       = 1 << 2
	genlHeaderLen       = 4
	netdevFamilyVersion = 1
)

// xdpFeatures reads the xdp-features of devices of the current namespace, by ifindex. Each is asked
// for by itself: the kernel does not mark the messages of a dump as parts of one (NLM_F_MULTI), so
// the netlink package takes the first for all of it. A kernel older than 6.3 says nothing: the
// map is empty. So does one for a device that is gone meanwhile.
func xdpFeatures(ifindexes []int) (map[int]uint64, error) {
	features := make(map[int]uint64)
	family, err := netlink.GenlFamilyGet(netdevFamily)
	if errors.Is(err, unix.ENOENT) {
		return features, nil
	}
	if err != nil {
		return nil, fmt.Errorf("find generic netlink family %s: %w", netdevFamily, err)
	}
	for _, ifindex := range ifindexes {
		request := nl.NewNetlinkRequest(int(family.ID), 0)
		// Not nl.Genlmsg: it copies two bytes of whatever lies behind it into the reserved field, which
		// this family checks.
		attr := nl.NewRtAttr(netdevAttrIfindex, nl.Uint32Attr(uint32(ifindex)))
		request.AddRawData(append([]byte{netdevCmdDevGet, netdevFamilyVersion, 0, 0}, attr.Serialize()...))
		messages, err := request.Execute(unix.NETLINK_GENERIC, 0)
		if errors.Is(err, unix.ENODEV) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read xdp-features of ifindex %d: %w", ifindex, err)
		}
		for _, m := range messages {
			if len(m) < genlHeaderLen {
				continue
			}
			attrs, err := nl.ParseRouteAttr(m[genlHeaderLen:])
			if err != nil {
				return nil, fmt.Errorf("read xdp-features of ifindex %d: %w", ifindex, err)
			}
			for _, a := range attrs {
				if a.Attr.Type == netdevAttrFeatures && len(a.Value) >= 8 {
					features[ifindex] = binary.NativeEndian.Uint64(a.Value)
				}
			}
		}
	}
	return features, nil
}

// subscribeFeatures opens a socket on which a message arrives whenever a device changes its
// xdp-features; nil where the kernel has no such thing.
func (n namespace) subscribeFeatures() (socket *nl.NetlinkSocket, err error) {
	err = n.do(func() error {
		family, err := netlink.GenlFamilyGet(netdevFamily)
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("find generic netlink family %s: %w", netdevFamily, err)
		}
		for _, group := range family.Groups {
			if group.Name != netdevGroup {
				continue
			}
			socket, err = nl.Subscribe(unix.NETLINK_GENERIC)
			if err != nil {
				return fmt.Errorf("open generic netlink: %w", err)
			}
			if err := unix.SetsockoptInt(socket.GetFd(), unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, int(group.ID)); err != nil {
				socket.Close()
				socket = nil
				return fmt.Errorf("subscribe to changes of xdp-features: %w", err)
			}
		}
		return nil
	})
	return socket, err
}
