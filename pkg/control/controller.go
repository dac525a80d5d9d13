package control

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/dataplane"
	"github.com/privlink/privlink/pkg/store"
)

// Applier makes the kernel match a State. Apply returns when its writes are done; what takes longer (probing
// addresses, interfaces that come and go) reaches Controller.Report later. dataplane.Dataplane is one.
type Applier interface {
	Apply(ctx context.Context, s dataplane.State) (dataplane.Result, error)
}

// Options of a Controller.
type Options struct {
	Store   store.Store
	Applier Applier
	// Health is nil where nothing probes: every target takes flows then.
	Health Health
	// Probes is told what is to be probed, before each Apply; nil where nothing probes. It must not block. The results come
	// back through Health, and HealthChanged tells of news.
	Probes func([]Probe)
	// Flows calls yield for every live flow until it returns false; nil where there are none. It may take as long as it takes to
	// read the flow table.
	Flows func(yield func(Flow) bool) error
	// AliasSuffix are the last two labels of aliases. Default DefaultAliasSuffix.
	AliasSuffix string
	// Resync is how often the State is applied without a change, to repair what others did. Default 30 s.
	Resync time.Duration
	// Retry is how long a failed Apply waits for the next. Default 1 s.
	Retry time.Duration
	// Now is the clock. Default time.Now.
	Now func() time.Time
	// Looked is told of each look at what the store has, before it; nil where nobody counts them. It must not block.
	Looked func()
	Log    logrus.FieldLogger
}

// Flow is a live flow, as far as the control plane asks.
type Flow struct {
	Link string     // key of its endpoint
	NAT  netip.Addr // from which the backend sees it come
	// Inner says that it is the second leg of a proxied connection.
	Inner bool
}

// GCPercent is the GOGC for a process with a Controller: a write of a large resource makes several times its size of
// garbage, and what lives is small.
const GCPercent = 300

// Controller is the control plane of a node. Its methods are safe for use by several goroutines.
type Controller struct {
	options Options

	// mu guards everything below. Readers take it shared; transactions keep it during the commit.
	mu   lock
	view *view
	// result is what the dataplane said last, applyErr why the last Apply failed.
	result   dataplane.Result
	applyErr error
	// pending, conflicts, broken and failed are result's lists, to look up.
	pending   map[place]bool
	conflicts map[place]dataplane.Conflict
	broken    map[string][]string // network -> why attachments do not work
	failed    map[string]string   // record -> why the kernel has not all of it
	// reports counts those since the last Apply began.
	reports int
	// served are addresses that were answered for: one of these does not move when somebody else turns up.
	served map[place]bool
	// shun are addresses found to belong to somebody else, with the time until which none is given out.
	shun map[place]time.Time
	// changed is closed and replaced whenever what callers wait for may have come.
	changed chan struct{}

	// work holds one token while the State may have to be applied.
	work chan struct{}
}

// lock is an RWMutex that tells of each look at what it guards.
type lock struct {
	sync.RWMutex
	looked func() // or nil
}

// RLock locks for reading.
func (l *lock) RLock() {
	l.look()
	l.RWMutex.RLock()
}

// Lock locks for writing.
func (l *lock) Lock() {
	l.look()
	l.RWMutex.Lock()
}

func (l *lock) look() {
	if l.looked != nil {
		l.looked()
	}
}

const (
	defaultResync = 30 * time.Second
	defaultRetry  = time.Second
)

// New loads the store. Nothing reaches the kernel before Run.
func New(ctx context.Context, o Options) (*Controller, error) {
	if o.Store == nil || o.Applier == nil {
		return nil, errors.New("make controller: needs a store and an applier")
	}
	if o.AliasSuffix == "" {
		o.AliasSuffix = DefaultAliasSuffix
	}
	if !api.IsAlias(makeAlias("x", newGUID(), "y", o.AliasSuffix)) {
		return nil, fmt.Errorf("make controller: alias suffix %q: want two labels, such as %s", o.AliasSuffix, DefaultAliasSuffix)
	}
	if o.Resync <= 0 {
		o.Resync = defaultResync
	}
	if o.Retry <= 0 {
		o.Retry = defaultRetry
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = logrus.StandardLogger()
	}
	c := &Controller{options: o, mu: lock{looked: o.Looked}, shun: map[place]time.Time{}, served: map[place]bool{}, changed: make(chan struct{}), work: make(chan struct{}, 1)}
	if err := c.load(ctx); err != nil {
		return nil, err
	}
	if err := c.bootstrap(ctx); err != nil {
		return nil, err
	}
	return c, nil
}

// load reads the store for the first time.
func (c *Controller) load(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.reload(ctx); err != nil {
		return err
	}
	for network, addrs := range c.view.held {
		for a := range addrs {
			c.served[place{network, a}] = true
		}
	}
	c.wake()
	return nil
}

// Revision is that of the store as the Controller knows it.
func (c *Controller) Revision() uint64 {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.view.revision
}

func sortRecords(list []*record) {
	slices.SortFunc(list, (*record).compare)
}
