package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"go.etcd.io/bbolt"
)

func open(t *testing.T, path string) *Bolt {
	t.Helper()
	b, err := OpenBolt(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func TestBolt_Commit_IsWholeOrNothing(t *testing.T) {
	ctx := context.Background()
	b := open(t, filepath.Join(t.TempDir(), "s"))
	one, err := b.Commit(ctx, Txn{If: []Condition{{"a", 0}}, Put: []Entry{{Key: "a", Value: []byte("1")}, {Key: "b", Value: []byte("2")}}})
	if err != nil || one != 1 {
		t.Fatal(one, err)
	}
	var conflict *Conflict
	_, err = b.Commit(ctx, Txn{If: []Condition{{"b", 1}, {"a", 0}}, Put: []Entry{{Key: "b", Value: []byte("x")}}, Delete: []string{"a"}})
	if !errors.As(err, &conflict) || *conflict != (Conflict{Key: "a", Want: 0, Have: 1}) {
		t.Fatalf("stale condition: %v", err)
	}
	list, rev, err := b.List(ctx, "")
	if err != nil || rev != 1 || len(list) != 2 || string(list[1].Value) != "2" {
		t.Fatalf("after refusal: %v %d %v", list, rev, err)
	}
	if two, err := b.Commit(ctx, Txn{If: []Condition{{"a", 1}}, Put: []Entry{{Key: "b", Value: []byte("3")}}, Delete: []string{"a"}}); err != nil || two != 2 {
		t.Fatal(two, err)
	}
	if _, err := b.Get(ctx, "a"); !errors.Is(err, ErrNotFound) {
		t.Errorf("deleted entry: %v", err)
	}
	if e, err := b.Get(ctx, "b"); err != nil || e.Revision != 2 || string(e.Value) != "3" {
		t.Errorf("entry: %+v %v", e, err)
	}
}

func TestBolt_Watch_SlowReceiverGetsEveryKeyOnce(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	b := open(t, filepath.Join(t.TempDir(), "s"))
	changes := b.Watch(ctx, "r/")
	for i := range 20 {
		if _, err := b.Commit(ctx, Txn{Put: []Entry{{Key: fmt.Sprintf("r/%02d", i%5)}, {Key: "other"}}}); err != nil {
			t.Fatal(err)
		}
	}
	seen := map[string]bool{}
	for c := range changes {
		for _, k := range c.Keys {
			seen[k] = true
		}
		if c.Revision == 20 {
			cancel()
			break
		}
	}
	if len(seen) != 5 || seen["other"] {
		t.Errorf("keys seen: %v", seen)
	}
	for range changes { // ends, because the context has
	}
}

func TestBolt_SecondOpener_IsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	open(t, path)
	_, err := OpenBolt(path)
	if !errors.Is(err, ErrLocked) {
		t.Fatal(err)
	}
	want := "open store " + path + ": in use by another process (is another privlink running? use another --state-dir for a second one)"
	if err.Error() != want {
		t.Errorf("got  %s\nwant %s", err, want)
	}
}

func TestBolt_DamagedFile_IsRefusedWithAdvice(t *testing.T) {
	ctx := context.Background()
	whole := filepath.Join(t.TempDir(), "s")
	b := open(t, whole)
	for i := range 200 {
		if _, err := b.Commit(ctx, Txn{Put: []Entry{{Key: fmt.Sprint("key", i), Value: bytes.Repeat([]byte("v"), 500)}}}); err != nil {
			t.Fatal(err)
		}
	}
	b.Close()
	good, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		harm func([]byte) []byte
	}{
		{"not a store", func([]byte) []byte { return []byte("hello, this is text\n") }},
		{"cut in half", func(d []byte) []byte { return d[:len(d)/2] }},
		{"cut to two pages", func(d []byte) []byte { return d[:8192] }},
		{"both roots", func(d []byte) []byte { clear(d[:8192]); return d }},
		{"a page of zeros in use", func(d []byte) []byte {
			page := bytes.Index(d, []byte("key150")) &^ 4095
			clear(d[page : page+4096])
			return d
		}},
		{"one bit of a value", func(d []byte) []byte {
			d[bytes.Index(d, []byte("key150"))+len("key150")+sealed] ^= 4
			return d
		}},
		{"one bit of a revision", func(d []byte) []byte {
			d[bytes.Index(d, []byte("key150"))+len("key150")+7] ^= 64
			return d
		}},
		{"a wild pointer to the free pages", func(d []byte) []byte {
			for _, root := range [][]byte{d[16:4096], d[4096+16 : 8192]} { // behind the page's header, in the machine's byte order
				binary.NativeEndian.PutUint64(root[32:], 1<<34) // 64 TiB from here, where nothing is mapped
				sum := fnv.New64a()
				sum.Write(root[:56])
				binary.NativeEndian.PutUint64(root[56:], sum.Sum64())
			}
			return d
		}},
		{"wild pointers", func(d []byte) []byte {
			page := bytes.Index(d, []byte("key150")) &^ 4095
			for i := page + 8; i < page+400; i++ {
				d[i] = 0xa5
			}
			return d
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "s")
			if err := os.WriteFile(path, c.harm(bytes.Clone(good)), 0o600); err != nil {
				t.Fatal(err)
			}
			before, _ := os.ReadFile(path)
			_, err := OpenBolt(path)
			if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "privlink restore") {
				t.Errorf("got %v", err)
			}
			if after, _ := os.ReadFile(path); !bytes.Equal(before, after) {
				t.Error("the file was changed")
			}
		})
	}
}

