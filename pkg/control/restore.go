package control

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/auth"
	"github.com/privlink/privlink/pkg/store"
)

// Backup writes a consistent copy of the store while the daemon runs.
func (c *Controller) Backup(ctx context.Context, w io.Writer) error {
	return c.options.Store.Backup(ctx, w)
}

// Restore replaces everything by a backup, and the kernel follows. Two things do not go back in time: LinkIDs given
// since the backup stay used, and the journal keeps what happened and tells of the restore, too.
func (c *Controller) Restore(ctx context.Context, who auth.Actor, r io.Reader) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	at := c.options.Now().UTC()
	if _, err := c.options.Store.Restore(ctx, r, func(backup, present store.Reader) (store.Txn, error) {
		return amendRestore(backup, present, who, at)
	}); err != nil {
		return err
	}
	if err := c.reload(ctx); err != nil {
		return err
	}
	c.broadcast()
	c.wake()
	return nil
}

// moment is what the journal says of a state that was replaced or restored.
type moment struct {
	Revision uint64 `json:"revision"` // of the store
	Journal  uint64 `json:"journal"`  // number of the last entry
}

// amendRestore is what a restore writes beside the backup's entries, in the same Commit.
func amendRestore(backup, present store.Reader, who auth.Actor, at time.Time) (store.Txn, error) {
	// What cannot be loaded is refused while there is something to go on with.
	restored, err := loadView(backup.List(prefixLive), backup.Revision())
	if err != nil {
		return store.Txn{}, fmt.Errorf("%w: the backup cannot be read, nothing was changed: %w", store.ErrDamaged, err)
	}
	was, err := loadView(present.List(prefixLive), present.Revision())
	if err != nil {
		return store.Txn{}, err
	}
	history := map[string][]byte{} // by key, as it will be
	for _, e := range backup.List(prefixJournal) {
		history[e.Key] = e.Value
	}
	// A backup of this store is a part of its history. The history of another store comes first, as if it had been this
	// one's, and this one's is counted on from there.
	shift := uint64(0)
	if !continues(present, was.journal, backup, restored.journal) {
		shift = restored.journal
	}
	for _, e := range present.List(prefixJournal) {
		if shift == 0 {
			history[e.Key] = e.Value
			continue
		}
		var x api.JournalEntry
		if err := json.Unmarshal(e.Value, &x); err != nil {
			return store.Txn{}, fmt.Errorf("read %s: %w", e.Key, err)
		}
		x.Number += shift
		if history[journalKey(x.Number)], err = json.Marshal(x); err != nil {
			return store.Txn{}, fmt.Errorf("write %s: %w", e.Key, err)
		}
	}
	last := was.journal + shift + 1
	entry := api.JournalEntry{Number: last, Time: at, Principal: who.Principal, Tenant: who.Tenant, From: who.From,
		Action: "restore", Target: accessPath + "restore"}
	if entry.Before, err = json.Marshal(moment{present.Revision(), was.journal}); err == nil {
		entry.After, err = json.Marshal(moment{backup.Revision(), restored.journal})
	}
	if err == nil {
		history[journalKey(last)], err = json.Marshal(entry)
	}
	if err != nil {
		return store.Txn{}, fmt.Errorf("write journal: %w", err)
	}
	txn := store.Txn{Put: []store.Entry{
		{Key: keyLinkIDs, Value: eightBytes(max(was.linkIDs, restored.linkIDs))},
		{Key: keyJournal, Value: eightBytes(last)},
	}}
	for key, value := range history {
		if last > api.MaxJournal && strings.Compare(key, journalKey(last-api.MaxJournal)) <= 0 {
			txn.Delete = append(txn.Delete, key)
		} else {
			txn.Put = append(txn.Put, store.Entry{Key: key, Value: value})
		}
	}
	// Who follows the journal is as far as before.
	for _, e := range backup.List(prefixCursor) {
		if _, ok := present.Get(e.Key); !ok {
			txn.Delete = append(txn.Delete, e.Key)
		}
	}
	for _, e := range present.List(prefixCursor) {
		if len(e.Value) == 8 {
			txn.Put = append(txn.Put, store.Entry{Key: e.Key, Value: eightBytes(binary.BigEndian.Uint64(e.Value) + shift)})
		}
	}
	return txn, nil
}

// continues tells whether a journal of so many entries goes on from that of a backup: it has the backup's last entry, or
// has forgotten entries that old.
func continues(present store.Reader, last uint64, backup store.Reader, restored uint64) bool {
	if restored == 0 || last > restored+api.MaxJournal {
		return true
	}
	ours, ok := present.Get(journalKey(restored))
	theirs, ok2 := backup.Get(journalKey(restored))
	return last >= restored && ok && ok2 && bytes.Equal(ours.Value, theirs.Value)
}

func eightBytes(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }
