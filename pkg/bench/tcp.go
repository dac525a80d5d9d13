package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"strconv"
	"time"

	"github.com/privlink/privlink/pkg/lab"
)

// tcpLane is a forwarder between two kernels that speak TCP.
type tcpLane struct {
	name     string
	topology *Topology
	target   netip.AddrPort // what the client connects to
	bulk     Series         // bit/s
	rate     Series         // connections/s
	latency  Series         // us per request and response, median of a round
}

// clientAddresses is how many addresses the client connects from, so that no port has to
// wait for its TIME_WAIT: 64 x 60,000 connections a minute.
const clientAddresses = 64

// newTCPLane sets a forwarder up between a client and a server with the kernel's default
// offloads. Behind a bare redirect the two see each other's addresses.
func newTCPLane(net *lab.Lab, f Forwarder) (*tcpLane, error) {
	name := hyphens("tcp " + f.Name())
	t := NewTopology(net, name, lab.EndOptions{})
	l := &tcpLane{name: f.Name(), topology: t, target: endpoint}
	toServer, toClient := t.GatewayClient.MAC, t.GatewayServer.MAC
	if f.Translation() == nil {
		l.target = netip.AddrPortFrom(firstServer, backendPort)
		toServer, toClient = t.Server.MAC, t.Client.MAC
	}
	client, server := t.Client.NS, t.Server.NS
	client.Addr(t.Client.Name, "169.254.1.2/30")
	server.Addr(t.Server.Name, "169.254.2.2/30")
	for i := range clientAddresses {
		client.Addr(t.Client.Name, clientAddress(i).String()+"/32")
	}
	server.Addr(t.Server.Name, firstServer.String()+"/32")
	if err := neighbour(t.Client, "169.254.1.1", toServer); err != nil {
		return nil, err
	}
	if err := neighbour(t.Server, "169.254.2.1", toClient); err != nil {
		return nil, err
	}
	client.Route("0.0.0.0/0", "169.254.1.1")
	server.Route("0.0.0.0/0", "169.254.2.1")
	// Whoever closes first keeps its port for a minute, which a proxy with 14,000 connections a second
	// has not got: all ports, and those of closed connections again after a second.
	for _, ns := range []*lab.Namespace{client, t.Gateway()} {
		ns.Sysctl("net.ipv4.ip_local_port_range", "1024 65535")
		ns.Sysctl("net.ipv4.tcp_tw_reuse", "1")
	}
	if err := f.Up(t); err != nil {
		return nil, fmt.Errorf("set up %s: %w", l.name, err)
	}
	return l, nil
}

func clientAddress(i int) netip.Addr { return addr(hostOrder(firstClient) + 1 + uint32(i)) }

// TCP measures real connections through forwarders: bulk with offloads, connect-request-close
// and request/response. Client and server share the core.
func TCP(ctx context.Context, net *lab.Lab, p Progress, r *Report, cpu, rounds int, burst time.Duration, forwarders []Forwarder) error {
	var lanes []*tcpLane
	for _, f := range forwarders {
		p.Step("tcp: setting up %s", f.Name())
		l, err := newTCPLane(net, f)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }()
		iperf := l.topology.Server.NS.Start(ctx, "nice", "-n", "-20", "taskset", "-c", strconv.Itoa(cpu), "iperf3", "-s", "-p", strconv.Itoa(int(backendPort)))
		l.topology.Server.NS.WaitListening("tcp", int(backendPort))
		defer iperf.Stop()
		lanes = append(lanes, l)
	}
	for round := range rounds {
		for i := range lanes {
			l := lanes[(i+round)%len(lanes)]
			p.Step("tcp bulk, round %d of %d: %s", round+1, rounds, l.name)
			rate, err := l.iperf(ctx, cpu, max(burst, time.Second))
			if err != nil {
				return err
			}
			l.bulk = append(l.bulk, rate)
		}
	}
	for round := range rounds {
		for i := range lanes {
			l := lanes[(i+round)%len(lanes)]
			p.Step("tcp connections and latency, round %d of %d: %s", round+1, rounds, l.name)
			if err := l.talk(ctx, cpu, burst); err != nil {
				return err
			}
		}
	}
	reportTCP(r, lanes)
	return nil
}

