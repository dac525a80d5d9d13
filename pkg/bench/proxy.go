package bench

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/privlink/privlink/pkg/lab"
)

// proxyLane is a way to get connections to a backend with a PROXY header in front.
type proxyLane struct {
	*tcpLane
	conversation conversation
}

// ProxyPath compares ways to tell a backend who is calling: bulk, connections per second and
// latency, client, proxy and server all on one core.
func ProxyPath(ctx context.Context, net *lab.Lab, p Progress, r *Report, cpu, rounds, idle int, burst time.Duration, forwarders []Forwarder) error {
	var lanes []*proxyLane
	for _, f := range forwarders {
		p.Step("proxy: setting up %s", f.Name())
		l, err := newTCPLane(net, f)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }()
		lanes = append(lanes, &proxyLane{l, conversation{
			cpu: cpu, client: l.topology.Client.NS, server: l.topology.Server.NS,
			listen: netip.AddrPortFrom(firstServer, backendPort), target: l.target, header: f.Translation() != nil,
		}})
	}
	var fresh float64
	for _, f := range forwarders {
		if s, ok := f.(*Splice); ok {
			var err error
			if fresh, err = s.residentBytes(); err != nil {
				return err
			}
		}
	}
	for round := range rounds {
		for i := range lanes {
			l := lanes[(i+round)%len(lanes)]
			p.Step("proxy, round %d of %d: %s", round+1, rounds, l.name)
			if err := l.measure(ctx, burst); err != nil {
				return err
			}
		}
	}
	reportProxies(r, lanes)
	for i, l := range lanes {
		s, ok := forwarders[i].(*Splice)
		if !ok {
			continue
		}
		bytes, err := s.idle(ctx, l, p, fresh, idle)
		if err != nil {
			return err
		}
		r.Add("proxy.rss_bytes_per_idle_connection", bytes, "bytes", bytes, bytes, 1)
	}
	return nil
}

func (l *proxyLane) measure(ctx context.Context, burst time.Duration) error {
	for _, m := range []struct {
		what   string
		call   func(context.Context, time.Duration) (float64, error)
		series *Series
	}{
		{"bulk", l.conversation.bulk, &l.bulk},
		{"connections", l.conversation.connections, &l.rate},
		{"latency", l.conversation.latency, &l.latency},
	} {
		v, err := m.call(ctx, burst)
		if err != nil {
			return fmt.Errorf("%s through %s: %w", m.what, l.name, err)
		}
		*m.series = append(*m.series, v)
	}
	return nil
}

// nameProxyPrivlink is privlink's splice path.
const nameProxyPrivlink = "proxy privlink"

func reportProxies(r *Report, lanes []*proxyLane) {
	byName := make(map[string]*proxyLane)
	for _, l := range lanes {
		byName[l.name] = l
		gigabits := make(Series, len(l.bulk))
		for i, b := range l.bulk {
			gigabits[i] = b / 1e9
		}
		const section = "proxy, one core for client, proxy and server"
		r.costs = append(r.costs,
			costLine{section: section, name: l.name + ", bulk", times: gigabits, unit: "Gbit/s", largest: true},
			costLine{section: section, name: l.name + ", connections", times: l.rate, unit: "/s", largest: true},
			costLine{section: section, name: l.name + ", request/response", times: l.latency, unit: "us"})
	}
	ours := byName[nameProxyPrivlink]
	for _, other := range []string{"haproxy", "nginx"} {
		theirs := byName[other]
		if ours == nil || theirs == nil {
			continue
		}
		r.AddSeries("proxy.bulk_vs_"+other, ours.bulk.Max()/theirs.bulk.Max(), "ratio", ours.bulk.Over(theirs.bulk))
		r.AddSeries("proxy.cps_vs_"+other, ours.rate.Max()/theirs.rate.Max(), "ratio", ours.rate.Over(theirs.rate))
		// What the proxy adds to a request and its response on a direct way.
		if direct := byName[nameTCRedirect]; direct != nil {
			a, b := ours.latency.Above(direct.latency), theirs.latency.Above(direct.latency)
			r.AddSeries("proxy.latency_vs_"+other, (ours.latency.Min()-direct.latency.Min())/(theirs.latency.Min()-direct.latency.Min()), "ratio", a.Over(b))
		}
	}
}
