package lab

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	netnsDir  = "/run/netns" // where `ip netns` looks
	bpffsRoot = "/sys/fs/bpf"
)

// Remove removes everything that carries the lab's id in its name: processes in its namespaces,
// the namespaces with their interfaces, its pins and its folder. It is idempotent.
func Remove(id string) error {
	namespaces, err := named(netnsDir, id)
	if err != nil {
		return err
	}
	errs := []error{killInside(namespaces)}
	for _, path := range namespaces {
		errs = append(errs, removeMountPoint(path))
	}
	for _, root := range []string{bpffsRoot, os.TempDir()} {
		paths, err := named(root, id)
		errs = append(errs, err)
		for _, path := range paths {
			errs = append(errs, os.RemoveAll(path))
		}
	}
	return errors.Join(errs...)
}

// RemoveOrphans removes all labs whose owner is gone, kept ones included, and returns their ids.
func RemoveOrphans() ([]string, error) {
	ids, err := find(func(_ string, o owner) bool { return !o.alive() })
	return ids, errors.Join(err, removeAll(ids))
}

func removeAll(ids []string) error {
	var errs []error
	for _, id := range ids {
		errs = append(errs, Remove(id))
	}
	return errors.Join(errs...)
}

// find lists the ids of the labs, by what stands in the file system, that the function picks.
func find(pick func(id string, o owner) bool) ([]string, error) {
	ids := map[string]bool{}
	for _, root := range []string{netnsDir, bpffsRoot, os.TempDir()} {
		entries, err := os.ReadDir(root)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		for _, e := range entries {
			if id, o, ok := parseName(e.Name()); ok && pick(id, o) {
				ids[id] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(ids)), nil
}

// named lists what in the folder belongs to the lab.
func named(root, id string) ([]string, error) {
	entries, err := os.ReadDir(root)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	var paths []string
	for _, e := range entries {
		if found, _, ok := parseName(e.Name()); ok && found == id {
			paths = append(paths, filepath.Join(root, e.Name()))
		}
	}
	return paths, err
}

// killInside kills every process whose network namespace is one of the given files, and waits until
// the last one is gone. Ourselves excepted: a thread of ours may be inside for a moment.
func killInside(namespaces []string) error {
	type inode struct{ dev, ino uint64 }
	inside := map[inode]bool{}
	var st unix.Stat_t
	for _, path := range namespaces {
		if err := unix.Stat(path, &st); err == nil {
			inside[inode{st.Dev, st.Ino}] = true
		}
	}
	if len(inside) == 0 {
		return nil
	}
	for deadline := time.Now().Add(5 * time.Second); ; {
		var alive []int
		entries, err := os.ReadDir("/proc")
		if err != nil {
			return err
		}
		for _, e := range entries {
			pid, err := strconv.Atoi(e.Name())
			if err != nil || pid == os.Getpid() {
				continue
			}
			// A process that is exiting has left its namespace: the stat fails.
			if unix.Stat("/proc/"+e.Name()+"/ns/net", &st) == nil && inside[inode{st.Dev, st.Ino}] {
				alive = append(alive, pid)
			}
		}
		if len(alive) == 0 {
			return nil
		}
		for _, pid := range alive {
			if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("kill %d: %w", pid, err)
			}
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("processes %s do not die", strings.Trim(fmt.Sprint(alive), "[]"))
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// mountBPFFS mounts bpffs where it is not, which is so on machines without systemd. The lock on the
// mount point keeps two processes from mounting one over the other and hiding its pins.
func mountBPFFS() error {
	dir, err := os.Open(bpffsRoot)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX); err != nil {
		return err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(bpffsRoot, &st); err != nil {
		return err
	}
	if st.Type == unix.BPF_FS_MAGIC {
		return nil
	}
	return unix.Mount("bpf", bpffsRoot, "bpf", 0, "mode=0700")
}
