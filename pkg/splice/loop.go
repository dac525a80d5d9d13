package splice

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/privlink/privlink/pkg/splice/inner"
)

const (
	eventsPerWait   = 256
	acceptsPerEvent = 64
	// What a socket is watched for, edge-triggered; from the first time it is full also for EPOLLOUT.
	socketEvents = unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLPRI | unix.EPOLLET
	// When events have followed so closely so often in a row, the next is waited for without leave of
	// Go's scheduler, that is with the processor kept.
	closely = 500 * time.Microsecond
	often   = 16
	// vigil is how long, in milliseconds. Longer than from one of the kernel's ticks to the next: a timer that is
	// the next to expire costs each wait two writes to the clock, of which a hypervisor hears.
	vigil = 5
	// tenure is how long the processor may be kept before other goroutines get their turn.
	tenure = 2 * time.Millisecond
)

// slot is what a descriptor stands for in a loop.
type slot struct {
	conn *conn
	side side
	// generation tells events of a closed descriptor from those of its successor.
	generation int32
}

// loop is an event loop. Its goroutine owns everything except the queue of posted functions.
//
// It waits in two ways. Mostly through the runtime, as any goroutine does for a connection: a thread that blocks
// in epoll_wait(2) gives up its processor and takes it back with every request, by futexes and the runtime's
// monitor. But that way costs two polls and a turn of the scheduler, so while one event closely follows the
// other the loop waits in epoll_wait(2) all the same, and keeps its processor: to the scheduler it computes.
type loop struct {
	server   *Server
	number   int
	epoll    int
	bell     int           // an epoll that holds epoll and, while armed, wakes the runtime when that has events
	file     *os.File      // of bell, for the runtime
	turned   time.Duration // on the server's clock: the beginning of the last turn
	followed int           // turns in a row that followed closely
	listener int
	timer    int // timerfd, once a second
	wake     int // eventfd
	ports    *inner.Ports
	slots    []slot // by descriptor
	conns    []*conn
	again    []*conn // stopped by their budget, not by EAGAIN
	asking   []*conn // with a keepalive probe on its way
	free     []*pipe
	stock    []int   // sockets of the namespace, unused
	resting  []spare // used ones; together with the stock at most stockSize
	turns    uint32
	buffer   []byte // for headers, and for copying when there is no pipe
	now      uint32 // seconds, as the timer told them
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
		server: s, number: number, epoll: -1, bell: -1, listener: -1, timer: -1, wake: -1,
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
	if l.bell, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return fmt.Errorf("make epoll: %w", err)
	}
	if err := unix.SetNonblock(l.bell, true); err != nil { // else os.NewFile would not wait by the runtime
		return fmt.Errorf("make epoll non-blocking: %w", err)
	}
	l.file = os.NewFile(uintptr(l.bell), "epoll")
	if err := control(l.bell, unix.EPOLL_CTL_ADD, l.epoll, &unix.EpollEvent{}); err != nil {
		return fmt.Errorf("add epoll to epoll: %w", err)
	}
	if l.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return fmt.Errorf("make eventfd: %w", err)
	}
	if l.timer, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK); err != nil {
		return fmt.Errorf("make timer: %w", err)
	}
	second := unix.NsecToTimespec(int64(time.Second))
	if err := unix.TimerfdSettime(l.timer, 0, &unix.ItimerSpec{Interval: second, Value: second}, nil); err != nil {
		return fmt.Errorf("start timer: %w", err)
	}
	err = l.server.inside(func() error {
		l.listener, err = listen(l.server.config.Listen)
		return err
	})
	if err != nil {
		return err
	}
	for _, fd := range []int{l.wake, l.timer, l.listener} {
		if err := l.watch(fd, unix.EPOLLIN); err != nil {
			return err
		}
	}
	return nil
}

// event is what epoll is asked for a descriptor, with its slot's generation.
func (l *loop) event(fd int, events uint32) unix.EpollEvent {
	e := unix.EpollEvent{Events: events, Fd: int32(fd)}
	if fd < len(l.slots) {
		e.Pad = l.slots[fd].generation
	}
	return e
}

// watch adds a descriptor to the epoll set.
func (l *loop) watch(fd int, events uint32) error {
	event := l.event(fd, events)
	if err := control(l.epoll, unix.EPOLL_CTL_ADD, fd, &event); err != nil {
		return fmt.Errorf("add descriptor to epoll: %w", err)
	}
	return nil
}

