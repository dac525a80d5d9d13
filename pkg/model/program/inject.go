package program

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/privlink/privlink/pkg/dataplane"
	"github.com/privlink/privlink/pkg/model"
)

// PutDomain makes a port domain what the model's is.
func (p *Programs) PutDomain(k model.DomainKey, d *model.Domain) error {
	raw := dataplane.RawDomain{Used: d.Used, Cursor: d.Cursor, Resting: d.Resting, Word: d.Words}
	if err := p.maps["domains_v1"].Put(rawDomainKey(k), &raw); err != nil {
		return fmt.Errorf("put port domain %+v: %w", k, err)
	}
	return nil
}

// SetFragments makes a link hold so many incomplete datagrams.
func (p *Programs) SetFragments(link, count uint32) error {
	p.usage[link].Fragments = count
	return nil
}

// SweepDone says that a sweep was begun.
func (p *Programs) SweepDone() { p.table[0].WantedSweep = 0 }

// Reset forgets everything but the configuration.
func (p *Programs) Reset() error {
	clear(p.flows)
	clear(p.usage)
	clear(p.table)
	var err error
	for {
		var k dataplane.RawDomainKey
		if e := p.maps["domains_v1"].NextKey(nil, &k); e != nil {
			if !errors.Is(e, ebpf.ErrKeyNotExist) {
				err = errors.Join(err, e)
			}
			break
		}
		if e := p.maps["domains_v1"].Delete(k); e != nil {
			return errors.Join(err, e)
		}
	}
	p.resets++ // all domains have drained
	err = errors.Join(err, p.maps["refills_v1"].Put(uint32(0), p.resets))
	cpus := ebpf.MustPossibleCPU()
	for r := range model.ReasonCount {
		err = errors.Join(err, p.maps["reasons_v2"].Put(uint32(r), make([]dataplane.RawReason, cpus)))
	}
	for link := range uint32(64) {
		err = errors.Join(err, p.maps["link_stats_v1"].Put(link, make([]dataplane.RawLinkStats, cpus)))
	}
	clear(p.buckets)
	if err != nil {
		return fmt.Errorf("reset the maps: %w", err)
	}
	return nil
}

// SetPairs makes the table hold so many pairs.
func (p *Programs) SetPairs(n uint32) { p.table[0].Pairs = n }

// UseTokens makes so many answers on an output used up in this second.
func (p *Programs) UseTokens(out uint16, now, rst, icmp uint32) {
	p.buckets[out] = dataplane.RawBucket{Stamp: now, Rst: rst, Icmp: icmp}
}

// PutSlot makes a slot of the table what it is in the model.
func (p *Programs) PutSlot(n uint32, s *model.Slot) { p.flows[n] = rawSlot(s) }

// LockHome makes it look as if another CPU were inserting a key with this home, or not any more.
func (p *Programs) LockHome(n uint32, locked bool) {
	const lock = 0x40000000 // FLOW_HOME_LOCK
	p.flows[n].Home &^= lock
	if locked {
		p.flows[n].Home |= lock
	}
}
