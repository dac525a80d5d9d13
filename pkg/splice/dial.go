package splice

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/privlink/privlink/pkg/splice/inner"
)

var errDialTimeout = errors.New("backend did not answer in time")

// dial is the way to a backend.
type dial struct {
	targets  []netip.AddrPort // not tried yet
	target   netip.AddrPort   // tried now, or reached
	way      inner.Way        // of the backend's socket; none in a Direct splice
	entry    bool             // its dial entry stands
	deadline uint32           // second
}

// dialNext tries the next backend. When there is none left the consumer gets a reset.
func (l *loop) dialNext(c *conn) {
	for len(c.dial.targets) > 0 {
		c.dial.target = c.dial.targets[0]
		c.dial.targets = c.dial.targets[1:]
		err := l.dialOne(c)
		if err == nil {
			return
		}
		l.dialDone(c)
		l.release(c, backend)
		l.counts.dialFailed.Add(1)
		l.debug(c, err, "dial failed")
	}
	l.counts.noBackend.Add(1)
	l.debug(c, nil, "no backend")
	l.reset(c)
}

// dialOne starts to connect to the target: dial entry first, then the socket.
func (l *loop) dialOne(c *conn) error {
	s, err := l.socket()
	if err != nil {
		return err
	}
	l.adopt(c, backend, s.fd)
	e := &c.ends[backend]
	e.watched, e.watchedFull = s.used, s.full
	to := c.dial.target
	if !l.server.config.Direct {
		err := l.server.gateway.Admit(s.way.Source, inner.Destination{
			RuleSet: c.identity.RuleSet, Rule: c.identity.Rule, Target: c.dial.target, Link: c.identity.LinkRef,
		})
		if err != nil {
			l.ports.Give(s.way.Source)
			return err
		}
		c.dial.way, c.dial.entry = s.way, true
		to = s.way.Far(to.Port())
	}
	e.local, e.peer = s.way.Source, to
	if s.used {
		err = inner.Reconnect(s.fd, to)
	} else {
		err = inner.Connect(s.fd, s.way.Source, to)
	}
	if err != nil {
		return err
	}
	c.dial.deadline = l.now + seconds(l.server.config.DialTimeout)
	// A backend on this machine has answered by now. If not, epoll will tell.
	if err := l.greet(c); again(err) {
		return l.watchEnd(c, backend, socketEvents|unix.EPOLLOUT)
	} else if err != nil || c.state == gone {
		return err
	}
	return l.watchEnd(c, backend, socketEvents)
}

// dialDone takes the dial entry back; a flow that was opened with it stays.
func (l *loop) dialDone(c *conn) {
	if c.dial.entry {
		l.server.gateway.Withdraw(c.dial.way.Source)
		l.ports.Give(c.dial.way.Source)
		c.dial.entry = false
	}
}

// dialFailed goes on with the next backend. Nothing of the consumer's was read yet.
func (l *loop) dialFailed(c *conn, err error) {
	if errors.Is(err, errDialTimeout) {
		l.counts.dialTimedOut.Add(1)
	} else {
		l.counts.dialFailed.Add(1)
	}
	l.debug(c, err, "dial failed")
	l.dialDone(c)
	l.release(c, backend)
	l.dialNext(c)
}

// connected goes on when epoll says that a backend may have accepted.
func (l *loop) connected(c *conn) {
	switch err := l.greet(c); {
	case again(err): // not yet connected
	case err != nil:
		// Refused, or reset before the header: another backend may do better.
		l.dialFailed(c, err)
	case c.state == open:
		l.move(c)
	}
}

// greet writes the header, before anything else and in one write: the send buffer of a new
// connection always has room for it. What the client has sent by now goes with it. EAGAIN means that there is no
// connection yet.
func (l *loop) greet(c *conn) error {
	h := c.identity.header()
	bytes := h.Append(l.buffer[:0])
	size := len(bytes)
	// Only looked at: the backend may refuse, and then the next one is to have it. An end is epoll's to tell; not an error, which is
	// told once, and that was now.
	switch first, err := receive(c.ends[client].fd, bytes[size:size+smallSize], unix.MSG_PEEK); {
	case err == nil:
		bytes = bytes[:size+first]
	case !again(err):
		l.fail(c, err)
		return nil
	}
	n, err := send(c.ends[backend].fd, bytes)
	if err != nil {
		return err
	}
	if n < size {
		return fmt.Errorf("write PROXY header: %d of %d bytes", n, size)
	}
	c.ends[backend].writable = true
	l.dialDone(c)
	c.dial.targets = nil
	c.state = open
	c.moved = l.now
	l.counts.opened.Add(1)
	l.debug(c, nil, "connection opened")
	if first := n - size; first > 0 {
		l.count(c, client, first)
		if err := discard(c.ends[client].fd, first); err != nil {
			l.fail(c, err) // this backend has it, so there is no other to try
		}
	}
	return nil
}
