package dataplane

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// DefaultBPFFS is where maps, programs and links are pinned.
const DefaultBPFFS = "/sys/fs/bpf/privlink"

// ErrLocked says that another daemon owns the bpffs folder.
var ErrLocked = errors.New("another privlink uses it")

// folder is the bpffs folder of one privlink, locked for as long as it is open.
//
//	maps/    one file a map, by its name
//	programs/
//	links/   one file an attachment: hook and interface
//	next/    of a migration under way
//	flows    the iterator: cat it to see the live flows
type folder struct {
	path string
	lock *os.File
	// made says that there was no folder before, bare that nothing was in it.
	made, bare bool
}

// openFolder makes, mounts where necessary, and locks the folder.
func openFolder(path string) (*folder, error) {
	if path == "" {
		path = DefaultBPFFS
	}
	path = filepath.Clean(path)
	if !filepath.IsAbs(path) {
		return nil, fmt.Errorf("open bpffs folder %s: not an absolute path", path)
	}
	if strings.Contains(filepath.Base(path), ".") {
		return nil, fmt.Errorf("open bpffs folder %s: the kernel allows no dots in names there", path)
	}
	_, err := os.Stat(path)
	made := errors.Is(err, os.ErrNotExist)
	if err := mountBPFFS(path); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("make bpffs folder %s: %w", path, err)
	}
	f, err := lockFolder(path)
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("list bpffs folder %s: %w", path, err), f.close())
	}
	f.made, f.bare = made, len(entries) == 0
	return f, nil
}

// lockFolder locks a folder that exists.
func lockFolder(path string) (*folder, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open bpffs folder %s: %w", path, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = ErrLocked
		}
		return nil, fmt.Errorf("lock bpffs folder %s: %w", path, err)
	}
	return &folder{path: path, lock: f}, nil
}

// present says whether path still leads to the folder that is locked: it may have been removed, and
// the bpffs unmounted, or another one mounted over it.
func (f *folder) present() bool {
	var locked, there unix.Stat_t
	return unix.Fstat(int(f.lock.Fd()), &locked) == nil && unix.Stat(f.path, &there) == nil &&
		locked.Dev == there.Dev && locked.Ino == there.Ino && there.Nlink > 0
}

// restore makes the folder anew where it is no longer present.
func (f *folder) restore() error {
	again, err := openFolder(f.path)
	if err != nil {
		return err
	}
	f.lock.Close() // what it locked can no longer be found
	f.lock = again.lock
	return nil
}

// mountBPFFS sees to it that path is, or can be made, on a bpffs: it mounts one at
// /sys/fs/bpf for paths below, else at path itself.
func mountBPFFS(path string) error {
	if on, err := OnBPFFS(path); on || err != nil {
		return err
	}
	target := path
	if rest, ok := strings.CutPrefix(path, "/sys/fs/bpf/"); ok && rest != "" {
		target = "/sys/fs/bpf"
	} else if err := os.MkdirAll(path, 0o700); err != nil {
		return fmt.Errorf("make bpffs folder %s: %w", path, err)
	}
	if err := unix.Mount("bpf", target, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); err != nil {
		return fmt.Errorf("mount a bpffs at %s: %w (needs CAP_SYS_ADMIN)", target, err)
	}
	return nil
}

func (f *folder) maps(name string) string     { return filepath.Join(f.path, "maps", name) }
func (f *folder) programs(name string) string { return filepath.Join(f.path, "programs", name) }
func (f *folder) iterator() string            { return filepath.Join(f.path, "flows") }

// escape replaces dots, which bpffs does not allow, in interface names.
var escape = strings.NewReplacer("~", "~0", ".", "~1")

// link is the pin of a program's attachment to an interface.
func (f *folder) link(hook, iface string) string {
	return filepath.Join(f.path, "links", hook+"-"+escape.Replace(iface))
}