// watchEnd has epoll tell of one side's socket; of more than asked for, if it did so before.
func (l *loop) watchEnd(c *conn, which side, events uint32) error {
	e := &c.ends[which]
	full := events&unix.EPOLLOUT != 0
	if !e.watched {
		e.watched, e.watchedFull = true, full
		return l.watch(e.fd, events)
	}
	if e.watchedFull || !full {
		return nil
	}
	e.watchedFull = true
	event := l.event(e.fd, events)
	if err := control(l.epoll, unix.EPOLL_CTL_MOD, e.fd, &event); err != nil {
		return fmt.Errorf("watch a full socket: %w", err)
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
	if l.file != nil {
		_ = l.file.Close() // and with it the bell
		l.file, l.bell = nil, -1
	}
	for _, fd := range []*int{&l.epoll, &l.bell, &l.listener, &l.timer, &l.wake} {
		if *fd >= 0 {
			unix.Close(*fd)
			*fd = -1
		}
	}
}

// run serves until stopping, then resets what is left.
func (l *loop) run() error {
	defer l.end()
	raw, err := l.file.SyscallConn()
	if err != nil {
		return fmt.Errorf("run event loop %d: %w", l.number, err)
	}
	events := make([]unix.EpollEvent, eventsPerWait)
	l.now = l.server.now()
	var failure error
	// The runtime calls this whenever something may have happened, and waits when it returns false.
	err = raw.Read(func(uintptr) bool {
		failure = l.rounds(events)
		return l.stopping || failure != nil
	})
	return errors.Join(failure, err)
}

// rounds serves until the runtime is to wait: when nothing follows closely, or other goroutines should have a turn.
func (l *loop) rounds(events []unix.EpollEvent) error {
	// Taken from the bell, its event is not told again until it is armed.
	if _, err := poll(l.bell, events, 0); err != nil {
		return fmt.Errorf("run event loop %d: silence bell: %w", l.number, err)
	}
	begin, timeout := l.server.clock(), 0
	for {
		n, err := poll(l.epoll, events, timeout)
		if err != nil {
			return fmt.Errorf("run event loop %d: poll: %w", l.number, err)
		}
		now := l.server.clock()
		l.turn(events[:n])
		if l.stopping {
			return nil
		}
		if l.followed++; n == 0 || now-l.turned > closely {
			l.followed = 0
		}
		l.turned = now
		switch {
		case len(l.again) > 0:
			timeout = 0
		case l.followed >= often && now-begin < tenure:
			timeout = vigil
		default:
			return l.arm()
		}
	}
}

// arm has the bell wake the runtime once, now if there is something already.
func (l *loop) arm() error {
	if err := control(l.bell, unix.EPOLL_CTL_MOD, l.epoll, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLONESHOT}); err != nil {
		return fmt.Errorf("run event loop %d: arm bell: %w", l.number, err)
	}
	return nil
}

// turn handles what happened, and what the last turn left over.
func (l *loop) turn(events []unix.EpollEvent) {
	l.turns++
	pressed := false
	for i := range events {
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
	for _, fd := range l.stock {
		closeSocket(fd)
	}
	for _, s := range l.resting {
		closeSocket(s.fd)
	}
	l.stock, l.resting = nil, nil
	l.counts.sockets.Store(0)
}

func (l *loop) handle(event *unix.EpollEvent) {
	fd := int(event.Fd)
	switch fd {
	case l.listener:
		l.accept()
		return
	case l.timer:
		var expirations [8]byte
		_, _ = unix.Read(l.timer, expirations[:])
		l.now = l.server.now() // not with every request
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

// adopt makes a descriptor one side of a connection. It is not watched yet.
func (l *loop) adopt(c *conn, which side, fd int) {
	for fd >= len(l.slots) {
		l.slots = append(l.slots, slot{})
	}
	l.slots[fd].conn, l.slots[fd].side = c, which
	c.ends[which].fd = fd
}

// release closes one side's descriptor; its events that are still to come mean nothing.
func (l *loop) release(c *conn, which side) {
	fd := c.ends[which].fd
	if fd < 0 {
		return
	}
	c.ends[which] = end{fd: -1}
	l.forget(fd)
}

func (l *loop) forget(fd int) {
	l.slots[fd].conn = nil
	l.slots[fd].generation++
	closeSocket(fd)
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
