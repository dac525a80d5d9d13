package dataplane

import (
	"fmt"

	"github.com/cilium/ebpf"
)

// The values of the maps as the programs see them, addresses and ports in network order. For tests
// that fill maps themselves and compare what the programs made of them (pkg/model).
type (
	RawFlow       = bpfFlow
	RawIface      = bpfIface
	RawOut        = bpfOut
	RawLink       = bpfLink
	RawUsage      = bpfUsage
	RawTable      = bpfTable
	RawRule       = bpfRule
	RawRuleKey    = bpfRuleKey
	RawRuleRef    = bpfRuleRef
	RawNatset     = bpfNatset
	RawBackend    = bpfBackend
	RawAddress    = bpfAddress
	RawAddressKey = bpfAddressKey
	RawDial       = bpfDial
	RawDialKey    = bpfDialKey
	RawDomain     = bpfDomain
	RawDomainKey  = bpfDomainKey
	RawLinkStats  = bpfLinkStats
	RawReason     = bpfReasonStats
	RawSweep      = bpfSweep
	RawTestInput  = bpfTestInput
	RawVerdict    = bpfVerdict
)

// Specs are the programs as they are built into the binary, not yet loaded.
type Specs struct {
	TC      *ebpf.CollectionSpec
	XDP     *ebpf.CollectionSpec
	Control *ebpf.CollectionSpec // sweep, iterator and what else packets do not run
}

// LoadSpecs returns fresh copies that the caller may change before loading them, as tests do
// (time and randomness as inputs, small maps, faults).
func LoadSpecs() (Specs, error) {
	var s Specs
	var err error
	if s.TC, err = loadTc(); err != nil {
		return Specs{}, fmt.Errorf("read program tc: %w", err)
	}
	if s.XDP, err = loadXdp(); err != nil {
		return Specs{}, fmt.Errorf("read program xdp: %w", err)
	}
	if s.Control, err = loadBpf(); err != nil {
		return Specs{}, fmt.Errorf("read program control: %w", err)
	}
	return s, nil
}
