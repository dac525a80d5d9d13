package doctor

import (
	"errors"
	"fmt"
	"net"
	"runtime"
	"slices"
	"strings"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Flags of linux/ethtool.h, which golang.org/x/sys has not.
const (
	flagRxVLAN = 1 << 8
	flagLRO    = 1 << 15

	ethtoolGetFlags = 0x25
	ethtoolSetFlags = 0x26
)

func interfaces(s *Subject) ([]Finding, error) {
	if s.Status == nil {
		return nil, nil
	}
	var found []Finding
	seen := make(map[string]bool)
	widest, narrowest := -1, -1
	for i, a := range s.Status.Interfaces {
		if a.Error != "" {
			found = append(found, Finding{
				Check: "not-attached", Severity: Error, Object: a.Interface, What: a.Error,
				Do: "make the interface, or follow what the message says; the daemon attaches it when it can",
			})
			continue
		}
		if widest < 0 || a.MTU > s.Status.Interfaces[widest].MTU {
			widest = i
		}
		if narrowest < 0 || a.MTU < s.Status.Interfaces[narrowest].MTU {
			narrowest = i
		}
		if seen[a.Interface] {
			continue
		}
		seen[a.Interface] = true
		its, err := device(s, a.Interface, a.Mode)
		if err != nil {
			return nil, err
		}
		found = append(found, its...)
		for _, w := range a.Warnings {
			if strings.Contains(w, "runs without xdp") {
				found = append(found, Finding{
					Check: "xdp-refused", Severity: Warning, Object: a.Interface, What: w,
					Do: "free the hook or switch what the message names; or attach with --mode tc",
				})
			}
		}
	}
	if widest >= 0 && s.Status.Interfaces[widest].MTU > s.Status.Interfaces[narrowest].MTU {
		w, n := s.Status.Interfaces[widest], s.Status.Interfaces[narrowest]
		found = append(found, Finding{
			Check: "mtu-differs", Severity: Info, Object: n.Interface,
			What: fmt.Sprintf("%s has MTU %d and %s %d: what is larger than the smaller one is answered with fragmentation needed", w.Interface, w.MTU, n.Interface, n.MTU),
			Do:   fmt.Sprintf("ip link set dev NAME mtu N, the same on all attachments and their machines (%d fits everywhere now)", n.MTU),
		})
	}
	return found, nil
}

// device examines one attached interface.
func device(s *Subject, name, mode string) ([]Finding, error) {
	l, err := netlink.LinkByName(name)
	var none netlink.LinkNotFoundError
	if errors.As(err, &none) {
		return nil, nil // gone since the Status was made; the next one says so
	}
	if err != nil {
		return nil, fmt.Errorf("look at interface %s: %w", name, err)
	}
	var found []Finding
	switch a := l.Attrs(); {
	case a.Flags&net.FlagUp == 0:
		found = append(found, Finding{
			Check: "interface-down", Severity: Error, Object: name,
			What: name + " is down", Do: "ip link set dev " + name + " up",
			repair: func() error { return netlink.LinkSetUp(l) },
		})
	case slices.Contains([]netlink.LinkOperState{netlink.OperDown, netlink.OperLowerLayerDown}, a.OperState):
		found = append(found, Finding{
			Check: "no-carrier", Severity: Error, Object: name,
			What: name + " has no carrier", Do: "connect its cable, or start the machine at its other end",
		})
	}
	flags, err := s.Offloads.Flags(name)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return found, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read offloads of %s: %w", name, err)
	}
	off := func(flag uint32) func() error {
		return func() error {
			flags, err := s.Offloads.Flags(name)
			if err != nil {
				return err
			}
			return s.Offloads.SetFlags(name, flags&^flag)
		}
	}
	if flags&flagLRO != 0 {
		found = append(found, Finding{
			Check: "lro-on", Severity: Error, Object: name,
			What:   "large-receive-offload merges segments in a way that cannot be undone when they are forwarded",
			Do:     "ethtool -K " + name + " lro off",
			repair: off(flagLRO),
		})
	}
	// The peer of a veth hides tags or not, whatever its own end says: see the warning of its mode.
	if flags&flagRxVLAN != 0 && mode == "xdp" && l.Type() != "veth" {
		found = append(found, Finding{
			Check: "vlan-hidden", Severity: Error, Object: name,
			What:   "rx-vlan-offload takes VLAN tags off before XDP sees the frame: tagged frames count as untagged",
			Do:     "ethtool -K " + name + " rx-vlan-offload off",
			repair: off(flagRxVLAN),
		})
	}
	return found, nil
}

// ethtool reads and sets flags by ioctl(2).
type ethtool struct{}

func (ethtool) Flags(device string) (uint32, error) { return ethtoolFlags(device, ethtoolGetFlags, 0) }

func (ethtool) SetFlags(device string, flags uint32) error {
	_, err := ethtoolFlags(device, ethtoolSetFlags, flags)
	return err
}

func ethtoolFlags(device string, command, flags uint32) (uint32, error) {
	value := struct{ command, data uint32 }{command, flags}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	request := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}{data: unsafe.Pointer(&value)}
	copy(request.name[:unix.IFNAMSIZ-1], device)
	var pin runtime.Pinner
	pin.Pin(&value)
	defer pin.Unpin()
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request))); errno != 0 {
		return 0, errno
	}
	return value.data, nil
}
