package main

import (
	"context"
	"fmt"
	"strconv"
	"time"
)

// watchdog tells the service manager at half of the interval it asks for (WATCHDOG_USEC, sd_watchdog_enabled(3)) that
// the daemon is well. It ends with ctx; without a service manager that watches, at once.
func (d *daemon) watchdog(ctx context.Context, env *environment) {
	microseconds, err := strconv.ParseInt(env.getenv("WATCHDOG_USEC"), 10, 64)
	if err != nil || microseconds <= 0 {
		return
	}
	interval := time.Duration(microseconds) * time.Microsecond
	tick := time.NewTicker(interval / 2)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := d.well(max(sweepLate, interval)); err != nil {
			d.log.WithError(err).Error("not well; the service manager is to restart the daemon")
			continue
		}
		if err := notify(env, "WATCHDOG=1"); err != nil {
			d.log.WithError(err).Warn("cannot tell the service manager")
		}
	}
}

// well asks both halves of the daemon for something: an error says that the sweep, which is due every second, stands still
// for longer than it may, and one that keeps its lock keeps well from returning.
func (d *daemon) well(late time.Duration) error {
	d.controller.Revision()
	swept, _, _ := d.plane.Sweep()
	if swept.IsZero() {
		swept = d.started // the first one is still to come
	}
	if age := time.Since(swept); age > late {
		return fmt.Errorf("the flow table was not swept for %v", age.Round(time.Second))
	}
	return nil
}
