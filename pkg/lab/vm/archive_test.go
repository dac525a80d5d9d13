package vm

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// member is what a reader of the archive finds.
type member struct {
	name, data string
	mode       uint64
}

// readArchive reads a newc archive the way the format describes it.
func readArchive(t *testing.T, data []byte) []member {
	t.Helper()
	number := func(at, field int) uint64 {
		start := at + 6 + 8*field
		n, err := strconv.ParseUint(string(data[start:start+8]), 16, 32)
		if err != nil {
			t.Fatalf("header at %d: %v", at, err)
		}
		return n
	}
	align := func(n int) int { return (n + 3) &^ 3 }
	var list []member
	for at := 0; ; {
		if magic := string(data[at : at+6]); magic != "070701" {
			t.Fatalf("magic %q at %d", magic, at)
		}
		nameSize, size := int(number(at, 11)), int(number(at, 6))
		name := string(data[at+110 : at+110+nameSize-1])
		if name == "TRAILER!!!" {
			return list
		}
		start := align(at + 110 + nameSize)
		list = append(list, member{name: name, data: string(data[start : start+size]), mode: number(at, 1)})
		at = align(start + size)
	}
}

func TestArchive_FilesFoldersLinks_ReadBack(t *testing.T) {
	source := filepath.Join(t.TempDir(), "source")
	if err := os.WriteFile(source, []byte("from a file"), 0o600); err != nil {
		t.Fatal(err)
	}
	a := NewArchive()
	a.Data("/a/b/data", 0o644, []byte("12345"))
	a.File("init", 0o755, source)
	a.Link("/bin", "usr/bin")

	var out bytes.Buffer
	n, err := a.WriteTo(&out)
	if err != nil {
		t.Fatal(err)
	}
	if n != int64(out.Len()) || n%4 != 0 {
		t.Errorf("says %d bytes, wrote %d", n, out.Len())
	}
	var got []string
	for _, m := range readArchive(t, out.Bytes()) {
		got = append(got, fmt.Sprintf("%s %o %s", m.name, m.mode, m.data))
	}
	want := []string{
		"a 40755 ",
		"a/b 40755 ",
		"a/b/data 100644 12345",
		"bin 120777 usr/bin",
		"init 100755 from a file",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("members\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestArchive_Clone_LeavesTheOriginal(t *testing.T) {
	a := NewArchive()
	a.Data("one", 0o644, nil)
	b := a.Clone()
	b.Data("two", 0o644, nil)
	if a.Has("two") || !b.Has("one") || !b.Has("/two") {
		t.Error("clone and original are not apart")
	}
}

func TestArchive_MissingSource_Error(t *testing.T) {
	a := NewArchive()
	a.File("gone", 0o644, filepath.Join(t.TempDir(), "gone"))
	if _, err := a.WriteTo(&bytes.Buffer{}); err == nil {
		t.Error("wrote a file that is not there")
	}
}
