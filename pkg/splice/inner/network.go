package inner

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"unsafe"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Names of what Setup makes.
const (
	DefaultNamespace = "privlink-inner"
	DefaultInterface = "plinner"
	insideName       = "inner0"
)

// DefaultMTU of the inner veth, in bytes of an IP packet. It only bounds what the splice
// announces as its MSS: GSO carries up to 64 kB in one packet whatever it says.
const DefaultMTU = 1500

// Config names an inner VNet. The zero value is the daemon's.
type Config struct {
	Namespace string // of the far end, as in `ip netns`
	Interface string // the gateway's end, in the caller's namespace
	MTU       int
}

func (c Config) withDefaults() Config {
	if c.Namespace == "" {
		c.Namespace = DefaultNamespace
	}
	if c.Interface == "" {
		c.Interface = DefaultInterface
	}
	if c.MTU == 0 {
		c.MTU = DefaultMTU
	}
	return c
}

// Network is an inner VNet that is up. Close releases the handle; Remove undoes Setup.
type Network struct {
	config Config
	inside netns.NsHandle
	made   bool // by Setup, all of it: nothing of these names was there
}

// ErrInUse says that another process has the inner VNet.
var ErrInUse = errors.New("another privlink uses it")

// Setup makes the namespace and the veth pair, or adopts them, and brings everything up.
// The gateway's end lies in the caller's namespace. Until Close nobody else can Setup the same one
// (ErrInUse): two listeners would share its connections. A Setup that fails leaves nothing where nothing was.
func Setup(config Config) (*Network, error) {
	config = config.withDefaults()
	inside, made, err := openNamespace(config.Namespace)
	if err != nil {
		return nil, err
	}
	n := &Network{config: config, inside: inside, made: made}
	if err := n.lock(); err != nil {
		return nil, errors.Join(err, inside.Close())
	}
	if err := n.connect(); err != nil {
		return nil, errors.Join(err, n.Abandon())
	}
	if err := n.Do(n.configure); err != nil {
		return nil, errors.Join(err, n.Abandon())
	}
	return n, nil
}

// Open returns the inner VNet if it is there, without changing anything.
func Open(config Config) (*Network, error) {
	config = config.withDefaults()
	inside, err := netns.GetFromName(config.Namespace)
	if err != nil {
		return nil, fmt.Errorf("open namespace %s: %w (is the daemon running?)", config.Namespace, err)
	}
	return &Network{config: config, inside: inside}, nil
}

// Take keeps everybody from the inner VNet until Close, for Remove. It need not be there; what a process has is ErrInUse.
func Take(config Config) (*Network, error) {
	config = config.withDefaults()
	inside, err := netns.GetFromName(config.Namespace)
	if errors.Is(err, os.ErrNotExist) {
		return &Network{config: config, inside: netns.None()}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open namespace %s: %w", config.Namespace, err)
	}
	n := &Network{config: config, inside: inside}
	if err := n.lock(); err != nil {
		return nil, errors.Join(err, inside.Close())
	}
	return n, nil
}

// lock keeps others out. It ends with the descriptor, so with the process, too.
func (n *Network) lock() error {
	err := unix.Flock(int(n.inside), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = ErrInUse
	}
	if err != nil {
		return fmt.Errorf("lock namespace %s: %w", n.config.Namespace, err)
	}
	return nil
}

// Remove deletes namespace and veth pair, whatever of them is there.
func (n *Network) Remove() error {
	config := n.config
	var errs []error
	if link, err := netlink.LinkByName(config.Interface); err == nil {
		if err := netlink.LinkDel(link); err != nil {
			errs = append(errs, fmt.Errorf("delete %s: %w", config.Interface, err))
		}
	}
	if err := deleteNamespace(config.Namespace); err != nil {
		errs = append(errs, fmt.Errorf("delete namespace %s: %w", config.Namespace, err))
	}
	return errors.Join(errs...)
}

// Restore makes the veth pair anew where the gateway's end has no longer its name, because somebody deleted, renamed or moved
// it, and says whether that was so. The namespace stays, and with it the sockets and connections in it: they go on when
// the dataplane is attached again.
func (n *Network) Restore() (restored bool, err error) {
	_, err = netlink.LinkByName(n.config.Interface)
	var missing netlink.LinkNotFoundError
	if err == nil {
		return false, nil
	}
	if !errors.As(err, &missing) {
		return false, fmt.Errorf("look for %s: %w", n.config.Interface, err)
	}
	if err := n.connect(); err != nil {
		return false, err
	}
	return true, n.Do(n.configure)
}

