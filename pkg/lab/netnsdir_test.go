package lab

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// mountedFile makes a file with a mount on it, as a named namespace is.
func mountedFile(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	if err := unix.Mount("/proc/thread-self/ns/net", path, "none", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
}

// folderWithMounts is a temporary folder whose mounts are taken away at the end of the test.
func folderWithMounts(t *testing.T) string {
	dir := t.TempDir()
	t.Cleanup(func() {
		for unix.Unmount(dir, unix.MNT_DETACH) == nil {
		}
		files, _ := filepath.Glob(dir + "/*")
		for _, path := range files {
			_ = unix.Unmount(path, unix.MNT_DETACH)
		}
	})
	return dir
}

func TestRemoveMountPoint_HiddenByALaterMount_IsRemovedAndOthersStay(t *testing.T) {
	dir := folderWithMounts(t)
	old, later := filepath.Join(dir, "old"), filepath.Join(dir, "later")
	mountedFile(t, old)
	// What `ip netns add` does where nothing is mounted on the folder; without MS_REC, as some versions
	// do it, the mounts in the folder are below.
	if err := unix.Mount(dir, dir, "none", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	mountedFile(t, later)
	if err := os.Remove(old); !errors.Is(err, unix.EBUSY) {
		t.Fatalf("a hidden mount point can be removed as any file (error: %v): there is nothing to test", err)
	}
	if err := removeMountPoint(old); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(old); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file is still there: %v", err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(later, &st); err != nil || st.Type != unix.NSFS_MAGIC {
		t.Errorf("the mount above is gone: type %#x, error %v", st.Type, err)
	}
	if err := removeMountPoint(old); err != nil {
		t.Errorf("removed again: %v", err)
	}
}

func TestShareDir_AfterIt_NothingMountsOverTheFolder(t *testing.T) {
	dir := folderWithMounts(t)
	for range 2 {
		if err := shareDir(dir); err != nil {
			t.Fatal(err)
		}
	}
	// The call by which ip finds out whether it must mount the folder on itself.
	if err := unix.Mount("", dir, "none", unix.MS_SHARED|unix.MS_REC, ""); err != nil {
		t.Errorf("ip would mount the folder: %v", err)
	}
	if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	if err := unix.Unmount(dir, 0); !errors.Is(err, unix.EINVAL) {
		t.Errorf("the folder was mounted twice (error: %v)", err)
	}
}