// What the system refuses says nothing about the file.
func TestBolt_CannotBeOpened_IsNotDamaged(t *testing.T) {
	for _, c := range []struct {
		err     error
		damaged bool
	}{
		{&os.PathError{Op: "open", Path: "s", Err: syscall.EMFILE}, false},
		{&os.PathError{Op: "write", Path: "s", Err: syscall.ENOSPC}, false},
		{fmt.Errorf("mmap: %w", syscall.ENOMEM), false},
		{&os.PathError{Op: "read", Path: "s", Err: syscall.EIO}, true},
		{errors.New("file size too small"), true},
	} {
		if ofTheDisk(c.err) == c.damaged {
			t.Errorf("%v: damaged %t, want %t", c.err, !c.damaged, c.damaged)
		}
	}
	if _, err := OpenBolt(t.TempDir()); !errors.Is(err, syscall.EISDIR) || errors.Is(err, ErrDamaged) {
		t.Errorf("a folder in its place: %v", err)
	}
}

// What would not be found again is not acknowledged. What was read stays readable, and a copy at the old place is the store again.
func TestBolt_FileGoneOrReplaced_NothingIsAcknowledged(t *testing.T) {
	ctx := t.Context()
	for what, lose := range map[string]func(path string) error{
		"removed": os.Remove,
		"replaced": func(path string) error {
			return errors.Join(os.Rename(path, path+".old"), os.WriteFile(path, nil, 0o600))
		},
	} {
		path := filepath.Join(t.TempDir(), "s")
		b := open(t, path)
		put := Txn{Put: []Entry{{Key: "a", Value: []byte("1")}}}
		if _, err := b.Commit(ctx, put); err != nil || b.Check() != nil {
			t.Fatal(err, b.Check())
		}
		if err := lose(path); err != nil {
			t.Fatal(err)
		}
		_, errCommit := b.Commit(ctx, put)
		_, errRestore := b.Restore(ctx, strings.NewReader(""), nil)
		for _, err := range []error{b.Check(), errCommit, errRestore} {
			if !errors.Is(err, ErrGone) || !strings.Contains(err.Error(), "privlink backup "+path) {
				t.Errorf("%s: %v", what, err)
			}
		}
		if rev, err := b.Revision(ctx); err != nil || rev != 1 {
			t.Errorf("%s: revision %d, %v", what, rev, err)
		}
		var copied bytes.Buffer
		if err := errors.Join(b.Backup(ctx, &copied), os.RemoveAll(path), os.WriteFile(path, copied.Bytes(), 0o600)); err != nil {
			t.Fatal(err)
		}
		if e, err := open(t, path).Get(ctx, "a"); err != nil || string(e.Value) != "1" {
			t.Errorf("%s: put back: %+v %v", what, e, err)
		}
	}
}

