package vm

import (
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
)

// Archive collects files and writes them as an uncompressed "newc" cpio archive, the form of an
// initramfs (Documentation/driver-api/early-userspace/buffer-format.rst in Linux). Uncompressed,
// because the guest would unpack it with emulated instructions.
//
// Not safe for concurrent use.
type Archive struct {
	entries map[string]entry
}

type entry struct {
	mode uint32
	// Content comes from the file at `source` if that is set, else it is `data`: the bytes of a file,
	// the target of a symbolic link.
	source string
	data   []byte
}

// File types of a cpio mode, as in stat(2).
const (
	typeMask   = 0o170000
	typeFolder = 0o040000
	typeFile   = 0o100000
	typeLink   = 0o120000
)

// NewArchive returns an archive without files.
func NewArchive() *Archive {
	return &Archive{entries: map[string]entry{}}
}

// Clone returns an archive with the same files, to which others can be added.
func (a *Archive) Clone() *Archive {
	return &Archive{entries: maps.Clone(a.entries)}
}

// Folder adds a folder, and those above it.
func (a *Archive) Folder(name string) {
	name = clean(name)
	if name == "" {
		return
	}
	if _, there := a.entries[name]; there {
		return
	}
	a.Folder(path.Dir(name))
	a.entries[name] = entry{mode: typeFolder | 0o755}
}

// Data adds a file of these bytes; permissions as in 0o755.
func (a *Archive) Data(name string, permissions uint32, data []byte) {
	a.add(name, entry{mode: typeFile | permissions, data: data})
}

// File adds the file at source, with its content at the time of writing.
func (a *Archive) File(name string, permissions uint32, source string) {
	a.add(name, entry{mode: typeFile | permissions, source: source})
}

// Link adds a symbolic link.
func (a *Archive) Link(name, target string) {
	a.add(name, entry{mode: typeLink | 0o777, data: []byte(target)})
}

// Has says whether something of that name was added.
func (a *Archive) Has(name string) bool {
	_, there := a.entries[clean(name)]
	return there
}

func (a *Archive) add(name string, e entry) {
	name = clean(name)
	a.Folder(path.Dir(name))
	a.entries[name] = e
}

// clean makes a name in the archive: without the leading slash, "" for the root.
func clean(name string) string {
	return strings.TrimPrefix(path.Clean("/"+name), "/")
}

// WriteTo writes the archive.
func (a *Archive) WriteTo(w io.Writer) (int64, error) {
	out := &counter{w: w}
	names := make([]string, 0, len(a.entries))
	for name := range a.entries {
		names = append(names, name)
	}
	// A folder sorts before what is in it, and that is what the kernel needs.
	slices.Sort(names)
	for i, name := range names {
		e := a.entries[name]
		data := e.data
		if e.source != "" {
			var err error
			if data, err = os.ReadFile(e.source); err != nil {
				return out.n, fmt.Errorf("add %s to archive: %w", name, err)
			}
		}
		if err := writeEntry(out, name, uint32(i+1), e.mode, data); err != nil {
			return out.n, err
		}
	}
	err := writeEntry(out, "TRAILER!!!", 0, 0, nil)
	return out.n, err
}

// writeEntry writes header, name and data, each padded to four bytes.
func writeEntry(w *counter, name string, inode, mode uint32, data []byte) error {
	if uint64(len(data)) > 1<<32-1 {
		return fmt.Errorf("add %s to archive: %d bytes (cpio has room for 4 GiB)", name, len(data))
	}
	links := uint32(1)
	if mode&typeMask == typeFolder {
		links = 2
	}
	header := fmt.Sprintf("070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X",
		inode, mode, 0, 0, links, 0, len(data), 0, 0, 0, 0, len(name)+1, 0)
	for _, part := range [][]byte{[]byte(header + name + "\x00"), data} {
		if _, err := w.Write(part); err != nil {
			return fmt.Errorf("write archive: %w", err)
		}
		if _, err := w.Write(make([]byte, -w.n&3)); err != nil {
			return fmt.Errorf("write archive: %w", err)
		}
	}
	return nil
}

// counter counts what it passes on.
type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}
