package doctor

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"unsafe"

	"github.com/privlink/privlink/pkg/api"
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
	here, err := NetworkNamespace()
	if err != nil {
		return nil, err
	}
	if there := s.Kernel.NetworkNamespace; there != here {
		return []Finding{{
			Check: "other-namespace", Severity: Error, Object: there,
			What: fmt.Sprintf("the daemon is in another network namespace than this command (%s): its interfaces cannot be looked at from here", here),
			Do:   "nsenter -t PID -n privlink doctor, with the daemon's PID (systemctl show -p MainPID privlink)",
		}}, nil
	}
	var found []Finding
	attached := make(map[string]netlink.Link)
	redirects := "" // an interface with XDP
	for _, a := range s.Status.Interfaces {
		if a.Error == "" && a.Mode == "xdp" {
			redirects = a.Interface
		}
	}
	for _, a := range s.Status.Interfaces {
		if a.Error != "" {
			found = append(found, Finding{
				Check: "not-attached", Severity: Error, Object: a.Interface,
				What: fmt.Sprintf("network %s gets nothing from %s: %s", last(a.Network), a.Interface, a.Error),
				Do: fmt.Sprintf("make the interface, or follow what the message says: the daemon attaches it as soon as it can; "+
					"or take it out: privlink vnet detach %s", s.attachment(a)),
			})
			continue
		}
		if attached[a.Interface] != nil {
			continue
		}
		link, its, err := device(s, a.Interface, a.Mode)
		if err != nil {
			return nil, err
		}
		if link == nil {
			continue // gone since the Status was made; the next one says so
		}
		attached[a.Interface] = link
		found = append(found, its...)
		found = append(found, programs(s, a)...)
		if redirects != "" && redirects != a.Interface && !a.TakesXDP && a.VLAN == 0 {
			found = append(found, notTaken(a.Interface, redirects, link.Type()))
		}
	}
	found = append(found, mtus(attached)...)
	its, err := inner(s)
	return append(found, its...), err
}

// NetworkNamespace names the calling thread's network namespace, as /proc/self/ns/net does.
func NetworkNamespace() (string, error) {
	name, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		return "", fmt.Errorf("look up the network namespace: %w", err)
	}
	return name, nil
}

// inner looks at the interface that the daemon made for itself.
func inner(s *Subject) ([]Finding, error) {
	name := s.Kernel.Inner
	if name == "" {
		return nil, nil
	}
	const through = "PROXY services and all probes go through it"
	link, found, err := device(s, name, "tc")
	if err != nil {
		return nil, err
	}
	if link == nil {
		return []Finding{{
			Check: "inner-gone", Severity: Error, Object: name,
			What: "somebody deleted privlink's own interface " + name + ": " + through,
			Do:   "the daemon makes it anew within a second, and its log says what keeps it from that; systemctl start privlink where none runs",
		}}, nil
	}
	for i := range found {
		found[i].What += "; " + through
	}
	return found, nil
}

// programs are findings about what is on an interface's hooks.
func programs(s *Subject, a api.InterfaceStatus) []Finding {
	var found []Finding
	if after := s.Kernel.After[a.Interface]; len(after) > 0 {
		found = append(found, Finding{
			Check: "program-after", Severity: Warning, Object: a.Interface,
			What: fmt.Sprintf("a program of somebody else's sees every packet that privlink sends out on %s: %s. What it drops or redirects never arrives", a.Interface, strings.Join(after, ", ")),
			Do:   fmt.Sprintf("find out whose it is (bpftool net show dev %s; bpftool prog show id N) and end what attached it", a.Interface),
		})
	}
	if before := s.Kernel.Before[a.Interface]; len(before) > 0 {
		found = append(found, Finding{
			Check: "program-before", Severity: Warning, Object: a.Interface,
			What: fmt.Sprintf("a program of somebody else's sees every packet on %s first: %s. What it drops or redirects never gets to privlink", a.Interface, strings.Join(before, ", ")),
			Do: fmt.Sprintf("find out whose it is (bpftool net show dev %s; bpftool prog show id N) and end what attached it, or let it attach behind privlink's",
				a.Interface),
		})
	}
	for _, w := range a.Warnings {
		if a.Mode == "xdp" {
			found = append(found, Finding{
				Check: "xdp-on-virtual", Severity: Info, Object: a.Interface,
				What: w + "; what a machine behind it sends with its checksum left to the NIC, XDP has to pass on to TC",
				Do:   "nothing, if it is meant so and nothing tagged comes from there; else " + s.leaveXDP(a.Interface),
			})
			continue
		}
		found = append(found, Finding{ // it was to be
			Check: "xdp-refused", Severity: Warning, Object: a.Interface, What: w,
			Do: "free the hook or switch what the message names (the daemon tries again every 10 s); or be content with TC: " + s.leaveXDP(a.Interface),
		})
	}
	return found
}

