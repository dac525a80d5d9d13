package splice

import "sync/atomic"

// Stats are counts since the start, except Active, Pipes and Sockets, which are now.
type Stats struct {
	Active uint64 // connections, dialling ones included
	Pipes  uint64 // that exist: in use and kept ready
	// Sockets are those kept ready for connections to come.
	Sockets uint64

	Accepted     uint64 // from consumers
	Opened       uint64 // header written
	Finished     uint64 // both directions ended in order
	Reset        uint64 // a reset or error of one side passed on to the other
	Idle         uint64 // ended by the idle timeout
	Cut          uint64 // ended because the link went, or the splice stopped
	Unknown      uint64 // refused: no live flow behind the connection
	Limited      uint64 // refused: connections in all
	LinkLimited  uint64 // refused: connections of the link
	NoBackend    uint64 // refused: no backend, or none answered
	DialFailed   uint64 // attempts: refused, reset or unreachable
	DialTimedOut uint64 // attempts
	Copied       uint64 // pieces copied because there was no pipe

	BytesIn  uint64 // from consumers to backends
	BytesOut uint64 // from backends to consumers
	Spliced  uint64 // of these two, the bytes that were never copied to user space
}

// counters are one loop's; it alone writes them.
type counters struct {
	active, pipes, sockets, spliced                     atomic.Uint64
	accepted, opened, finished, reset, idle, cut        atomic.Uint64
	unknown, limited, linkLimited, noBackend            atomic.Uint64
	dialFailed, dialTimedOut, copied, bytesIn, bytesOut atomic.Uint64
}

func (s *Stats) add(c *counters) {
	s.Active += c.active.Load()
	s.Pipes += c.pipes.Load()
	s.Sockets += c.sockets.Load()
	s.Accepted += c.accepted.Load()
	s.Opened += c.opened.Load()
	s.Finished += c.finished.Load()
	s.Reset += c.reset.Load()
	s.Idle += c.idle.Load()
	s.Cut += c.cut.Load()
	s.Unknown += c.unknown.Load()
	s.Limited += c.limited.Load()
	s.LinkLimited += c.linkLimited.Load()
	s.NoBackend += c.noBackend.Load()
	s.DialFailed += c.dialFailed.Load()
	s.DialTimedOut += c.dialTimedOut.Load()
	s.Copied += c.copied.Load()
	s.BytesIn += c.bytesIn.Load()
	s.BytesOut += c.bytesOut.Load()
	s.Spliced += c.spliced.Load()
}
