package program

import (
	"fmt"
	"unsafe"

	"github.com/cilium/ebpf"

	"github.com/privlink/privlink/pkg/dataplane"
	"github.com/privlink/privlink/pkg/model"
)

// Sweep runs one slice of the sweep at a time.
func (p *Programs) Sweep(first, count, now uint32) (model.Sweep, error) {
	p.sweep.input.Now = now
	context := dataplane.RawSweep{First: first, Count: count}
	bytes := unsafe.Slice((*byte)(unsafe.Pointer(&context)), unsafe.Sizeof(context))
	out := make([]byte, len(bytes))
	if _, err := p.sweep.program.Run(&ebpf.RunOptions{Context: bytes, ContextOut: out}); err != nil {
		return model.Sweep{}, fmt.Errorf("sweep: %w", err)
	}
	s := (*dataplane.RawSweep)(unsafe.Pointer(&out[0]))
	return model.Sweep{
		Live: s.Live, Dead: s.Dead, Killed: s.Killed, Ended: s.Ended, Freed: s.Freed,
		Orphans: s.Orphans, Unanswered: s.Unanswered,
	}, nil
}
