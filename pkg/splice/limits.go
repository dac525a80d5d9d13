package splice

import (
	"errors"
	"fmt"
	"sync"

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

// occupancy counts connections, in all and per link. Shared by the event loops.
type occupancy struct {
	max, maxPerLink int

	mu    sync.Mutex
	total int
	links map[string]int
}

// enter counts a connection, or says which limit it meets.
func (o *occupancy) enter(link string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.total >= o.max {
		return errTooMany
	}
	if o.links[link] >= o.maxPerLink {
		return errTooManyForLink
	}
	o.total++
	o.links[link]++
	return nil
}

// leave takes back what enter counted.
func (o *occupancy) leave(link string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.total--
	if o.links[link]--; o.links[link] == 0 {
		delete(o.links, link)
	}
}
