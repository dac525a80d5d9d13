package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Bounds of one capture: beyond them packets are counted and not kept.
const (
	captureMaxPackets = 1 << 17
	captureMaxBytes   = 64 << 20
	captureBuffer     = 8 << 20 // of the socket
)

// Packet is a frame seen on an interface.
type Packet struct {
	At       time.Time
	Data     []byte // from the Ethernet header on; a VLAN tag the kernel keeps aside is not in it
	Outgoing bool   // sent by the interface's own side
	Tagged   bool   // a VLAN tag is kept aside
	VLAN     uint16 // its id, 0..4095, host byte order
	// Partial says that the L4 checksum is not complete yet (a local sender left it to the device).
	Partial bool
}

// Capture records the frames of one interface in both directions.
type Capture struct {
	file *os.File
	raw  syscall.RawConn
	done chan struct{}

	mu      sync.Mutex
	packets []Packet
	bytes   int
	dropped int
}

// Capture starts recording on the interface. It ends with Stop or with the lab.
func (n *Namespace) Capture(ifname string) *Capture {
	n.lab.tb.Helper()
	fd, err := n.packetSocket(ifname, unix.ETH_P_ALL)
	if err != nil {
		n.fatal("capture on", ifname, err)
	}
	// Frames that XDP made count as a page each, so the default buffer holds about fifty of them.
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, captureBuffer); err != nil {
		unix.Close(fd)
		n.fatal("size the buffer of the capture on", ifname, err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1); err != nil {
		unix.Close(fd)
		n.fatal("ask for VLAN tags on", ifname, err)
	}
	c := &Capture{file: os.NewFile(uintptr(fd), "capture "+ifname), done: make(chan struct{})}
	if c.raw, err = c.file.SyscallConn(); err != nil {
		n.fatal("capture on", ifname, err)
	}
	go c.read()
	n.lab.onClose(func() { c.Stop() })
	return c
}

// Injector sends frames out of an interface as they stand. It ends with the lab.
type Injector struct {
	n      *Namespace
	ifname string
	fd     int
}

// Injector makes one for the interface. Where many frames are sent one by one it is much faster than
// Inject, since the kernel takes milliseconds to close such a socket.
func (n *Namespace) Injector(ifname string) *Injector {
	n.lab.tb.Helper()
	fd, err := n.packetSocket(ifname, 0)
	if err != nil {
		n.fatal("inject on", ifname, err)
	}
	n.lab.onClose(func() { unix.Close(fd) })
	return &Injector{n: n, ifname: ifname, fd: fd}
}

// injectPatience is how long Send waits for room: in its socket, for frames that it sent before and that still wait in the
// kernel (EAGAIN), and in the queue of the interface's other end (ENOBUFS). Neither took the frame.
const injectPatience = 5 * time.Second

// Send sends frames, from the Ethernet header on, without checksum of the frame.
func (i *Injector) Send(frames ...[]byte) error {
	for at, frame := range frames {
		_, err := unix.Write(i.fd, frame)
		full := func() bool { return errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.ENOBUFS) }
		for begin := time.Now(); full() && time.Since(begin) < injectPatience; _, err = unix.Write(i.fd, frame) {
			time.Sleep(time.Millisecond)
		}
		if err != nil {
			return fmt.Errorf("inject frame %d on %s of %s: %w", at, i.ifname, i.n.short, err)
		}
	}
	return nil
}

// Inject sends frames (from the Ethernet header on, without checksum of the frame) out of the
// interface as they stand.
func (n *Namespace) Inject(ifname string, frames ...[]byte) error {
	fd, err := n.packetSocket(ifname, 0)
	if err != nil {
		return fmt.Errorf("inject on %s of %s: %w", ifname, n.short, err)
	}
	defer unix.Close(fd)
	return (&Injector{n: n, ifname: ifname, fd: fd}).Send(frames...)
}

// packetSocket makes an AF_PACKET socket bound to the interface, for frames of the protocol; 0 receives none.
func (n *Namespace) packetSocket(ifname string, protocol uint16) (fd int, err error) {
	link, err := n.links.LinkByName(ifname)
	if err != nil {
		return -1, err
	}
	err = n.Do(func() error {
		// Protocol 0 receives nothing until bind: no frames of other interfaces slip in.
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return err
		}
		address := unix.SockaddrLinklayer{Protocol: hostToNet16(protocol), Ifindex: link.Attrs().Index}
		if err := unix.Bind(fd, &address); err != nil {
			unix.Close(fd)
			return err
		}
		return nil
	})
	return fd, err
}

func (c *Capture) read() {
	defer close(c.done)
	buffer := make([]byte, 1<<16+64) // GSO frames are that long
	control := make([]byte, 256)
	for {
		var received bool
		err := c.raw.Read(func(fd uintptr) bool {
			received = c.receive(int(fd), buffer, control)
			return received
		})
		if err != nil {
			break
		}
	}
	// Stopped: what is in the socket by now still belongs to the capture.
	_ = c.raw.Control(func(fd uintptr) {
		for c.receive(int(fd), buffer, control) {
		}
	})
}

// receive takes one frame off the socket, and says whether there was one.
func (c *Capture) receive(fd int, buffer, control []byte) bool {
	size, controlSize, _, from, err := unix.Recvmsg(fd, buffer, control, unix.MSG_DONTWAIT)
	if err != nil {
		// ENETDOWN is told once when the interface goes; frames may come again.
		return errors.Is(err, unix.EINTR) || errors.Is(err, unix.ENETDOWN)
	}
	p := Packet{At: time.Now(), Data: slices.Clone(buffer[:size])}
	if link, ok := from.(*unix.SockaddrLinklayer); ok {
		p.Outgoing = link.Pkttype == unix.PACKET_OUTGOING
	}
	messages, err := unix.ParseSocketControlMessage(control[:controlSize])
	if err == nil {
		for _, m := range messages {
			if m.Header.Level == unix.SOL_PACKET && m.Header.Type == unix.PACKET_AUXDATA && len(m.Data) >= 20 {
				// struct tpacket_auxdata: status, len, snaplen u32; mac, net, vlan_tci, vlan_tpid u16
				status := binary.NativeEndian.Uint32(m.Data)
				p.Partial = status&unix.TP_STATUS_CSUMNOTREADY != 0
				if status&unix.TP_STATUS_VLAN_VALID != 0 {
					p.Tagged = true
					p.VLAN = binary.NativeEndian.Uint16(m.Data[16:]) & 0xfff
				}
			}
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.packets) >= captureMaxPackets || c.bytes+size > captureMaxBytes {
		c.dropped++
		return true
	}
	c.packets = append(c.packets, p)
	c.bytes += size
	return true
}

// Packets returns what was seen so far, in order.
func (c *Capture) Packets() []Packet {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.packets)
}

// Count says how many of the packets seen so far the function picks.
func (c *Capture) Count(pick func(Packet) bool) int {
	count := 0
	for _, p := range c.Packets() {
		if pick(p) {
			count++
		}
	}
	return count
}

// Overflow says how many frames were not kept because the capture was full.
func (c *Capture) Overflow() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.dropped
}

// Stop ends the recording and returns everything seen, also what was still in the socket.
func (c *Capture) Stop() []Packet {
	// A deadline in the past wakes the reader; after it, closing is safe. Both fail when stopped
	// before, which is fine.
	_ = c.file.SetReadDeadline(time.Unix(1, 0))
	<-c.done
	c.file.Close()
	return c.Packets()
}
