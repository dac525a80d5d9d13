package splice

import (
	"os"

	"golang.org/x/sys/unix"
)

const (
	// pipeSize is what a pipe is asked to hold, in bytes: the most an unprivileged one may have.
	pipeSize = 1 << 20
	// budget is how much one stream moves before others get their turn.
	budget = 4 * pipeSize
	// keptPipes is how many empty pipes a loop keeps.
	keptPipes = 16
	// copySize is the piece copied when there is no pipe.
	copySize = 64 << 10
	// unsentSize is how much a sink takes beyond what is on its way, from when large pieces are moved.
	unsentSize = 512 << 10
	// smallSize is the largest piece that is copied although there is a pipe: two calls that copy cost less
	// than two that hand pages on. The smallest pipe, of two pages, can hold it.
	smallSize = 8 << 10
)

// pipe carries bytes between sockets inside the kernel.
type pipe struct {
	read, write int
	held        int // bytes in it
	slots       int // pieces it can hold
}

// outcome is why a stream stopped.
type outcome uint8

const (
	waiting outcome = iota // for epoll
	tired                  // budget used up
	broken                 // a socket failed
)

// move moves what can be moved, both ways, and closes the connection when both ways have ended.
func (l *loop) move(c *conn) {
	for from := range c.streams {
		result, err := l.pump(c, side(from))
		switch {
		case result == broken:
			l.fail(c, err)
			return
		case result == tired && !c.again:
			c.again = true
			l.again = append(l.again, c)
		}
	}
	if c.streams[client].passed && c.streams[backend].passed {
		l.finish(c)
	}
}

// pump moves one stream until a socket would block, the stream has ended, or its turn is over.
func (l *loop) pump(c *conn, from side) (outcome, error) {
	s, source, sink := &c.streams[from], &c.ends[from], &c.ends[from.other()]
	if s.passed {
		return waiting, nil
	}
	defer l.putEmptyPipe(c, s)

	for left := budget; left > 0; {
		if blocked, err := l.drain(c, from); blocked || err != nil {
			return stopped(err)
		}
		if s.ended {
			s.passed = true
			if c.streams[from.other()].passed {
				return waiting, nil // closing says the same
			}
			s.shut = true
			return stopped(shut(sink.fd))
		}
		if !source.readable {
			return waiting, nil
		}
		n, err := l.fill(c, from)
		switch {
		case again(err):
			return waiting, nil
		case err != nil:
			return broken, err
		case n == 0:
			s.ended = true
		default:
			l.count(c, from, n)
			l.widen(c, from)
			left -= n
		}
	}
	return tired, nil
}

func stopped(err error) (outcome, error) {
	if err != nil {
		return broken, err
	}
	return waiting, nil
}

// drain empties a stream's pipe into its sink; blocked says that the sink is full.
func (l *loop) drain(c *conn, from side) (blocked bool, err error) {
	s, sink := &c.streams[from], &c.ends[from.other()]
	for s.pipe != nil && s.pipe.held > 0 {
		if !sink.writable {
			return true, nil
		}
		n, err := splice(s.pipe.read, sink.fd, s.pipe.held)
		switch {
		case again(err):
			return true, l.full(c, from.other())
		case err != nil:
			return false, err
		}
		s.pipe.held -= n
		s.taken += n
		c.moved = l.now
	}
	return false, nil
}

// fill takes bytes from a stream's source: large pieces into its empty pipe, small ones straight to the
// sink. As only an empty pipe is filled, EAGAIN means a socket and never the pipe. 0 bytes
// without an error is the end of the stream.
func (l *loop) fill(c *conn, from side) (int, error) {
	s, source := &c.streams[from], &c.ends[from]
	if s.pipe == nil {
		s.pipe = l.takePipe(c)
	}
	if s.pipe == nil || source.urgent {
		return l.peek(c, from)
	}
	if !s.bulk {
		return l.copy(c, from)
	}
	n, err := splice(source.fd, s.pipe.write, pipeSize)
	if err != nil {
		source.readable = !again(err)
		return 0, err
	}
	s.pipe.held, s.bulk = n, n >= smallSize
	l.counts.spliced.Add(uint64(n))
	if n < s.pipe.slots && !source.ended && n > 0 {
		// Every byte could have taken a slot of the pipe, and some are free: the socket is empty.
		// What comes later is told by epoll.
		source.readable = false
	}
	return n, nil
}

// copy moves a small piece through memory. What the sink does not take waits in the pipe.
func (l *loop) copy(c *conn, from side) (int, error) {
	s, source, sink := &c.streams[from], &c.ends[from], &c.ends[from.other()]
	n, err := receive(source.fd, l.buffer[:smallSize], 0)
	if err != nil || n == 0 {
		source.readable = !again(err)
		return 0, err
	}
	s.bulk = n == smallSize
	if !s.bulk && !source.ended {
		source.readable = false // it had less than was asked for
	}
	sent := 0
	if sink.writable {
		if sent, err = send(sink.fd, l.buffer[:n]); again(err) {
			err = l.full(c, from.other())
		}
		if err != nil {
			return 0, err
		}
	}
	s.taken += sent
	if sent == n {
		return n, nil
	}
	held, err := unix.Write(s.pipe.write, l.buffer[sent:n])
	if err == nil && held != n-sent {
		err = unix.EMSGSIZE
	}
	s.pipe.held = n - sent
	return n, err
}

