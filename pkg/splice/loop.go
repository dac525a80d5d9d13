package splice

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/privlink/privlink/pkg/splice/inner"
)

const (
	eventsPerWait   = 256
	acceptsPerEvent = 64
	// Registered once per socket, edge-triggered: no system call when interest changes.
	socketEvents = unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLPRI | unix.EPOLLET
)

// slot is what a descriptor stands for in a loop.
type slot struct {
	conn *conn
	side side
	// generation tells events of a closed descriptor from those of its successor.
	generation int32
}

// loop is an event loop. Its goroutine owns everything except the queue of posted functions.
type loop struct {
	server   *Server
	number   int
	epoll    int
	listener int
	wake     int // eventfd
	ports    *inner.Ports
	slots    []slot // by descriptor
	conns    []*conn
	again    []*conn // stopped by their budget, not by EAGAIN
	asking   []*conn // with a keepalive probe on its way
	free     []*pipe
	buffer   []byte // for headers, and for copying when there is no pipe
	now      uint32 // seconds
	ticked   uint32
	muted    bool // the listener is out of the epoll set until the next tick
	pressed  bool // the listener was ready in the last round
	stopping bool
	counts   counters

	mu     sync.Mutex
	posted []func()
	closed bool
}

func newLoop(s *Server, number int) (*loop, error) {
	l := &loop{
		server: s, number: number, epoll: -1, listener: -1, wake: -1,
		ports: inner.NewPorts(number), buffer: make([]byte, copySize),
	}
	if err := l.open(); err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

func (l *loop) open() error {
	var err error
	if l.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return fmt.Errorf("make epoll: %w", err)
	}
	if l.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return fmt.Errorf("make eventfd: %w", err)
	}
	err = l.server.inside(func() error {
		l.listener, err = listen(l.server.config.Listen)
		return err
	})
	if err != nil {
		return err
	}
	if err := l.watch(l.wake, unix.EPOLLIN); err != nil {
		return err
	}
	return l.watch(l.listener, unix.EPOLLIN)
}

// watch adds a descriptor to the epoll set, with its slot's generation.
func (l *loop) watch(fd int, events uint32) error {
	event := unix.EpollEvent{Events: events, Fd: int32(fd)}
	if fd < len(l.slots) {
		event.Pad = l.slots[fd].generation
	}
	if err := unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, fd, &event); err != nil {
		return fmt.Errorf("add descriptor to epoll: %w", err)
	}
	return nil
}

// post hands fn to the loop's goroutine; false if that has ended.
func (l *loop) post(fn func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	l.posted = append(l.posted, fn)
	// A full counter means that the loop is about to wake anyway.
	_, _ = unix.Write(l.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	return true
}

// takePosted returns what was posted; with last, nothing can be posted any more.
func (l *loop) takePosted(last bool) []func() {
	l.mu.Lock()
	defer l.mu.Unlock()
	posted := l.posted
	l.posted = nil
	l.closed = l.closed || last
	return posted
}

func (l *loop) close() {
	l.takePosted(true)
	for _, fd := range []*int{&l.epoll, &l.listener, &l.wake} {
		if *fd >= 0 {
			unix.Close(*fd)
			*fd = -1
		}
	}
}

// run serves until stopping, then resets what is left.
func (l *loop) run() error {
	// The thread stays in the inner namespace and ends with this goroutine.
	runtime.LockOSThread()
	if l.server.namespace != nil {
		if err := l.server.namespace.Enter(); err != nil {
			return fmt.Errorf("run event loop %d: %w", l.number, err)
		}
	} else {
		runtime.UnlockOSThread()
	}
	defer l.end()

	events := make([]unix.EpollEvent, eventsPerWait)
	for !l.stopping {
		n, err := unix.EpollWait(l.epoll, events, l.patience())
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("run event loop %d: wait: %w", l.number, err)
		}
		l.now = l.server.now()
		pressed := false
		for i := range max(n, 0) {
			pressed = pressed || int(events[i].Fd) == l.listener
			l.handle(&events[i])
		}
		l.pressed = pressed
		l.continueStopped()
		if l.now != l.ticked {
			l.ticked = l.now
			l.tick()
		}
	}
	return nil
}