// iperf sends one stream for some seconds and returns the bit/s of the best tenth of a second, the
// first, in which the window opens, not counted.
func (l *tcpLane) iperf(ctx context.Context, cpu int, d time.Duration) (float64, error) {
	out, err := l.topology.Client.NS.Run(ctx, "nice", "-n", "-20", "taskset", "-c", strconv.Itoa(cpu), "iperf3", "-J", "-c", l.target.Addr().String(),
		"-p", strconv.Itoa(int(l.target.Port())), "-t", strconv.Itoa(int(d.Seconds())), "-i", "0.1", "-B", clientAddress(0).String())
	if err != nil {
		return 0, fmt.Errorf("iperf3 through %s: %w", l.name, err)
	}
	var result struct {
		Intervals []struct {
			Sum struct {
				Seconds       float64 `json:"seconds"`
				BitsPerSecond float64 `json:"bits_per_second"`
			} `json:"sum"`
		} `json:"intervals"`
	}
	if err := json.Unmarshal([]byte(out), &result); err != nil {
		return 0, fmt.Errorf("iperf3 through %s: %w", l.name, err)
	}
	var best float64
	for i, t := range result.Intervals {
		// The last one may be a remainder of some microseconds.
		if i > 0 && t.Sum.Seconds > 0.09 {
			best = max(best, t.Sum.BitsPerSecond)
		}
	}
	if best == 0 {
		return 0, fmt.Errorf("iperf3 through %s: nothing sent", l.name)
	}
	return best, nil
}

// conversation is one through the forwarder, to the port behind that of iperf3.
func (l *tcpLane) conversation(cpu int) *conversation {
	return &conversation{
		cpu: cpu, client: l.topology.Client.NS, server: l.topology.Server.NS,
		listen: netip.AddrPortFrom(firstServer, backendPort+1), target: netip.AddrPortFrom(l.target.Addr(), l.target.Port()+1),
	}
}

// talk measures connections per second, then the latency of an open connection.
func (l *tcpLane) talk(ctx context.Context, cpu int, d time.Duration) error {
	c := l.conversation(cpu)
	rate, err := c.connections(ctx, d)
	if err != nil {
		return fmt.Errorf("connections through %s: %w", l.name, err)
	}
	latency, err := c.latency(ctx, d)
	if err != nil {
		return fmt.Errorf("request and response through %s: %w", l.name, err)
	}
	l.rate, l.latency = append(l.rate, rate), append(l.latency, latency)
	return nil
}

func reportTCP(r *Report, lanes []*tcpLane) {
	byName := make(map[string]*tcpLane)
	for _, l := range lanes {
		byName[l.name] = l
		gigabits := make(Series, len(l.bulk))
		for i, b := range l.bulk {
			gigabits[i] = b / 1e9
		}
		const section = "tcp, one core for both ends (bulk and rate: the largest counts)"
		r.costs = append(r.costs,
			costLine{section: section, name: l.name + ", bulk (iperf3)", times: gigabits, unit: "Gbit/s", largest: true},
			costLine{section: section, name: l.name + ", connect-request-close", times: l.rate, unit: "/s", largest: true, note: "8 NAT IPs"},
			costLine{section: section, name: l.name + ", request/response", times: l.latency, unit: "us"})
	}
	for _, m := range []struct {
		name, a, b string
		series     func(*tcpLane) Series
	}{
		{"tcp.bulk_vs_bare_tc", nameTCPrivlink, nameTCRedirect, func(l *tcpLane) Series { return l.bulk }},
		{"tcp.bulk_vs_nftables", nameTCPrivlink, nameNftables, func(l *tcpLane) Series { return l.bulk }},
		{"tcp.crr_vs_bare_tc", nameTCPrivlink, nameTCRedirect, func(l *tcpLane) Series { return l.rate }},
		{"tcp.crr_vs_nftables", nameTCPrivlink, nameNftables, func(l *tcpLane) Series { return l.rate }},
		{"tcp.bare_tc_crr_vs_nftables", nameTCRedirect, nameNftables, func(l *tcpLane) Series { return l.rate }},
	} {
		if a, b := byName[m.a], byName[m.b]; a != nil && b != nil {
			x, y := m.series(a), m.series(b)
			r.AddSeries(m.name, x.Max()/y.Max(), "ratio", x.Over(y))
		}
	}
	if a, b := byName[nameTCPrivlink], byName[nameTCRedirect]; a != nil && b != nil {
		r.AddSeries("tcp.latency_vs_bare_tc", a.latency.Min()/b.latency.Min(), "ratio", a.latency.Over(b.latency))
	}
}
