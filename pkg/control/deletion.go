package control

import (
	"encoding/json"
	"fmt"
	"slices"
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
	// drainAsks is how often a drain asks that: it may take minutes.
	drainAsks = time.Second
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

// over is what the kernel has no flows of any more.
type over struct {
	deletions map[string]bool       // keys of services that can go
	drains    map[string][]draining // NAT IPs taken out, by the key of their service
}

// drained is what can end now: deletions whose connections the kernel has rejected, and drains of NAT IPs that it gives no new
// flow, where no flow is left. A deletion's time may be over, too. next is when to look again; zero for nothing to wait for.
func (c *Controller) drained() (done over, next time.Time) {
	done = over{map[string]bool{}, map[string][]draining{}}
	now := c.options.Now()
	soonest := func(at time.Time) {
		if next.IsZero() || at.Before(next) {
			next = at
		}
	}
	// What is asked of the flows, by link: the service that is being deleted, and the drains of NAT IPs.
	deleted, drains := map[string]string{}, map[string][]draining{}
	c.mu.RLock()
	for key, rec := range c.view.records {
		switch d := rec.kept.Deleting; {
		case d == nil && len(rec.kept.Draining) == 0:
			continue
		case c.result.Revision < rec.revision:
			soonest(now.Add(deleteSoon))
			continue
		case d != nil && (c.options.Flows == nil || !now.Before(d.Until)):
			done.deletions[key] = true
			continue
		case c.options.Flows == nil:
			continue
		case d != nil:
			done.deletions[key] = true
		default:
			done.drains[key] = slices.Clone(rec.kept.Draining)
		}
		for _, x := range c.view.byService[key] {
			if rec.kept.Deleting != nil {
				deleted[x.endpointKey] = key
			} else {
				drains[x.endpointKey] = rec.kept.Draining
			}
		}
	}
	services := map[string]string{} // of the links that drain
	for link := range drains {
		services[link] = c.view.byEndpoint[link].serviceKey
	}
	c.mu.RUnlock()
	if len(deleted)+len(drains) == 0 {
		return done, next
	}
	// Read without mu: it is the whole flow table.
	err := c.options.Flows(func(f Flow) bool {
		if key, ok := deleted[f.Link]; ok && !f.Inner {
			delete(done.deletions, key)
			soonest(now.Add(deleteAsks))
		}
		if slices.ContainsFunc(drains[f.Link], func(d draining) bool { return d.Address == f.NAT }) {
			key := services[f.Link]
			done.drains[key] = slices.DeleteFunc(done.drains[key], func(d draining) bool { return d.Address == f.NAT })
			soonest(now.Add(drainAsks))
		}
		return true
	})
	if err != nil {
		c.options.Log.WithError(err).Error("count the flows that are left (tried again)")
		soonest(now.Add(drainAsks))
		clear(done.drains)
		for _, key := range deleted {
			delete(done.deletions, key)
		}
	}
	return done, next
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
