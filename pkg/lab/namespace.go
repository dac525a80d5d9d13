package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Namespace is a named network namespace of a lab.
type Namespace struct {
	// Name in /run/netns, for `ip netns exec`.
	Name string

	lab    *Lab
	short  string // the name it was asked for by
	handle netns.NsHandle
	links  *netlink.Handle
}

// Namespace makes a network namespace whose name ends in the given one. Loopback is up; IPv6 is off,
// so that nothing is on a wire that the test did not put there (Sysctl turns it on).
func (l *Lab) Namespace(name string) *Namespace {
	l.tb.Helper()
	n := &Namespace{Name: prefix + l.id + "-" + name, lab: l, short: name}
	if err := n.make(); err != nil {
		l.fatal("make namespace", name, err)
	}
	l.mu.Lock()
	l.namespaces = append(l.namespaces, n)
	l.mu.Unlock()
	n.Sysctl("net.ipv6.conf.all.disable_ipv6", "1")
	n.Sysctl("net.ipv6.conf.default.disable_ipv6", "1")
	n.Up("lo")
	return n
}

func (n *Namespace) make() error {
	if err := shareDir(netnsDir); err != nil {
		return err
	}
	err := onOwnThread(func() (err error) {
		n.handle, err = netns.NewNamed(n.Name) // leaves the thread inside
		return err
	})
	if err != nil {
		return err
	}
	n.links, err = netlink.NewHandleAt(n.handle)
	return err
}

func (n *Namespace) close() {
	if n.links != nil {
		n.links.Close()
	}
	if n.handle.IsOpen() {
		n.handle.Close()
	}
}

// String is the short name.
func (n *Namespace) String() string { return n.short }

// Lab is the lab it belongs to.
func (n *Namespace) Lab() *Lab { return n.lab }

// Path is the namespace's file, for setns.
func (n *Namespace) Path() string { return filepath.Join(netnsDir, n.Name) }

// Netlink is a handle whose requests are answered by this namespace, from any thread.
func (n *Namespace) Netlink() *netlink.Handle { return n.links }

// Do runs fn with its thread inside the namespace. Sockets made by fn stay there; goroutines that fn
// starts do not. A Goexit (t.FailNow) or panic in fn ends the caller as well.
func (n *Namespace) Do(fn func() error) error {
	err := onOwnThread(func() error {
		if err := netns.Set(n.handle); err != nil {
			return fmt.Errorf("enter namespace %s: %w", n.short, err)
		}
		return fn()
	})
	if errors.Is(err, errGoexit) {
		runtime.Goexit()
	}
	return err
}

// errGoexit says that the function given to onOwnThread did not return.
var errGoexit = errors.New("function ended its goroutine")

// onOwnThread runs fn in a goroutine that holds its thread, and gives the thread back only when it
// is in its old network namespace again; else the runtime destroys it with the goroutine.
func onOwnThread(fn func() error) error {
	result := make(chan error, 1)
	go func() {
		err := errGoexit
		defer func() { result <- err }()
		runtime.LockOSThread()
		// Not /proc/self: that is the main thread, which another goroutine may have moved.
		home, errHome := netns.GetFromPath("/proc/thread-self/ns/net")
		if errHome != nil {
			err = fmt.Errorf("open own namespace: %w", errHome)
			return
		}
		defer home.Close()
		defer func() {
			if errBack := netns.Set(home); errBack == nil {
				runtime.UnlockOSThread()
			} else if err == nil {
				err = fmt.Errorf("leave namespace: %w", errBack)
			}
		}()
		err = fn()
	}()
	return <-result
}

// Link returns the interface with this name.
func (n *Namespace) Link(ifname string) netlink.Link {
	n.lab.tb.Helper()
	link, err := n.links.LinkByName(ifname)
	if err != nil {
		n.fatal("find interface", ifname, err)
	}
	return link
}