// patience is how long to wait for events, in milliseconds: until the next second.
func (l *loop) patience() int {
	if len(l.again) > 0 {
		return 0
	}
	elapsed := time.Since(l.server.start) % time.Second
	return int((time.Second-elapsed)/time.Millisecond) + 1
}

// end resets every connection and answers whoever still waits.
func (l *loop) end() {
	for _, fn := range l.takePosted(true) {
		fn()
	}
	l.cut(func(*Identity) bool { return true })
	for _, p := range l.free {
		l.discard(p)
	}
	l.free = nil
}

func (l *loop) handle(event *unix.EpollEvent) {
	fd := int(event.Fd)
	switch fd {
	case l.listener:
		l.accept()
		return
	case l.wake:
		var counter [8]byte
		_, _ = unix.Read(l.wake, counter[:])
		for _, fn := range l.takePosted(false) {
			fn()
		}
		return
	}
	if fd >= len(l.slots) {
		return
	}
	s := &l.slots[fd]
	if s.conn == nil || s.generation != event.Pad {
		return // of a descriptor closed earlier in this batch
	}
	l.ready(s.conn, s.side, event.Events)
}

// accept takes waiting connections, a bounded number so that others are served in between.
func (l *loop) accept() {
	// One, unless there were connections to accept the last time as well: asking once more than there
	// are is a system call for nothing.
	limit := 1
	if l.pressed {
		limit = acceptsPerEvent
	}
	for range limit {
		fd, peer, err := accept(l.listener)
		switch {
		case err == nil:
			l.counts.accepted.Add(1)
			l.serve(fd, peer)
		case errors.Is(err, unix.EAGAIN):
			return
		case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE), errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.ENOMEM):
			// Nothing gets better by asking again at once.
			l.server.log.WithError(err).Warn("splice cannot accept")
			if unix.EpollCtl(l.epoll, unix.EPOLL_CTL_DEL, l.listener, nil) == nil {
				l.muted = true
			}
			return
		default:
			// The connection was gone before it was accepted; the next may be there.
		}
	}
}

// accept is accept4(2) for IPv4. unix.Accept4 makes another system call to learn the protocol.
func accept(listener int) (fd int, peer netip.AddrPort, err error) {
	var address unix.RawSockaddrInet4
	size := uint32(unsafe.Sizeof(address))
	n, _, errno := unix.RawSyscall6(unix.SYS_ACCEPT4, uintptr(listener), uintptr(unsafe.Pointer(&address)), uintptr(unsafe.Pointer(&size)),
		unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
	if errno != 0 {
		return -1, netip.AddrPort{}, errno
	}
	port := *(*[2]byte)(unsafe.Pointer(&address.Port)) // network order
	return int(n), netip.AddrPortFrom(netip.AddrFrom4(address.Addr), binary.BigEndian.Uint16(port[:])), nil
}

// adopt makes a descriptor one side of a connection and watches it.
func (l *loop) adopt(c *conn, which side, fd int) error {
	for fd >= len(l.slots) {
		l.slots = append(l.slots, slot{})
	}
	l.slots[fd].conn, l.slots[fd].side = c, which
	c.ends[which].fd = fd
	return l.watch(fd, socketEvents)
}

// release closes one side's descriptor; its events that are still to come mean nothing.
func (l *loop) release(c *conn, which side) {
	fd := c.ends[which].fd
	if fd < 0 {
		return
	}
	c.ends[which] = end{fd: -1}
	l.slots[fd].conn = nil
	l.slots[fd].generation++
	unix.Close(fd)
}

// cut resets the connections that match.
func (l *loop) cut(match func(*Identity) bool) int {
	count := 0
	for _, c := range slices.Clone(l.conns) {
		if match(&c.identity) {
			l.counts.cut.Add(1)
			l.reset(c)
			count++
		}
	}
	return count
}

// continueStopped goes on with what its budget stopped.
func (l *loop) continueStopped() {
	list := l.again
	l.again = nil
	for _, c := range list {
		c.again = false
		if c.state == open {
			l.move(c)
		}
	}
}
