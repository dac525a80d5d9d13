package neigh

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Transmit sends a whole frame out of a port. An error means that this frame is lost, as any may be.
type Transmit func(p Port, frame []byte) error

// Socket sends raw frames. It receives nothing: its protocol is 0.
type Socket struct{ fd int }

// OpenSocket opens one in the network namespace of the calling thread. Needs CAP_NET_RAW.
func OpenSocket() (*Socket, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open packet socket: %w (needs CAP_NET_RAW)", err)
	}
	return &Socket{fd: fd}, nil
}

// Send is a Transmit.
func (s *Socket) Send(p Port, frame []byte) error {
	if err := unix.Sendto(s.fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: p.Ifindex, Halen: 6}); err != nil {
		return fmt.Errorf("send a frame to interface %d: %w", p.Ifindex, err)
	}
	return nil
}

// Close closes the socket.
func (s *Socket) Close() error { return unix.Close(s.fd) }
