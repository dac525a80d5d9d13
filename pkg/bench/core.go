package bench

import (
	"fmt"
	"runtime"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/privlink/privlink/pkg/lab"
)

// Core is one CPU and the only thread that sends on it. Everything that a packet
// costs, softirqs included, happens on that CPU, because a live-frame test run raises
// and runs its softirqs where it is called.
type Core struct {
	cpu   int
	calls chan coreCall
}

type coreCall struct {
	ns   *lab.Namespace
	fn   func() error
	done chan error
}

// NewCore pins a thread to a CPU. The thread runs with real-time priority, so that
// other processes on that CPU wait for the milliseconds of a round, and with SIGURG
// blocked: the Go scheduler's preemption signal would end a test run early, and its
// repetition costs 20 ms in the middle of a measurement.
func NewCore(cpu int) (*Core, error) {
	c := &Core{cpu: cpu, calls: make(chan coreCall)}
	ready := make(chan error)
	go c.serve(ready)
	if err := <-ready; err != nil {
		return nil, fmt.Errorf("pin a thread to cpu %d: %w", cpu, err)
	}
	return c, nil
}

// serve owns the thread. It never unlocks it: when the goroutine ends, the thread,
// with its priority and its namespace, ends with it.
func (c *Core) serve(ready chan<- error) {
	runtime.LockOSThread()
	ready <- c.pin()
	for call := range c.calls {
		err := enter(call.ns)
		if err == nil {
			err = call.fn()
		}
		call.done <- err
	}
}

func (c *Core) pin() error {
	var set unix.CPUSet
	set.Set(c.cpu)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return err
	}
	attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 1}
	if err := unix.SchedSetAttr(0, &attr, 0); err != nil {
		return fmt.Errorf("real-time priority: %w", err)
	}
	var block unix.Sigset_t
	block.Val[(unix.SIGURG-1)/64] |= 1 << ((unix.SIGURG - 1) % 64)
	return unix.PthreadSigmask(unix.SIG_BLOCK, &block, nil)
}

func enter(ns *lab.Namespace) error {
	handle, err := netns.GetFromPath(ns.Path())
	if err != nil {
		return fmt.Errorf("enter %s: %w", ns, err)
	}
	defer func() { _ = handle.Close() }()
	return netns.Set(handle)
}

// Do runs fn on the core's thread, inside a network namespace.
func (c *Core) Do(ns *lab.Namespace, fn func() error) error {
	call := coreCall{ns: ns, fn: fn, done: make(chan error, 1)}
	c.calls <- call
	return <-call.done
}

// Close ends the thread.
func (c *Core) Close() { close(c.calls) }
