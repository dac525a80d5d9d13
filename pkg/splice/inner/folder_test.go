package inner

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

func TestShareFolder_Twice_IsMountedOnceAndIPWouldMountNothing(t *testing.T) {
	dir := t.TempDir()
	t.Cleanup(func() {
		for unix.Unmount(dir, unix.MNT_DETACH) == nil {
		}
	})
	for range 2 {
		if err := shareFolder(dir); err != nil {
			t.Fatal(err)
		}
	}
	// By this call ip finds out whether it has to mount the folder.
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
