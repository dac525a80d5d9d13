package splice

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Descriptors: two per connection, two per pipe that holds data, the rest of the daemon's and the loops' own.
const (
	descriptorsPerConnection = 2
	descriptorsPerPipe       = 2
	reservedDescriptors      = 1024
	// One pipe for so many connections, if nobody says how many there are to be: when pipes run
	// out, data is copied instead.
	connectionsPerPipe = 8
	// One connection of so many is not for any single link, if nobody says how many it may have.
	othersShare = 20
)

// Windows: what a stream's sender may have under way, in bytes. The kernel would let each grow to net.ipv4.tcp_rmem, some
// MB, whether or not anybody takes it, and all sockets of the machine share net.ipv4.tcp_mem: some hundred connections on
// which a consumer asks for much and reads nothing would leave everybody else's a crawl.
const (
	firstWindow = 64 << 10
	maxWindow   = 4 << 20
	// takenPerWindow is how many windows' worth the other end has to have taken before it may have twice as much.
	takenPerWindow = 4
	// What streams may have beyond their first windows, in all and of one link.
	allWindows  = 512 << 20
	linkWindows = allWindows / 8
	// A link's stuck streams may hold one in so many of the pipes.
	heldShare = 2
)

// Capacity is what the descriptor limit allows.
type Capacity struct {
	Descriptors int // RLIMIT_NOFILE after it was raised
	Connections int
	PerLink     int // of one link
	Pipes       int
}

// RaiseDescriptors raises RLIMIT_NOFILE to its hard limit and returns what fits below it. wanted
// connections, if not 0, must fit. The system's own fs.file-max is not looked at.
func RaiseDescriptors(wanted int) (Capacity, error) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return Capacity{}, fmt.Errorf("read descriptor limit: %w", err)
	}
	limit.Cur = limit.Max
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return Capacity{}, fmt.Errorf("raise descriptor limit to %d: %w", limit.Max, err)
	}
	return capacity(int(min(limit.Cur, 1<<24)), wanted)
}

// capacity divides descriptors into connections and pipes.
func capacity(descriptors, wanted int) (Capacity, error) {
	const perPipe = connectionsPerPipe*descriptorsPerConnection + descriptorsPerPipe
	fit := max(0, descriptors-reservedDescriptors) / perPipe * connectionsPerPipe
	if fit == 0 {
		return Capacity{}, fmt.Errorf("allow proxied connections: %d descriptors leave none for them (raise the hard limit of open files, e.g. LimitNOFILE=65536)", descriptors)
	}
	if wanted > fit {
		return Capacity{}, fmt.Errorf("allow %d proxied connections: %d descriptors are enough for %d (raise the hard limit of open files, e.g. LimitNOFILE=)", wanted, descriptors, fit)
	}
	if wanted == 0 {
		wanted = fit
	}
	pipes := max(0, descriptors-reservedDescriptors-wanted*descriptorsPerConnection) / descriptorsPerPipe
	return Capacity{Descriptors: descriptors, Connections: wanted, Pipes: min(pipes, 2*wanted)}, nil
}

var (
	errTooMany        = errors.New("limit of proxied connections reached")
	errTooManyForLink = errors.New("limit of the link's proxied connections reached")
)

// occupancy counts connections and what they hold, in all and per link. Shared by the event loops.
type occupancy struct {
	max, maxPerLink int
	maxHeld         int64 // pipes of one link's stuck streams
	windows         atomic.Int64

	mu    sync.Mutex
	total int
	links map[string]*share
}

// share is what one link's connections have.
type share struct {
	connections int          // guarded by the occupancy's mu
	windows     atomic.Int64 // beyond the first ones, bytes
	held        atomic.Int64 // pipes with data that no sink takes
}

// enter counts a connection and returns its link's share, or says which limit it meets.
func (o *occupancy) enter(link string) (*share, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.total >= o.max {
		return nil, errTooMany
	}
	s := o.links[link]
	if s == nil {
		s = new(share)
	}
	if s.connections >= o.maxPerLink {
		return nil, errTooManyForLink
	}
	o.links[link] = s
	o.total++
	s.connections++
	return s, nil
}

// widen lets a stream have more bytes under way, unless its link or all have as many as they may.
func (o *occupancy) widen(s *share, more int64) bool {
	if s.windows.Add(more) <= linkWindows {
		if o.windows.Add(more) <= allWindows {
			return true
		}
		o.windows.Add(-more)
	}
	s.windows.Add(-more)
	return false
}

// narrow takes back what widen gave.
func (o *occupancy) narrow(s *share, less int64) {
	s.windows.Add(-less)
	o.windows.Add(-less)
}

// leave takes back what enter counted.
func (o *occupancy) leave(link string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.total--
	s := o.links[link]
	if s.connections--; s.connections == 0 {
		delete(o.links, link)
	}
}
