package splice

import (
	"errors"
	"net/netip"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

// side names an end of a connection, and the stream that begins there.
type side uint8

const (
	client  side = 0
	backend side = 1
)

func (s side) other() side { return 1 - s }

// state is how far a connection is.
type state uint8

const (
	dialling state = iota // the consumer waits for a backend
	open                  // the header is written
	gone                  // closed; stays in lists until they are next walked
)

// end is one socket. What epoll said is remembered until a call returns EAGAIN.
type end struct {
	fd          int            // -1 = none
	local, peer netip.AddrPort // as seen in the inner VNet
	readable    bool
	writable    bool
	urgent      bool // a byte of urgent data stops splice(2) here
	ended       bool // epoll told of the end of the stream: it is to be read, whatever came before
	watched     bool // by epoll
	watchedFull bool // and it tells of room to write
	odd         bool // has options that others have not
	asked       uint32
	asking      bool // a keepalive probe is on its way since asked
}

// stream is one direction.
type stream struct {
	pipe   *pipe // while it holds data
	held   bool  // and nobody takes that: counted at the link's share
	window int   // what its sender may have under way, bytes; 0 = as the kernel begins
	taken  int   // bytes that its sink took
	bulk   bool  // pieces are large: spliced, not copied
	ended  bool  // the sender's end of stream was read
	passed bool  // and passed on
	shut   bool  // by shutdown, not left to close
}

// conn is a proxied connection, owned by one loop.
type conn struct {
	identity Identity
	share    *share
	state    state
	again    bool // in the loop's list again
	index    int  // in the loop's list of connections
	ends     [2]end
	streams  [2]stream // by the side where they begin
	moved    uint32    // second of the last byte
	check    uint32    // second of the next look at the idle timeout
	dial     dial
}

// serve takes a new connection from a consumer.
func (l *loop) serve(fd int, peer netip.AddrPort) {
	identity, err := l.server.gateway.Identify(l.server.config.Listen, peer)
	if err != nil {
		l.counts.unknown.Add(1)
		l.server.log.WithField("peer", peer).WithError(err).Debug("connection without a flow refused")
		closeSocket(fd) // with a reset: it inherited the listener's linger
		return
	}
	share, err := l.server.occupancy.enter(identity.Link)
	if err != nil {
		if errors.Is(err, errTooMany) {
			l.counts.limited.Add(1)
		} else {
			l.counts.linkLimited.Add(1)
		}
		closeSocket(fd)
		return
	}

	c := &conn{identity: identity, share: share, index: len(l.conns), moved: l.now, check: l.now + seconds(identity.IdleTimeout)}
	c.ends[backend].fd = -1
	l.conns = append(l.conns, c)
	l.counts.active.Add(1)
	l.adopt(c, client, fd)
	c.ends[client].local, c.ends[client].peer = l.server.config.Listen, peer
	c.ends[client].writable = true
	c.dial.targets = l.server.gateway.Targets(&c.identity, l.server.config.DialTargets)
	l.dialNext(c)
	if c.state == gone {
		return
	}
	// Last: by now a backend on this machine has the header, and what epoll says at once can be moved.
	if err := l.watchEnd(c, client, socketEvents); err != nil {
		l.fail(c, err)
	}
}

// ready takes what epoll says about one side.
func (l *loop) ready(c *conn, which side, events uint32) {
	e := &c.ends[which]
	e.readable = e.readable || events&(unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLHUP) != 0
	e.writable = e.writable || events&(unix.EPOLLOUT|unix.EPOLLHUP) != 0
	e.ended = e.ended || events&(unix.EPOLLRDHUP|unix.EPOLLHUP) != 0
	if events&unix.EPOLLPRI != 0 {
		// Urgent data comes as ordinary data instead of vanishing. In time: it is read later, and alone it was not
		// told of as readable.
		_ = unix.SetsockoptInt(e.fd, unix.SOL_SOCKET, unix.SO_OOBINLINE, 1)
		e.urgent, e.odd, e.readable = true, true, true
	}
	failed := events&unix.EPOLLERR != 0

	switch {
	case c.state == dialling && which == backend:
		if failed {
			l.dialFailed(c, socketError(e.fd))
		} else if e.writable {
			l.connected(c)
		}
	case failed:
		l.fail(c, socketError(e.fd))
	case c.state == open:
		l.move(c)
	}
}

// fail passes a reset or another error of one side on to the other: as a reset.
func (l *loop) fail(c *conn, err error) {
	l.counts.reset.Add(1)
	l.debug(c, err, "connection reset")
	l.reset(c)
}

// reset closes both sides. Neither has ended in order, so the kernel sends both a RST.
func (l *loop) reset(c *conn) {
	l.remove(c)
}

// finish closes both sides after both streams were passed on to their ends: the kernel
// delivers what it still holds. The backend's socket is kept if there is nothing left for it to do.
func (l *loop) finish(c *conn) {
	l.counts.finished.Add(1)
	if !l.rest(c) {
		lingerOff(c.ends[backend].fd)
	}
	lingerOff(c.ends[client].fd)
	l.remove(c)
}

func (l *loop) remove(c *conn) {
	l.dialDone(c)
	for which := range c.ends {
		l.putPipe(c, &c.streams[which])
		if more := c.streams[which].window - firstWindow; more > 0 {
			l.server.occupancy.narrow(c.share, int64(more))
		}
		l.release(c, side(which))
	}
	c.state = gone

	last := len(l.conns) - 1
	l.conns[c.index] = l.conns[last]
	l.conns[c.index].index = c.index
	l.conns[last] = nil
	l.conns = l.conns[:last]
	l.counts.active.Add(^uint64(0))
	l.server.occupancy.leave(c.identity.Link)
}

// debug logs one line about a connection, if anybody reads such lines.
func (l *loop) debug(c *conn, err error, message string) {
	if logger, ok := l.server.log.(interface{ IsLevelEnabled(logrus.Level) bool }); ok && !logger.IsLevelEnabled(logrus.DebugLevel) {
		return
	}
	l.server.log.WithFields(logrus.Fields{
		"link": c.identity.Link, "client": c.identity.Client, "endpoint": c.identity.Endpoint, "backend": c.dial.target,
	}).WithError(err).Debug(message)
}
