package dataplane

import (
	"fmt"

	"github.com/cilium/ebpf"
)

// The values of the maps as C has them (bpf/types.h), for the packages that test the programs
// without this one around them: pkg/model compares every entry.
type (
	RawAddress    = bpfAddress
	RawAddressKey = bpfAddressKey
	RawBackend    = bpfBackend
	RawHop        = bpfHop
	RawConfig     = bpfConfig
	RawDial       = bpfDial
	RawDialKey    = bpfDialKey
	RawDomain     = bpfDomain
	RawDomainKey  = bpfDomainKey
	RawEvent      = bpfEvent
	RawFlow       = bpfFlow
	RawIface      = bpfIface
	RawLink       = bpfLink
	RawLinkStats  = bpfLinkStats
	RawNatset     = bpfNatset
	RawOut        = bpfOut
	RawReason     = bpfReasonStats
	RawBucket     = bpfBucket
	RawRule       = bpfRule
	RawRuleKey    = bpfRuleKey
	RawRuleRef    = bpfRuleRef
	RawSweep      = bpfSweep
	RawTable      = bpfTable
	RawTestInput  = bpfTestInput
	RawUsage      = bpfUsage
	RawVerdict    = bpfVerdict
)

// Specs are the three objects, not loaded.
type Specs struct {
	Control, TC, XDP *ebpf.CollectionSpec
}

// RawPairs is how many pairs a table with so many homes may hold.
func RawPairs(homes uint32) uint32 { return pairsFor(homes) }

// LoadSpecs reads the objects. Each call gives new ones, to be changed at will.
func LoadSpecs() (Specs, error) {
	var s Specs
	for _, object := range []struct {
		name string
		to   **ebpf.CollectionSpec
		load func() (*ebpf.CollectionSpec, error)
	}{{"control", &s.Control, loadBpf}, {"tc", &s.TC, loadTc}, {"xdp", &s.XDP, loadXdp}} {
		spec, err := object.load()
		if err != nil {
			return Specs{}, fmt.Errorf("read the %s object: %w", object.name, err)
		}
		dropReasons(spec)
		*object.to = spec
	}
	return s, nil
}

// all are the objects by name.
func (s Specs) all() map[string]*ebpf.CollectionSpec {
	return map[string]*ebpf.CollectionSpec{"control": s.Control, "tc": s.TC, "xdp": s.XDP}
}
