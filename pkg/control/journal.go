package control

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/auth"
	"github.com/privlink/privlink/pkg/store"
)

// The journal has an entry for every write, committed with it: nothing changes that it does not say.

// change is what a transaction did to one thing.
type change struct {
	target        string
	before, after json.RawMessage
	event         api.EventKind
	endpoint      string
	by            *deleting // who asked, if that is not the transaction's actor
}

// note keeps what the first touch of a key found and the last one left.
func (t *tx) note(key, target string, before, after json.RawMessage) *change {
	x := t.changes[key]
	if x == nil {
		x = &change{target: target, before: before}
		t.changes[key] = x
	}
	x.after, x.by = after, t.by
	return x
}

// rawRecord is a resource as the journal shows it; nil for nil.
func rawRecord(r *record) json.RawMessage {
	if r == nil {
		return nil
	}
	return r.raw
}

// journaledConnection is a connection as the journal shows it.
type journaledConnection struct {
	Status         api.ConnectionStatus `json:"status"`
	Description    string               `json:"description,omitempty"`
	LinkIdentifier uint32               `json:"linkIdentifier"`
	RequestMessage string               `json:"requestMessage,omitempty"`
	Subscription   string               `json:"subscription"`
	Tenant         string               `json:"tenant,omitempty"`
	DecidedBy      string               `json:"decidedBy,omitempty"`
}

func rawConnection(x *connection) json.RawMessage {
	if x == nil {
		return nil
	}
	raw, err := json.Marshal(journaledConnection{Status: x.State.Status, Description: x.State.Description, LinkIdentifier: x.LinkID,
		RequestMessage: x.RequestMessage, Subscription: x.Subscription, Tenant: x.Tenant, DecidedBy: x.DecidedBy})
	if err != nil {
		return nil
	}
	return raw
}

func (t *tx) noteConnection(old, now *connection) {
	known := now
	if known == nil {
		known = old
	}
	x := t.note(prefixConnection+known.key, known.id().String(), rawConnection(old), rawConnection(now))
	x.endpoint = known.Endpoint
	switch {
	case now == nil:
		x.event = api.EventDisconnected
	case old != nil && old.State.Status == now.State.Status:
		// A new description is no event.
	case now.State.Status == api.Pending:
		x.event = api.EventRequested
	case now.State.Status == api.Approved:
		x.event = api.EventApproved
	case now.State.Status == api.Rejected:
		x.event = api.EventRejected
	}
}

// journal adds the entries for all changes to the transaction, and forgets the oldest ones.
func (t *tx) journal() error {
	keys := make([]string, 0, len(t.changes))
	for key := range t.changes {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	last := t.view.journal
	for _, key := range keys {
		x := t.changes[key]
		if x.before == nil && x.after == nil {
			continue // made and removed by one transaction
		}
		last++
		e := api.JournalEntry{Number: last, Time: t.now, Principal: t.who.Principal, Tenant: t.who.Tenant, From: t.who.From,
			Action: "change", Target: x.target, Before: x.before, After: x.after, Event: x.event, Endpoint: x.endpoint}
		if x.by != nil {
			e.Principal, e.Tenant, e.From = x.by.Principal, x.by.Tenant, x.by.From
		}
		switch {
		case x.before == nil:
			e.Action = "create"
		case x.after == nil:
			e.Action = "delete"
		}
		if e.Event == api.EventDisconnected && t.view.records[strings.ToLower(x.endpoint)] == nil {
			e.Event = api.EventDeleted
		}
		raw, err := json.Marshal(e)
		if err != nil {
			return fmt.Errorf("write journal: %w", err)
		}
		t.puts[journalKey(last)] = raw
		if last > api.MaxJournal {
			t.deletes[journalKey(last-api.MaxJournal)] = true
		}
	}
	if last == t.view.journal {
		return nil
	}
	before := t.view.journal
	t.view.journal = last
	t.undo = append(t.undo, func() { t.view.journal = before })
	t.put(keyJournal, binary.BigEndian.AppendUint64(nil, last), t.view.journalRevision)
	return nil
}

func journalKey(number uint64) string { return fmt.Sprintf("%s%016x", prefixJournal, number) }

// Journal returns the entries after a number that the actor may know of, oldest first, at most limit, and the
// number to go on from. A consumer sees what becomes of its own requests and nothing else of the provider.
func (c *Controller) Journal(ctx context.Context, who auth.Actor, after uint64, limit int) (list []api.JournalEntry, next uint64, err error) {
	c.mu.RLock()
	last := c.view.journal
	c.mu.RUnlock()
	next = max(after, last-min(last, api.MaxJournal))
	list = []api.JournalEntry{}
	for next < last && len(list) < limit {
		stored, err := c.options.Store.Get(ctx, journalKey(next+1))
		next++
		if err != nil {
			continue // forgotten meanwhile
		}
		var e api.JournalEntry
		if err := json.Unmarshal(stored.Value, &e); err != nil {
			return nil, next, fmt.Errorf("read journal entry %d: %w", next, err)
		}
		if e, ok := seenBy(who, e); ok {
			list = append(list, e)
		}
	}
	return list, next, nil
}

// seenBy is an entry as an actor may know it.
func seenBy(who auth.Actor, e api.JournalEntry) (api.JournalEntry, bool) {
	if strings.HasPrefix(e.Target, accessPath) {
		return e, who.May(auth.Control, auth.Everything)
	}
	target, err := api.ParseID(e.Target, api.ID{})
	if err == nil && who.May(auth.Read, target.Parent().String()) {
		return e, true
	}
	if e.Event == "" || !who.May(auth.Read, e.Endpoint) {
		return e, false
	}
	// The consumer's side: the state and its description, not who decided or where.
	e.Target, e.Principal, e.Tenant, e.From, e.Before = e.Endpoint, "", "", "", nil
	var x journaledConnection
	if json.Unmarshal(e.After, &x) == nil {
		x.DecidedBy = ""
		e.After, _ = json.Marshal(x) // of strings and numbers; never fails
	}
	return e, true
}

// WaitJournal returns when there are entries after a number.
func (c *Controller) WaitJournal(ctx context.Context, after uint64) error {
	return c.wait(ctx, func() (bool, error) { return c.view.journal > after, nil })
}

// prefixCursor is where those who follow the journal keep how far they are; + name.
const prefixCursor = "cursor/"

// Cursor is the number of the last entry that was dealt with under a name. A new name begins with the present end.
func (c *Controller) Cursor(ctx context.Context, name string) (uint64, error) {
	e, err := c.options.Store.Get(ctx, prefixCursor+name)
	switch {
	case errors.Is(err, store.ErrNotFound):
		c.mu.RLock()
		last := c.view.journal
		c.mu.RUnlock()
		return last, c.SetCursor(ctx, name, last)
	case err != nil:
		return 0, err
	case len(e.Value) != 8:
		return 0, fmt.Errorf("read cursor %s: %d bytes", name, len(e.Value))
	}
	return binary.BigEndian.Uint64(e.Value), nil
}

// SetCursor keeps how far somebody is with the journal. It is no write in the journal's sense.
func (c *Controller) SetCursor(ctx context.Context, name string, number uint64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, err := c.options.Store.Commit(ctx, store.Txn{Put: []store.Entry{{Key: prefixCursor + name, Value: binary.BigEndian.AppendUint64(nil, number)}}})
	return err
}
