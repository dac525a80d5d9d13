package control

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/privlink/privlink/pkg/api"
)

// A service whose approved connections go with it is deleted in two steps, so that both ends of every flow hear of it
// while the kernel still knows whose it is. The first rejects the connections and marks the service; it is Deleting then
// and takes no writes. The second, when the kernel agrees and no flow is left, or after deleteWithin, removes it. The
// mark is in the store: a restart in the middle goes on from there.

const (
	// deleteWithin is how long a deletion waits for ends that are silent. They get their RST when they speak.
	deleteWithin = 10 * time.Second
	// deleteAsks is how often a deletion asks whether flows are left.
	deleteAsks = 100 * time.Millisecond
	// deleteSoon is how long a deletion leaves the kernel to agree before it looks again.
	deleteSoon = 5 * time.Millisecond
)

// deleting is the mark of a service that is being deleted.
type deleting struct {
	Until time.Time `json:"until"`
	// Principal, Tenant and From are who asked for it, for the journal.
	Principal string `json:"principal"`
	Tenant    string `json:"tenant,omitempty"`
	From      string `json:"from,omitempty"`
}

// beginDeletion rejects the connections of a service and marks it.
func (t *tx) beginDeletion(rec *record) error {
	for _, old := range t.view.ofService(rec.key) {
		if old.State.Status == api.Rejected {
			continue
		}
		x := *old
		t.state(&x, api.ConnectionState{Status: api.Rejected, Description: "The private link service is being deleted"}, t.who.Principal)
		if err := t.setConnection(&x); err != nil {
			return err
		}
	}
	k := rec.kept
	k.Deleting = &deleting{Until: t.now.Add(deleteWithin), Principal: t.who.Principal, Tenant: t.who.Tenant, From: t.who.From}
	fresh, err := newRecord(rec.resource, k)
	if err != nil {
		return err
	}
	t.set(fresh)
	// What is kept besides the resource is not in the journal; that somebody asked for the deletion is.
	marked := api.Clone(rec.resource)
	*marked.State() = api.Deleting
	if t.changes[prefixResource+rec.key].after, err = json.Marshal(marked); err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	return nil
}

// beingDeleted is the refusal of writes to a service that is being deleted; nil for any other.
func beingDeleted(rec *record) error {
	if rec == nil || rec.kept.Deleting == nil {
		return nil
	}
	return api.Refused(api.CodeBeingDeleted, "", "%s is being deleted", rec.id.Short())
}

// drained are the services that can go now: the kernel has rejected their connections, and no flow is left or the time
// is over. next is when to look again; zero for nothing to wait for.
func (c *Controller) drained() (ready map[string]bool, next time.Time) {
	links := map[string]map[string]bool{} // of services whose flows are to be counted
	now := c.options.Now()
	soonest := func(at time.Time) {
		if next.IsZero() || at.Before(next) {
			next = at
		}
	}
	ready = map[string]bool{}
	c.mu.RLock()
	for key, rec := range c.view.records {
		switch d := rec.kept.Deleting; {
		case d == nil:
		case c.result.Revision < rec.revision:
			soonest(now.Add(deleteSoon))
		case !now.Before(d.Until) || c.options.Flows == nil:
			ready[key] = true
		default:
			links[key] = map[string]bool{}
			for _, x := range c.view.byService[key] {
				links[key][x.endpointKey] = true
			}
		}
	}
	c.mu.RUnlock()
	for key, of := range links {
		// Counted without mu: it reads the whole flow table.
		if n, err := c.options.Flows(of); err == nil && n == 0 {
			ready[key] = true
			continue
		}
		soonest(now.Add(deleteAsks))
	}
	return ready, next
}

// endDeletions removes the services that can go.
func (t *tx) endDeletions(ready map[string]bool) error {
	for key := range ready {
		rec := t.view.records[key]
		if rec == nil || rec.kept.Deleting == nil {
			continue
		}
		t.by = rec.kept.Deleting
		err := t.leaveService(rec, DeleteOptions{Cascade: true})
		if err == nil {
			t.unset(rec)
		}
		t.by = nil
		if err != nil {
			return err
		}
	}
	return nil
}