// peek moves one piece through memory when no pipe is to be had, and past urgent data, at which
// splice(2) stops. What the sink does not take stays with the source.
func (l *loop) peek(c *conn, from side) (int, error) {
	s, source, sink := &c.streams[from], &c.ends[from], &c.ends[from.other()]
	if !sink.writable {
		return 0, unix.EAGAIN
	}
	n, err := receive(source.fd, l.buffer, unix.MSG_PEEK)
	if err != nil || n == 0 {
		if again(err) {
			source.readable, source.urgent = false, false
		}
		return 0, err
	}
	s.bulk = n >= smallSize
	l.widen(c, from)
	sent, err := send(sink.fd, l.buffer[:n])
	if again(err) {
		if failure := l.full(c, from.other()); failure != nil {
			return 0, failure
		}
	}
	if err != nil {
		return 0, err
	}
	// Read what was sent: it is there, so nothing less comes.
	if _, err := receive(source.fd, l.buffer[:sent], 0); err != nil {
		return 0, err
	}
	l.counts.copied.Add(1)
	s.taken += sent
	return sent, nil
}

// full notes that a socket takes no more, and has epoll tell when it does.
func (l *loop) full(c *conn, which side) error {
	c.ends[which].writable = false
	return l.watchEnd(c, which, socketEvents|unix.EPOLLOUT)
}

func (l *loop) count(c *conn, from side, n int) {
	c.moved = l.now
	if from == client {
		l.counts.bytesIn.Add(uint64(n))
	} else {
		l.counts.bytesOut.Add(uint64(n))
	}
}

// widen lets a stream's sender have the more under way the more of it was taken. What comes in small pieces needs no call:
// the kernel begins with the first window, and gives more only for more than that read within a round trip. What comes in
// large ones is told before the first of them is read: a window that has been offered cannot be taken back.
func (l *loop) widen(c *conn, from side) {
	s := &c.streams[from]
	switch {
	case s.window == 0:
		if !s.bulk {
			return
		}
		s.window = firstWindow
	case s.window >= maxWindow || s.taken < takenPerWindow*s.window || !l.server.occupancy.widen(c.share, int64(s.window)):
		return
	default:
		s.window *= 2
	}
	// Buffers that are set do not grow by themselves any more. A refusal leaves those there are. The kernel takes twice what
	// it is told: a window's worth of packets needs that where they arrive, not where whole pages are sent.
	source, sink := c.ends[from].fd, c.ends[from.other()].fd
	c.ends[from].odd, c.ends[from.other()].odd = true, true
	_ = unix.SetsockoptInt(source, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, s.window)
	_ = unix.SetsockoptInt(source, unix.IPPROTO_TCP, unix.TCP_WINDOW_CLAMP, s.window)
	_ = unix.SetsockoptInt(sink, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, s.window/2)
	if s.window == firstWindow {
		// What the network does not take yet waits where it is still in the processor's cache when it is its turn.
		_ = unix.SetsockoptInt(sink, unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, unsentSize)
	}
}

// takePipe returns an empty pipe, or nil if there are as many as there may be, or the link's stuck streams hold enough.
func (l *loop) takePipe(c *conn) *pipe {
	if c.share.held.Load() >= l.server.occupancy.maxHeld {
		return nil
	}
	if last := len(l.free) - 1; last >= 0 {
		p := l.free[last]
		l.free = l.free[:last]
		return p
	}
	if l.server.pipes.Add(-1) < 0 {
		l.server.pipes.Add(1)
		return nil
	}
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_NONBLOCK|unix.O_CLOEXEC); err != nil {
		l.server.pipes.Add(1)
		l.server.log.WithError(err).Debug("make pipe")
		return nil
	}
	// Refused when the user holds many pipes: the default of 64 kB works as well, slower.
	size, err := unix.FcntlInt(uintptr(ends[0]), unix.F_SETPIPE_SZ, pipeSize)
	if err != nil {
		size = 0 // slots unknown
	}
	l.counts.pipes.Add(1)
	return &pipe{read: ends[0], write: ends[1], slots: size / os.Getpagesize()}
}

// putEmptyPipe takes back a stream's pipe unless it holds data.
func (l *loop) putEmptyPipe(c *conn, s *stream) {
	switch {
	case s.pipe == nil:
	case s.pipe.held == 0:
		l.putPipe(c, s)
	case !s.held:
		s.held = true
		c.share.held.Add(1)
	}
}

// putPipe takes back a stream's pipe, with data in it only to be thrown away.
func (l *loop) putPipe(c *conn, s *stream) {
	p := s.pipe
	if p == nil {
		return
	}
	s.pipe = nil
	if s.held {
		s.held = false
		c.share.held.Add(-1)
	}
	if p.held > 0 || len(l.free) >= keptPipes {
		l.discard(p)
		return
	}
	l.free = append(l.free, p)
}

func (l *loop) discard(p *pipe) {
	unix.Close(p.read)
	unix.Close(p.write)
	l.counts.pipes.Add(^uint64(0))
	l.server.pipes.Add(1)
}
