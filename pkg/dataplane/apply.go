package dataplane

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cilium/ebpf"
)

// Apply makes the kernel match state. It is idempotent, attaches what can be attached, and
// returns as soon as everything is written; what needs answers of the network (probing new
// addresses, finding backends) goes on by itself and is written when they come: see Result
// and Options.Notify. What cannot stand in the kernel is left out and named in Result.Failed; everything else stands there.
// An error means that the kernel refused a write; applying again continues where it stopped.
func (d *Dataplane) Apply(ctx context.Context, state State) (Result, error) {
	if err := ctx.Err(); err != nil {
		return Result{}, fmt.Errorf("apply revision %d: %w", state.Revision, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return Result{}, fmt.Errorf("apply revision %d: %w", state.Revision, ErrClosed)
	}
	d.folder.bare = false // what the State needs is there for good
	wanted := attachmentsOf(state)
	if d.mustReadDevices(wanted) {
		if err := d.readDevices(); err != nil {
			return Result{}, fmt.Errorf("apply revision %d: %w", state.Revision, err)
		}
	}
	if err := d.apply(d.withInner(state)); err != nil {
		return Result{}, fmt.Errorf("apply revision %d: %w", state.Revision, err)
	}
	d.state, d.attached, d.applied = state, wanted, true
	return d.report(), nil
}

// mustReadDevices says whether a State with these attachments has to do with interfaces: they are others than the last
// one's, or one of them could not be made. The kernel keeps whoever lists interfaces waiting while it makes or removes some, for 50 ms and longer
// on a busy host, and no decision on a connection may wait for that; what changes by itself is notified (attend).
// mu is held.
func (d *Dataplane) mustReadDevices(wanted []attached) bool {
	if !d.applied || d.plan == nil || !slices.Equal(d.attached, wanted) {
		return true
	}
	return slices.ContainsFunc(d.plan.statuses, func(a AttachmentStatus) bool { return a.Err != nil })
}

// attached is one attachment of a network.
type attached struct {
	network string
	Attachment
}

func attachmentsOf(s State) (all []attached) {
	for i := range s.Networks {
		for _, a := range s.Networks[i].Attachments {
			all = append(all, attached{s.Networks[i].Key, a})
		}
	}
	return all
}

// again applies the last State once more, because the network or an interface changed. mu is held.
func (d *Dataplane) again() {
	if !d.applied || d.closed {
		return
	}
	if err := d.apply(d.withInner(d.state)); err != nil {
		d.log.WithError(err).Error("applying the last state again")
	}
	d.report()
}

// withInner adds the splice's network.
func (d *Dataplane) withInner(s State) State {
	in := d.inner
	if in.Network == "" {
		return s
	}
	rs := RuleSet{Key: in.Network, Network: in.Network}
	for _, a := range in.Sources {
		rs.Sources = append(rs.Sources, Source{Addr: a})
	}
	s.Networks = append(s.Networks[:len(s.Networks):len(s.Networks)], Network{
		Key: in.Network, Attachments: []Attachment{{Interface: in.Interface, Mode: ModeTC, Exclusive: true}},
	})
	s.Pools = append(s.Pools[:len(s.Pools):len(s.Pools)], Pool{Key: in.Network, Members: append(in.Sources[:0:0], in.Listen.Addr())})
	s.RuleSets = append(s.RuleSets[:len(s.RuleSets):len(s.RuleSets)], rs)
	return s
}

// apply compiles and writes. The order: what is revoked first, then what is new from the bottom
// up, each object complete before anything points to it, and last what nothing points to any more.
func (d *Dataplane) apply(state State) error {
	p := d.compile(state)
	d.revoke(p)
	for _, step := range []func(*plan) error{d.write, d.dropInterfaces, d.release} {
		if err := step(p); err != nil {
			return err
		}
	}
	if !d.applied && d.k.adopted {
		d.strays, d.ending = true, true
	}
	now := d.clock()
	d.resolver.Set(p.wants, now)
	d.announceReturned(p, now)
	d.plan = p
	d.openDoor(p)
	d.wake()
	if d.ending {
		d.ending = false
		poke(d.sweeper)
	}
	return nil
}

// write enters what is new or another, from the bottom up.
func (d *Dataplane) write(p *plan) error {
	for _, step := range []func(*plan) error{
		d.writeNumbers,
		func(p *plan) error { return d.writeOuts(p.outs) },
		d.writeNatsets, d.writeBackends, d.writeRules, d.writeLeaving, d.writeRuleIndex, d.writeLinks, d.writeAddresses,
		// Interfaces last: from here on their packets find everything.
		func(p *plan) error { return d.writeIfaces(p.ifaces) },
	} {
		if err := step(p); err != nil {
			return err
		}
	}
	return nil
}

// revoke takes away what a packet must not use any longer, before anything else: links that leave
// Approved, change their epoch or are removed. One word holds generation and state.
func (d *Dataplane) revoke(p *plan) {
	d.links.others(p.keepLinks, func(_ uint64, slot uint32) {
		old := d.k.links.load(slot)
		if old.State != uint8(bpfLinkStateLINK_NONE) {
			old.Gen++
			old.State = uint8(bpfLinkStateLINK_NONE)
			d.k.links.storeWord(slot, old, wordLink)
			d.ending = true
		}
	})
	for slot, want := range p.links {
		old := d.k.links.load(slot)
		if old.Ident != want.Ident || !ends(old, want) {
			continue
		}
		old.Gen++
		old.State = uint8(bpfLinkStateLINK_NONE)
		if want.State != uint8(LinkApproved) {
			old.State = want.State
		}
		d.k.links.storeWord(slot, old, wordLink)
		d.ending = true
	}
}

// ends says whether established flows of a link must end.
func ends(old, want bpfLink) bool {
	if old.State != uint8(bpfLinkStateLINK_APPROVED) {
		return false // they ended when it left Approved
	}
	return want.State != uint8(LinkApproved) || old.Epoch != want.Epoch ||
		old.Addr != want.Addr || old.Vnet != want.Vnet || old.Service != want.Service || old.LinkId != want.LinkId
}

func (d *Dataplane) writeNumbers(p *plan) error {
	for key, number := range p.vnets {
		d.k.vnets.store(uint32(number), bpfName{Ident: ident("vnet", key)}, 0)
	}
	for key, number := range p.services {
		d.k.services.store(number, bpfName{Ident: ident("service", key)}, 0)
	}
	for key, number := range p.pools {
		d.k.pools.store(number, bpfName{Ident: ident("pool", key)}, 0)
	}
	return nil
}

func (d *Dataplane) writeNatsets(p *plan) error {
	for slot, set := range p.natsets {
		d.k.natsets.store(slot, set, wordNatset)
	}
	return nil
}

// writeBackends writes all that are to be there, but for those that take no new flows any more: while the tables name them they go
// on, or a packet would find most of a table's places refused where many go at once. A new one gets the next generation of
// its slot, so that no flow of the slot's last owner takes it for its own.
func (d *Dataplane) writeBackends(p *plan) error {
	const up = uint8(bpfBackendStateBACKEND_UP)
	p.leaving = p.leaving[:0]
	for slot, b := range p.backends {
		if old := d.k.backends.load(slot); old.Ident == b.Ident && old.State == up && b.State != up {
			p.leaving = append(p.leaving, slot)
			continue
		}
		d.writeBackend(p, slot)
	}
	return nil
}

// writeLeaving writes the backends that writeBackends left, when the tables do not name them any more.
func (d *Dataplane) writeLeaving(p *plan) error {
	for _, slot := range p.leaving {
		d.writeBackend(p, slot)
	}
	return nil
}

func (d *Dataplane) writeBackend(p *plan, slot uint32) {
	b, old := p.backends[slot], d.k.backends.load(slot)
	b.Gen = old.Gen
	if old.Ident != b.Ident {
		b.Gen++
	}
	d.k.backends.store(slot, b, wordBackend)
}

func (d *Dataplane) writeRuleIndex(p *plan) error {
	for key, want := range p.ruleIndex {
		if have, ok := d.ruleIndex[key]; ok && have == want {
			continue
		}
		if err := d.k.maps[mapRuleIndex].Put(&key, &want); err != nil {
			return fmt.Errorf("write the rule for service %d port %d: %w", key.Service, portOrder(key.Port), err)
		}
		d.ruleIndex[key] = want
	}
	return nil
}

func (d *Dataplane) writeLinks(p *plan) error {
	for slot, l := range p.links {
		old := d.k.links.load(slot)
		l.Gen = old.Gen
		if old.Ident != l.Ident {
			l.Gen++
			if err := d.k.clearStats(slot); err != nil {
				return err
			}
		}
		d.k.links.store(slot, l, wordLink)
	}
	return nil
}

func (d *Dataplane) writeAddresses(p *plan) error {
	for key, want := range p.addresses {
		have, ok := d.addresses[key]
		if ok && have == want {
			continue
		}
		if err := d.k.maps[mapAddresses].Put(&key, &want); err != nil {
			return fmt.Errorf("write address %s: %w", fromNetOrder(key.Addr), err)
		}
		d.addresses[key] = want
		if ok && have.Link != want.Link && bpfAddressKind(have.Kind) == bpfAddressKindADDR_PEERED {
			d.goes(have)
		}
	}
	return nil
}

// goes notes an address that is no longer in the kernel. Flows through a NAT IP or from a peered network hold no
// word that says so: they are looked for.
func (d *Dataplane) goes(a bpfAddress) {
	switch bpfAddressKind(a.Kind) {
	case bpfAddressKindADDR_NAT, bpfAddressKindADDR_FRONTEND, bpfAddressKindADDR_PEERED:
		d.gone[a.Key] = a
		d.ending = true
	}
}

// release clears what nothing in the plan uses, from the top down, and gives the slots back.
func (d *Dataplane) release(p *plan) error {
	var failed []error
	for key, a := range d.addresses {
		if _, ok := p.addresses[key]; ok {
			continue
		}
		if err := d.k.maps[mapAddresses].Delete(&key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			failed = append(failed, fmt.Errorf("remove address %s: %w", fromNetOrder(key.Addr), err))
			continue
		}
		delete(d.addresses, key)
		d.goes(a)
	}
	for key := range d.ruleIndex {
		if _, ok := p.ruleIndex[key]; ok {
			continue
		}
		if err := d.k.maps[mapRuleIndex].Delete(&key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			failed = append(failed, fmt.Errorf("remove the rule for service %d port %d: %w", key.Service, portOrder(key.Port), err))
			continue
		}
		delete(d.ruleIndex, key)
	}
	if len(failed) > 0 {
		return errors.Join(failed...)
	}
	clear := func(s *slots, keep map[uint64]bool, f func(slot uint32) error) {
		s.others(keep, func(id uint64, slot uint32) {
			if err := f(slot); err != nil {
				failed = append(failed, err)
				return
			}
			s.give(id, d.sweeps)
		})
	}
	clear(d.links, p.keepLinks, func(slot uint32) error {
		old := d.k.links.load(slot) // its generation stays: the next owner's is another
		d.k.links.store(slot, bpfLink{Gen: old.Gen}, wordLink)
		return nil
	})
	var unused []uint32
	d.rules.others(p.keepRules, func(_ uint64, slot uint32) { unused = append(unused, slot) })
	if err := d.k.dropTables(unused); err != nil {
		failed = append(failed, err)
	} else {
		clear(d.rules, p.keepRules, func(slot uint32) error {
			d.k.rules.store(slot, bpfRule{}, wordRule)
			return nil
		})
	}
	clear(d.backends, p.keepBackends, func(slot uint32) error {
		// One word ends every flow of it; the rest of the element stays as it is, as packets may be reading it.
		old := d.k.backends.load(slot)
		old.Gen++
		old.State = uint8(bpfBackendStateBACKEND_NONE)
		d.k.backends.storeWord(slot, old, wordBackend)
		old.Ident = 0
		d.k.backends.storeWord(slot, old, identBackend)
		d.ending = true
		return nil
	})
	clear(d.natsets, p.keepNatsets, func(slot uint32) error {
		// Packets that read the old rule may still use it: only its name goes.
		old := d.k.natsets.load(slot)
		old.Ident = 0
		d.k.natsets.storeWord(slot, old, identNatset)
		return nil
	})
	clear(d.outs, p.keepOuts, func(slot uint32) error {
		out := d.k.outs.load(slot)
		if out.Flags&uint8(bpfOutFlagsOUT_XDP) != 0 {
			// Deleting an empty place is an error that says what we want.
			_ = d.k.maps[mapXDPOuts].Delete(slot)
		}
		d.k.outs.storeWord(slot, bpfOut{}, wordOut)
		d.k.outs.store(slot, bpfOut{}, wordOut)
		return nil
	})
	for _, n := range []struct {
		s    *slots
		keep map[uint64]bool
		a    *array[bpfName]
	}{{d.vnets, p.keepVNets, d.k.vnets}, {d.services, p.keepServices, d.k.services}, {d.pools, p.keepPools, d.k.pools}} {
		clear(n.s, n.keep, func(slot uint32) error {
			n.a.store(slot, bpfName{}, 0)
			return nil
		})
	}
	return errors.Join(failed...)
}

// adoptClaims takes addresses that an earlier daemon answered for as ours, without probing them.
func (d *Dataplane) adoptClaims(p *plan) {
	if d.applied {
		return
	}
	for key := range p.claims {
		if a, ok := d.addresses[addressKey(key)]; ok && a.Arp == 1 {
			d.prober.Adopt(key)
			if want, ok := p.addresses[addressKey(key)]; ok {
				want.Arp = 1
				p.addresses[addressKey(key)] = want
			}
		}
	}
}

// announceReturned makes addresses known on interfaces that were attached just now.
func (d *Dataplane) announceReturned(p *plan, now time.Time) {
	for _, name := range d.returned {
		for vnet, ports := range p.ports {
			for _, port := range ports {
				if port.attachment.Interface == name {
					d.prober.Announce(vnet, now)
					d.resolver.Doubt(port.Slot, now)
				}
			}
		}
	}
	d.returned = nil
}