// Interface is the name of the gateway's end.
func (n *Network) Interface() string { return n.config.Interface }

// Close releases the handle; namespace and veth stay.
func (n *Network) Close() error {
	if !n.inside.IsOpen() {
		return nil
	}
	return n.inside.Close()
}

// Abandon is Close for one who cannot do its work after all: what Setup made is removed, what it adopted stays.
func (n *Network) Abandon() error {
	var err error
	if n.made {
		err = n.Remove()
	}
	return errors.Join(err, n.Close())
}

// Do runs fn on a thread inside the namespace: sockets that fn makes stay there. The thread
// comes back afterwards; if it cannot, it ends with its goroutine instead of being used again.
func (n *Network) Do(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		outside, err := netns.Get()
		if err != nil {
			done <- fmt.Errorf("remember network namespace: %w", err)
			return
		}
		defer outside.Close()
		if err := n.Enter(); err != nil {
			done <- err
			return
		}
		err = fn()
		if back := netns.Set(outside); back == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

// Enter moves the calling thread into the namespace for good. The caller has locked its
// goroutine to the thread and never unlocks it, so that the thread ends with the goroutine.
func (n *Network) Enter() error {
	if err := netns.Set(n.inside); err != nil {
		return fmt.Errorf("enter namespace %s: %w (needs CAP_SYS_ADMIN)", n.config.Namespace, err)
	}
	return nil
}

// openNamespace opens the named namespace, after making it if there is none.
func openNamespace(name string) (inside netns.NsHandle, made bool, err error) {
	if handle, err := netns.GetFromName(name); err == nil {
		if isNamespace(handle) {
			return handle, false, nil
		}
		handle.Close()
	}
	if err := deleteNamespace(name); err != nil {
		return netns.None(), false, fmt.Errorf("clear namespace %s: %w", name, err)
	}
	if err := shareFolder(namespaces); err != nil {
		return netns.None(), false, fmt.Errorf("make namespace %s: %w", name, err)
	}

	type result struct {
		handle netns.NsHandle
		err    error
	}
	done := make(chan result, 1)
	go func() {
		// NewNamed moves the thread into the new namespace; it ends with this goroutine.
		runtime.LockOSThread()
		handle, err := netns.NewNamed(name)
		done <- result{handle, err}
	}()
	got := <-done
	if got.err != nil {
		return netns.None(), false, fmt.Errorf("make namespace %s: %w (needs root)", name, got.err)
	}
	return got.handle, true, nil
}

// deleteNamespace deletes a name and what it names. A file without a namespace behind it is what an interrupted run
// leaves, and one whose mounts were its own (`ip netns exec`, unshare -m). Nothing there is not an error.
func deleteNamespace(name string) error {
	err := netns.DeleteNamed(name)
	if errors.Is(err, unix.EINVAL) { // not a mount point
		err = os.Remove(filepath.Join(namespaces, name))
	}
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// isNamespace tells whether an open file is one: any file can be opened by a namespace's name.
func isNamespace(handle netns.NsHandle) bool {
	var fs unix.Statfs_t
	return unix.Fstatfs(int(handle), &fs) == nil && fs.Type == unix.NSFS_MAGIC
}

// connect makes the veth pair unless both ends are where they belong.
func (n *Network) connect() error {
	outside, err := netlink.LinkByName(n.config.Interface)
	var missing netlink.LinkNotFoundError
	switch {
	case err == nil && n.hasInside():
		return n.raise(outside)
	case err == nil:
		n.made = false
		if err := netlink.LinkDel(outside); err != nil {
			return fmt.Errorf("replace %s: %w", n.config.Interface, err)
		}
	case !errors.As(err, &missing):
		return fmt.Errorf("find %s: %w", n.config.Interface, err)
	default:
		// A far end without ours belongs to one that was renamed or moved away, and goes with it.
		if err := n.Do(dropInside); err != nil {
			return err
		}
	}

	// The same address at both ends: without ARP a device sends to its own.
	mac := net.HardwareAddr{0x02, 'p', 'l', 'i', 'n', 'n'}
	attributes := netlink.NewLinkAttrs()
	attributes.Name = n.config.Interface
	attributes.MTU = n.config.MTU
	attributes.HardwareAddr = mac
	pair := &netlink.Veth{
		LinkAttrs: attributes, PeerName: insideName, PeerHardwareAddr: mac,
		PeerNamespace: netlink.NsFd(int(n.inside)),
	}
	if err := netlink.LinkAdd(pair); err != nil {
		return fmt.Errorf("make veth %s: %w", n.config.Interface, err)
	}
	return n.raise(pair)
}

// hasInside says whether the far end is in the namespace.
func (n *Network) hasInside() bool {
	return n.Do(func() error {
		_, err := netlink.LinkByName(insideName)
		return err
	}) == nil
}

// dropInside deletes the far end, if there is one; it runs inside the namespace.
func dropInside() error {
	link, err := netlink.LinkByName(insideName)
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		return nil
	}
	if err == nil {
		err = netlink.LinkDel(link)
	}
	if err != nil {
		return fmt.Errorf("replace %s: %w", insideName, err)
	}
	return nil
}

// raise brings up the gateway's end, silent: no ARP, no IPv6.
func (n *Network) raise(outside netlink.Link) error {
	if err := netlink.LinkSetARPOff(outside); err != nil {
		return fmt.Errorf("switch off ARP on %s: %w", n.config.Interface, err)
	}
	if err := setSysctl("ipv6/conf/"+n.config.Interface+"/disable_ipv6", "1"); err != nil {
		return err
	}
	if err := netlink.LinkSetUp(outside); err != nil {
		return fmt.Errorf("bring up %s: %w", n.config.Interface, err)
	}
	return nil
}

// configure brings up the far end; it runs inside the namespace.
func (n *Network) configure() error {
	settings := []struct{ name, value string }{
		{"ipv6/conf/all/disable_ipv6", "1"},
		{"ipv4/conf/all/rp_filter", "0"},
		{"ipv4/conf/all/accept_redirects", "0"},
		{"ipv4/conf/all/send_redirects", "0"},
		// The listener's queue: a burst of consumers waits here, not in retransmissions.
		{"core/somaxconn", "65535"},
		{"ipv4/tcp_max_syn_backlog", "65535"},
		// ListenPort is a low one, which would take CAP_NET_BIND_SERVICE.
		{"ipv4/ip_unprivileged_port_start", "0"},
		// Connections closed by the splice first; 4-tuples do not come again in that time.
		{"ipv4/tcp_max_tw_buckets", "262144"},
	}
	for _, s := range settings {
		if err := setSysctl(s.name, s.value); err != nil {
			return err
		}
	}

	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("bring up lo: %w", err)
	}
	link, err := netlink.LinkByName(insideName)
	if err != nil {
		return fmt.Errorf("find %s: %w", insideName, err)
	}
	if err := netlink.LinkSetARPOff(link); err != nil {
		return fmt.Errorf("switch off ARP on %s: %w", insideName, err)
	}
	if err := setGRO(insideName); err != nil {
		return err
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("bring up %s: %w", insideName, err)
	}
	address := &netlink.Addr{IPNet: &net.IPNet{IP: Listen().Addr().AsSlice(), Mask: net.CIDRMask(Prefix().Bits(), 32)}}
	if err := netlink.AddrReplace(link, address); err != nil {
		return fmt.Errorf("add %v to %s: %w", address, insideName, err)
	}
	// Every address of Locals is the namespace's own, without a list of them.
	local := &netlink.Route{
		LinkIndex: lo.Attrs().Index, Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL, Scope: unix.RT_SCOPE_HOST,
		Dst: &net.IPNet{IP: Locals().Addr().AsSlice(), Mask: net.CIDRMask(Locals().Bits(), 32)},
	}
	if err := netlink.RouteReplace(local); err != nil {
		return fmt.Errorf("make %v local: %w", Locals(), err)
	}
	return nil
}

// setSysctl writes a setting under /proc/sys/net of the calling thread's namespace. A kernel
// without IPv6 lacks those settings, and needs none.
func setSysctl(name, value string) error {
	path := filepath.Join("/proc/sys/net", name)
	if err := os.WriteFile(path, []byte(value), 0o644); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("set %s to %s: %w", name, value, err)
	}
	return nil
}

// setGRO switches generic receive offload on: veth leaves it off, and the splice would get
// every segment of a transfer one by one.
func setGRO(device string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open socket for %s: %w", device, err)
	}
	defer unix.Close(fd)

	value := struct{ command, data uint32 }{unix.ETHTOOL_SGRO, 1}
	request := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		pad  [16]byte // struct ifreq is a union; the kernel copies all of it
	}{data: unsafe.Pointer(&value)}
	copy(request.name[:unix.IFNAMSIZ-1], device)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request))); errno != 0 {
		return fmt.Errorf("switch on GRO on %s: %w", device, errno)
	}
	return nil
}