// attachment is one as the commands of `privlink vnet` name it.
func (s *Subject) attachment(a api.InterfaceStatus) string {
	name := s.named(a.Network) + " --interface " + a.Interface
	if a.VLAN != 0 {
		name += fmt.Sprintf(" --vlan %d", a.VLAN)
	}
	return name
}

// leaveXDP are the commands after which no attachment of an interface asks for XDP.
func (s *Subject) leaveXDP(name string) string {
	var commands []string
	for _, a := range s.Status.Interfaces {
		if a.Interface == name && a.Asked != "tc" {
			commands = append(commands, "privlink vnet attach "+s.attachment(a)+" --mode tc")
		}
	}
	return strings.Join(commands, "; ")
}

// notTaken is an interface that XDP cannot send to.
func notTaken(name, from, kind string) Finding {
	f := Finding{
		Check: "xdp-not-taken", Severity: Info, Object: name,
		What: fmt.Sprintf("%s does not take frames from XDP: what XDP on %s has for it goes the slower way, through TC", name, from),
		Do:   "nothing, if its driver cannot do it (see the xdp-features of the interface)",
	}
	if kind == "veth" {
		f.Do = "switch GRO on at the other end of the veth, in the machine there: ethtool -K NAME gro on"
	}
	return f
}

// smallestMTU is what Linux believes of a path: of less it learns nothing (net.ipv4.route.min_pmtu), goes on
// sending as much, and as privlink cannot fragment, nothing larger ever arrives.
const smallestMTU = 552

// mtus compares the attached interfaces' MTUs with what is needed, and with each other.
func mtus(attached map[string]netlink.Link) []Finding {
	var found []Finding
	var widest, narrowest *netlink.LinkAttrs
	for _, name := range slices.Sorted(maps.Keys(attached)) {
		a := attached[name].Attrs()
		if a.MTU < smallestMTU {
			found = append(found, Finding{
				Check: "mtu-too-small", Severity: Error, Object: name,
				What: fmt.Sprintf("%s has MTU %d: senders do not go below %d, so what is larger than %d never arrives", name, a.MTU, smallestMTU, a.MTU),
				Do:   fmt.Sprintf("ip link set dev %s mtu 1500, and the same at its other end", name),
			})
			continue
		}
		if widest == nil || a.MTU > widest.MTU {
			widest = a
		}
		if narrowest == nil || a.MTU < narrowest.MTU {
			narrowest = a
		}
	}
	if widest != nil && widest.MTU > narrowest.MTU {
		found = append(found, Finding{
			Check: "mtu-differs", Severity: Info, Object: narrowest.Name,
			What: fmt.Sprintf("%s has MTU %d and %s %d: what is larger than the smaller one is answered with fragmentation needed", widest.Name, widest.MTU, narrowest.Name, narrowest.MTU),
			Do: fmt.Sprintf("nothing, if senders hear such answers (no firewall drops ICMP); else ip link set dev NAME mtu N, the same on all attachments and their machines "+
				"(%d fits everywhere now)", narrowest.MTU),
		})
	}
	return found
}

// device examines one attached interface; the link is nil if there is none.
func device(s *Subject, name, mode string) (l netlink.Link, found []Finding, err error) {
	l, err = netlink.LinkByName(name)
	var none netlink.LinkNotFoundError
	if errors.As(err, &none) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("look at interface %s: %w", name, err)
	}
	switch a := l.Attrs(); {
	case a.Flags&net.FlagUp == 0:
		found = append(found, Finding{
			Check: "interface-down", Severity: Error, Object: name,
			What: name + " is down: it carries nothing", Do: "ip link set dev " + name + " up",
			repair: func() error { return netlink.LinkSetUp(l) },
		})
	case slices.Contains([]netlink.LinkOperState{netlink.OperDown, netlink.OperLowerLayerDown}, a.OperState):
		found = append(found, Finding{
			Check: "no-carrier", Severity: Error, Object: name,
			What: name + " has no carrier: nothing is at its other end, or what is there is down",
			Do:   "connect its cable, start the machine at its other end, or set the other end up (ip link set dev NAME up)",
		})
	}
	flags, err := s.Offloads.Flags(name)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return l, found, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read offloads of %s: %w", name, err)
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
	return l, found, nil
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
