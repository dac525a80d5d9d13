package inner

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// namespaces is where `ip netns` and pkg netns keep named namespaces.
const namespaces = "/run/netns"

// shareFolder makes the folder of the named namespaces a shared mount, as the first `ip netns add` after a
// boot does. Made before that, our namespace would be hidden by the mount ip makes, and could not be removed
// any more. The lock is the one that ip takes.
func shareFolder(path string) error {
	switch err := os.Mkdir(path, 0o755); {
	case err == nil: // it is everybody's, whatever our umask
		err = os.Chmod(path, 0o755)
		if err != nil {
			return err
		}
	case !errors.Is(err, os.ErrExist):
		return err
	}
	folder, err := os.Open(path)
	if err != nil {
		return err
	}
	defer folder.Close()
	if err := unix.Flock(int(folder.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", path, err)
	}
	err = unix.Mount("", path, "none", unix.MS_SHARED|unix.MS_REC, "")
	if errors.Is(err, unix.EINVAL) { // no mount point yet
		if err = unix.Mount(path, path, "none", unix.MS_BIND|unix.MS_REC, ""); err == nil {
			err = unix.Mount("", path, "none", unix.MS_SHARED|unix.MS_REC, "")
		}
	}
	if err != nil {
		return fmt.Errorf("make %s a shared mount: %w (needs CAP_SYS_ADMIN)", path, err)
	}
	return nil
}
