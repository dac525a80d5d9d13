package splice

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// DefaultIdleTimeout holds when an Identity has none.
const DefaultIdleTimeout = 300 * time.Second

// How an end is asked whether it is still there: one TCP keepalive at once, then one a second, and
// after that many without an answer the kernel gives the connection up.
const (
	askInterval = 1 // seconds
	askTries    = 9
	// answerDelay is how late, in seconds of two clocks that tick apart, the answer may be stamped.
	answerDelay = 2
)

var errIdle = errors.New("idle timeout")

// seconds returns a timeout as the loops count it.
func seconds(d time.Duration) uint32 {
	if d <= 0 {
		d = DefaultIdleTimeout
	}
	return uint32((d + time.Second - 1) / time.Second)
}

// tick runs once a second. Walking thousands of connections costs some ten microseconds, less
// than moving timers with every byte.
func (l *loop) tick() {
	if l.muted && l.watch(l.listener, unix.EPOLLIN) == nil {
		l.muted = false
	}
	// Backwards: a removal puts the last connection, which was looked at, in the gap.
	for i := len(l.conns) - 1; i >= 0; i-- {
		c := l.conns[i]
		switch {
		case c.state == dialling && l.now >= c.dial.deadline:
			l.dialFailed(c, errDialTimeout)
		case c.state == open && l.now >= c.check:
			l.checkIdle(c)
		}
	}
	l.hearAnswers()
}

// checkIdle ends a connection that nobody uses. Bytes count, and so does whatever the far ends
// send without our seeing it: keepalives. An end that is heard keeps the other leg alive, by
// being asked for on it.
func (l *loop) checkIdle(c *conn) {
	timeout := seconds(c.identity.IdleTimeout)
	if c.check = c.moved + timeout; l.now < c.check {
		return
	}
	latest := c.moved
	var heard [2]uint32
	for which := range c.ends {
		e := &c.ends[which]
		at, ok := l.heard(e)
		if !ok {
			continue
		}
		heard[which] = at
		// The answer to our own question says nothing about who uses the connection.
		if e.asked == 0 || at > e.asked+answerDelay {
			latest = max(latest, at)
		}
	}
	if l.now >= latest+timeout {
		l.counts.idle.Add(1)
		l.debug(c, errIdle, "connection ended")
		l.reset(c)
		return
	}
	for which := range c.ends {
		if heard[which]+1 < latest {
			l.ask(c, side(which))
		}
	}
	c.check = latest + timeout
}

// heard returns the second in which the far end of a leg was last heard.
func (l *loop) heard(e *end) (uint32, bool) {
	age, ok := l.server.gateway.Heard(e.local, e.peer)
	if !ok {
		return 0, false
	}
	passed := uint32(age / time.Second)
	return l.now - min(passed, l.now), true
}

// ask sends the far end of a leg a keepalive, which refreshes the leg's flow and finds out whether
// somebody is there. If nobody is, the kernel reports an error, and the other side gets a reset.
func (l *loop) ask(c *conn, which side) {
	e := &c.ends[which]
	if e.asking {
		return
	}
	options := []struct{ level, name, value int }{
		{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, askInterval},
		{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, askTries},
		{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		// Last: set on a socket with keepalives on, a time that is over starts one at once.
		{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 1},
	}
	for _, o := range options {
		if err := unix.SetsockoptInt(e.fd, o.level, o.name, o.value); err != nil {
			l.server.log.WithError(err).Debug("ask far end")
			return
		}
	}
	e.asking, e.asked, e.odd = true, max(l.now, 1), true
	l.asking = append(l.asking, c)
}

// hearAnswers stops keepalives that were answered: left on, they would keep flows alive for ever.
func (l *loop) hearAnswers() {
	list := l.asking
	l.asking = nil
	for _, c := range list {
		if c.state != open {
			continue
		}
		still := false
		for which := range c.ends {
			e := &c.ends[which]
			if !e.asking {
				continue
			}
			if at, ok := l.heard(e); l.now == e.asked || (ok && at < e.asked) {
				still = true
				continue
			}
			_ = unix.SetsockoptInt(e.fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 0)
			e.asking, e.asked = false, l.now
		}
		if still {
			l.asking = append(l.asking, c)
		}
	}
}
