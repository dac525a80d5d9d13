package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"go.etcd.io/bbolt"
)

// older is a copy of the file that a daemon with schema 1 left, with what it held.
func older(t *testing.T) (path string, held map[string]string) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", "schema1.db"))
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(t.TempDir(), "state.db")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	at, raw := inside(t, path)
	if at != 1 || len(raw) < 20 {
		t.Fatalf("schema %d with %d entries", at, len(raw))
	}
	return path, raw
}

// inside is a file's schema and what it holds under each key: of schema 1 revision and value, of others without the checksum.
func inside(t *testing.T, path string) (schema byte, held map[string]string) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	held = map[string]string{}
	err = db.View(func(tx *bbolt.Tx) error {
		schema = tx.Bucket(metaBucket()).Get(schemaKey())[7]
		return tx.Bucket(entriesBucket()).ForEach(func(k, v []byte) error {
			if held[string(k)] = string(v); schema > 1 {
				held[string(k)] = string(v[:8]) + string(v[sealed:])
			}
			return nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return schema, held
}

func TestMigrate_FileOfSchema1_KeepsEverything(t *testing.T) {
	path, held := older(t)
	b, err := OpenBolt(path)
	if err != nil {
		t.Fatal(err)
	}
	list, rev, err := b.List(context.Background(), "")
	if err != nil || rev != 9 || len(list) != len(held) {
		t.Errorf("revision %d, %d of %d entries, %v", rev, len(list), len(held), err)
	}
	for _, e := range list {
		if string(number(e.Revision))+string(e.Value) != held[e.Key] {
			t.Errorf("%s is revision %d %q", e.Key, e.Revision, e.Value)
		}
	}
	if rev, err := b.Commit(context.Background(), Txn{Put: []Entry{{Key: "new", Value: []byte("x")}}}); err != nil || rev != 10 {
		t.Errorf("written to: revision %d, %v", rev, err)
	}
	b.Close()
	if at, now := inside(t, path); at != 2 || len(now) != len(held)+1 {
		t.Errorf("schema %d, %d entries", at, len(now))
	}
	open(t, path) // once more, with nothing to do
}

func TestMigrate_BackupOfSchema1_IsRestored(t *testing.T) {
	path, held := older(t)
	backup, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer backup.Close()
	b := open(t, filepath.Join(t.TempDir(), "s"))
	if _, err := b.Restore(context.Background(), backup, nil); err != nil {
		t.Fatal(err)
	}
	list, _, err := b.List(context.Background(), "")
	if err != nil || len(list) != len(held) {
		t.Errorf("%d of %d entries, %v", len(list), len(held), err)
	}
	for _, e := range list {
		if string(e.Value) != held[e.Key][8:] {
			t.Errorf("%s is %q", e.Key, e.Value)
		}
	}
	if at, now := inside(t, path); at != 1 || !reflect.DeepEqual(now, held) {
		t.Errorf("the backup was changed: schema %d", at)
	}
}

// A file goes through all that it lacks, in order and in one transaction.
func TestMigrate_SeveralSteps_AllOrNone(t *testing.T) {
	path, held := older(t)
	done := ""
	step := func(name string, err error) migration {
		return func(tx *bbolt.Tx) error {
			done += name
			if err != nil {
				return err
			}
			return tx.Bucket(entriesBucket()).Put([]byte(name), seal([]byte(name), 1, nil))
		}
	}
	_, err := openBolt(path, []migration{addChecksums, step("third", nil), step("fourth", errors.New("no room"))})
	if err == nil || !strings.HasSuffix(err.Error(), "bring schema 3 to 4: no room") || done != "thirdfourth" {
		t.Errorf("%v after %s", err, done)
	}
	if at, now := inside(t, path); at != 1 || !reflect.DeepEqual(now, held) {
		t.Errorf("schema %d after a step failed", at)
	}
	done = ""
	b, err := openBolt(path, []migration{addChecksums, step("third", nil), step("fourth", nil)})
	if err != nil || done != "thirdfourth" {
		t.Fatalf("%v after %s", err, done)
	}
	b.Close()
	if at, now := inside(t, path); at != 4 || len(now) != len(held)+2 {
		t.Errorf("schema %d, %d entries", at, len(now))
	}
	if _, err := OpenBolt(path); !errors.Is(err, ErrSchema) {
		t.Errorf("an older version opens it: %v", err)
	}
}

// migratePath in the environment turns the test binary into the process that dies while it migrates.
const migratePath = "PRIVLINK_STORE_MIGRATE"

// crashMigration does everything and is killed before the transaction ends.
func crashMigration(path string) {
	_, err := openBolt(path, []migration{func(tx *bbolt.Tx) error {
		if err := addChecksums(tx); err != nil {
			return err
		}
		return syscall.Kill(os.Getpid(), syscall.SIGKILL)
	}})
	fmt.Fprintln(os.Stderr, "still alive:", err)
	os.Exit(1)
}

func TestMigrate_KilledInTheMiddle_OldFileIsWhole(t *testing.T) {
	path, held := older(t)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), migratePath+"="+path)
	out, err := cmd.CombinedOutput()
	if state, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || state.Signal() != syscall.SIGKILL {
		t.Fatalf("%v %s", err, out)
	}
	if at, now := inside(t, path); at != 1 || !reflect.DeepEqual(now, held) {
		t.Errorf("schema %d, %d of %d entries", at, len(now), len(held))
	}
	b := open(t, path)
	if list, _, err := b.List(context.Background(), ""); err != nil || len(list) != len(held) {
		t.Errorf("opened afterwards: %d entries, %v", len(list), err)
	}
}
