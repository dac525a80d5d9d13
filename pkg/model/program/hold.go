package program

import (
	"sync/atomic"
	"time"
)

// Places where Options.Hold holds a packet (enum hold_place in bpf/hold.h).
const (
	HoldReading = 1 // in the lookup: the key was compared, the rewrite not yet read
	HoldFound   = 2 // between the lookup and what is done with it
)

// Faults for Options.Fault that only show when CPUs overtake one another (enum fault in bpf/faults.h).
const (
	FaultNoRecheck    = 1
	FaultSameSequence = 3
	FaultBlindTwin    = 11
	FaultBlindStamp   = 12
)

// Steps of a packet that is held (enum hold_step in bpf/hold.h).
const (
	holdIdle = iota
	holdArmed
	holdHeld
	holdReleased
	holdExpired
)

func (p *Programs) holdStep() *uint32 {
	if p.front != nil {
		return p.front.step
	}
	return p.tc.step
}

// Arm makes the next packet stop that comes to the place of Options.Hold.
func (p *Programs) Arm() { atomic.StoreUint32(p.holdStep(), holdArmed) }

// WaitHeld waits until one did, at most for so long; another lane sends it. It neither sleeps nor yields: as
// the goroutine is locked to its thread, either would take much longer than the packet.
func (p *Programs) WaitHeld(limit time.Duration) bool {
	step := p.holdStep()
	for begin := time.Now(); atomic.LoadUint32(step) == holdArmed; {
		if time.Since(begin) > limit {
			return false
		}
	}
	return atomic.LoadUint32(step) == holdHeld
}

// Release lets the packet go on and says whether it was held until now.
func (p *Programs) Release() bool {
	return atomic.CompareAndSwapUint32(p.holdStep(), holdHeld, holdReleased)
}
