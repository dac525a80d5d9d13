package control

import (
	"context"
	"fmt"
	"strings"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/auth"
)

// DeleteOptions say how much goes.
type DeleteOptions struct {
	// Cascade rejects the connections of a service before it is deleted. Where some are approved, and the deletion is the
	// only step of its batch, that takes time: Outcome.Resource is the service then, Deleting.
	Cascade bool
}

// Delete removes a resource. Removing what is not there is no error; Outcome.Changed is false then.
func (c *Controller) Delete(ctx context.Context, who auth.Actor, id api.ID, how DeleteOptions, when Conditions) (Outcome, error) {
	out, err := c.Batch(ctx, who, []Step{{ID: id, Delete: how, When: when}}, when.DryRun)
	if err != nil {
		return Outcome{}, err
	}
	return out[0], nil
}

// deleteStep removes a resource, or begins to if it is alone in its batch and takes time.
func (c *Controller) deleteStep(t *tx, s Step, alone bool) (Outcome, error) {
	rec := t.view.records[s.ID.Key()]
	if rec == nil {
		if o := t.view.ownerOfNIC(s.ID); o != nil {
			return Outcome{}, readOnlyNIC(s.ID, o)
		}
		if s.When.IfMatch != "" {
			return Outcome{}, checkConditions(s.When, nil)
		}
		return Outcome{}, nil
	}
	if err := checkConditions(Conditions{IfMatch: s.When.IfMatch}, rec); err != nil {
		return Outcome{}, err
	}
	out := Outcome{Before: c.present(t.view, rec), Changed: true}
	switch rec.resource.(type) {
	case *api.PrivateLinkService:
		if alone && (rec.kept.Deleting != nil || s.Delete.Cascade && t.view.hasApproved(rec.key)) {
			if out.Changed = rec.kept.Deleting == nil; out.Changed {
				if err := t.beginDeletion(rec); err != nil {
					return Outcome{}, err
				}
			}
			out.Resource = c.present(t.view, t.view.records[rec.key])
			return out, nil
		}
		if err := t.leaveService(rec, s.Delete); err != nil {
			return Outcome{}, err
		}
	case *api.PrivateEndpoint:
		if x := t.view.byEndpoint[rec.key]; x != nil {
			t.unsetConnection(x)
		}
	default:
		if err := t.checkUnused(rec); err != nil {
			return Outcome{}, err
		}
	}
	t.unset(rec)
	return out, nil
}

// checkUnused refuses to delete what others refer to. Peerings of other networks only become Disconnected.
func (t *tx) checkUnused(rec *record) error {
	for _, user := range t.view.users(rec.key, api.Kinds()...) {
		if user.resource.Kind() == api.VirtualNetworks {
			continue
		}
		return api.Refused(api.CodeInUse, "", "%s is used by %s", rec.id.Short(), user.id.Short())
	}
	return nil
}

// leaveService disconnects the endpoints of a service that is about to go.
func (t *tx) leaveService(rec *record, how DeleteOptions) error {
	list := t.view.ofService(rec.key)
	if !how.Cascade && rec.kept.Deleting == nil {
		pending, approved := 0, 0
		for _, x := range list {
			switch x.State.Status {
			case api.Pending:
				pending++
			case api.Approved:
				approved++
			}
		}
		if pending+approved > 0 {
			return api.Refused("PrivateLinkServiceWithPrivateEndpointConnectionsCannotBeDeleted", "",
				"%s has %s (reject or remove them, or delete with --cascade)", rec.id.Short(), countConnections(pending, approved))
		}
	}
	for _, x := range list {
		if err := t.disconnect(x, "The private link service was deleted"); err != nil {
			return err
		}
	}
	return nil
}

// hasApproved tells whether a service has an approved connection.
func (v *view) hasApproved(service string) bool {
	for _, x := range v.byService[service] {
		if x.State.Status == api.Approved {
			return true
		}
	}
	return false
}

func countConnections(pending, approved int) string {
	switch {
	case pending == 0:
		return plural(approved, "approved connection")
	case approved == 0:
		return plural(pending, "pending connection")
	}
	return fmt.Sprintf("%d pending and %s", pending, plural(approved, "approved connection"))
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	if strings.HasSuffix(noun, "s") {
		noun += "e"
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// checkScope is nil if the actor may see something in the scope. Who may not learns that there is nothing.
func checkScope(who auth.Actor, s Scope) error {
	if who.MayBelow(auth.Read, s.path()) {
		return nil
	}
	return api.NewError(403, api.CodeForbidden, "", "%s may not read %s", who, s.path())
}
