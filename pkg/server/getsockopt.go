package server

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// getsockopt reads an option of variable length, for which x/sys/unix has no function, and
// returns how many bytes the kernel wrote.
func getsockopt(fd, level, option int, into []byte) (int, error) {
	length := uint32(len(into))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(option),
		uintptr(unsafe.Pointer(&into[0])), uintptr(unsafe.Pointer(&length)), 0)
	if errno != 0 {
		return 0, errno
	}
	return int(length), nil
}
