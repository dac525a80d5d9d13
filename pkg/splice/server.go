package splice

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/privlink/privlink/pkg/splice/inner"
)

// Defaults of Config.
const (
	DefaultDialTimeout = 4 * time.Second // per backend: two retransmissions of a SYN
	DefaultDialTargets = 3
)

// Config says how a Server works. The zero value is the daemon's.
type Config struct {
	// Listen is the listener's address; inner.Listen() by default.
	Listen netip.AddrPort
	// Loops is the number of event loops, at most inner.MaxDialers-1; one per processor by default.
	Loops int
	// MaxConnections in all; 0 = as many as descriptors allow.
	MaxConnections int
	// MaxPerLink bounds the connections of one link, at most MaxConnections; 0 = all but one in twenty, so
	// that one that only holds connections open leaves some for the others.
	MaxPerLink int
	// DialTimeout is how long one backend may take to accept; whole seconds.
	DialTimeout time.Duration
	// DialTargets is how many different backends are tried.
	DialTargets int
	// Direct connects to backends by their own addresses, without dial entries: for tests and
	// benchmarks that have no dataplane.
	Direct bool
}

// Namespace is where sockets are made: *inner.Network.
type Namespace interface {
	// Do runs fn inside, on a thread that comes back.
	Do(fn func() error) error
}

// Server is the splice: a listener and its event loops.
type Server struct {
	config    Config
	capacity  Capacity
	namespace Namespace
	gateway   Gateway // set by Run, before the loops run
	log       logrus.FieldLogger
	start     time.Time
	occupancy occupancy
	pipes     atomic.Int64 // that may still be made
	loops     []*loop
}

// New listens. Connections are accepted once Run runs; until then they wait, so a daemon that
// starts again listens before it does anything that takes long: programs still in the kernel bring
// it connections.
func New(namespace Namespace, config Config, log logrus.FieldLogger) (*Server, error) {
	if !config.Listen.IsValid() {
		config.Listen = inner.Listen()
	}
	if config.Loops <= 0 {
		config.Loops = runtime.GOMAXPROCS(0)
	}
	config.Loops = min(config.Loops, inner.MaxDialers-1) // the last dialer is the prober's
	if config.DialTimeout <= 0 {
		config.DialTimeout = DefaultDialTimeout
	}
	if config.DialTargets <= 0 {
		config.DialTargets = DefaultDialTargets
	}
	capacity, err := RaiseDescriptors(config.MaxConnections)
	if err != nil {
		return nil, err
	}
	if config.MaxPerLink > capacity.Connections {
		return nil, fmt.Errorf("allow a link %d proxied connections: there may be %d in all", config.MaxPerLink, capacity.Connections)
	}
	if config.MaxPerLink == 0 {
		config.MaxPerLink = capacity.Connections - capacity.Connections/othersShare
	}
	capacity.PerLink = config.MaxPerLink

	s := &Server{
		config: config, capacity: capacity, namespace: namespace, log: log, start: time.Now(),
		occupancy: occupancy{max: capacity.Connections, maxPerLink: config.MaxPerLink, maxHeld: int64(max(1, capacity.Pipes/heldShare)), links: make(map[string]*share)},
	}
	s.pipes.Store(int64(capacity.Pipes))
	for n := range config.Loops {
		l, err := newLoop(s, n)
		if err != nil {
			s.closeLoops()
			return nil, err
		}
		s.loops = append(s.loops, l)
	}
	return s, nil
}

// Run serves from when the gateway is ready until the context ends, then resets every connection. It
// returns an error only if an event loop failed. A Server runs once.
func (s *Server) Run(ctx context.Context, gateway Gateway) error {
	s.gateway = gateway
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer s.closeLoops()
	select {
	case <-ctx.Done():
	case <-gateway.Ready():
	}

	s.log.WithFields(logrus.Fields{
		"listen": s.config.Listen, "loops": len(s.loops), "connections": s.capacity.Connections,
		"pipes": s.capacity.Pipes, "descriptors": s.capacity.Descriptors,
	}).Info("splice runs")

	var group sync.WaitGroup
	errs := make([]error, len(s.loops))
	for n, l := range s.loops {
		group.Go(func() {
			defer cancel()
			errs[n] = l.run()
		})
	}
	<-ctx.Done()
	for _, l := range s.loops {
		l.post(func() { l.stopping = true })
	}
	group.Wait()
	return errors.Join(errs...)
}

// closeLoops releases the loops' own descriptors, after their goroutines ended.
func (s *Server) closeLoops() {
	for _, l := range s.loops {
		l.close()
	}
}

// Cut resets the connections that match, at once, and returns how many. match must not block; it
// is called from the event loops. Run must be running.
func (s *Server) Cut(match func(*Identity) bool) int {
	counts := make(chan int, len(s.loops))
	waiting := 0
	for _, l := range s.loops {
		if l.post(func() { counts <- l.cut(match) }) {
			waiting++
		}
	}
	total := 0
	for range waiting {
		total += <-counts
	}
	return total
}

// CutRevoked resets, at once, the connections whose links the gateway does not stand by any more, and returns how
// many. To be called whenever links may have changed, after the gateway knows: who comes later is refused there.
func (s *Server) CutRevoked() int {
	if s.Stats().Active == 0 {
		return 0
	}
	return s.Cut(func(id *Identity) bool { return !s.gateway.Stands(id) })
}

// Stats returns the counts of all loops.
func (s *Server) Stats() Stats {
	var sum Stats
	for _, l := range s.loops {
		sum.add(&l.counts)
	}
	return sum
}

// Capacity returns the limits in force.
func (s *Server) Capacity() Capacity { return s.capacity }

// clock is the time since the start.
func (s *Server) clock() time.Duration { return time.Since(s.start) }

// now is the loops' clock: whole seconds since the start.
func (s *Server) now() uint32 { return uint32(s.clock() / time.Second) }

// inside runs fn where sockets are to be made.
func (s *Server) inside(fn func() error) error {
	if s.namespace == nil {
		return fn()
	}
	return s.namespace.Do(fn)
}

// listen makes one loop's listener. All share the address, the kernel spreads connections over
// them. Accepted sockets inherit linger, nodelay, and that urgent data comes as ordinary data.
func listen(address netip.AddrPort) (fd int, err error) {
	fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		return -1, fmt.Errorf("make listener: %w", err)
	}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1),
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_OOBINLINE, 1),
		unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}),
		unix.Bind(fd, &unix.SockaddrInet4{Addr: address.Addr().As4(), Port: int(address.Port())}),
		unix.Listen(fd, 65535),
	)
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("listen on %v: %w", address, err)
	}
	return fd, nil
}
