package lab

import (
	"os"

	"golang.org/x/sys/unix"
)

// TapVM is VM with what a hypervisor puts between the two: a tap on the gateway, and somebody who carries frames
// between it and the machine's own interface, which is a tap here, too.
func (l *Lab) TapVM(gateway *Namespace, name, cidr string) *Namespace {
	l.tb.Helper()
	vm := l.Namespace(name)
	outside, inside := gateway.tap(name), vm.tap("eth0")
	for _, way := range [][2]*os.File{{outside, inside}, {inside, outside}} {
		go carry(way[0], way[1])
	}
	gateway.Up(name) // at once: the carrier of a tap is its open file
	vm.Up("eth0")
	vm.Addr("eth0", cidr)
	return vm
}

// tap makes a tap that goes with the lab.
func (n *Namespace) tap(ifname string) *os.File {
	n.lab.tb.Helper()
	var file *os.File
	err := n.Do(func() error { // the interface is where the file was opened
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		request, err := unix.NewIfreq(ifname)
		if err == nil {
			request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
			err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
		}
		if err != nil {
			unix.Close(fd)
			return err
		}
		file = os.NewFile(uintptr(fd), "tap "+ifname)
		return nil
	})
	if err != nil {
		n.fatal("make tap", ifname, err)
	}
	n.lab.onClose(func() { file.Close() })
	return file
}

// carry takes frames from one tap to the other until one is gone.
func carry(from, to *os.File) {
	frame := make([]byte, 1<<16)
	for {
		size, err := from.Read(frame)
		if err != nil {
			return
		}
		if _, err := to.Write(frame[:size]); isClosed(err) {
			return // another error is that of a tap which is down: the frame is lost
		}
	}
}
