package control

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/auth"
	"github.com/privlink/privlink/pkg/dataplane"
)

// shunFor is how long an address that somebody else on the network has is not given out.
const shunFor = 10 * time.Minute

// wake asks Run to apply the State again. Several requests become one.
func (c *Controller) wake() {
	select {
	case c.work <- struct{}{}:
	default:
	}
}

// HealthChanged tells that Options.Health has news.
func (c *Controller) HealthChanged() { c.wake() }

// Run makes the kernel agree with the store until ctx ends, and returns its error. It is called once.
func (c *Controller) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-c.work:
		case <-timer.C:
		}
		next, err := c.tidy(ctx)
		if err == nil {
			err = c.apply(ctx)
		}
		pause := c.options.Resync
		if err != nil && ctx.Err() == nil {
			c.options.Log.WithError(err).Error("apply state (tried again)")
			pause = c.options.Retry
		}
		if !next.IsZero() {
			pause = min(pause, max(next.Sub(c.options.Now()), time.Millisecond))
		}
		timer.Reset(pause)
	}
}

// apply compiles what there is and hands it to the dataplane.
func (c *Controller) apply(ctx context.Context) error {
	c.mu.Lock()
	s := c.view.snapshot()
	c.reports = 0
	c.mu.Unlock()
	state, probes := compile(s, c.options.Health)
	if c.options.Probes != nil {
		c.options.Probes(probes)
	}
	result, err := c.options.Applier.Apply(ctx, state)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.applyErr = err
	// A report that came meanwhile is younger than what Apply returned.
	if err == nil && c.reports == 0 {
		c.take(result)
	}
	c.broadcast()
	if err != nil {
		return fmt.Errorf("apply revision %d: %w", s.revision, err)
	}
	c.options.Log.WithField("revision", s.revision).Debug("kernel agrees")
	return nil
}

// Report takes what the dataplane has found out since Apply: probed addresses, conflicts, attachments.
// Wire it to dataplane.Options.Notify.
func (c *Controller) Report(r dataplane.Result) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reports++
	c.take(r)
	c.broadcast()
}

// take keeps a result in the form in which it is looked up. Called under mu.
func (c *Controller) take(r dataplane.Result) {
	c.result = r
	c.pending, c.conflicts, c.broken = map[place]bool{}, map[place]dataplane.Conflict{}, map[string][]string{}
	for _, a := range r.Pending {
		c.pending[place{a.Network, a.Addr}] = true
	}
	for _, a := range r.Attachments {
		if a.Err != nil {
			c.broken[a.Network] = append(c.broken[a.Network], a.Err.Error())
		}
	}
	c.failed = map[string]string{}
	for _, x := range r.Failed {
		// Frontends and pools are parts of their load balancer.
		key := x.Key
		if id, err := api.ParseID(x.Key, api.ID{}); err == nil {
			key = id.Parent().Key()
		}
		if c.failed[key] == "" {
			c.failed[key] = x.Reason
		}
	}
	for _, x := range r.Conflicts {
		at := place{x.Network, x.Addr}
		c.conflicts[at] = x
		o, ok := c.view.held[x.Network][x.Addr]
		if !ok || !o.hold.dynamic || c.served[at] {
			continue
		}
		if _, known := c.shun[at]; !known {
			c.options.Log.WithFields(logrus.Fields{"address": x.Addr, "mac": x.MAC, "interface": x.Interface, "owner": o.String()}).
				Warn("somebody else has the address; a dynamic one moves on")
			c.shun[at] = c.options.Now().Add(shunFor)
			c.wake()
		}
	}
	for network, addrs := range c.view.held {
		for a, o := range addrs {
			at := place{network, a}
			if o.record.revision <= r.Revision && !c.pending[at] && c.conflicts[at].MAC == nil {
				c.served[at] = true
			}
		}
	}
}

// broadcast wakes everybody who waits. Called under mu.
func (c *Controller) broadcast() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// tidy does what time and the network ask for: it ends drains and deletions, and moves dynamic addresses that
// somebody else has. It returns when there is more to do.
func (c *Controller) tidy(ctx context.Context) (next time.Time, err error) {
	done, again := c.drained()
	err = c.update(ctx, auth.System(), func(t *tx) error {
		if err := t.endDeletions(done.deletions); err != nil {
			return err
		}
		if next, err = t.endDrains(done.drains); err != nil {
			return err
		}
		if !again.IsZero() && (next.IsZero() || again.Before(next)) {
			next = again
		}
		for at, until := range c.shun {
			if !t.now.Before(until) {
				delete(c.shun, at)
				continue
			}
			if o, ok := t.view.held[at.network][at.addr]; ok && o.hold.dynamic {
				if err := t.move(o.record); err != nil {
					c.options.Log.WithError(err).WithField("owner", o.String()).Warn("find another address")
				}
			}
		}
		return nil
	})
	return next, err
}

