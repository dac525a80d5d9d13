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

// xdpFeatures reads the xdp-features of all devices of the current namespace, by ifindex. A kernel
// older than 6.3 has none: known is false.
func xdpFeatures() (features map[int]uint64, known bool, err error) {
	family, err := netlink.GenlFamilyGet(netdevFamily)
	if errors.Is(err, unix.ENOENT) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("find generic netlink family %s: %w", netdevFamily, err)
	}
	messages, err := dumpGeneric(family.ID, netdevCmdDevGet, netdevFamilyVersion)
	if err != nil {
		return nil, false, fmt.Errorf("read xdp-features: %w", err)
	}
	features = make(map[int]uint64, len(messages))
	for _, m := range messages {
		if len(m) < genlHeaderLen {
			continue
		}
		attrs, err := nl.ParseRouteAttr(m[genlHeaderLen:])
		if err != nil {
			return nil, false, fmt.Errorf("read xdp-features: %w", err)
		}
		var ifindex int
		var value uint64
		for _, a := range attrs {
			switch {
			case a.Attr.Type == netdevAttrIfindex && len(a.Value) >= 4:
				ifindex = int(binary.NativeEndian.Uint32(a.Value))
			case a.Attr.Type == netdevAttrFeatures && len(a.Value) >= 8:
				value = binary.NativeEndian.Uint64(a.Value)
			}
		}
		features[ifindex] = value
	}
	return features, true, nil
}

// dumpGeneric asks a generic netlink family for all it has, and returns each message from its generic
// header on. The netlink package's own requests cannot: they take a message without NLM_F_MULTI, as
// this family sends them, for the last one, and only the first device would be seen.
func dumpGeneric(family uint16, cmd, version uint8) ([][]byte, error) {
	socket, err := nl.Subscribe(unix.NETLINK_GENERIC)
	if err != nil {
		return nil, fmt.Errorf("open generic netlink: %w", err)
	}
	defer socket.Close()
	request := nl.NewNetlinkRequest(int(family), unix.NLM_F_DUMP)
	// Not nl.Genlmsg: it copies two bytes of whatever lies behind it into the reserved field, which is checked.
	request.AddRawData([]byte{cmd, version, 0, 0})
	if err := socket.Send(request); err != nil {
		return nil, fmt.Errorf("ask generic netlink: %w", err)
	}
	var all [][]byte
	for {
		messages, _, err := socket.Receive()
		if err != nil {
			return nil, fmt.Errorf("read generic netlink: %w", err)
		}
		for _, m := range messages {
			switch m.Header.Type {
			case unix.NLMSG_DONE:
				return all, nil
			case unix.NLMSG_ERROR:
				if len(m.Data) >= 4 {
					if errno := int32(binary.NativeEndian.Uint32(m.Data)); errno != 0 {
						return nil, fmt.Errorf("ask generic netlink: %w", unix.Errno(-errno))
					}
				}
			case family:
				all = append(all, m.Data)
			}
		}
	}
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
