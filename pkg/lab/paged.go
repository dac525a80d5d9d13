package lab

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// pagedPlace is what a frame has of the ring: the largest is this less the header.
const pagedPlace = 1 << 14

// InjectPaged is Inject with everything behind the Ethernet header in a page of its own (a non-linear skb), as some
// NICs and tunnels deliver frames: a program that wants to read it has to pull it in first.
func (n *Namespace) InjectPaged(ifname string, frames ...[]byte) error {
	fd, err := n.packetSocket(ifname, 0)
	if err != nil {
		return fmt.Errorf("inject on %s of %s: %w", ifname, n.short, err)
	}
	defer unix.Close(fd)
	if err := sendFromRing(fd, frames); err != nil {
		return fmt.Errorf("inject from pages on %s of %s: %w", ifname, n.short, err)
	}
	return nil
}

// sendFromRing sends frames from a ring shared with the kernel, which copies nothing but the Ethernet header.
func sendFromRing(fd int, frames [][]byte) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VERSION, unix.TPACKET_V2); err != nil {
		return fmt.Errorf("set the ring's version: %w", err)
	}
	ask := unix.TpacketReq{Block_size: pagedPlace, Block_nr: uint32(len(frames)), Frame_size: pagedPlace, Frame_nr: uint32(len(frames))}
	if err := unix.SetsockoptTpacketReq(fd, unix.SOL_PACKET, unix.PACKET_TX_RING, &ask); err != nil {
		return fmt.Errorf("make the ring: %w", err)
	}
	ring, err := unix.Mmap(fd, 0, pagedPlace*len(frames), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map the ring: %w", err)
	}
	defer func() { _ = unix.Munmap(ring) }()
	const header = unsafe.Sizeof(unix.Tpacket2Hdr{}) // the frame follows at once: TPACKET_ALIGN leaves it as it is
	places := make([]*unix.Tpacket2Hdr, len(frames))
	for i, frame := range frames {
		place := ring[i*pagedPlace : (i+1)*pagedPlace]
		if copy(place[header:], frame) != len(frame) {
			return fmt.Errorf("frame %d has %d bytes, more than a place of the ring", i, len(frame))
		}
		places[i] = (*unix.Tpacket2Hdr)(unsafe.Pointer(&place[0]))
		places[i].Len = uint32(len(frame))
		places[i].Status = unix.TP_STATUS_SEND_REQUEST
	}
	if err := unix.Sendto(fd, nil, 0, nil); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	for i, place := range places {
		if place.Status&(unix.TP_STATUS_SEND_REQUEST|unix.TP_STATUS_WRONG_FORMAT) != 0 {
			return fmt.Errorf("frame %d was not sent: status %#x", i, place.Status)
		}
	}
	return nil
}
