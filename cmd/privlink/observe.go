package main

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/dataplane"
	"github.com/privlink/privlink/pkg/doctor"
	"github.com/privlink/privlink/pkg/server"
)

// A sweep that ended longer ago than this, or a map fuller than this, degrades the status.
const (
	sweepLate = 15 * time.Second
	mapFull   = 90 // percent
)

// Status implements server.Observer.
func (d *daemon) Status(context.Context) (api.Status, error) {
	control := d.controller.Status()
	status := api.Status{
		Version: version, Started: d.started, WantedRevision: control.Wanted, AppliedRevision: control.Applied,
		Interfaces: []api.InterfaceStatus{}, Maps: []api.MapStatus{},
	}
	degraded := func(format string, args ...any) {
		status.Degraded = true
		status.Problems = append(status.Problems, fmt.Sprintf(format, args...))
	}
	if err := d.kept.Check(); err != nil {
		degraded("nothing is written: %v", err)
	}
	if control.Err != nil {
		degraded("revision %d is not applied: %v", control.Wanted, control.Err)
	}
	for _, a := range control.Result.Attachments {
		i := api.InterfaceStatus{
			Network: a.Network, Interface: a.Attachment.Interface, VLAN: a.Attachment.VLAN, Hook: a.Hook, Mode: string(a.Mode), Why: a.Why, Asked: string(a.Attachment.Mode),
			MTU: a.MTU, TakesXDP: a.TakesXDP, Down: a.Down, Others: a.Others, Warnings: a.Warnings,
		}
		if len(a.MAC) > 0 {
			i.MAC = a.MAC.String()
		}
		if a.Err != nil {
			i.Error = a.Err.Error()
			degraded("interface %s carries no traffic: %v", a.Attachment.Interface, a.Err)
		} else if a.Down {
			degraded("interface %s carries no traffic: it is down (ip link set dev %[1]s up)", a.Attachment.Interface)
		}
		status.Interfaces = append(status.Interfaces, i)
	}
	for _, f := range control.Result.Failed {
		status.LeftOut = append(status.LeftOut, api.LeftOut{ID: f.Key, Reason: f.Reason})
		degraded("%s is not in the kernel as it should be: %s", f.Key, f.Reason)
	}
	for _, c := range control.Result.Conflicts {
		status.Conflicts = append(status.Conflicts, api.AddressConflict{Network: c.Network, Address: c.Addr.String(), MAC: c.MAC.String(), Interface: c.Interface})
		degraded("%s of %s is in use by %s on %s", c.Addr, lastOf(c.Network), c.MAC, c.Interface)
	}
	for _, u := range control.Result.Unresolved {
		status.Unresolved = append(status.Unresolved, api.UnresolvedBackend{Network: u.Network, Address: u.Addr.String(), Missing: string(u.Missing), Why: u.Why, Asking: u.Asking})
		if !u.Asking {
			status.Warnings = append(status.Warnings, fmt.Sprintf("backend %s of %s cannot be reached: %s", u.Addr, lastOf(u.Network), u.Why))
		}
	}
	limits := d.inside.splice.Capacity()
	status.Proxied = api.ProxiedStatus{Connections: d.inside.splice.Stats().Active, Limit: limits.Connections, LinkLimit: limits.PerLink}
	tables, err := d.plane.MapUse()
	if err != nil {
		return status, err
	}
	for _, m := range tables {
		status.Maps = append(status.Maps, api.MapStatus{Name: m.Map, Noun: m.Noun, Used: uint64(m.Used), Size: uint64(m.Max)})
		if m.Noun == "flows" {
			status.Flows += uint64(m.Used)
		}
		if uint64(m.Used)*100 > uint64(m.Max)*mapFull {
			degraded("map %s holds %d of %d %s", m.Map, m.Used, m.Max, m.Noun)
		}
	}
	swept, _, _ := d.plane.Sweep()
	since := time.Since(d.started)
	if !swept.IsZero() {
		since = time.Since(swept)
	}
	status.SweepAgeSeconds = since.Seconds()
	if since > sweepLate {
		degraded("the flow table was last swept %s ago", since.Round(time.Second))
	}
	return status, nil
}

// Flows implements server.Observer.
func (d *daemon) Flows(ctx context.Context, yield func(server.Flow) bool) error {
	return d.plane.Flows(ctx, func(f dataplane.Flow) bool {
		if f.Inner {
			return true // probes and second legs: nobody's conversation
		}
		flow := server.Flow{Network: f.Network, Link: f.Link, RuleSet: f.RuleSet}
		flow.Flow = api.Flow{
			Protocol: protocolName(f.Protocol), State: string(f.Phase),
			Client: f.Client.String(), Endpoint: f.Endpoint.String(), NAT: f.NAT.String(), Backend: f.Backend.String(),
			LinkID: f.LinkID, EndpointName: f.Link, Service: f.RuleSet, IdleSeconds: f.Age, Slot: f.Slot, TwinSlot: f.Twin,
		}
		return yield(flow)
	})
}

func protocolName(p dataplane.Protocol) string {
	switch p {
	case dataplane.ProtocolTCP:
		return "tcp"
	case dataplane.ProtocolUDP:
		return "udp"
	}
	return "all"
}

