package splice

import (
	"slices"

	"github.com/privlink/privlink/pkg/splice/inner"
)

// stockSize is how many unused sockets a loop may hold, new and used. New ones are made in batches: entering the namespace
// costs more than making one.
const stockSize = 16

// spare is a socket for a connection to a backend.
type spare struct {
	fd   int
	way  inner.Way // taken; none in a Direct splice
	used bool      // connected, bound and watched before
	full bool      // watched for room to write, too
	turn uint32    // in which it came to rest
}

// socket returns one that rests, or a new one.
func (l *loop) socket() (spare, error) {
	direct := l.server.config.Direct
	// What epoll told before or while it came to rest has been heard two turns later, and is nobody's.
	for len(l.resting) > 0 && l.turns-l.resting[0].turn >= 2 {
		s := l.resting[0]
		l.resting = slices.Delete(l.resting, 0, 1)
		if direct || l.ports.TakeAgain(&s.way) {
			l.countSockets()
			return s, nil
		}
		l.forget(s.fd)
	}
	if err := l.fillStock(); err != nil {
		return spare{}, err
	}
	var s spare
	if !direct {
		var err error
		if s.way, err = l.ports.Take(); err != nil {
			return spare{}, err
		}
	}
	last := len(l.stock) - 1
	s.fd = l.stock[last]
	l.stock = l.stock[:last]
	l.countSockets()
	return s, nil
}

// fillStock makes sockets if there are none.
func (l *loop) fillStock() error {
	if len(l.stock) > 0 {
		return nil
	}
	err := l.server.inside(func() error {
		for range max(1, stockSize-len(l.resting)) {
			fd, err := inner.Socket()
			if err != nil {
				return err
			}
			l.stock = append(l.stock, fd)
		}
		return nil
	})
	if len(l.stock) > 0 {
		return nil
	}
	return err
}

func (l *loop) countSockets() { l.counts.sockets.Store(uint64(len(l.stock) + len(l.resting))) }

// rest keeps the backend's socket for another connection, which saves to make, bind and watch one. The kernel, too, must
// be through with its connection: both ends of stream are acknowledged.
func (l *loop) rest(c *conn) bool {
	e := &c.ends[backend]
	if e.odd || !c.streams[client].shut || len(l.stock)+len(l.resting) >= stockSize {
		return false
	}
	if n, err := unacknowledged(e.fd); err != nil || n != 0 {
		return false
	}
	l.slots[e.fd].conn = nil
	l.resting = append(l.resting, spare{fd: e.fd, way: c.dial.way, used: true, full: e.watchedFull, turn: l.turns})
	l.countSockets()
	*e = end{fd: -1}
	return true
}
