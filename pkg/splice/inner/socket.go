package inner

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Socket makes a socket for Connect; the calling thread is inside the namespace.
func Socket() (fd int, err error) {
	fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		return -1, fmt.Errorf("make socket: %w", os.NewSyscallError("socket", err))
	}
	for _, o := range []struct {
		name                 string
		level, option, value int
	}{
		{"nodelay", unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
		// The handshake's last ACK waits for the first bytes, which follow at once, and goes with them. This is what
		// the option means to a socket that connects; unlike TCP_QUICKACK it survives Reconnect.
		{"defer accept", unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, 1},
		// Other connections may have the same source port, to other far addresses.
		{"reuseaddr", unix.SOL_SOCKET, unix.SO_REUSEADDR, 1},
	} {
		if err := unix.SetsockoptInt(fd, o.level, o.option, o.value); err != nil {
			unix.Close(fd)
			return -1, fmt.Errorf("set %s: %w", o.name, err)
		}
	}
	// Until an orderly close: a connection whose proxy dies ends with a reset.
	if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("set linger: %w", err)
	}
	return fd, nil
}

// Connect starts to connect a Socket, on any thread: writable means connected or failed (SO_ERROR).
// source may be the zero value, for any address. It does not block, so that the scheduler is not told
// of its system calls.
func Connect(fd int, source, to netip.AddrPort) error {
	if source.IsValid() {
		a := rawAddress(source)
		if _, _, errno := unix.RawSyscall(unix.SYS_BIND, uintptr(fd), uintptr(unsafe.Pointer(&a)), unsafe.Sizeof(a)); errno != 0 {
			return fmt.Errorf("bind %v: %w", source, errno)
		}
	}
	return connect(fd, to)
}

// Reconnect starts to connect a Socket once more, from the address that it has. Its last connection has ended in
// both directions, acknowledged; of another one the rest would be lost.
func Reconnect(fd int, to netip.AddrPort) error {
	var nobody unix.RawSockaddrInet4 // AF_UNSPEC: the socket forgets its connection, not its options
	if _, _, errno := unix.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&nobody)), unsafe.Sizeof(nobody)); errno != 0 {
		return fmt.Errorf("disconnect: %w", errno)
	}
	return connect(fd, to)
}

func connect(fd int, to netip.AddrPort) error {
	a := rawAddress(to)
	_, _, errno := unix.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&a)), unsafe.Sizeof(a))
	if errno != 0 && !errors.Is(errno, unix.EINPROGRESS) {
		return fmt.Errorf("connect to %v: %w", to, errno)
	}
	return nil
}

func rawAddress(a netip.AddrPort) unix.RawSockaddrInet4 {
	raw := unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: a.Addr().As4()}
	binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&raw.Port))[:], a.Port())
	return raw
}
