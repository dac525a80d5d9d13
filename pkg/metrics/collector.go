package metrics

import (
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"github.com/privlink/privlink/pkg/dataplane"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Source is where the numbers come from; *dataplane.Dataplane is one.
type Source interface {
	LinkStats() ([]dataplane.LinkStats, error)
	ReasonStats() ([]dataplane.ReasonStats, error)
	Ports() ([]dataplane.PortUse, error)
	MapUse() ([]dataplane.MapUse, error)
	Sweep() (ended time.Time, count uint64, last dataplane.SweepStats)
	Result() dataplane.Result
}

// Collector is a prometheus.Collector over a Source.
type Collector struct {
	source Source
	now    func() time.Time
}

// New returns a Collector; now is the clock the sweep's age is measured by.
func New(source Source, now func() time.Time) *Collector {
	return &Collector{source: source, now: now}
}

// Handler answers scrapes with the Source's numbers and those of more collectors.
func Handler(source Source, now func() time.Time, more ...prometheus.Collector) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(New(source, now))
	for _, c := range more {
		registry.MustRegister(c)
	}
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{ErrorHandling: promhttp.HTTPErrorOnError})
}

var (
	link    = []string{"link", "link_id", "service"}
	flow    = []string{"link", "link_id", "service", "direction"}
	service = []string{"service", "direction"}
	ports   = []string{"network", "nat_ip", "backend", "protocol"}

	linkBytes     = desc("link_bytes_total", "Bytes of IP packets a link carried; direction in is from the client.", flow)
	linkPackets   = desc("link_packets_total", "Packets a link carried; direction in is from the client.", flow)
	linkFlows     = desc("link_flows", "Flows of a link that are open or not yet swept.", link)
	linkFlowLimit = desc("link_flows_limit", "Flows a link may have.", link)
	linkOpened    = desc("link_flows_opened_total", "Flows a link opened.", link)
	linkRefused   = desc("link_flows_refused_total", "Flows a link was refused.", link)
	linkDropped   = desc("link_packets_dropped_total", "Packets of a link that were not forwarded.", link)

	serviceBytes   = desc("service_bytes_total", "Bytes of IP packets all links of a service carried; direction in is from the clients.", service)
	servicePackets = desc("service_packets_total", "Packets all links of a service carried; direction in is from the clients.", service)
	serviceFlows   = desc("service_flows", "Flows of all links of a service.", []string{"service"})

	natPorts     = desc("nat_ports_used", "Ports of a NAT IP taken towards one backend, resting ones included.", ports)
	natResting   = desc("nat_ports_resting", "Ports of a NAT IP that rest after a flow.", ports)
	natPortLimit = desc("nat_ports_limit", "Ports a NAT IP has towards one backend.", nil)

	reasonPackets = desc("packets_by_reason_total", "Packets that did not simply go through, by reason.", []string{"reason"})
	reasonBytes   = desc("bytes_by_reason_total", "Bytes of frames that did not simply go through, by reason.", []string{"reason"})

	mapUsed  = desc("map_entries_used", "Entries of a map that are in use.", []string{"map"})
	mapLimit = desc("map_entries_limit", "Entries a map has.", []string{"map"})

	sweepAge    = desc("sweep_age_seconds", "Time since the flow table was last swept as a whole; absent before the first time.", nil)
	sweeps      = desc("sweeps_total", "Complete sweeps of the flow table.", nil)
	sweepFound  = desc("sweep_entries", "What the last complete sweep saw.", []string{"kind"})
	revision    = desc("revision_applied", "Revision of the configuration that the kernel has.", nil)
	conflicts   = desc("address_conflicts", "Addresses of privlink that somebody else on the network has.", nil)
	unresolved  = desc("unresolved_backends", "Backends for whose address nobody answers.", nil)
	attachments = desc("attachment_up", "1 if the attachment carries traffic.", []string{"network", "interface", "vlan", "hook", "mode"})
)

func desc(name, help string, labels []string) *prometheus.Desc {
	return prometheus.NewDesc("privlink_"+name, help, labels, nil)
}

