package neigh

import (
	"net/netip"
	"slices"
	"time"
)

// Key is an address in a network; networks overlap.
type Key struct {
	VNet uint16
	Addr netip.Addr
}

// Want says how to look for an address.
type Want struct {
	// Ports are asked all until one answers; who answers gives the output.
	Ports []Port
	// Sender is the address that asks: one of ours that is announced; zero = a probe.
	Sender netip.Addr
}

// Neighbour is what is known of an address.
type Neighbour struct {
	MAC  MAC
	Port Port
	// Known says that MAC and Port are valid: somebody answered once.
	Known bool
	// Lost says that it answers no more, or that nobody ever did after several tries.
	Lost bool
}

// Times of the Resolver. An unknown address is asked for at growing intervals, so that one that is
// there is found at once and one that is not costs little.
const (
	firstRetry   = 50 * time.Millisecond
	slowestRetry = 5 * time.Second
	triesToLost  = 5 // 0, 50, 150, 350, 750 ms: then it counts as not there
	refreshAfter = 20 * time.Second
	refreshTries = 3 // to the MAC known, a second apart; then everybody is asked
	refreshRetry = time.Second
)

// The packet programs report 200 ARP packets a second of each interface (ARP_PER_SECOND in bpf/types.h). Who asks for
// more addresses at once loses the answers, and the next ones too as all are asked for again together.
const (
	askWindow     = 250 * time.Millisecond
	asksPerWindow = 40 // of each port
)

// Resolver finds neighbours. Not safe for use by several goroutines.
type Resolver struct {
	send    Transmit
	changed func(Key, Neighbour)
	entries map[Key]*entry
	windows map[uint16]window // by port slot
}

// window is how much was asked at a port since a time.
type window struct {
	began time.Time
	asked int
}

type entry struct {
	want  Want
	is    Neighbour
	tries int       // since the last answer
	next  time.Time // of the next request
}

// NewResolver returns a Resolver that sends with send and reports every change with changed.
func NewResolver(send Transmit, changed func(Key, Neighbour)) *Resolver {
	return &Resolver{send: send, changed: changed, entries: make(map[Key]*entry), windows: make(map[uint16]window)}
}

// Set replaces what is looked for. Addresses that stay keep what is known of them, except when the
// port they are behind is none of theirs any more.
func (r *Resolver) Set(wants map[Key]Want, now time.Time) {
	for key := range r.entries {
		if _, ok := wants[key]; !ok {
			delete(r.entries, key)
		}
	}
	for key, want := range wants {
		e := r.entries[key]
		if e == nil {
			r.entries[key] = &entry{want: want, next: now}
			continue
		}
		fresh := len(want.Ports) > 0
		for _, p := range want.Ports {
			for _, old := range e.want.Ports {
				fresh = fresh && p != old
			}
		}
		e.want = want
		if fresh && !e.is.Known {
			e.tries, e.next = 0, now // a port that was not there: ask at once
		}
		if e.is.Known && !follow(e) {
			e.is = Neighbour{}
			e.tries, e.next = 0, now
			r.changed(key, e.is)
		}
	}
}

// follow takes over a port that is the same slot, but another interface or MAC now. False when it is gone.
func follow(e *entry) bool {
	for _, p := range e.want.Ports {
		if p.Slot == e.is.Port.Slot {
			e.is.Port = p
			return true
		}
	}
	return false
}

// Adopt enters what an earlier daemon knew of an address that nothing is known of yet: it is asked for
// at once, without being unknown meanwhile.
func (r *Resolver) Adopt(key Key, want Want, mac MAC, slot uint16, now time.Time) {
	if e := r.entries[key]; e != nil && e.is.Known {
		return
	}
	for _, p := range want.Ports {
		if p.Slot == slot {
			r.entries[key] = &entry{want: want, is: Neighbour{MAC: mac, Port: p, Known: true}, next: now}
			return
		}
	}
}

// Get returns what is known.
func (r *Resolver) Get(key Key) Neighbour {
	if e := r.entries[key]; e != nil {
		return e.is
	}
	return Neighbour{}
}

// Heard takes an ARP packet's sender: somebody on the port with that slot says that addr is at mac.
func (r *Resolver) Heard(vnet uint16, slot uint16, addr netip.Addr, mac MAC, now time.Time) {
	key := Key{vnet, addr}
	e := r.entries[key]
	if e == nil {
		return
	}
	is := Neighbour{MAC: mac, Known: true}
	for _, p := range e.want.Ports {
		if p.Slot == slot {
			is.Port = p
		}
	}
	if is.Port.Slot != slot {
		return // not where it may be
	}
	e.tries, e.next = 0, now.Add(refreshAfter)
	if e.is != is {
		e.is = is
		r.changed(key, is)
	}
}

// Doubt asks for an address again soon: its interface came back, or packets to it fail.
func (r *Resolver) Doubt(slot uint16, now time.Time) {
	for _, e := range r.entries {
		if !e.is.Known || e.is.Port.Slot == slot {
			e.tries, e.next = 0, now
		}
	}
}

// Tick sends what is due and returns when it wants to be called again; zero = not before the next Set. Who was asked least often
// since it answered comes first: of those that are not there may be thousands, and only so many are asked for in a second.
func (r *Resolver) Tick(now time.Time) (next time.Time) {
	var due []Key
	soonest := func(at time.Time) {
		if next.IsZero() || at.Before(next) {
			next = at
		}
	}
	for key, e := range r.entries {
		switch {
		case len(e.want.Ports) == 0:
		case e.next.After(now):
			soonest(e.next)
		default:
			due = append(due, key)
		}
	}
	slices.SortFunc(due, func(a, b Key) int { return r.entries[a].tries - r.entries[b].tries })
	for _, key := range due {
		e := r.entries[key]
		r.ask(key, e, now)
		soonest(e.next)
	}
	return next
}

// admit counts a question to all of the ports, or returns when there is room for one.
func (r *Resolver) admit(ports []Port, now time.Time) (later time.Time, ok bool) {
	for _, p := range ports {
		w := r.windows[p.Slot]
		if end := w.began.Add(askWindow); w.asked >= asksPerWindow && now.Before(end) {
			if end.After(later) {
				later = end
			}
		}
	}
	if !later.IsZero() {
		return later, false
	}
	for _, p := range ports {
		w := r.windows[p.Slot]
		if !now.Before(w.began.Add(askWindow)) {
			w = window{began: now}
		}
		w.asked++
		r.windows[p.Slot] = w
	}
	return later, true
}

func (r *Resolver) ask(key Key, e *entry, now time.Time) {
	ports := e.want.Ports
	if e.is.Known && e.tries < refreshTries {
		ports = []Port{e.is.Port}
	}
	if later, ok := r.admit(ports, now); !ok {
		e.next = later
		return
	}
	e.tries++
	limit := triesToLost
	if e.is.Known {
		limit = refreshTries + triesToLost
	}
	if e.tries > limit && !e.is.Lost {
		e.is.Lost = true
		r.changed(key, e.is)
	}
	if e.is.Known && e.tries <= refreshTries {
		// A lost frame is asked for again; an error is no different.
		_ = r.send(e.is.Port, Request(e.is.Port, e.is.MAC, e.want.Sender, key.Addr))
		e.next = now.Add(refreshRetry)
		return
	}
	for _, p := range e.want.Ports {
		_ = r.send(p, Request(p, Broadcast, e.want.Sender, key.Addr))
	}
	tries := e.tries
	if e.is.Known {
		tries -= refreshTries
	}
	wait := min(firstRetry<<min(tries-1, 10), slowestRetry)
	e.next = now.Add(wait)
}
