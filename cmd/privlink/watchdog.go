package main

import (
	"context"
	"strconv"
	"time"
)

// watchdog tells the service manager at half of the interval it asks for (WATCHDOG_USEC, sd_watchdog_enabled(3)) that
// the daemon is well: the dataplane gives its lock away and its sweep goes on. It ends with ctx; without
// a service manager that watches, at once.
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
		swept, _, _ := d.plane.Sweep()
		if swept.IsZero() {
			swept = d.started // the first one is still to come
		}
		if late := time.Since(swept); late > max(sweepLate, interval) {
			d.log.WithField("sweep_age", late.Round(time.Second)).Error("not well: the flow table is not swept; the service manager is to restart the daemon")
			continue
		}
		if err := notify(env, "WATCHDOG=1"); err != nil {
			d.log.WithError(err).Warn("cannot tell the service manager")
		}
	}
}
