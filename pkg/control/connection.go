package control

import (
	"context"
	"reflect"
	"slices"
	"strings"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/auth"
)

// Decide approves or rejects a connection, at once and as often as asked: what was rejected can be approved
// again. id is SERVICE/privateEndpointConnections/NAME. A document without a state changes the own
// properties only.
func (c *Controller) Decide(ctx context.Context, who auth.Actor, id api.ID, doc api.PrivateEndpointConnection, when Conditions) (*api.PrivateEndpointConnection, error) {
	if err := who.Check(auth.Write, id.Parent()); err != nil {
		return nil, err
	}
	if err := doc.Validate(); err != nil {
		return nil, err
	}
	var would *api.PrivateEndpointConnection
	err := c.update(ctx, who, func(t *tx) error {
		old := t.view.connections[id.Key()]
		if old == nil {
			return api.NotFound(id)
		}
		if err := when.Check(&id, etagOf(old.revision)); err != nil {
			return err
		}
		if err := beingDeleted(t.view.records[old.serviceKey]); err != nil {
			return err
		}
		x := *old
		switch limit := doc.Properties.MaxFlows; {
		case limit.IsSet():
			if err := c.checkFlowLimit("properties.maxFlows", limit, old.MaxFlows); err != nil {
				return err
			}
			x.MaxFlows = limit
		case limit.IsNull():
			x.MaxFlows = api.Own[int64]{}
		}
		if err := t.decide(&x, doc.Properties.PrivateLinkServiceConnectionState); err != nil {
			return err
		}
		if reflect.DeepEqual(x, *old) {
			return nil
		}
		if err := t.setConnection(&x); err != nil || !when.DryRun {
			return err
		}
		would = c.presentConnection(t.view, &x)
		return errDryRun
	})
	if err != nil || would != nil {
		return would, err
	}
	return c.Connection(ctx, who, id)
}

func (t *tx) decide(x *connection, s *api.ConnectionState) error {
	if s == nil {
		return nil
	}
	const target = "properties.privateLinkServiceConnectionState.status"
	same := s.Status == x.State.Status
	switch s.Status {
	case api.Approved, api.Rejected:
	case api.Disconnected:
		return api.Invalid(target, "a connection is disconnected by deleting it")
	default:
		if !same {
			return api.Invalid(target, "a decision is Approved or Rejected; a connection that is %s becomes Pending when its consumer asks again", x.State.Status)
		}
	}
	if same && s.Description == x.State.Description && s.ActionsRequired == x.State.ActionsRequired {
		return nil
	}
	t.state(x, *s, t.who.Principal)
	if p, ok := t.view.records[x.serviceKey].resource.(*api.PrivateLinkService); ok {
		x.Entry = auth.Entry(p.Properties.Approvals.Or(nil), x.Subscription, x.Endpoint)
	}
	return nil
}

// state gives a connection a new state, decided by somebody.
func (t *tx) state(x *connection, s api.ConnectionState, by string) {
	if x.State.Status == api.Approved && s.Status != api.Approved {
		x.Epoch++
	}
	if x.State.Status != s.Status {
		x.Decided, x.DecidedBy = t.now, by
	}
	x.State = s
}

// followApprovals makes the declarative decisions of a service: on pending connections, and on those whose
// entry is new or was changed since the last decision.
func (t *tx) followApprovals(rec *record, service *api.PrivateLinkService) (bool, error) {
	list := service.Properties.Approvals.Or(nil)
	changed := false
	for _, old := range t.view.ofService(rec.key) {
		entry := auth.Entry(list, old.Subscription, old.Endpoint)
		same := reflect.DeepEqual(entry, old.Entry)
		if same && (entry == nil || old.State.Status != api.Pending) {
			continue
		}
		x := *old
		x.Entry = entry
		if d, ok := auth.Declared(list, old.Subscription, old.Endpoint); ok {
			description := d.Description
			if description == "" && d.Status == old.State.Status {
				description = old.State.Description
			}
			t.state(&x, api.ConnectionState{Status: d.Status, Description: description}, d.By)
		}
		if err := t.setConnection(&x); err != nil {
			return changed, err
		}
		changed = true
	}
	return changed, nil
}

