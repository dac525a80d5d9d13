package control

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/auth"
)

// Conditions make a write depend on what is there.
type Conditions struct {
	// IfMatch are etags of which the resource must have one, with commas, or "*" for any. A part has its resource's. Empty: no
	// condition.
	IfMatch string
	// IfNoneMatch is "*" for a resource or part that must not exist. Empty: no condition.
	IfNoneMatch string
	// DryRun checks everything and changes nothing.
	DryRun bool
}

// Outcome is what a write did.
type Outcome struct {
	// Resource is the resource after the write as a caller reads it; nil after a delete.
	Resource api.Resource
	// Before is the resource before the write; nil if there was none.
	Before api.Resource
	// Changed is false if the write asked for what is there.
	Changed bool
}

// Created tells whether the write made the resource.
func (o Outcome) Created() bool { return o.Before == nil && o.Resource != nil }

// Put makes or replaces a resource. doc is taken over and must not be used afterwards. The answer's
// provisioningState is Updating until the kernel agrees; Wait waits for that.
func (c *Controller) Put(ctx context.Context, who auth.Actor, id api.ID, doc api.Resource, when Conditions) (Outcome, error) {
	out, err := c.Batch(ctx, who, []Step{{ID: id, Put: doc, When: when}}, when.DryRun)
	if err != nil {
		return Outcome{}, err
	}
	return out[0], nil
}

// Write is Put for a caller that reads the resource itself afterwards: what may be large is not copied for an outcome. There
// is no dry run of it.
func (c *Controller) Write(ctx context.Context, who auth.Actor, id api.ID, doc api.Resource, when Conditions) (created bool, err error) {
	if err := who.Check(auth.Write, id); err != nil {
		return false, err
	}
	out, err := c.batch(ctx, who, []Step{{ID: id, Put: doc, When: when, terse: true}}, false)
	return err == nil && out[0].Before == nil, err
}

// Step is one write of a Batch: Put, or else Delete.
type Step struct {
	ID     api.ID
	Put    api.Resource // nil: delete
	Delete DeleteOptions
	When   Conditions // DryRun is the Batch's
	// change makes the document from what is there; part is the part of it that the conditions are about, if any.
	change func(api.Resource) error
	part   api.ID
	// terse says that the outcome may be the Controller's own, as it is not shown to anybody.
	terse bool
}

// Batch does several writes in their order, all or none. With dryRun nothing is changed and the outcomes
// say what would be. An error names the step it belongs to only by its target; the failed step's index
// is in the *BatchError that wraps it when there are several.
func (c *Controller) Batch(ctx context.Context, who auth.Actor, steps []Step, dryRun bool) ([]Outcome, error) {
	for i, s := range steps {
		if err := who.Check(auth.Write, s.ID); err != nil {
			return nil, stepError(steps, i, err)
		}
	}
	return c.batch(ctx, who, steps, dryRun)
}

