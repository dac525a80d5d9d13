package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/privlink/privlink/pkg/lab"
)

// diskFull leaves the store no room until a request is refused for it, and goes on when there is room again.
func diskFull(ctx context.Context, a *arena, _ *rand.Rand) error {
	filler := filepath.Join(a.daemon.StateDir, "filler")
	file, err := os.Create(filler)
	if err != nil {
		return err
	}
	defer file.Close()
	for err == nil {
		_, err = file.Write(make([]byte, 4096))
	}
	if !errors.Is(err, unix.ENOSPC) {
		return fmt.Errorf("fill the disk: %w", err)
	}
	// Large ones: what was deleted before has left room inside the store's file.
	var made, subnets []string
	for i := range 200 {
		subnets = append(subnets, "--subnet", fmt.Sprintf("s%d=10.0.%d.0/24", i, i))
	}
	create := func() error {
		a.serial++
		name := fmt.Sprint("full", a.serial)
		_, err := a.daemon.CLI(ctx, append([]string{"vnet", "create", name, "--prefix", "10.0.0.0/16"}, subnets...)...)
		if err == nil {
			made = append(made, name)
		}
		return err
	}
	var refused error
	for refused == nil && len(made) < 1000 {
		refused = create()
	}
	if refused == nil {
		return fmt.Errorf("%d networks found room on a full disk", len(made))
	}
	if !strings.Contains(refused.Error(), "no space left") {
		return fmt.Errorf("a request with the disk full: %w", refused)
	}
	if err := errors.Join(os.Remove(filler), file.Truncate(0)); err != nil {
		return err
	}
	if err := create(); err != nil {
		return fmt.Errorf("a request with room again: %w", err)
	}
	for _, name := range made {
		if _, err := a.daemon.CLI(ctx, "vnet", "delete", name); err != nil {
			return err
		}
	}
	return nil
}

// storeUnusable lets a start meet a store that it cannot use. The kernel refuses to make a file system read-only while a
// file on it is open for writing, as the running daemon's store is.
func storeUnusable(ctx context.Context, a *arena, draw *rand.Rand) error {
	name := filepath.Join(a.daemon.StateDir, "state.db")
	a.daemon.Kill()
	if draw.IntN(2) == 0 {
		a.object = "read-only"
		if err := remount(a.daemon.StateDir, unix.MS_RDONLY); err != nil {
			return err
		}
		err := a.refuses(ctx, "read-only file system")
		if err := errors.Join(err, remount(a.daemon.StateDir, 0)); err != nil {
			return err
		}
	} else {
		a.object = "cut short"
		good, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		if err := os.Truncate(name, 1000); err != nil {
			return err
		}
		err = a.refuses(ctx, "state.db")
		if err := errors.Join(err, os.WriteFile(name, good, 0o600)); err != nil {
			return err
		}
	}
	a.daemon.Start(ctx)
	return a.ready(ctx)
}

func remount(dir string, flags uintptr) error {
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|flags, ""); err != nil {
		return fmt.Errorf("mount %s anew: %w", dir, err)
	}
	return nil
}

// refuses starts a daemon that has to end by itself, and to say why.
func (a *arena) refuses(ctx context.Context, why string) error {
	p := a.daemon.Launch(ctx)
	err := lab.Poll(20*time.Second, func() error {
		select {
		case <-p.Exited():
			return nil
		default:
			return errors.New("the daemon runs with a store it cannot use")
		}
	})
	if err != nil {
		p.Kill()
		return err
	}
	if out := p.Output(); !strings.Contains(out, why) || strings.Contains(out, "panic") {
		return fmt.Errorf("the daemon refused to start otherwise than with %q: %s", why, out)
	}
	return nil
}