// move gives a record another address in place of a shunned one.
func (t *tx) move(rec *record) error {
	fresh, err := t.prepare(rec.id, api.Clone(rec.resource), rec)
	if err != nil {
		return err
	}
	t.set(fresh)
	return nil
}

// reached is how far the kernel is with a revision. Called under mu.
func (c *Controller) reached(revision uint64) api.ProvisioningState {
	switch {
	case revision == 0: // not committed
		return api.Updating
	case revision <= c.result.Revision:
		return api.Succeeded
	case c.applyErr != nil:
		return api.Failed
	}
	return api.Updating
}

// provisioning is how far the kernel is with a resource, and why it failed. Called under mu.
func (c *Controller) provisioning(v *view, rec *record) (api.ProvisioningState, string) {
	if rec.kept.Deleting != nil {
		return api.Deleting, ""
	}
	revision := rec.revision
	if x := v.byEndpoint[rec.key]; x != nil && revision != 0 {
		revision = max(revision, x.revision)
	}
	state := c.reached(revision)
	if state == api.Failed {
		return state, c.applyErr.Error()
	}
	if state == api.Updating {
		return state, "" // what the kernel has found out is about an older revision
	}
	for _, h := range rec.holds {
		at := place{h.network, h.addr}
		if x, ok := c.conflicts[at]; ok {
			return api.Failed, fmt.Sprintf("%s is in use by %s on %s", x.Addr, x.MAC, x.Interface)
		}
		if c.pending[at] {
			state = api.Updating
		}
	}
	if why := c.failed[rec.key]; why != "" {
		return api.Failed, why
	}
	if why := c.broken[rec.key]; len(why) > 0 {
		return api.Failed, why[0]
	}
	if len(rec.kept.Draining) > 0 {
		state = api.Updating
	}
	return state, ""
}

// Wait returns when the kernel agrees with a resource, or fails with why it does not. A resource that is not
// there is waited for as a deletion: until the kernel agrees with the present revision.
func (c *Controller) Wait(ctx context.Context, id api.ID) error {
	revision := c.Revision()
	return c.wait(ctx, func() (bool, error) {
		rec := c.view.records[id.Parent().Key()]
		if rec == nil {
			return c.result.Revision >= revision, nil
		}
		switch state, why := c.provisioning(c.view, rec); state {
		case api.Failed:
			return true, api.Refused(api.CodeDataplane, "", "%s: %s", rec.id.Short(), why)
		case api.Succeeded:
			return true, nil
		}
		return false, nil
	})
}

// WaitGone returns when a resource is gone, and the kernel agrees.
func (c *Controller) WaitGone(ctx context.Context, id api.ID) error {
	revision := uint64(0) // at which it was gone; 0 = not yet
	return c.wait(ctx, func() (bool, error) {
		if c.view.records[id.Key()] == nil && revision == 0 {
			revision = c.view.revision
		}
		return revision != 0 && c.result.Revision >= revision, nil
	})
}

// WaitRevision returns when the kernel agrees with a revision of the store.
func (c *Controller) WaitRevision(ctx context.Context, revision uint64) error {
	return c.wait(ctx, func() (bool, error) {
		if c.applyErr != nil && c.result.Revision < revision {
			return true, api.Refused(api.CodeDataplane, "", "%v", c.applyErr)
		}
		return c.result.Revision >= revision, nil
	})
}

func (c *Controller) wait(ctx context.Context, done func() (bool, error)) error {
	for {
		c.mu.RLock()
		ok, err := done()
		changed := c.changed
		c.mu.RUnlock()
		if ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return api.NewError(503, api.CodeUnavailable, "", "the kernel does not agree yet (the daemon goes on trying)")
			}
			return ctx.Err()
		case <-changed:
		}
	}
}

// Status is how far the kernel is as a whole.
type Status struct {
	Wanted  uint64 // revision of the store
	Applied uint64 // revision that the kernel agrees with
	Err     error  // why the last Apply failed
	Result  dataplane.Result
}

// Status reports revisions and the dataplane's last result.
func (c *Controller) Status() Status {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return Status{Wanted: c.view.revision, Applied: c.result.Revision, Err: c.applyErr, Result: c.result}
}
