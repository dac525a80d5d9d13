package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// moment is what a daemon was at when it was killed.
type moment string

// Moments. Each is seen, none assumed: a thread in fsync or fdatasync when the signal was sent; a file left that
// was to be renamed; maps that differ from the store the daemon left; no answer on the socket yet.
const (
	inStart  moment = "start"
	inSync   moment = "fsync"
	inRename moment = "rename"
	inApply  moment = "apply"
	inOther  moment = "elsewhere"
)

func moments() []moment { return []moment{inStart, inSync, inRename, inApply} }

// aims are what kills wait for, in turn; all wait for a random time first, and some for nothing more. A rename is so
// short that most of the kills aimed at it come late.
func aims() []moment {
	return []moment{inOther, inSync, inRename, inOther, inApply, inRename, inOther, inStart}
}

// Bounds of the random times: how long writers write before a kill is aimed, and how long after a write to the
// store one waits that is to hit the apply.
const (
	longestUp    = 500 * time.Millisecond
	applyWithin  = 6 * time.Millisecond
	aimGivenUp   = time.Second // an aim that does not come is no reason not to kill
	startsWithin = 500 * time.Millisecond
)

// await returns when the moment to kill has come: at once for inOther. It says whether a thread is in fsync then.
func (w *world) await(ctx context.Context, aim moment) (sync bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, aimGivenUp)
	defer cancel()
	switch aim {
	case inSync:
		for ctx.Err() == nil {
			if syncing(w.daemon.Process().PID()) {
				return true, nil
			}
		}
		return false, nil
	case inRename:
		// No look at the threads: in the meantime the file would be renamed.
		pid := w.daemon.Process().PID()
		return false, awaitFile(ctx, w.daemon.StateDir, unix.IN_CREATE, func(name string) bool {
			return strings.HasSuffix(name, fresh) && unix.Kill(pid, unix.SIGKILL) == nil
		})
	case inApply:
		if err := awaitFile(ctx, w.daemon.StateDir, unix.IN_MODIFY, func(name string) bool { return name == stateFile }); err != nil {
			return false, err
		}
		time.Sleep(time.Duration(w.random.Int64N(int64(applyWithin))))
	}
	return syncing(w.daemon.Process().PID()), nil
}

// fresh ends the names of files that are renamed when they are whole.
const fresh = ".new"

const stateFile = "state.db"

// awaitFile waits until something happens to a file of a folder, or ctx ends.
func awaitFile(ctx context.Context, dir string, mask uint32, wanted func(name string) bool) error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return fmt.Errorf("watch %s: %w", dir, err)
	}
	defer unix.Close(fd)
	if _, err := unix.InotifyAddWatch(fd, dir, mask); err != nil {
		return fmt.Errorf("watch %s: %w", dir, err)
	}
	buffer := make([]byte, 4096)
	for ctx.Err() == nil {
		if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 50); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("watch %s: %w", dir, err)
		}
		n, err := unix.Read(fd, buffer)
		if errors.Is(err, unix.EAGAIN) {
			continue
		}
		if err != nil {
			return fmt.Errorf("watch %s: %w", dir, err)
		}
		if named(buffer[:n], wanted) {
			return nil
		}
	}
	return nil
}

// named tells whether one of some inotify events has a name that is wanted.
func named(events []byte, wanted func(string) bool) bool {
	for len(events) >= unix.SizeofInotifyEvent {
		length := int(events[12]) | int(events[13])<<8 // inotify_event.len, at most NAME_MAX+1 rounded up
		name := events[unix.SizeofInotifyEvent : unix.SizeofInotifyEvent+length]
		if wanted(string(bytes.TrimRight(name, "\x00"))) {
			return true
		}
		events = events[unix.SizeofInotifyEvent+length:]
	}
	return false
}

// syncing tells whether a thread of a process waits in fsync or fdatasync.
func syncing(pid int) bool {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/syscall", pid))
	if err != nil {
		return false
	}
	for _, name := range threads {
		text, err := os.ReadFile(name)
		if err != nil {
			continue // the thread ended
		}
		number, err := strconv.Atoi(strings.SplitN(string(text), " ", 2)[0])
		if err == nil && (number == unix.SYS_FSYNC || number == unix.SYS_FDATASYNC) {
			return true
		}
	}
	return false
}
