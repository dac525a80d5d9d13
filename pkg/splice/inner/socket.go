package inner

import (
	"errors"
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// Connect makes a socket with the options of this package and starts to connect it; the
// calling thread is inside the namespace. The socket is non-blocking: writable means
// connected or failed (SO_ERROR). source may be the zero value, for any address.
func Connect(source, to netip.AddrPort) (fd int, err error) {
	fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		return -1, fmt.Errorf("make socket: %w", os.NewSyscallError("socket", err))
	}
	if err := prepare(fd, source, to); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func prepare(fd int, source, to netip.AddrPort) error {
	// Until an orderly close: a connection whose proxy dies ends with a reset.
	if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
		return fmt.Errorf("set linger: %w", err)
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
		return fmt.Errorf("set nodelay: %w", err)
	}
	if source.IsValid() {
		// Other connections may have the same source port, to other far addresses.
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			return fmt.Errorf("set reuseaddr: %w", err)
		}
		if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: source.Addr().As4(), Port: int(source.Port())}); err != nil {
			return fmt.Errorf("bind %v: %w", source, err)
		}
	}
	err := unix.Connect(fd, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())})
	if err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return fmt.Errorf("connect to %v: %w", to, err)
	}
	return nil
}