func (c *Controller) batch(ctx context.Context, who auth.Actor, steps []Step, dryRun bool) ([]Outcome, error) {
	var outcomes []Outcome
	err := c.update(ctx, who, func(t *tx) error {
		outcomes = outcomes[:0]
		for i, s := range steps {
			var out Outcome
			var err error
			pools := t.poolsBefore(s.ID)
			if s.Put != nil || s.change != nil {
				if out, err = c.putStep(t, s); err == nil {
					err = c.checkOutcome(out)
				}
			} else {
				out, err = c.deleteStep(t, s, len(steps) == 1)
			}
			if err == nil {
				err = t.poolsAfter(s.ID, pools)
			}
			if err != nil {
				return stepError(steps, i, err)
			}
			outcomes = append(outcomes, out)
		}
		if dryRun {
			for i := range outcomes {
				outcomes[i].Resource = c.would(t.view, outcomes[i].Resource)
			}
			return errDryRun
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if !dryRun {
		// The etags are those of the commit.
		for i := range outcomes {
			r := outcomes[i].Resource
			if r == nil || steps[i].terse {
				continue
			}
			if outcomes[i].Resource, err = c.Get(ctx, who, api.IDOf(r)); err != nil {
				outcomes[i].Resource = api.Clone(r) // somebody deleted it already
			}
		}
	}
	return outcomes, nil
}

// would is a resource that a dry run wrote, as it would be read; nil for nil.
func (c *Controller) would(v *view, r api.Resource) api.Resource {
	if r == nil {
		return nil
	}
	if rec := v.records[api.IDOf(r).Key()]; rec != nil {
		return c.present(v, rec)
	}
	return api.Clone(r) // a later step deletes it
}

// BatchError says which step of a Batch failed.
type BatchError struct {
	Step int
	ID   api.ID
	Err  error
}

// Error names the resource and the cause.
func (e *BatchError) Error() string { return fmt.Sprintf("%s: %v", e.ID.Short(), e.Err) }

// Unwrap is the cause.
func (e *BatchError) Unwrap() error { return e.Err }

func stepError(steps []Step, i int, err error) error {
	if len(steps) == 1 {
		return err
	}
	return &BatchError{Step: i, ID: steps[i].ID, Err: err}
}

func (c *Controller) putStep(t *tx, s Step) (Outcome, error) {
	if o := t.view.ownerOfNIC(s.ID); o != nil {
		return Outcome{}, readOnlyNIC(s.ID, o)
	}
	old := t.view.records[s.ID.Key()]
	if s.part.Child != "" && old != nil {
		if err := checkPart(s.When, old, s.part); err != nil {
			return Outcome{}, err
		}
	} else if err := checkConditions(s.When, old); err != nil {
		return Outcome{}, err
	}
	if err := beingDeleted(old); err != nil {
		return Outcome{}, err
	}
	var out Outcome
	id, doc := s.ID, s.Put
	switch {
	case s.change == nil:
		doc = api.Clone(doc) // this may run more than once
	case old == nil:
		return Outcome{}, api.NotFound(s.ID)
	default:
		doc = api.Clone(old.resource)
		if err := s.change(doc); err != nil {
			return Outcome{}, err
		}
	}
	if old != nil {
		id = old.id // the spelling of the first request stays
		out.Before = old.resource
		if !s.terse {
			out.Before = c.present(t.view, old)
		}
	}
	rec, err := t.prepare(id, doc, old)
	if err != nil {
		return Outcome{}, err
	}
	if old == nil || !bytes.Equal(old.json, rec.json) {
		t.set(rec)
		out.Changed = true
	}
	decided, err := t.follow(rec)
	if err != nil {
		return Outcome{}, err
	}
	out.Changed = out.Changed || decided
	out.Resource = t.view.records[rec.key].resource // the record's own; batch gives the caller a copy
	return out, nil
}

// prepare checks a document against everything there is and completes it.
func (t *tx) prepare(id api.ID, doc api.Resource, old *record) (*record, error) {
	api.ClearReadOnly(doc)
	var previous api.Resource
	k := kept{Created: t.now}
	if old != nil {
		previous, k = old.resource, old.kept
	}
	api.Inherit(doc, previous)
	if err := doc.Validate(id); err != nil {
		return nil, err
	}
	if old != nil && doc.Meta().Location != previous.Meta().Location {
		return nil, api.Refused("InvalidResourceLocation", "location", "cannot be changed from %s to %s",
			previous.Meta().Location, doc.Meta().Location)
	}
	if err := t.linked(id, doc, previous); err != nil {
		return nil, err
	}
	var err error
	switch doc := doc.(type) {
	case *api.VirtualNetwork:
		was, _ := previous.(*api.VirtualNetwork)
		err = t.prepareNetwork(id, doc, was)
	case *api.NetworkInterface:
		was, _ := previous.(*api.NetworkInterface)
		err = t.prepareNIC(id, doc, was)
	case *api.LoadBalancer:
		was, _ := previous.(*api.LoadBalancer)
		err = t.prepareLoadBalancer(id, doc, was)
	case *api.PrivateLinkService:
		was, _ := previous.(*api.PrivateLinkService)
		err = t.prepareService(id, doc, was, &k)
	case *api.PrivateEndpoint:
		was, _ := previous.(*api.PrivateEndpoint)
		err = t.prepareEndpoint(id, doc, was, &k)
	default:
		err = fmt.Errorf("put %s: unknown type %T", id.Short(), doc)
	}
	if err != nil {
		return nil, err
	}
	return newRecord(doc, k)
}

// follow does what a written record asks of others: the declarative decisions of a service, a request
// of an endpoint. It reports whether it changed anything.
func (t *tx) follow(rec *record) (bool, error) {
	switch r := rec.resource.(type) {
	case *api.PrivateLinkService:
		return t.followApprovals(rec, r)
	case *api.PrivateEndpoint:
		return t.followRequest(rec, r)
	}
	return false, nil
}

// linked refuses references to what the actor may not use: to join a network, load balancer or pool of
// somebody takes the right to write there, to name a peer the right to read. References that were there
// before are not asked again.
func (t *tx) linked(id api.ID, doc, previous api.Resource) error {
	known := map[string]bool{} // lower case
	if previous != nil {
		for _, ref := range api.References(previous) {
			known[strings.ToLower(ref)] = true
		}
	}
	action := auth.Write
	if doc.Kind() == api.VirtualNetworks {
		action = auth.Read
	}
	for _, ref := range api.References(doc) {
		if known[strings.ToLower(ref)] {
			continue // Validate has written them in full
		}
		known[strings.ToLower(ref)] = true
		to, err := api.ParseID(ref, id)
		if err != nil || to.Parent().Equal(id) || t.who.May(action, to.Parent().String()) {
			continue
		}
		if !t.who.May(auth.Read, to.Parent().String()) {
			return api.BadReference("", "%s was not found", to.Short())
		}
		return api.NewError(http.StatusForbidden, api.CodeLinkedForbidden, "", "%s may not use %s", t.who, to.Short())
	}
	return nil
}

func checkConditions(when Conditions, old *record) error {
	if old == nil {
		return when.Check(nil, "")
	}
	return when.Check(&old.id, etag(old))
}

// Check holds the conditions against what is there (nil: nothing) and its etag.
func (when Conditions) Check(there *api.ID, tag string) error {
	failed := func(condition, format string, args ...any) error {
		return api.NewError(http.StatusPreconditionFailed, api.CodePrecondition, condition, format, args...)
	}
	switch {
	case there != nil && names(when.IfNoneMatch, tag):
		return failed("If-None-Match", "%s exists", there.Short())
	case when.IfMatch == "" || there != nil && names(when.IfMatch, tag):
		return nil
	case there == nil:
		return failed("If-Match", "the resource does not exist")
	}
	return failed("If-Match", "%s was changed: its etag is %s", there.Short(), tag)
}

// names tells whether a condition, "*" or a list of etags, names this one. All etags are weak, as ARM's are, and conditions
// take them all the same.
func names(condition, tag string) bool {
	for _, one := range strings.Split(condition, ",") {
		if one = strings.TrimSpace(one); one == "*" || one == tag {
			return true
		}
	}
	return false
}

// etag is the version of a resource as its own writes change it.
func etag(r *record) string { return etagOf(r.revision) }

func etagOf(revision uint64) string { return fmt.Sprintf(`W/"%d"`, revision) }