func TestBolt_NewerSchema_IsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	b := open(t, path)
	err := b.db.Update(func(tx *bbolt.Tx) error {
		return tx.Bucket(metaBucket()).Put(schemaKey(), binary.BigEndian.AppendUint64(nil, schema()+1))
	})
	b.Close()
	if _, again := OpenBolt(path); err != nil || !errors.Is(again, ErrSchema) {
		t.Errorf("got %v, %v", err, again)
	}
}

func TestBolt_BackupAndRestore_WhileRunning(t *testing.T) {
	ctx := context.Background()
	b := open(t, filepath.Join(t.TempDir(), "s"))
	put := func(key, value string) {
		t.Helper()
		if _, err := b.Commit(ctx, Txn{Put: []Entry{{Key: key, Value: []byte(value)}}}); err != nil {
			t.Fatal(err)
		}
	}
	put("a", "old")
	var backup bytes.Buffer
	if err := b.Backup(ctx, &backup); err != nil {
		t.Fatal(err)
	}
	put("a", "new")
	put("b", "new")
	if _, err := b.Restore(ctx, strings.NewReader("nonsense"), nil); !errors.Is(err, ErrDamaged) || strings.Contains(err.Error(), "move the file") {
		t.Errorf("restore of nonsense: %v", err)
	}
	if e, err := b.Get(ctx, "a"); err != nil || string(e.Value) != "new" {
		t.Errorf("a refused restore changed the store: %v %v", e, err)
	}
	rev, err := b.Restore(ctx, &backup, nil)
	if err != nil || rev != 4 {
		t.Fatalf("restore: revision %d, %v", rev, err)
	}
	list, _, err := b.List(ctx, "")
	if err != nil || len(list) != 1 || string(list[0].Value) != "old" || list[0].Revision != 4 {
		t.Errorf("restored: %+v %v", list, err)
	}
}

// crashPath in the environment turns the test binary into the process that TestBolt_Kill kills.
const crashPath = "PRIVLINK_STORE_CRASH"

func TestMain(m *testing.M) {
	if path := os.Getenv(crashPath); path != "" {
		crashWriter(path)
	}
	if path := os.Getenv(migratePath); path != "" {
		crashMigration(path)
	}
	os.Exit(m.Run())
}

// crashWriter commits pairs for ever and prints each number when its Commit has returned.
func crashWriter(path string) {
	b, err := OpenBolt(path)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	e, err := b.Get(context.Background(), "left")
	n := 0
	if err == nil {
		n, _ = strconv.Atoi(string(e.Value))
	}
	for {
		n++
		v := []byte(strconv.Itoa(n))
		if _, err := b.Commit(context.Background(), Txn{Put: []Entry{{Key: "left", Value: v}, {Key: "right", Value: v},
			{Key: "item/" + strconv.Itoa(n%100), Value: bytes.Repeat(v, 100)}}}); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println(n)
	}
}

func TestBolt_Kill_LosesNothingAcknowledged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	for round := range 10 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), crashPath+"="+path)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// After some lines, wherever in a Commit that is.
		var said bytes.Buffer
		if _, err := io.CopyN(&said, out, int64(7+13*round)); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		rest, _ := io.ReadAll(out)
		said.Write(rest)
		_ = cmd.Wait()
		lines := strings.Split(said.String(), "\n")
		acknowledged, err := strconv.Atoi(lines[len(lines)-2])
		if err != nil {
			t.Fatal(err)
		}
		b, err := OpenBolt(path)
		if err != nil {
			t.Fatal(err)
		}
		left, err1 := b.Get(context.Background(), "left")
		right, err2 := b.Get(context.Background(), "right")
		have, _ := strconv.Atoi(string(left.Value))
		if err1 != nil || err2 != nil || string(left.Value) != string(right.Value) || have < acknowledged || have > acknowledged+1 {
			t.Fatalf("round %d: acknowledged %d, left %s (%v), right %s (%v)", round, acknowledged, left.Value, err1, right.Value, err2)
		}
		b.Close()
	}
}
