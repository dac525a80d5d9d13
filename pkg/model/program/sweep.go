package program

import (
	"fmt"
	"syscall"
	"unsafe"

	"github.com/cilium/ebpf"

	"github.com/privlink/privlink/pkg/dataplane"
	"github.com/privlink/privlink/pkg/model"
)

// Sweep visits slots as the daemon does, slice by slice, and adds up what was found.
func (p *Programs) Sweep(first, count, now uint32) (all model.Sweep, err error) {
	for end := first + count; first < end; {
		visited, s, err := p.SweepSlice(first, end-first, now)
		if err != nil {
			return all, err
		}
		if visited == 0 { // the end of the table
			break
		}
		first += visited
		all.Live += s.Live
		all.Dead += s.Dead
		all.Killed += s.Killed
		all.Ended += s.Ended
		all.Freed += s.Freed
		all.Orphans += s.Orphans
		all.Unanswered += s.Unanswered
	}
	return all, nil
}

// SweepSlice runs the sweep once: it visits so many slots, or fewer when its time is over. syscall.EBUSY: another one runs.
func (p *Programs) SweepSlice(first, count, now uint32) (visited uint32, found model.Sweep, err error) {
	p.sweep.input.Now = now
	context := dataplane.RawSweep{First: first, Count: count}
	bytes := unsafe.Slice((*byte)(unsafe.Pointer(&context)), unsafe.Sizeof(context))
	out := make([]byte, len(bytes))
	ret, err := p.sweep.program.Run(&ebpf.RunOptions{Context: bytes, ContextOut: out})
	if err == nil && ret != 0 {
		err = syscall.Errno(-int32(ret))
	}
	if err != nil {
		return 0, model.Sweep{}, fmt.Errorf("sweep: %w", err)
	}
	s := (*dataplane.RawSweep)(unsafe.Pointer(&out[0]))
	return s.Count, model.Sweep{
		Live: s.Live, Dead: s.Dead, Killed: s.Killed, Ended: s.Ended, Freed: s.Freed,
		Orphans: s.Orphans, Unanswered: s.Unanswered,
	}, nil
}
