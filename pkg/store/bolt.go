package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"
)

// The layout of the file: bucket "meta" has "schema" and "revision" (8 bytes, big endian);
// bucket "entries" has key -> sealed value (see seal). migrate.go has what it was before.

// lockWait is how long Open waits for a process that is just ending.
const lockWait = 500 * time.Millisecond

// Bolt is the embedded store. It is safe for use by several goroutines.
type Bolt struct {
	db       *bbolt.DB
	file     os.FileInfo // of the file that db has open
	watchers watchers
}

func metaBucket() []byte    { return []byte("meta") }
func entriesBucket() []byte { return []byte("entries") }
func schemaKey() []byte     { return []byte("schema") }
func revisionKey() []byte   { return []byte("revision") }

// OpenBolt opens the store at path and makes it if it does not exist. Errors wrap ErrLocked,
// ErrDamaged or ErrSchema with advice.
func OpenBolt(path string) (*Bolt, error) { return openBolt(path, migrations()) }

func openBolt(path string, known []migration) (*Bolt, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("open store %s: %w", path, err)
	}
	db, err := openFile(path)
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", path, advised(err))
	}
	if err := prepare(db, known); err != nil {
		db.Close()
		return nil, fmt.Errorf("open store %s: %w", path, advised(err))
	}
	// A new file's name must survive a crash too.
	if err := syncDir(filepath.Dir(path)); err != nil {
		db.Close()
		return nil, fmt.Errorf("open store %s: %w", path, err)
	}
	file, err := os.Stat(path)
	if err != nil {
		db.Close()
		return nil, fmt.Errorf("open store %s: %w", path, err)
	}
	return &Bolt{db: db, file: file, watchers: newWatchers()}, nil
}

// openFile opens the file and reads every page of it, because bbolt finds a damaged page only when
// it meets it, and then panics.
func openFile(path string) (db *bbolt.DB, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = damaged(fmt.Errorf("%v", r))
			if db != nil {
				db.Close()
			}
		}
	}()
	// A pointer into nowhere is a fault of the mapped file; here it becomes a panic of this goroutine. Open follows the one to the
	// list of free pages.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	db, err = bbolt.Open(path, 0o600, &bbolt.Options{Timeout: lockWait})
	switch {
	case errors.Is(err, bbolterrors.ErrTimeout):
		return nil, fmt.Errorf("%w (is another privlink running? use another --state-dir for a second one)", ErrLocked)
	case errors.Is(err, os.ErrPermission):
		return nil, fmt.Errorf("%w (run as root, or choose --state-dir)", err)
	case err != nil && !ofTheDisk(err):
		return nil, damaged(err)
	case err != nil:
		return nil, err
	}
	// Check works in another goroutine, whose faults nobody could recover: it comes second, when every page has been read.
	err = db.View(func(tx *bbolt.Tx) error {
		err := tx.ForEach(func(_ []byte, b *bbolt.Bucket) error {
			return b.ForEach(func(_, _ []byte) error { return nil })
		})
		for problem := range tx.Check() {
			err = errors.Join(err, problem)
		}
		return err
	})
	if err != nil {
		db.Close()
		return nil, damaged(err)
	}
	return db, nil
}

func damaged(err error) error { return fmt.Errorf("%w: %w", ErrDamaged, err) }

// ofTheDisk tells what the system refuses from what is wrong in the file: nobody should move away a file that is whole. What cannot be
// read (EIO) is damage, and so is what cannot be mapped as it is (EINVAL).
func ofTheDisk(err error) bool {
	var errno syscall.Errno
	return errors.As(err, &errno) && errno != unix.EIO && errno != unix.EINVAL
}

// advised adds to an error of the store's own file what to do about it.
func advised(err error) error {
	advice := ""
	switch {
	case errors.Is(err, ErrDamaged):
		advice = "move the file away, start without state, and `privlink restore` a backup"
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		advice = "make room there; what is in the file is whole"
	case errors.Is(err, unix.EROFS):
		advice = "make that file system writable again, dmesg may say why it is not; the file is whole"
	case errors.Is(err, unix.EMFILE):
		advice = "raise the limit of open files, LimitNOFILE= in the systemd unit"
	default:
		return err
	}
	return fmt.Errorf("%w (%s)", err, advice)
}

