package store

import (
	"context"
	"errors"
	"fmt"
	"io"
)

// Store is a set of entries with a history of one number: its revision.
type Store interface {
	// Revision is that of the last Commit; 0 before the first.
	Revision(ctx context.Context) (uint64, error)
	// Get returns the entry of a key, or ErrNotFound.
	Get(ctx context.Context, key string) (Entry, error)
	// List returns the entries whose keys begin with prefix, in the order of keys, and the
	// store's revision they belong to.
	List(ctx context.Context, prefix string) ([]Entry, uint64, error)
	// Commit applies a transaction if all of its conditions hold, else returns a *Conflict and changes nothing.
	Commit(ctx context.Context, t Txn) (uint64, error)
	// Watch tells of changes to keys that begin with prefix until ctx ends; then the channel is closed. A
	// receiver that is slow gets several Commits' keys at once and never an incomplete set.
	Watch(ctx context.Context, prefix string) <-chan Change
	// Backup writes a consistent copy of the whole store while others use it.
	Backup(ctx context.Context, w io.Writer) error
	// Restore replaces all entries with those of a backup and does what amend says after seeing both, in one Commit;
	// conditions are not looked at. An error of amend's changes nothing. amend may be nil.
	Restore(ctx context.Context, r io.Reader, amend Amend) (uint64, error)
	// Close gives the store back. Nothing is lost without it.
	Close() error
}

// Entry is a key with its value.
type Entry struct {
	Key      string
	Value    []byte
	Revision uint64 // of the Commit that wrote it last
}

// Txn is a set of changes with conditions.
type Txn struct {
	If     []Condition
	Put    []Entry // Revision is ignored
	Delete []string
}

// Amend says what a Restore writes beside the backup's entries.
type Amend func(backup, present Reader) (Txn, error)

// Reader is a store at one moment.
type Reader interface {
	// Revision is that of the last Commit.
	Revision() uint64
	// Get returns the entry of a key, and whether there is one.
	Get(key string) (Entry, bool)
	// List returns the entries whose keys begin with prefix, in the order of keys.
	List(prefix string) []Entry
}

// Condition holds if the entry of Key has this revision; 0: if there is none.
type Condition struct {
	Key      string
	Revision uint64
}

// Change names keys written or deleted since the last Change of the same Watch.
type Change struct {
	Revision uint64
	Keys     []string
}

// ErrNotFound says that a key has no entry.
var ErrNotFound = errors.New("no such entry")

// ErrLocked says that another process has the store open.
var ErrLocked = errors.New("in use by another process")

// ErrDamaged says that the file is not a whole store.
var ErrDamaged = errors.New("damaged")

// ErrGone says that the file the store is in was removed or replaced under it: what is written now, nobody could read again.
var ErrGone = errors.New("removed or replaced")

// ErrSchema says that the file was written by a newer version.
var ErrSchema = errors.New("written by a newer version")

// Conflict is a condition that does not hold.
type Conflict struct {
	Key        string
	Want, Have uint64
}

// Error names the key and both revisions.
func (c *Conflict) Error() string {
	return fmt.Sprintf("commit: %s has revision %d, not %d", c.Key, c.Have, c.Want)
}