// Describe implements prometheus.Collector.
func (c *Collector) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		linkBytes, linkPackets, linkFlows, linkFlowLimit, linkOpened, linkRefused, linkDropped,
		serviceBytes, servicePackets, serviceFlows, natPorts, natResting, natPortLimit, reasonPackets, reasonBytes,
		mapUsed, mapLimit, sweepAge, sweeps, sweepFound, revision, conflicts, unresolved, attachments,
	} {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (c *Collector) Collect(to chan<- prometheus.Metric) {
	for _, part := range []struct {
		on      *prometheus.Desc
		collect func(emit) error
	}{
		{linkBytes, c.links}, {reasonPackets, c.reasons}, {natPorts, c.ports}, {mapUsed, c.maps}, {sweeps, c.state},
	} {
		if err := part.collect(emit{to}); err != nil {
			to <- prometheus.NewInvalidMetric(part.on, err)
		}
	}
}

type emit struct{ to chan<- prometheus.Metric }

func (e emit) counter(d *prometheus.Desc, v uint64, labels ...string) {
	e.to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
}

func (e emit) gauge(d *prometheus.Desc, v float64, labels ...string) {
	e.to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func (c *Collector) links(e emit) error {
	links, err := c.source.LinkStats()
	if err != nil {
		return err
	}
	sums := make(map[string]*dataplane.LinkStats)
	for _, l := range links {
		labels := []string{l.Link, strconv.FormatUint(uint64(l.ID), 10), l.RuleSet}
		e.counter(linkBytes, l.BytesIn, append(labels, "in")...)
		e.counter(linkBytes, l.BytesOut, append(labels, "out")...)
		e.counter(linkPackets, l.PacketsIn, append(labels, "in")...)
		e.counter(linkPackets, l.PacketsOut, append(labels, "out")...)
		e.gauge(linkFlows, float64(l.Flows), labels...)
		e.gauge(linkFlowLimit, float64(l.MaxFlows), labels...)
		e.counter(linkOpened, l.Opened, labels...)
		e.counter(linkRefused, l.Refused, labels...)
		e.counter(linkDropped, l.Dropped, labels...)
		if l.ID == 0 {
			continue // a frontend in its own network is no service
		}
		s := sums[l.RuleSet]
		if s == nil {
			s = &dataplane.LinkStats{}
			sums[l.RuleSet] = s
		}
		s.BytesIn += l.BytesIn
		s.BytesOut += l.BytesOut
		s.PacketsIn += l.PacketsIn
		s.PacketsOut += l.PacketsOut
		s.Flows += l.Flows
	}
	for name, s := range sums {
		e.counter(serviceBytes, s.BytesIn, name, "in")
		e.counter(serviceBytes, s.BytesOut, name, "out")
		e.counter(servicePackets, s.PacketsIn, name, "in")
		e.counter(servicePackets, s.PacketsOut, name, "out")
		e.gauge(serviceFlows, float64(s.Flows), name)
	}
	return nil
}

func (c *Collector) reasons(e emit) error {
	reasons, err := c.source.ReasonStats()
	if err != nil {
		return err
	}
	for _, r := range reasons {
		e.counter(reasonPackets, r.Packets, r.Label)
		e.counter(reasonBytes, r.Bytes, r.Label)
	}
	return nil
}

func (c *Collector) ports(e emit) error {
	uses, err := c.source.Ports()
	if err != nil {
		return err
	}
	e.gauge(natPortLimit, float64(dataplane.PortsPerDomain))
	type domain struct {
		network  string
		nat      netip.Addr
		backend  netip.AddrPort
		protocol dataplane.Protocol
	}
	seen := make(map[domain]bool, len(uses))
	for _, u := range uses {
		// A network that was removed and made again has two numbers until its flows are gone.
		key := domain{u.Network, u.NAT, u.Backend, u.Protocol}
		if seen[key] {
			continue
		}
		seen[key] = true
		labels := []string{u.Network, u.NAT.String(), u.Backend.String(), protocolName(u.Protocol)}
		e.gauge(natPorts, float64(u.Used), labels...)
		e.gauge(natResting, float64(u.Resting), labels...)
	}
	return nil
}

func protocolName(p dataplane.Protocol) string {
	switch p {
	case dataplane.ProtocolTCP:
		return "tcp"
	case dataplane.ProtocolUDP:
		return "udp"
	}
	return strconv.Itoa(int(p))
}

func (c *Collector) maps(e emit) error {
	uses, err := c.source.MapUse()
	if err != nil {
		return err
	}
	for _, u := range uses {
		e.gauge(mapUsed, float64(u.Used), u.Map)
		e.gauge(mapLimit, float64(u.Max), u.Map)
	}
	return nil
}

func (c *Collector) state(e emit) error {
	ended, count, last := c.source.Sweep()
	e.counter(sweeps, count)
	if !ended.IsZero() {
		e.gauge(sweepAge, c.now().Sub(ended).Seconds())
	}
	for kind, n := range map[string]uint32{
		"live": last.Live, "dead": last.Dead, "idle": last.Killed, "ended": last.Ended,
		"freed": last.Freed, "orphan": last.Orphans, "unanswered": last.Unanswered,
	} {
		e.gauge(sweepFound, float64(n), kind)
	}
	r := c.source.Result()
	e.gauge(revision, float64(r.Revision))
	e.gauge(conflicts, float64(len(r.Conflicts)))
	e.gauge(unresolved, float64(len(r.Unresolved)))
	for _, a := range r.Attachments {
		up := 1.0
		if a.Err != nil {
			up = 0
		}
		e.gauge(attachments, up, a.Network, a.Attachment.Interface, strconv.Itoa(int(a.Attachment.VLAN)), a.Hook, string(a.Mode))
	}
	return nil
}
