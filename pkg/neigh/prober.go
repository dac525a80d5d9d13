package neigh

import (
	"net/netip"
	"time"
)

// Times of the Prober. RFC 5227 means networks of unknown size and allots seconds; hosts on
// a virtual network answer within a millisecond, and an endpoint should work at once. Three
// probes, a tenth of a second apart.
const (
	probeCount       = 3
	probeInterval    = 100 * time.Millisecond
	announceCount    = 2
	announceInterval = 2 * time.Second  // ANNOUNCE_INTERVAL
	defendInterval   = 10 * time.Second // DEFEND_INTERVAL
	conflictRetry    = 5 * time.Second
)

// Claim is the state of an address that is to be ours.
type Claim struct {
	// Ours says that it was probed and nobody has it.
	Ours bool
	// Other has it, when Conflict; Port is where it was heard.
	Conflict bool
	Other    MAC
	Port     Port
}

// Prober makes addresses ours: probes them, announces them, and defends them. Not safe for use by
// several goroutines.
type Prober struct {
	send    Transmit
	ports   func(vnet uint16) []Port
	changed func(Key, Claim)
	claims  map[Key]*claim
}

type claim struct {
	is       Claim
	sent     int // probes, or announcements once ours
	next     time.Time
	defended time.Time
}

// NewProber returns a Prober. ports gives a network's ports at the time of sending; changed is told of
// every address that became ours or is somebody else's.
func NewProber(send Transmit, ports func(vnet uint16) []Port, changed func(Key, Claim)) *Prober {
	return &Prober{send: send, ports: ports, changed: changed, claims: make(map[Key]*claim)}
}

// Set replaces the addresses that are to be ours.
func (p *Prober) Set(keys map[Key]bool, now time.Time) {
	for key := range p.claims {
		if !keys[key] {
			delete(p.claims, key)
		}
	}
	for key := range keys {
		if p.claims[key] == nil {
			p.claims[key] = &claim{next: now}
		}
	}
}

// Adopt says that an address was ours before: not probed again.
func (p *Prober) Adopt(key Key) {
	if c := p.claims[key]; c != nil && !c.is.Ours {
		c.is, c.sent, c.next = Claim{Ours: true}, announceCount, time.Time{}
	}
}

// Get returns an address's state; the zero Claim while it is probed.
func (p *Prober) Get(key Key) Claim {
	if c := p.claims[key]; c != nil {
		return c.is
	}
	return Claim{}
}

// Pending are the addresses that are being probed.
func (p *Prober) Pending() []Key {
	var keys []Key
	for key, c := range p.claims {
		if !c.is.Ours && !c.is.Conflict {
			keys = append(keys, key)
		}
	}
	return keys
}

// Conflicts are the addresses that somebody else has.
func (p *Prober) Conflicts() map[Key]Claim {
	all := make(map[Key]Claim)
	for key, c := range p.claims {
		if c.is.Conflict {
			all[key] = c.is
		}
	}
	return all
}

// Announce makes every address of a network known again: an interface returned, or has a new MAC.
func (p *Prober) Announce(vnet uint16, now time.Time) {
	for key, c := range p.claims {
		if key.VNet == vnet && c.is.Ours {
			c.sent, c.next = 0, now
		}
	}
}

// Heard takes an ARP packet: mac on the port with that slot said that it has sender, or (a
// probe of its own) wants target.
func (p *Prober) Heard(vnet uint16, slot uint16, sender, target netip.Addr, mac MAC, now time.Time) {
	ports := p.ports(vnet)
	var port Port
	for _, q := range ports {
		if q.MAC == mac {
			return // our own frame, come back by a bridge
		}
		if q.Slot == slot {
			port = q
		}
	}
	if c := p.claims[Key{vnet, sender}]; c != nil {
		p.contested(Key{vnet, sender}, c, port, mac, now)
	}
	// Two who probe one address at the same time both give way (RFC 5227, 2.1.1).
	if c := p.claims[Key{vnet, target}]; c != nil && sender.IsUnspecified() && !c.is.Ours && !c.is.Conflict {
		p.contested(Key{vnet, target}, c, port, mac, now)
	}
}

func (p *Prober) contested(key Key, c *claim, port Port, mac MAC, now time.Time) {
	if c.is.Ours {
		// RFC 5227, 2.4 (c): it is an address of a service, so it is defended and not given up.
		if now.Sub(c.defended) >= defendInterval {
			c.defended = now
			p.announce(key)
		}
		return
	}
	is := Claim{Conflict: true, Other: mac, Port: port}
	c.next = now.Add(conflictRetry)
	c.sent = 0
	if c.is != is {
		c.is = is
		p.changed(key, is)
	}
}

// Tick sends what is due and returns when it wants to be called again; zero = not before the next Set.
func (p *Prober) Tick(now time.Time) (next time.Time) {
	for key, c := range p.claims {
		if c.next.IsZero() {
			continue
		}
		if !c.next.After(now) {
			p.step(key, c, now)
		}
		if !c.next.IsZero() && (next.IsZero() || c.next.Before(next)) {
			next = c.next
		}
	}
	return next
}

func (p *Prober) step(key Key, c *claim, now time.Time) {
	ports := p.ports(key.VNet)
	if c.is.Ours {
		p.announce(key)
		c.sent++
		c.next = now.Add(announceInterval)
		if c.sent >= announceCount {
			c.next = time.Time{}
		}
		return
	}
	if c.sent < probeCount && len(ports) > 0 {
		for _, port := range ports {
			// A probe that is lost is one of three; an error is no different.
			_ = p.send(port, Request(port, Broadcast, netip.IPv4Unspecified(), key.Addr))
		}
		c.sent++
		c.next = now.Add(probeInterval)
		return
	}
	c.is = Claim{Ours: true}
	c.sent, c.next = 0, now
	p.changed(key, c.is)
	p.step(key, c, now)
}

func (p *Prober) announce(key Key) {
	for _, port := range p.ports(key.VNet) {
		_ = p.send(port, Announcement(port, key.Addr)) // see step
	}
}
