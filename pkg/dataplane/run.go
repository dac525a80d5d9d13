package dataplane

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"github.com/cilium/ebpf/ringbuf"
	"github.com/privlink/privlink/pkg/neigh"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// How often things are looked at without a reason. What no notification tells of (a pin deleted by
// hand, a program removed by another agent) is repaired within guardPoll; all of the interfaces are
// read again every devicePoll.
const (
	guardPoll  = time.Second
	devicePoll = 10 * time.Second
)

// begin starts the goroutines. They end with ctx or stop, and done waits for them.
func (d *Dataplane) begin(ctx context.Context) error {
	ctx, d.stop = context.WithCancel(ctx)
	events, err := ringbuf.NewReader(d.k.maps[mapEvents])
	if err != nil {
		d.stop()
		return fmt.Errorf("read map %s: %w", mapEvents, err)
	}
	features, err := d.ns.subscribeFeatures()
	if err != nil {
		d.stop()
		return errors.Join(err, events.Close())
	}
	changes := make(chan struct{}, 1)
	if err := d.watchDevices(ctx, features, changes); err != nil {
		d.stop()
		return errors.Join(err, events.Close())
	}
	d.done.Go(func() { d.readEvents(events) })
	d.done.Go(func() {
		<-ctx.Done()
		// Ends readEvents.
		_ = events.Close()
	})
	d.done.Go(func() { d.attend(ctx, changes) })
	d.done.Go(func() { d.sweepLoop(ctx) })
	return nil
}

// attend serves whatever has a time: probes, retries, changed interfaces.
func (d *Dataplane) attend(ctx context.Context, changes <-chan struct{}) {
	poll := time.NewTicker(devicePoll)
	defer poll.Stop()
	guard := time.NewTicker(guardPoll)
	defer guard.Stop()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		look := false
		select {
		case <-ctx.Done():
			return
		case <-poll.C:
			look = true
		case <-changes:
			look = true
		case <-guard.C:
			if look = d.guard(); !look {
				continue
			}
		case <-d.wakeups:
		case <-timer.C:
		}
		next := d.attendOnce(look)
		if next.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(max(0, next.Sub(d.clock())))
		}
	}
}

// attendOnce does what is due and says when the next thing is.
func (d *Dataplane) attendOnce(look bool) time.Time {
	var looked func() error
	if look {
		looked = d.lookAround()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return time.Time{}
	}
	if look {
		clear(d.others)
		clear(d.probed)
		if err := looked(); err != nil {
			d.log.WithError(err).Warn("looking at the interfaces")
		} else {
			d.dirty = true
		}
	}
	now := d.clock()
	if d.dirty && !now.Before(d.pause) {
		d.dirty = false
		d.again()
		end := d.clock()
		d.pause = end.Add(min(againShare*end.Sub(now), againSlowest))
		now = end
	}
	next := earlier(d.resolver.Tick(now), d.prober.Tick(now))
	if d.dirty {
		next = earlier(next, d.pause)
	}
	return next
}

// What the network says (a neighbour that keeps changing its MAC, made-up conflicts) applies the State again; so
// that it cannot keep the daemon busy, that takes a fifth of a processor at most, but never waits longer
// than againSlowest.
const (
	againShare   = 4
	againSlowest = 200 * time.Millisecond
)

// earlier is the earlier of two times; zero is never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// wake makes attend look what is due.
func (d *Dataplane) wake() { poke(d.wakeups) }

// poke leaves a message in a channel that has room for one, unless one is there.
func poke(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// readEvents takes what the packet programs report, until the reader is closed.
func (d *Dataplane) readEvents(reader *ringbuf.Reader) {
	var record ringbuf.Record
	for {
		err := reader.ReadInto(&record)
		if errors.Is(err, ringbuf.ErrClosed) || errors.Is(err, os.ErrClosed) {
			return
		}
		if err != nil {
			d.log.WithError(err).Error("reading events of the packet programs")
			return
		}
		var e bpfEvent
		if _, err := binary.Decode(record.RawSample, binary.NativeEndian, &e); err != nil {
			d.log.WithError(err).Error("reading events of the packet programs")
			continue
		}
		switch bpfEventType(e.Type) {
		case bpfEventTypeEVENT_ARP:
			d.heard(e)
		case bpfEventTypeEVENT_SWEEP:
			poke(d.sweeper)
		}
	}
}

// heard takes an ARP packet.
func (d *Dataplane) heard(e bpfEvent) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return
	}
	sender, target, mac, now := fromNetOrder(e.SenderIp), fromNetOrder(e.TargetIp), neigh.MAC(e.Mac), d.clock()
	if sender != netip.IPv4Unspecified() {
		d.resolver.Heard(e.Vnet, e.Out, sender, mac, now)
	}
	d.prober.Heard(e.Vnet, e.Out, sender, target, mac, now)
	if d.dirty {
		d.wake()
	}
}

// Groups of rtnetlink(7) that tell of what is attached to: interfaces, filters and the host's addresses.
var watchedGroups = []uint{unix.RTNLGRP_LINK, unix.RTNLGRP_TC, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR}

// watchDevices lets changes know of every change of an interface, a filter, an address or an interface's xdp-features.
func (d *Dataplane) watchDevices(ctx context.Context, features *nl.NetlinkSocket, changes chan<- struct{}) error {
	var routes *nl.NetlinkSocket
	err := d.ns.do(func() (err error) {
		routes, err = nl.Subscribe(unix.NETLINK_ROUTE, watchedGroups...)
		return err
	})
	if err != nil {
		return fmt.Errorf("watch interfaces: %w", err)
	}
	for _, socket := range []*nl.NetlinkSocket{routes, features} {
		if socket == nil {
			continue
		}
		d.done.Go(func() {
			<-ctx.Done()
			socket.Close()
		})
		d.done.Go(func() { d.watch(ctx, socket, func() { poke(changes) }) })
	}
	return nil
}

// watch calls changed for every message, until ctx ends. An overrun loses messages, not what they tell of:
// it is one more reason to look.
func (d *Dataplane) watch(ctx context.Context, socket *nl.NetlinkSocket, changed func()) {
	for {
		_, _, err := socket.Receive()
		if ctx.Err() != nil {
			return
		}
		changed()
		switch {
		case errors.Is(err, unix.ENOBUFS):
			d.log.Info("the kernel had more news of interfaces than fit; reading all of them again")
		case err != nil:
			d.log.WithError(err).Error("watching interfaces (they are polled all the same)")
			return
		}
	}
}