// links are all pins of attachments: hook and interface of each path.
func (f *folder) allLinks() (map[string][2]string, error) {
	entries, err := os.ReadDir(filepath.Join(f.path, "links"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list pinned links: %w", err)
	}
	unescape := strings.NewReplacer("~1", ".", "~0", "~")
	all := make(map[string][2]string, len(entries))
	for _, e := range entries {
		hook, iface, ok := strings.Cut(e.Name(), "-")
		if ok && !e.IsDir() {
			all[filepath.Join(f.path, "links", e.Name())] = [2]string{hook, unescape.Replace(iface)}
		}
	}
	return all, nil
}

// undo makes a folder that was bare when it was opened bare again, or removes it if there was none.
func (f *folder) undo() error {
	switch {
	case !f.bare:
		return nil
	case f.made:
		return f.remove()
	default:
		return f.clear()
	}
}

// clear removes all pins.
func (f *folder) clear() error {
	var failed []error
	for _, sub := range []string{"links", "programs", "maps", "maps-new", "next"} {
		failed = append(failed, removeTree(filepath.Join(f.path, sub)))
	}
	return errors.Join(append(failed, removePin(f.iterator()), removePin(fresh(f.iterator())))...)
}

// remove removes the folder with all pins, and the mount if the folder is one's root.
func (f *folder) remove() error {
	failed := []error{f.clear()}
	if isMountPoint(f.path) {
		f.lock.Close()
		if err := unix.Unmount(f.path, 0); err != nil {
			failed = append(failed, fmt.Errorf("unmount bpffs %s: %w", f.path, err))
		}
	}
	if err := os.Remove(f.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		failed = append(failed, err)
	}
	return errors.Join(failed...)
}

// removeTree removes the files of a folder of pins and the folder. os.RemoveAll would do too, but
// would follow whatever somebody else put there.
func removeTree(path string) error {
	entries, err := os.ReadDir(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove pins: %w", err)
	}
	var failed []error
	for _, e := range entries {
		failed = append(failed, os.Remove(filepath.Join(path, e.Name())))
	}
	return errors.Join(append(failed, os.Remove(path))...)
}

func isMountPoint(path string) bool {
	var own, parent unix.Stat_t
	if unix.Stat(path, &own) != nil || unix.Stat(filepath.Dir(path), &parent) != nil {
		return false
	}
	return own.Dev != parent.Dev
}

// close gives the lock away, which remove may have done.
func (f *folder) close() error {
	if err := f.lock.Close(); !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}

// PinnedLink is a pinned attachment of a program to an interface.
type PinnedLink struct {
	Path, Hook, Interface string
	// Ifindex is where the program is attached; 0 = nowhere, as the interface is gone or somebody took the program away.
	Ifindex int
}

// PinnedLinks are the attachments pinned below a bpffs folder, by path; none where there is no such folder. It needs no daemon. What is pinned
// there and is no attachment has Ifindex 0.
func PinnedLinks(bpffs string) ([]PinnedLink, error) {
	f := &folder{path: filepath.Clean(bpffs)}
	pins, err := f.allLinks()
	if err != nil {
		return nil, err
	}
	var all []PinnedLink
	for path, of := range pins {
		p := PinnedLink{Path: path, Hook: of[0], Interface: of[1]}
		if l, err := link.LoadPinnedLink(path, nil); err == nil {
			if p.Ifindex, _, err = attachedTo(l); err != nil {
				p.Ifindex = 0
			}
			l.Close()
		}
		all = append(all, p)
	}
	slices.SortFunc(all, func(a, b PinnedLink) int { return strings.Compare(a.Path, b.Path) })
	return all, nil
}

// OnBPFFS says whether path, or the nearest folder above it that exists, is on a bpffs.
func OnBPFFS(path string) (bool, error) {
	at := filepath.Clean(path)
	for {
		var st unix.Statfs_t
		err := unix.Statfs(at, &st)
		if err == nil {
			return uint32(st.Type) == unix.BPF_FS_MAGIC, nil
		}
		if !errors.Is(err, unix.ENOENT) || at == filepath.Dir(at) {
			return false, fmt.Errorf("look for a bpffs at %s: %w", at, err)
		}
		at = filepath.Dir(at)
	}
}

// PrivateBPFFS says that the bpffs at path is mounted for this process and its like only, as below `ip netns exec` or `unshare
// --mount`, and not for the machine's (or the container's) first process: what is pinned there ends with the last of them.
func PrivateBPFFS(path string) (bool, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return false, fmt.Errorf("look at the bpffs %s: %w", path, err)
	}
	mounts, err := os.ReadFile("/proc/1/mountinfo") // proc_pid_mountinfo(5): id, parent, major:minor, ...
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) {
		return false, nil // hidden from us
	}
	if err != nil {
		return false, fmt.Errorf("look at the bpffs %s: %w", path, err)
	}
	device := fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev))
	for line := range strings.Lines(string(mounts)) {
		if fields := strings.Fields(line); len(fields) > 2 && fields[2] == device {
			return false, nil
		}
	}
	return true, nil
}

// Networks counts the networks that what is pinned at path (empty = DefaultBPFFS) knows, whatever version made it: what a
// daemon with an empty State would take out of the kernel. The inner network is none.
func Networks(path string) (n int, err error) {
	name, _, _ := strings.Cut(mapVNets, "_v")
	pins, err := filepath.Glob(filepath.Join(cmp.Or(path, DefaultBPFFS), "maps", name+"_v*"))
	if err != nil {
		return 0, fmt.Errorf("look at the bpffs %s: %w", path, err)
	}
	for _, pin := range pins {
		in, err := networksIn(pin)
		if err != nil {
			return 0, fmt.Errorf("read map %s: %w", pin, err)
		}
		n += max(in-1, 0) // the inner one is always there
	}
	return n, nil
}

// networksIn counts the slots of a map of names that are in use.
func networksIn(pin string) (n int, err error) {
	m, err := ebpf.LoadPinnedMap(pin, &ebpf.LoadPinOptions{ReadOnly: true})
	if err != nil {
		return 0, err
	}
	defer m.Close()
	free, value := make([]byte, m.ValueSize()), make([]byte, m.ValueSize())
	for slot := range m.MaxEntries() {
		if err := m.Lookup(slot, &value); err != nil {
			return 0, err
		}
		if !bytes.Equal(value, free) {
			n++
		}
	}
	return n, nil
}

// MountBPFFS mounts a bpffs where `privlink run` would, for pins at path: it does nothing where there is one.
func MountBPFFS(path string) error { return mountBPFFS(filepath.Clean(path)) }
