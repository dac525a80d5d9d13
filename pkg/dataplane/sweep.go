package dataplane

import (
	"context"
	"fmt"
	"time"
	"unsafe"
)

// sweepInterval is the time between two sweeps of the whole table.
const sweepInterval = time.Second

// SweepSlice is how many slots one run of the program visits at most, during which its CPU does nothing
// else. It ends by the clock as well: after SweepBudget it goes no further.
const (
	SweepSlice  = 1 << 16
	SweepBudget = time.Duration(bpfLimitsSWEEP_BUDGET)
)

// SweepStats counts what the last complete sweep of the flow table saw.
type SweepStats struct {
	Live, Dead uint32 // entries
	Killed     uint32 // pairs found idle
	Ended      uint32 // pairs whose link or backend is gone
	Freed      uint32 // entries
	Orphans    uint32 // halves without the other
	Unanswered uint32 // ended pairs: an end of each was not heard to be over
}

// Sweep says when the last complete sweep ended (zero = none yet), how many there were, and what the last one saw.
func (d *Dataplane) Sweep() (ended time.Time, count uint64, last SweepStats) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.swept, d.sweeps, d.pass
}

// sweepLoop sweeps every second, and at once when a port domain is nearly full or something was revoked. It begins with the
// first State: before that, nobody knows which links are to be.
func (d *Dataplane) sweepLoop(ctx context.Context) {
	tick := time.NewTicker(sweepInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-d.sweeper:
		}
		d.mu.Lock()
		ready := d.applied
		d.mu.Unlock()
		if !ready {
			continue
		}
		if err := d.sweepOnce(ctx); err != nil && ctx.Err() == nil {
			d.log.WithError(err).Error("sweeping the flow table")
		}
		if err := d.endFlows(ctx); err != nil && ctx.Err() == nil {
			d.log.WithError(err).Error("ending flows")
		}
	}
}

// sweepOnce visits the whole table, slice by slice.
func (d *Dataplane) sweepOnce(ctx context.Context) error {
	d.readers.RLock()
	defer d.readers.RUnlock()
	var pass SweepStats
	// Before the sweep: what a domain asks for meanwhile is the next one's.
	d.k.table.store32(0, unsafe.Offsetof(bpfTable{}.WantedSweep), 0)
	for first := uint32(0); first < d.k.flows.count; {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("sweep from slot %d: %w", first, err)
		}
		slice := bpfSweep{First: first, Count: min(SweepSlice, d.k.flows.count-first)}
		if err := runSyscall(d.k.sweep, &slice); err != nil {
			return fmt.Errorf("sweep from slot %d: %w", first, err)
		}
		if slice.Count == 0 {
			return fmt.Errorf("sweep from slot %d of %d: the program visited none", first, d.k.flows.count)
		}
		first += slice.Count
		pass.Live += slice.Live
		pass.Dead += slice.Dead
		pass.Killed += slice.Killed
		pass.Ended += slice.Ended
		pass.Freed += slice.Freed
		pass.Orphans += slice.Orphans
		pass.Unanswered += slice.Unanswered
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.pass, d.swept = pass, d.clock()
	d.sweeps++
	return nil
}
