package dataplane

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/privlink/privlink/pkg/lab"
)

// crowd sends UDP datagrams from many made-up addresses behind one interface, and reads the answers: a mirror says
// from where it was asked, which is the flow's NAT port. Nothing is sent again: an answer that does not come was lost.
type crowd struct {
	t        *testing.T
	fd       int
	address  unix.SockaddrLinklayer
	frame    []byte
	endpoint netip.AddrPort
	base     uint32           // their sources: a /24
	answers  []netip.AddrPort // by flow
	opened   int              // flows of next
}

// Conversations are told apart by their source: 10.0.128.0/24 of the first crowd, and the ports from 2,000 on.
const (
	crowdBase  = 0x0a008000
	crowdPorts = 20_000
	crowdPort  = 2_000
)

// mirror answers datagrams with the address they come from.
func mirror(t *testing.T, n *lab.Namespace, address string) {
	t.Helper()
	var socket net.PacketConn
	err := n.Do(func() (err error) { socket, err = net.ListenPacket("udp4", address); return err })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { socket.Close() })
	if err := socket.(*net.UDPConn).SetReadBuffer(8 << 20); err != nil {
		t.Fatal(err)
	}
	go func() {
		var b [64]byte
		for {
			_, from, err := socket.(*net.UDPConn).ReadFromUDPAddrPort(b[:])
			if err != nil {
				return // closed with the test
			}
			// What cannot be sent is missed by the crowd.
			_, _ = socket.(*net.UDPConn).WriteToUDPAddrPort([]byte(from.String()), from)
		}
	}()
}

func newCrowd(t *testing.T, n *lab.Namespace, gateway net.HardwareAddr, endpoint string, number, size int) *crowd {
	t.Helper()
	c := &crowd{t: t, endpoint: netip.MustParseAddrPort(endpoint), base: crowdBase + uint32(number)<<8, answers: make([]netip.AddrPort, size)}
	err := n.Do(func() (err error) {
		c.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(htons(unix.ETH_P_IP)))
		if err != nil {
			return err
		}
		// Only answers to this crowd, so that the buffer is its own: ldw [30]; and 0xffffff00; jeq base; ret
		filter := []unix.SockFilter{
			{Code: 0x20, K: 30}, {Code: 0x54, K: 0xffffff00}, {Code: 0x15, Jf: 1, K: c.base}, {Code: 0x06, K: 256}, {Code: 0x06},
		}
		if err := unix.SetsockoptSockFprog(c.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}); err != nil {
			return err
		}
		c.address = unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_IP), Ifindex: n.Link("eth0").Attrs().Index}
		return unix.Bind(c.fd, &c.address)
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(c.fd) })
	if err := unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20); err != nil {
		t.Fatal(err)
	}
	limit := unix.Timeval{Sec: 5}
	if err := unix.SetsockoptTimeval(c.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		t.Fatal(err)
	}
	c.frame = slices.Concat(gateway, n.MAC("eth0"), []byte{8, 0}, make([]byte, 20+8+18))
	return c
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

// source of a conversation.
func (c *crowd) source(flow int) (addr uint32, port uint16) {
	return c.base + 1 + uint32(flow/crowdPorts), uint16(crowdPort + flow%crowdPorts)
}

func (c *crowd) send(flow int) error {
	addr, port := c.source(flow)
	ip, udp := c.frame[14:34], c.frame[34:]
	ip[0], ip[8], ip[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(ip[2:], uint16(len(c.frame)-14))
	binary.BigEndian.PutUint16(ip[10:], 0)
	binary.BigEndian.PutUint32(ip[12:], addr)
	copy(ip[16:], c.endpoint.Addr().AsSlice())
	binary.BigEndian.PutUint16(ip[10:], checksum(ip))
	binary.BigEndian.PutUint16(udp, port)
	binary.BigEndian.PutUint16(udp[2:], c.endpoint.Port())
	binary.BigEndian.PutUint16(udp[4:], uint16(len(udp)))
	return unix.Sendto(c.fd, c.frame, 0, &c.address)
}

// ask sends one datagram in each of some conversations and waits for all the answers, in portions that fit every buffer.
func (c *crowd) ask(from, to int) error {
	const portion = 64
	var b [256]byte
	for ; from < to; from += portion {
		missing := make(map[int]bool)
		for flow := from; flow < min(from+portion, to); flow++ {
			missing[flow] = true
			err := c.send(flow)
			for began := time.Now(); errors.Is(err, unix.ENOBUFS) && time.Since(began) < 5*time.Second; err = c.send(flow) {
				runtime.Gosched() // the gateway's end of the veth took nothing: all interfaces of a processor share a queue
			}
			if err != nil {
				return fmt.Errorf("send for flow %d: %w", flow, err)
			}
		}
		for len(missing) > 0 {
			n, _, err := unix.Recvfrom(c.fd, b[:], 0)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if err != nil {
				return fmt.Errorf("%d of the answers to flows %d to %d did not come: %w", len(missing), from, from+portion, err)
			}
			if n < 42 {
				continue
			}
			number := int(binary.BigEndian.Uint32(b[30:])-c.base-1)*crowdPorts + int(binary.BigEndian.Uint16(b[36:])) - crowdPort
			if !missing[number] {
				continue // of an earlier question, too late
			}
			length := int(binary.BigEndian.Uint16(b[38:])) - 8
			if c.answers[number], err = netip.ParseAddrPort(string(b[42:min(n, 42+length)])); err != nil {
				return fmt.Errorf("answer to flow %d: %w", number, err)
			}
			delete(missing, number)
		}
	}
	return nil
}

// talk sends one datagram in every conversation and returns from where each came to the mirror.
func (c *crowd) talk() []netip.AddrPort {
	c.t.Helper()
	if err := c.ask(0, len(c.answers)); err != nil {
		c.t.Fatal(err)
	}
	return slices.Clone(c.answers)
}

// next opens some more conversations.
func (c *crowd) next(count int) {
	c.t.Helper()
	to := min(c.opened+count, len(c.answers))
	if err := c.ask(c.opened, to); err != nil {
		c.t.Error(err)
	}
	c.opened = to
}

// talkAgain asks in all conversations that next has opened.
func (c *crowd) talkAgain() []netip.AddrPort {
	c.t.Helper()
	before := slices.Clone(c.answers[:c.opened])
	if err := c.ask(0, c.opened); err != nil {
		c.t.Fatal(err)
	}
	wantSame(c.t, "opened at a step", before, c.answers[:c.opened])
	return before
}

// arrive opens conversations one after the other until the function it returns is called, which asks in all of them
// again.
func (c *crowd) arrive() (stop func() []netip.AddrPort) {
	enough, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		for c.opened < len(c.answers) {
			select {
			case <-enough:
				ended <- nil
				return
			case <-time.After(200 * time.Microsecond):
			}
			if err := c.ask(c.opened, c.opened+1); err != nil {
				ended <- err
				return
			}
			c.opened++
		}
		ended <- nil
	}()
	return func() []netip.AddrPort {
		c.t.Helper()
		close(enough)
		if err := <-ended; err != nil {
			c.t.Fatal(err)
		}
		return c.talkAgain()
	}
}
