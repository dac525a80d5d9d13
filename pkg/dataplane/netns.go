package dataplane

import (
	"fmt"
	"runtime"

	"github.com/vishvananda/netns"
)

// namespace is the network namespace whose interfaces privlink attaches. Interface indices
// mean something only inside of it, so everything that gives one to the kernel goes through do.
type namespace struct {
	path string // empty: the process's own
}

// do calls f on a thread that is in the namespace.
func (n namespace) do(f func() error) error {
	if n.path == "" {
		return f()
	}
	result := make(chan error, 1)
	go func() {
		// A thread that cannot go back must not be used again: without Unlock it ends with the goroutine.
		runtime.LockOSThread()
		result <- n.enter(f)
	}()
	return <-result
}

func (n namespace) enter(f func() error) error {
	own, err := netns.Get()
	if err != nil {
		return fmt.Errorf("enter network namespace %s: %w", n.path, err)
	}
	defer own.Close()
	other, err := netns.GetFromPath(n.path)
	if err != nil {
		return fmt.Errorf("open network namespace %s: %w", n.path, err)
	}
	defer other.Close()
	if err := netns.Set(other); err != nil {
		return fmt.Errorf("enter network namespace %s: %w (needs CAP_SYS_ADMIN)", n.path, err)
	}
	err = f()
	if netns.Set(own) == nil {
		runtime.UnlockOSThread()
	}
	return err
}