// prepare makes the buckets of a new file, brings an old one to this version's schema, and checks what is in it.
func prepare(db *bbolt.DB, known []migration) error {
	present := uint64(len(known)) + 1
	return db.Update(func(tx *bbolt.Tx) error {
		meta := tx.Bucket(metaBucket())
		if meta == nil {
			if name, _ := tx.Cursor().First(); name != nil {
				return damaged(errors.New("not a file of privlink"))
			}
			var err error
			if meta, err = tx.CreateBucket(metaBucket()); err != nil {
				return err
			}
			if err := meta.Put(schemaKey(), number(present)); err != nil {
				return err
			}
			_, err = tx.CreateBucket(entriesBucket())
			return err
		}
		version := meta.Get(schemaKey())
		if len(version) != 8 || tx.Bucket(entriesBucket()) == nil {
			return damaged(errors.New("no schema version"))
		}
		switch v := binary.BigEndian.Uint64(version); {
		case v > present:
			return fmt.Errorf("%w: schema %d, this is %d (start the newer version, or restore an older backup)", ErrSchema, v, present)
		case v == 0:
			return damaged(errors.New("no schema version"))
		case v < present:
			if err := migrate(tx, v, known); err != nil {
				return err
			}
		}
		if err := verify(tx); err != nil {
			return damaged(err)
		}
		return nil
	})
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func number(v uint64) []byte { return binary.BigEndian.AppendUint64(nil, v) }

func revision(tx *bbolt.Tx) uint64 {
	v := tx.Bucket(metaBucket()).Get(revisionKey())
	if len(v) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(v)
}

// entry copies what bbolt lends for the transaction only.
func entry(key, stored []byte) Entry {
	if len(stored) < sealed {
		return Entry{Key: string(key)}
	}
	return Entry{Key: string(key), Value: bytes.Clone(stored[sealed:]), Revision: binary.BigEndian.Uint64(stored)}
}

// Revision implements Store.
func (b *Bolt) Revision(context.Context) (rev uint64, err error) {
	err = b.db.View(func(tx *bbolt.Tx) error { rev = revision(tx); return nil })
	return rev, err
}

// Get implements Store.
func (b *Bolt) Get(_ context.Context, key string) (e Entry, err error) {
	err = b.db.View(func(tx *bbolt.Tx) error {
		var ok bool
		if e, ok = (boltReader{tx}).Get(key); !ok {
			return fmt.Errorf("get %s: %w", key, ErrNotFound)
		}
		return nil
	})
	return e, err
}

// List implements Store.
func (b *Bolt) List(_ context.Context, prefix string) (list []Entry, rev uint64, err error) {
	err = b.db.View(func(tx *bbolt.Tx) error {
		rev, list = revision(tx), boltReader{tx}.List(prefix)
		return nil
	})
	return list, rev, err
}

// boltReader is the store as a transaction sees it.
type boltReader struct{ tx *bbolt.Tx }

// Revision implements Reader.
func (r boltReader) Revision() uint64 { return revision(r.tx) }

// Get implements Reader.
func (r boltReader) Get(key string) (Entry, bool) {
	v := r.tx.Bucket(entriesBucket()).Get([]byte(key))
	return entry([]byte(key), v), v != nil
}

// List implements Reader.
func (r boltReader) List(prefix string) (list []Entry) {
	c := r.tx.Bucket(entriesBucket()).Cursor()
	for k, v := c.Seek([]byte(prefix)); k != nil && bytes.HasPrefix(k, []byte(prefix)); k, v = c.Next() {
		list = append(list, entry(k, v))
	}
	return list
}

// Check says with ErrGone that the next Open of the same path would not find this store.
func (b *Bolt) Check() error {
	there, err := os.Stat(b.db.Path())
	if err == nil && os.SameFile(there, b.file) {
		return nil
	}
	if err == nil || errors.Is(err, os.ErrNotExist) {
		err = ErrGone
	}
	return fmt.Errorf("%s: %w (`privlink backup %[1]s` puts all that is known back there; restart the daemon then)", b.db.Path(), err)
}

// Commit implements Store. bbolt writes the pages, syncs, writes the root and syncs again.
func (b *Bolt) Commit(ctx context.Context, t Txn) (uint64, error) {
	if err := ctx.Err(); err != nil {
		return 0, fmt.Errorf("commit: %w", err)
	}
	if err := b.Check(); err != nil {
		return 0, fmt.Errorf("commit: %w", err)
	}
	var rev uint64
	var keys []string
	err := b.db.Update(func(tx *bbolt.Tx) error {
		entries := tx.Bucket(entriesBucket())
		for _, c := range t.If {
			if have := entry(nil, entries.Get([]byte(c.Key))).Revision; have != c.Revision {
				return &Conflict{Key: c.Key, Want: c.Revision, Have: have}
			}
		}
		rev = revision(tx) + 1
		var err error
		if keys, err = write(entries, rev, t); err != nil {
			return err
		}
		return tx.Bucket(metaBucket()).Put(revisionKey(), number(rev))
	})
	if err != nil {
		if conflict := (*Conflict)(nil); errors.As(err, &conflict) {
			return 0, conflict
		}
		return 0, fmt.Errorf("commit: %w", err)
	}
	b.watchers.notify(rev, keys)
	return rev, nil
}

// write does what a transaction says, whose conditions hold, and names the keys it touched.
func write(entries *bbolt.Bucket, rev uint64, t Txn) ([]string, error) {
	keys := make([]string, 0, len(t.Put)+len(t.Delete))
	for _, e := range t.Put {
		if err := entries.Put([]byte(e.Key), seal([]byte(e.Key), rev, e.Value)); err != nil {
			return keys, fmt.Errorf("put %s: %w", e.Key, err)
		}
		keys = append(keys, e.Key)
	}
	for _, key := range t.Delete {
		if err := entries.Delete([]byte(key)); err != nil {
			return keys, fmt.Errorf("delete %s: %w", key, err)
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// Watch implements Store.
func (b *Bolt) Watch(ctx context.Context, prefix string) <-chan Change {
	return b.watchers.watch(ctx, prefix)
}

// Backup implements Store: a copy of the database file.
func (b *Bolt) Backup(_ context.Context, w io.Writer) error {
	err := b.db.View(func(tx *bbolt.Tx) error {
		_, err := tx.WriteTo(w)
		return err
	})
	if err != nil {
		return fmt.Errorf("back up store: %w", err)
	}
	return nil
}

// Restore implements Store. The backup is checked as a whole before anything is replaced. The revision goes
// on from whichever is higher, so that nobody takes a restored entry for an older one.
func (b *Bolt) Restore(_ context.Context, r io.Reader, amend Amend) (uint64, error) {
	if err := b.Check(); err != nil {
		return 0, fmt.Errorf("restore store: %w", err)
	}
	file, err := os.CreateTemp(filepath.Dir(b.db.Path()), "restore-*")
	if err != nil {
		return 0, fmt.Errorf("restore store: %w", err)
	}
	defer os.Remove(file.Name())
	_, err = io.Copy(file, r)
	if err := errors.Join(err, file.Close()); err != nil {
		return 0, fmt.Errorf("restore store: %w", err)
	}
	from, err := openFile(file.Name())
	if err != nil {
		return 0, fmt.Errorf("restore store: the backup is not usable, nothing was changed: %w", err)
	}
	defer from.Close()
	if err := prepare(from, migrations()); err != nil {
		return 0, fmt.Errorf("restore store: the backup is not usable, nothing was changed: %w", err)
	}
	var rev uint64
	keys := map[string]bool{}
	err = from.View(func(src *bbolt.Tx) error {
		return b.db.Update(func(tx *bbolt.Tx) error {
			var more Txn
			if amend != nil {
				var err error
				if more, err = amend(boltReader{src}, boltReader{tx}); err != nil {
					return err
				}
			}
			err := tx.Bucket(entriesBucket()).ForEach(func(k, _ []byte) error { keys[string(k)] = true; return nil })
			if err != nil {
				return err
			}
			if err := tx.DeleteBucket(entriesBucket()); err != nil {
				return err
			}
			entries, err := tx.CreateBucket(entriesBucket())
			if err != nil {
				return err
			}
			rev = max(revision(tx), revision(src)) + 1
			err = src.Bucket(entriesBucket()).ForEach(func(k, v []byte) error {
				keys[string(k)] = true
				return entries.Put(k, seal(k, rev, entry(k, v).Value))
			})
			if err != nil {
				return err
			}
			written, err := write(entries, rev, more)
			for _, key := range written {
				keys[key] = true
			}
			if err != nil {
				return err
			}
			return tx.Bucket(metaBucket()).Put(revisionKey(), number(rev))
		})
	})
	if err != nil {
		return 0, fmt.Errorf("restore store: %w", err)
	}
	all := make([]string, 0, len(keys))
	for k := range keys {
		all = append(all, k)
	}
	b.watchers.notify(rev, all)
	return rev, nil
}

// Close implements Store.
func (b *Bolt) Close() error {
	b.watchers.close()
	if err := b.db.Close(); err != nil {
		return fmt.Errorf("close store: %w", err)
	}
	return nil
}
