package inner

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// outside runs the test in a network namespace of its own, which goes with the test's thread.
func outside(t *testing.T) {
	t.Helper()
	runtime.LockOSThread() // never unlocked: the thread ends with the test
	handle, err := netns.New()
	if err != nil {
		t.Fatalf("make namespace: %v (needs root)", err)
	}
	handle.Close()
}

func testConfig(t *testing.T) Config {
	outside(t)
	config := Config{Namespace: fmt.Sprintf("splice-inner-%d", os.Getpid()), Interface: "plinner"}
	t.Cleanup(func() {
		if err := remove(config); err != nil {
			t.Error(err)
		}
	})
	return config
}

// remove is what `privlink down` does.
func remove(config Config) error {
	n, err := Take(config)
	if err != nil {
		return err
	}
	return errors.Join(n.Remove(), n.Close())
}

func mustSetup(t *testing.T, config Config) *Network {
	t.Helper()
	n, err := Setup(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	return n
}

// What a daemon leaves whose mounts were its own: the name, and nothing mounted there.
func TestSetup_FileWithoutNamespace_IsReplaced(t *testing.T) {
	config := testConfig(t)
	if err := os.WriteFile(filepath.Join(namespaces, config.Namespace), nil, 0o444); err != nil {
		t.Fatal(err)
	}
	mustSetup(t, config)
}

func TestSetup_Twice_AdoptsTheSameInterface(t *testing.T) {
	config := testConfig(t)
	before := mustSetup(t, config)
	if _, err := Setup(config); !errors.Is(err, ErrInUse) {
		t.Fatalf("set up while another has it: %v, want ErrInUse", err)
	}
	before.Close()
	first, err := netlink.LinkByName("plinner")
	if err != nil {
		t.Fatal(err)
	}

	again := mustSetup(t, config)
	second, err := netlink.LinkByName("plinner")
	if err != nil {
		t.Fatal(err)
	}
	if first.Attrs().Index != second.Attrs().Index {
		t.Errorf("interface index %d, then %d: the attachment would be lost", first.Attrs().Index, second.Attrs().Index)
	}
	if second.Attrs().RawFlags&unix.IFF_NOARP == 0 || second.Attrs().RawFlags&unix.IFF_UP == 0 {
		t.Errorf("flags %#x: want up and no ARP", second.Attrs().RawFlags)
	}

	err = again.Do(func() error {
		inside, err := netlink.LinkByName(insideName)
		if err != nil {
			return err
		}
		if !bytes.Equal(inside.Attrs().HardwareAddr, second.Attrs().HardwareAddr) {
			t.Errorf("MAC %v inside, %v outside: want the same", inside.Attrs().HardwareAddr, second.Attrs().HardwareAddr)
		}
		if !hasGRO(t, insideName) {
			t.Error("GRO is off inside")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestSetup_NamespaceLost_MakesBothAnew(t *testing.T) {
	config := testConfig(t)
	mustSetup(t, config).Close()
	if err := netns.DeleteNamed(config.Namespace); err != nil {
		t.Fatal(err)
	}
	n := mustSetup(t, config)
	if !n.hasInside() {
		t.Error("the far end is not in the new namespace")
	}
}

// Whoever deletes, renames or moves the gateway's end, the wire is made anew, and sockets made before use it. A start that finds
// the network so makes do with it, too.
func TestRestore_GatewaysEndTakenAway_SocketsGoOn(t *testing.T) {
	config := testConfig(t)
	n := mustSetup(t, config)
	if restored, err := n.Restore(); restored || err != nil {
		t.Errorf("restore what is there: %t, %v", restored, err)
	}
	ports := NewPorts(0)
	for what, take := range map[string]func(netlink.Link) error{
		"deleted": netlink.LinkDel,
		"renamed": func(l netlink.Link) error { return netlink.LinkSetName(l, "other") },
		"moved":   func(l netlink.Link) error { return netlink.LinkSetNsFd(l, int(n.inside)) },
	} {
		for _, starts := range []bool{false, true} {
			fd := socketIn(t, n)
			link, err := netlink.LinkByName(config.Interface)
			if err == nil {
				err = take(link)
			}
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			if starts {
				n.Close()
				n = mustSetup(t, config)
			} else if restored, err := n.Restore(); !restored || err != nil {
				t.Fatalf("%s: restored %t, %v", what, restored, err)
			}
			if _, err := netlink.LinkByName("other"); err == nil {
				t.Errorf("%s: what was the gateway's end is still there", what)
			}
			way, err := ports.Take()
			if err != nil {
				t.Fatal(err)
			}
			wantSYN(t, fd, way.Source, way.Far(443))
		}
	}
}

// socketIn makes a Socket inside.
func socketIn(t *testing.T, n *Network) (fd int) {
	t.Helper()
	if err := n.Do(func() (err error) { fd, err = Socket(); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func TestRemove_InUse_StaysThenIsGoneAndNothingThereIsNoError(t *testing.T) {
	config := testConfig(t)
	n := mustSetup(t, config)
	if err := remove(config); !errors.Is(err, ErrInUse) {
		t.Errorf("remove what somebody has: %v, want ErrInUse", err)
	}
	if !n.hasInside() {
		t.Error("a refused removal has removed something")
	}
	n.Close()
	for range 2 {
		if err := remove(config); err != nil {
			t.Error(err)
		}
	}
	if _, err := netlink.LinkByName("plinner"); err == nil {
		t.Error("the interface is still there")
	}
	if _, err := Open(config); err == nil {
		t.Error("the namespace is still there")
	}
}

// What a namespace's name is to those outside of the mount namespace it was made in.
func TestRemove_FileWithoutNamespace_IsGone(t *testing.T) {
	config := testConfig(t)
	file := filepath.Join(namespaces, config.Namespace)
	if err := os.MkdirAll(namespaces, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, nil, 0o400); err != nil {
		t.Fatal(err)
	}
	if err := remove(config); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there: %v", file, err)
		os.Remove(file)
	}
}

func TestDo_Returns_ThreadsAreOutsideAgain(t *testing.T) {
	n := mustSetup(t, testConfig(t))
	before, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	defer before.Close()
	wanted := errors.New("what fn returns")
	if err := n.Do(func() error {
		now, err := netns.Get()
		if err != nil {
			return err
		}
		defer now.Close()
		if !now.Equal(n.inside) {
			t.Error("fn does not run inside")
		}
		return wanted
	}); !errors.Is(err, wanted) {
		t.Errorf("Do returned %v", err)
	}
	after, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	defer after.Close()
	if !after.Equal(before) {
		t.Error("the caller's thread changed its namespace")
	}
}

// TestConnect_AnyFarAddress_SYNLeavesTheGatewaysEnd shows what the dataplane gets to see.
func TestConnect_AnyFarAddress_SYNLeavesTheGatewaysEnd(t *testing.T) {
	n := mustSetup(t, testConfig(t))
	ports := NewPorts(0)
	for range 2 {
		way, err := ports.Take()
		if err != nil {
			t.Fatal(err)
		}
		wantSYN(t, socketIn(t, n), way.Source, way.Far(443))
	}
}

// wantSYN connects a Socket, and wants its SYN at the gateway's end.
func wantSYN(t *testing.T, fd int, source, to netip.AddrPort) {
	t.Helper()
	link, err := netlink.LinkByName("plinner")
	if err != nil {
		t.Fatal(err)
	}
	sniffer, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(htons(unix.ETH_P_IP)))
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(sniffer)
	if err := unix.Bind(sniffer, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_IP), Ifindex: link.Attrs().Index}); err != nil {
		t.Fatal(err)
	}
	limit := unix.NsecToTimeval(int64(5 * time.Second))
	if err := unix.SetsockoptTimeval(sniffer, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		t.Fatal(err)
	}
	if err := Connect(fd, source, to); err != nil {
		t.Fatal(err)
	}
	frame := make([]byte, 2000)
	size, from, err := unix.Recvfrom(sniffer, frame, 0)
	if err != nil {
		t.Fatalf("no SYN left the inner VNet: %v", err)
	}
	ip := frame[14:size]
	got := [2]netip.Addr{netip.AddrFrom4([4]byte(ip[12:16])), netip.AddrFrom4([4]byte(ip[16:20]))}
	if got != [2]netip.Addr{source.Addr(), to.Addr()} {
		t.Errorf("packet %v, want %v -> %v", got, source, to)
	}
	if kind := from.(*unix.SockaddrLinklayer).Pkttype; kind != unix.PACKET_HOST {
		t.Errorf("packet type %d: the dataplane would take it for somebody else's", kind)
	}
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

// hasGRO asks the driver of a device in the thread's namespace.
func hasGRO(t *testing.T, device string) bool {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	value := struct{ command, data uint32 }{command: unix.ETHTOOL_GGRO}
	request := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		pad  [16]byte
	}{data: unsafe.Pointer(&value)}
	copy(request.name[:], device)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request))); errno != 0 {
		t.Fatal(errno)
	}
	return value.data == 1
}

func TestAbandon_WhatSetupMadeIsGone_WhatItAdoptedStays(t *testing.T) {
	config := testConfig(t)
	there := func() bool {
		n, err := Open(config)
		if err == nil {
			n.Close()
		}
		_, missing := netlink.LinkByName(config.Interface)
		return err == nil && missing == nil
	}
	for _, adopted := range []bool{false, true} {
		if adopted {
			mustSetup(t, config).Close()
		}
		n, err := Setup(config)
		if err != nil {
			t.Fatal(err)
		}
		if err := n.Abandon(); err != nil {
			t.Error(err)
		}
		if there() != adopted {
			t.Errorf("network adopted: %t, still there: %t", adopted, there())
		}
	}
}
