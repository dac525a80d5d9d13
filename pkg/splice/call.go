package splice

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The system calls of an event loop. None is announced to Go's scheduler: an announced one wakes the
// runtime's monitor thread if the process was idle, and that costs a request more than moving its
// bytes. None of them blocks but poll, which does so for some milliseconds at most.

// result makes Go of what a system call returned.
func result(n uintptr, errno unix.Errno) (int, error) {
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// poll is epoll_wait(2), for so many milliseconds. A signal ends it like the time: the runtime's, that a
// collection wants to begin, must not wait.
func poll(epoll int, events []unix.EpollEvent, timeout int) (int, error) {
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(epoll), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), uintptr(timeout), 0, 0)
	if errno == unix.EINTR {
		return 0, nil
	}
	return result(n, errno)
}

// control is epoll_ctl(2).
func control(epoll, operation, fd int, event *unix.EpollEvent) error {
	_, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(epoll), uintptr(operation), uintptr(fd), uintptr(unsafe.Pointer(event)), 0, 0)
	_, err := result(0, errno)
	return err
}

// accept is accept4(2) for IPv4.
func accept(listener int) (fd int, peer netip.AddrPort, err error) {
	var from unix.RawSockaddrInet4
	size := uint32(unsafe.Sizeof(from))
	n, _, errno := unix.RawSyscall6(unix.SYS_ACCEPT4, uintptr(listener), uintptr(unsafe.Pointer(&from)), uintptr(unsafe.Pointer(&size)),
		unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
	if errno != 0 {
		return -1, netip.AddrPort{}, errno
	}
	port := *(*[2]byte)(unsafe.Pointer(&from.Port)) // network order
	return int(n), netip.AddrPortFrom(netip.AddrFrom4(from.Addr), binary.BigEndian.Uint16(port[:])), nil
}

// receive is recv(2); 0 bytes without an error is the end of the stream.
func receive(fd int, to []byte, flags int) (int, error) {
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&to[0])), uintptr(len(to)), uintptr(flags|unix.MSG_DONTWAIT), 0, 0)
	return result(n, errno)
}

// discard takes bytes that are known to be there from a TCP socket, without copying them.
func discard(fd, size int) error {
	taken, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), 0, uintptr(size), unix.MSG_TRUNC|unix.MSG_DONTWAIT, 0, 0)
	n, err := result(taken, errno)
	if err == nil && n != size {
		err = unix.EBADMSG
	}
	return err
}

// send is send(2), without SIGPIPE.
func send(fd int, bytes []byte) (int, error) {
	n, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&bytes[0])), uintptr(len(bytes)), unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT, 0, 0)
	return result(n, errno)
}

// splice moves up to size bytes between a socket and a pipe. The sockets are non-blocking themselves,
// which SPLICE_F_NONBLOCK alone would not make them.
func splice(from, to, size int) (int, error) {
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_SPLICE, uintptr(from), 0, uintptr(to), 0, uintptr(size), unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
		if errno != unix.EINTR {
			return result(n, errno)
		}
	}
}

// shut passes on the end of a stream.
func shut(fd int) error {
	_, _, errno := unix.RawSyscall(unix.SYS_SHUTDOWN, uintptr(fd), unix.SHUT_WR, 0)
	_, err := result(0, errno)
	return err
}

// unacknowledged is how much of what was sent, an end of stream included, the far end has not acknowledged.
func unacknowledged(fd int) (int, error) {
	var n int32
	_, _, errno := unix.RawSyscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCOUTQ, uintptr(unsafe.Pointer(&n)))
	return result(uintptr(n), errno)
}

// closeSocket is close(2): of a socket it neither blocks nor fails.
func closeSocket(fd int) {
	_, _, _ = unix.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0)
}

// lingerOff lets close deliver what the kernel still holds; it would throw that away.
func lingerOff(fd int) {
	var off unix.Linger
	_, _, _ = unix.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_LINGER, uintptr(unsafe.Pointer(&off)), unsafe.Sizeof(off), 0)
}

// socketError returns and clears a socket's pending error.
func socketError(fd int) error {
	code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return fmt.Errorf("read the socket's error: %w", err)
	}
	if code == 0 {
		return unix.ECONNRESET
	}
	return unix.Errno(code)
}

// again says that a call would have to wait.
func again(err error) bool { return errors.Is(err, unix.EAGAIN) }