// MAC returns the interface's address.
func (n *Namespace) MAC(ifname string) net.HardwareAddr {
	n.lab.tb.Helper()
	return n.Link(ifname).Attrs().HardwareAddr
}

// Addr gives the interface an address with prefix length ("10.0.1.4/16").
func (n *Namespace) Addr(ifname, cidr string) {
	n.lab.tb.Helper()
	addr, err := netlink.ParseAddr(cidr)
	if err == nil {
		err = n.links.AddrAdd(n.Link(ifname), addr)
	}
	if err != nil {
		n.fatal("add address "+cidr+" to", ifname, err)
	}
}

// Route adds a route to the destination ("0.0.0.0/0") by the gateway.
func (n *Namespace) Route(destination, gateway string) {
	n.lab.tb.Helper()
	_, dst, err := net.ParseCIDR(destination)
	if err == nil {
		err = n.links.RouteAdd(&netlink.Route{Dst: dst, Gw: net.ParseIP(gateway)})
	}
	if err != nil {
		n.fatal("add route to "+destination+" by", gateway, err)
	}
}

// Up sets the interface up.
func (n *Namespace) Up(ifname string) {
	n.lab.tb.Helper()
	if err := n.links.LinkSetUp(n.Link(ifname)); err != nil {
		n.fatal("set up", ifname, err)
	}
}

// Down sets the interface down.
func (n *Namespace) Down(ifname string) {
	n.lab.tb.Helper()
	if err := n.links.LinkSetDown(n.Link(ifname)); err != nil {
		n.fatal("set down", ifname, err)
	}
}

// Sysctl sets a kernel parameter of the namespace, dots or slashes between the parts (slashes where
// an interface's name has a dot).
func (n *Namespace) Sysctl(key, value string) {
	n.lab.tb.Helper()
	if !strings.Contains(key, "/") {
		key = strings.ReplaceAll(key, ".", "/")
	}
	err := n.Do(func() error { return os.WriteFile(filepath.Join("/proc/sys", key), []byte(value), 0) })
	if err != nil {
		n.fatal("set "+key+" to", value, err)
	}
}

// Listen listens inside the namespace: network tcp4 or unix..., as for net.Listen.
func (n *Namespace) Listen(network, address string) (net.Listener, error) {
	// Plain TCP: Go's default, MPTCP, adds options that have no meaning here.
	var config net.ListenConfig
	config.SetMultipathTCP(false)
	var ln net.Listener
	err := n.Do(func() (err error) {
		ln, err = config.Listen(context.Background(), network, address)
		return err
	})
	return ln, err
}

// ListenPacket listens inside the namespace for datagrams, as net.ListenPacket.
func (n *Namespace) ListenPacket(network, address string) (net.PacketConn, error) {
	var conn net.PacketConn
	err := n.Do(func() (err error) {
		conn, err = net.ListenPacket(network, address)
		return err
	})
	return conn, err
}

// Dial connects from inside the namespace. local may be empty, an address ("10.0.1.4") or address and
// port; remote is a literal address and port. The thread is inside for the making of the socket only,
// so thousands of connections may be waited for at once.
func (n *Namespace) Dial(ctx context.Context, network, local, remote string) (net.Conn, error) {
	dialer := net.Dialer{}
	dialer.SetMultipathTCP(false)
	if local != "" {
		if !strings.Contains(local, ":") {
			local += ":0"
		}
		from, err := netip.ParseAddrPort(local)
		if err != nil {
			return nil, fmt.Errorf("dial from %s: %w", local, err)
		}
		if strings.HasPrefix(network, "udp") {
			dialer.LocalAddr = net.UDPAddrFromAddrPort(from)
		} else {
			dialer.LocalAddr = net.TCPAddrFromAddrPort(from)
		}
	}
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread()
		home, err := netns.GetFromPath("/proc/thread-self/ns/net")
		if err == nil {
			err = netns.Set(n.handle)
		}
		if err != nil {
			done <- result{nil, fmt.Errorf("enter namespace %s: %w", n.short, err)}
			return
		}
		inside := true
		leave := func() error {
			if !inside {
				return nil
			}
			inside = false
			defer home.Close()
			if err := netns.Set(home); err != nil {
				return fmt.Errorf("leave namespace %s: %w", n.short, err)
			}
			runtime.UnlockOSThread()
			return nil
		}
		// Control is called between socket and connect, by this goroutine: the socket has its
		// namespace then, and binding and connecting do not look at the thread's.
		dialer.ControlContext = func(_ context.Context, _, _ string, c syscall.RawConn) error {
			return errors.Join(leave(), shareAddress(c, network))
		}
		conn, err := dialer.DialContext(ctx, network, remote)
		if errLeave := leave(); err == nil {
			err = errLeave
		}
		done <- result{conn, err}
	}()
	r := <-done
	return r.conn, r.err
}

