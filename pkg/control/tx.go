package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/privlink/privlink/pkg/auth"
	"github.com/privlink/privlink/pkg/store"
)

// tx is a transaction: it changes the view as it goes, notes how to undo that, and what to commit.
// It is used under Controller.mu by one goroutine.
type tx struct {
	view   *view
	who    auth.Actor
	now    time.Time
	suffix string // of aliases
	shun   map[place]time.Time
	// again says that the endpoint being written asks for its service again.
	again bool
	// by is who asked earlier for what is done now; nil for who.
	by *deleting

	undo        []func()
	records     map[string]*record // written; nil = deleted
	connections map[string]*connection
	puts        map[string][]byte
	deletes     map[string]bool
	conditions  map[string]uint64
	// changes are what the journal will say, by store key.
	changes map[string]*change
}

func (t *tx) put(key string, value []byte, revision uint64) {
	delete(t.deletes, key)
	t.puts[key] = value
	t.condition(key, revision)
}

func (t *tx) drop(key string, revision uint64) {
	delete(t.puts, key)
	t.deletes[key] = true
	t.condition(key, revision)
}

// condition notes the revision that the first touch of a key found.
func (t *tx) condition(key string, revision uint64) {
	if _, ok := t.conditions[key]; !ok {
		t.conditions[key] = revision
	}
}

// set writes a record in place of the one with its key, if any.
func (t *tx) set(r *record) {
	old := t.view.records[r.key]
	revision := uint64(0)
	if old != nil {
		revision = old.revision
		t.view.remove(old)
	}
	t.view.add(r)
	t.undo = append(t.undo, func() {
		t.view.remove(r)
		if old != nil {
			t.view.add(old)
		}
	})
	t.records[r.key] = r
	t.note(prefixResource+r.key, r.id.String(), rawRecord(old), rawRecord(r))
	t.put(prefixResource+r.key, r.json, revision)
}

// unset deletes a record.
func (t *tx) unset(r *record) {
	t.view.remove(r)
	t.undo = append(t.undo, func() { t.view.add(r) })
	t.records[r.key] = nil
	t.note(prefixResource+r.key, r.id.String(), rawRecord(r), nil)
	t.drop(prefixResource+r.key, r.revision)
}

// setConnection writes a connection in place of the one with its key, if any.
func (t *tx) setConnection(c *connection) error {
	c.derive()
	data, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("keep connection %s: %w", c.Name, err)
	}
	old := t.view.connections[c.key]
	revision := uint64(0)
	if old != nil {
		revision = old.revision
		t.view.removeConnection(old)
	}
	t.view.addConnection(c)
	t.undo = append(t.undo, func() {
		t.view.removeConnection(c)
		if old != nil {
			t.view.addConnection(old)
		}
	})
	t.connections[c.key] = c
	t.noteConnection(old, c)
	t.put(prefixConnection+c.key, data, revision)
	return nil
}

func (t *tx) unsetConnection(c *connection) {
	t.view.removeConnection(c)
	t.undo = append(t.undo, func() { t.view.addConnection(c) })
	t.connections[c.key] = nil
	t.noteConnection(c, nil)
	t.drop(prefixConnection+c.key, c.revision)
}

func (t *tx) rollback() {
	for _, f := range slices.Backward(t.undo) {
		f()
	}
	t.undo = nil
}

// changed tells whether there is anything to commit.
func (t *tx) changed() bool { return len(t.puts)+len(t.deletes) > 0 }

// maxRetries bounds how often a transaction is done again because another writer was faster.
const maxRetries = 5

// errDryRun ends a transaction that was only to be tried.
var errDryRun = errors.New("dry run")

// update runs f in a transaction and commits what it did. If f fails, nothing has happened. f may run more
// than once.
func (c *Controller) update(ctx context.Context, who auth.Actor, f func(*tx) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for try := 0; ; try++ {
		t := &tx{view: c.view, who: who, now: c.options.Now().UTC(), suffix: c.options.AliasSuffix, shun: c.shun,
			records: map[string]*record{}, connections: map[string]*connection{},
			puts: map[string][]byte{}, deletes: map[string]bool{}, conditions: map[string]uint64{}, changes: map[string]*change{}}
		if err := f(t); err != nil {
			t.rollback()
			if errors.Is(err, errDryRun) {
				return nil
			}
			return err
		}
		if !t.changed() {
			return nil
		}
		if err := t.journal(); err != nil {
			t.rollback()
			return err
		}
		err := c.commit(ctx, t)
		if err == nil {
			return nil
		}
		t.rollback()
		conflict := (*store.Conflict)(nil)
		if !errors.As(err, &conflict) || try == maxRetries {
			return err
		}
		if err := c.reload(ctx); err != nil {
			return err
		}
	}
}

// commit writes what t did and makes it known. Called under mu.
func (c *Controller) commit(ctx context.Context, t *tx) error {
	txn := store.Txn{}
	for key, revision := range t.conditions {
		txn.If = append(txn.If, store.Condition{Key: key, Revision: revision})
	}
	for key, value := range t.puts {
		txn.Put = append(txn.Put, store.Entry{Key: key, Value: value})
	}
	for key := range t.deletes {
		txn.Delete = append(txn.Delete, key)
	}
	slices.SortFunc(txn.Put, func(a, b store.Entry) int { return strings.Compare(a.Key, b.Key) })
	revision, err := c.options.Store.Commit(ctx, txn)
	if err != nil {
		return err
	}
	c.view.revision = revision
	for _, r := range t.records {
		if r != nil {
			r.revision = revision
		}
	}
	for _, x := range t.connections {
		if x != nil {
			x.revision = revision
		}
	}
	if _, ok := t.puts[keyLinkIDs]; ok {
		c.view.linkIDsRevision = revision
	}
	c.view.access.committed(t, revision)
	if _, ok := t.puts[keyJournal]; ok {
		c.view.journalRevision = revision
	}
	c.broadcast()
	c.wake()
	return nil
}

// reload reads the whole store again, because somebody else wrote to it. Called under mu.
func (c *Controller) reload(ctx context.Context) error {
	entries, revision, err := c.options.Store.List(ctx, prefixLive)
	if err != nil {
		return fmt.Errorf("load store: %w", err)
	}
	v, err := loadView(entries, revision)
	if err != nil {
		return err
	}
	c.view = v
	return nil
}
