package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// shareDir makes the folder of the named namespaces a shared mount, as `ip netns add` does at its first
// call. A namespace mounted before that call would stand below the mount it makes: visible as a file,
// but neither to be entered nor to be unmounted. The lock is the one that ip takes.
func shareDir(path string) error {
	if err := os.MkdirAll(path, 0o755); err != nil {
		return err
	}
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", path, err)
	}
	err = unix.Mount("", path, "none", unix.MS_SHARED|unix.MS_REC, "")
	if errors.Is(err, unix.EINVAL) { // no mount point yet
		if err = unix.Mount(path, path, "none", unix.MS_BIND|unix.MS_REC, ""); err == nil {
			err = unix.Mount("", path, "none", unix.MS_SHARED|unix.MS_REC, "")
		}
	}
	if err != nil {
		return fmt.Errorf("make %s a shared mount: %w", path, err)
	}
	return nil
}

// removeMountPoint unmounts the file and removes it. It is no error if it is gone, or was never mounted.
func removeMountPoint(path string) error {
	// A file without a mount is what a crash between the two steps of making left.
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	err := os.Remove(path)
	if errors.Is(err, unix.EBUSY) {
		err = removeHidden(path)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// removeHidden removes a file with a mount on it that a later mount on its folder hides. Uncovering it
// here would take the namespaces above away from others for a moment, so that is done in a mount
// namespace of its own: with the file free there, removing it ends its mounts everywhere (Linux 3.18).
func removeHidden(path string) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine, and the mount namespace with it
		result <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
				return fmt.Errorf("make a mount namespace: %w", err)
			}
			if err := unix.Mount("", "/", "none", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
				return fmt.Errorf("make mounts private: %w", err)
			}
			for {
				if err := unix.Unmount(filepath.Dir(path), unix.MNT_DETACH); err != nil {
					return fmt.Errorf("remove %s: %w (a mount hides it)", path, unix.EBUSY)
				}
				for unix.Unmount(path, unix.MNT_DETACH) == nil {
				}
				if err := os.Remove(path); !errors.Is(err, unix.EBUSY) {
					return err
				}
			}
		}()
	}()
	return <-result
}