// shareAddress lets UDP sockets with different remotes have one local address and port, as clients of
// two endpoints may.
func shareAddress(c syscall.RawConn, network string) error {
	if !strings.HasPrefix(network, "udp") {
		return nil
	}
	var errSet error
	if err := c.Control(func(fd uintptr) { errSet = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) }); err != nil {
		return err
	}
	return errSet
}

// WaitListening waits until something in the namespace listens on the TCP port, or has the UDP port
// bound, on any address; without connecting to it.
func (n *Namespace) WaitListening(network string, port int) {
	n.lab.tb.Helper()
	n.lab.Wait(fmt.Sprintf("%s port %d of %s to be served", network, port, n.short), 10*time.Second, func() error {
		served, err := n.serves(network, port)
		if err == nil && !served {
			err = errors.New("nobody listens")
		}
		return err
	})
}

// serves says whether somebody listens, from the kernel's table: a connection would show in the
// server's log.
func (n *Namespace) serves(network string, port int) (served bool, err error) {
	want := fmt.Sprintf(":%04X", port)
	err = n.Do(func() error {
		for _, family := range []string{"", "6"} {
			table, err := os.ReadFile("/proc/thread-self/net/" + network + family)
			if errors.Is(err, os.ErrNotExist) {
				continue // a kernel without IPv6
			}
			if err != nil {
				return err
			}
			for line := range strings.Lines(string(table)) {
				fields := strings.Fields(line)
				// 0A is LISTEN; 07 is what an unconnected UDP socket shows.
				if len(fields) > 3 && strings.HasSuffix(fields[1], want) && (fields[3] == "0A" || fields[3] == "07") {
					served = true
				}
			}
		}
		return nil
	})
	return served, err
}

// SetFeatures switches offloads of an interface ("tx", "tso", "gso", "gro", "rx", "sg", ... as ethtool -K
// names them) on or off. "tx" off switches segmentation off with it.
func (n *Namespace) SetFeatures(ifname string, on bool, features ...string) {
	n.lab.tb.Helper()
	if len(features) == 0 {
		return
	}
	value := "off"
	if on {
		value = "on"
	}
	args := []string{"-K", ifname}
	for _, f := range features {
		args = append(args, f, value)
	}
	if _, err := n.Run(n.lab.tb.Context(), "ethtool", args...); err != nil {
		n.fatal("set features of", ifname, err)
	}
}

func (n *Namespace) fatal(operation, object string, err error) {
	n.lab.tb.Helper()
	n.lab.tb.Fatalf("%s: %s %s: %v", n.short, operation, object, err)
}

// hostToNet16 returns v in network byte order, as AF_PACKET wants protocol numbers.
func hostToNet16(v uint16) uint16 { return v<<8 | v>>8 }

// isClosed says that an error only means that somebody closed the socket.
func isClosed(err error) bool {
	return errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrClosed) || errors.Is(err, unix.EBADF)
}