// ofService are the connections of a service in the order of their keys.
func (v *view) ofService(key string) []*connection {
	list := make([]*connection, 0, len(v.byService[key]))
	for _, x := range v.byService[key] {
		list = append(list, x)
	}
	slices.SortFunc(list, func(a, b *connection) int { return strings.Compare(a.key, b.key) })
	return list
}

// Remove takes a connection away, in any state. Its endpoint becomes Disconnected and keeps its address; it
// may ask again and gets another LinkID then. Removing what is not there is no error; ok is false then.
func (c *Controller) Remove(ctx context.Context, who auth.Actor, id api.ID, when Conditions) (ok bool, err error) {
	if err := who.Check(auth.Write, id.Parent()); err != nil {
		return false, err
	}
	err = c.update(ctx, who, func(t *tx) error {
		x := t.view.connections[id.Key()]
		if ok = x != nil; !ok {
			return when.Check(nil, "")
		}
		if err := when.Check(&id, etagOf(x.revision)); err != nil {
			return err
		}
		if err := beingDeleted(t.view.records[x.serviceKey]); err != nil {
			return err
		}
		if err := t.disconnect(x, "The connection was removed by the provider"); err != nil || !when.DryRun {
			return err
		}
		return errDryRun
	})
	return ok, err
}

// disconnect removes a connection and tells its endpoint why.
func (t *tx) disconnect(x *connection, why string) error {
	t.unsetConnection(x)
	endpoint := t.view.records[x.endpointKey]
	if endpoint == nil {
		return nil
	}
	k := endpoint.kept
	k.LastLinkID = x.LinkID
	k.Disconnected = &api.ConnectionState{Status: api.Disconnected, Description: why,
		ActionsRequired: "Delete the private endpoint, or ask again by setting the status to Pending"}
	fresh, err := newRecord(endpoint.resource, k)
	if err != nil {
		return err
	}
	t.set(fresh)
	// The journal has the connection's entry, which tells each side its part.
	delete(t.changes, prefixResource+fresh.key)
	return nil
}

// Connection reads one connection as its provider sees it.
func (c *Controller) Connection(_ context.Context, who auth.Actor, id api.ID) (*api.PrivateEndpointConnection, error) {
	if err := who.Check(auth.Read, id.Parent()); err != nil {
		return nil, err
	}
	c.mu.RLock()
	defer c.mu.RUnlock()
	x := c.view.connections[id.Key()]
	if x == nil {
		return nil, api.NotFound(id)
	}
	return c.presentConnection(c.view, x), nil
}

// Connections lists the connections of a service, by name.
func (c *Controller) Connections(_ context.Context, who auth.Actor, service api.ID) ([]*api.PrivateEndpointConnection, error) {
	if err := who.Check(auth.Read, service); err != nil {
		return nil, err
	}
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.view.records[service.Key()] == nil {
		return nil, api.NotFound(service)
	}
	list := []*api.PrivateEndpointConnection{}
	for _, x := range c.view.ofService(service.Key()) {
		list = append(list, c.presentConnection(c.view, x))
	}
	return list, nil
}

// Inbox lists the connections of all services of a scope (see List) that the actor may read, oldest
// request first.
func (c *Controller) Inbox(_ context.Context, who auth.Actor, scope Scope) ([]*api.PrivateEndpointConnection, error) {
	if err := checkScope(who, scope); err != nil {
		return nil, err
	}
	c.mu.RLock()
	defer c.mu.RUnlock()
	var found []*connection
	for _, x := range c.view.connections {
		service := c.view.records[x.serviceKey]
		if service != nil && scope.holds(service.id) && who.May(auth.Read, service.id.String()) {
			found = append(found, x)
		}
	}
	slices.SortFunc(found, func(a, b *connection) int {
		if n := a.Requested.Compare(b.Requested); n != 0 {
			return n
		}
		return strings.Compare(a.key, b.key)
	})
	list := make([]*api.PrivateEndpointConnection, len(found))
	for i, x := range found {
		list[i] = c.presentConnection(c.view, x)
	}
	return list, nil
}