// auditTries is how often the tables are compared before a disagreement counts: packets change them meanwhile.
const auditTries = 3

// Audit implements server.Observer. What is wrong is wrong every time.
func (d *daemon) Audit(ctx context.Context) (api.Audit, error) {
	leaks, err := d.plane.Audit(ctx)
	for try := 1; err == nil && len(leaks) > 0 && try < auditTries; try++ {
		var again []dataplane.Leak
		again, err = d.plane.Audit(ctx)
		leaks = slices.DeleteFunc(leaks, func(l dataplane.Leak) bool { return !slices.Contains(again, l) })
	}
	audit := api.Audit{Disagreements: []api.Disagreement{}}
	for _, l := range leaks {
		x := api.Disagreement{What: l.What, Endpoint: l.Link, Have: l.Have, Due: l.Due}
		if l.Link == "" {
			x.NAT, x.Backend, x.Protocol = l.NAT.String(), l.Backend.String(), protocolName(l.Protocol)
		}
		audit.Disagreements = append(audit.Disagreements, x)
	}
	return audit, err
}

// Examine implements server.Observer.
func (d *daemon) Examine(context.Context) (api.Examination, error) {
	check := api.Examination{
		Inner: d.inside.network.Interface(), SocketMode: uint32(d.socketMode), BPFFS: d.bpffs, PrivateBPFFS: d.private, StateDir: d.stateDir,
		Differences: []api.KernelDifference{}, Pins: []api.PinTrouble{}, Detached: []string{}, Before: map[string][]string{}, After: map[string][]string{}, Ports: []api.ScarcePorts{},
	}
	var err error
	if check.NetworkNamespace, err = doctor.NetworkNamespace(); err != nil {
		return check, err
	}
	if err := d.kept.Check(); err != nil {
		check.Store = err.Error()
	}
	differences, err := d.plane.Differences()
	if err != nil {
		return check, err
	}
	for _, x := range differences {
		check.Differences = append(check.Differences, api.KernelDifference{Object: x.Object, Have: x.Have, Want: x.Want})
	}
	pins, err := d.plane.Pins()
	if err != nil {
		return check, err
	}
	for _, p := range pins {
		check.Pins = append(check.Pins, api.PinTrouble{Path: p.Path, Why: string(p.Why)})
	}
	attached, err := d.plane.LookAtAttached()
	if err != nil {
		return check, err
	}
	for _, a := range attached {
		if a.Detached {
			check.Detached = append(check.Detached, a.Interface)
		}
		if len(a.Before) > 0 {
			check.Before[a.Interface] = a.Before
		}
		if len(a.After) > 0 {
			check.After[a.Interface] = a.After
		}
	}
	check.Ports, err = d.scarcePorts()
	return check, err
}

// scarcePorts are the fullest port domains of each rule set, all of its sources' that take new flows together.
func (d *daemon) scarcePorts() ([]api.ScarcePorts, error) {
	uses, err := d.plane.Ports()
	if err != nil {
		return nil, err
	}
	owners, sizes := make(map[dataplane.Address]string), make(map[string]uint64)
	for _, set := range d.inside.applied().RuleSets {
		for _, s := range set.Sources {
			if !s.Draining {
				owners[dataplane.Address{Network: set.Network, Addr: s.Addr}] = set.Key
				sizes[set.Key] += uint64(dataplane.PortsPerDomain)
			}
		}
	}
	type towards struct {
		owner    string
		backend  netip.AddrPort
		protocol dataplane.Protocol
	}
	used, fullest := make(map[towards]uint64), make(map[string]towards)
	for _, use := range uses {
		owner := owners[dataplane.Address{Network: use.Network, Addr: use.NAT}]
		if owner == "" {
			continue // it drains, or is the inner network's
		}
		at := towards{owner, use.Backend, use.Protocol}
		used[at] += uint64(use.Used)
		if used[at] >= used[fullest[owner]] {
			fullest[owner] = at
		}
	}
	list := make([]api.ScarcePorts, 0, len(fullest))
	for owner, at := range fullest {
		list = append(list, api.ScarcePorts{ID: owner, Protocol: protocolName(at.protocol), Backend: at.backend.String(), Used: used[at], Size: sizes[owner]})
	}
	slices.SortFunc(list, func(a, b api.ScarcePorts) int { return strings.Compare(a.ID, b.ID) })
	return list, nil
}

// Repair implements server.Observer.
func (d *daemon) Repair(ctx context.Context) error { return d.plane.Repair(ctx) }

// Ports implements server.Observer.
func (d *daemon) Ports(context.Context) ([]server.Ports, error) {
	domains, err := d.plane.Ports()
	if err != nil {
		return nil, err
	}
	var ports []server.Ports
	for _, domain := range domains {
		p := server.Ports{Network: domain.Network}
		p.PortUse = api.PortUse{
			Address: domain.NAT.String(), Protocol: protocolName(domain.Protocol), Backend: domain.Backend.String(),
			Used: domain.Used, Size: dataplane.PortsPerDomain,
		}
		ports = append(ports, p)
	}
	return ports, nil
}

// Backends implements server.Observer.
func (d *daemon) Backends(_ context.Context, loadBalancer string) ([]api.BackendHealth, error) {
	return d.inside.backends(loadBalancer, d.plane.Result().Unresolved), nil
}
