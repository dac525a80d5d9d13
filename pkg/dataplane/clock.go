package dataplane

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// jiffyScale is 2^32 / CONFIG_HZ: what bpf/clock.h multiplies jiffies with to get seconds. The
// resolution of the kernel's coarse clock is one jiffy.
func jiffyScale() (uint64, error) {
	var tick unix.Timespec
	if err := unix.ClockGetres(unix.CLOCK_MONOTONIC_COARSE, &tick); err != nil {
		return 0, fmt.Errorf("read the kernel's tick: %w", err)
	}
	if tick.Nano() <= 0 {
		return 0, fmt.Errorf("read the kernel's tick: %d ns", tick.Nano())
	}
	hz := (1_000_000_000 + tick.Nano()/2) / tick.Nano()
	return (1 << 32) / uint64(hz), nil
}

// now reads the flow clock: whole seconds, the unit of every stamp. It wraps; compare by signed differences.
func (k *kernel) now() (uint32, error) {
	var c bpfClockReading
	if err := runSyscall(k.clock, &c); err != nil {
		return 0, fmt.Errorf("read the flow clock: %w", err)
	}
	return c.Now, nil
}
