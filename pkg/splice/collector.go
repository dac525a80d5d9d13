package splice

import "github.com/prometheus/client_golang/prometheus"

// metric is one number of Stats as Prometheus shows it.
type metric struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	label []string
	value func(*Stats) uint64
}

var (
	ended   = prometheus.NewDesc("privlink_proxy_connections_ended_total", "Proxied connections that ended, by how.", []string{"how"}, nil)
	refused = prometheus.NewDesc("privlink_proxy_connections_refused_total", "Connections that were reset before a backend served them, by why.", []string{"why"}, nil)
	dials   = prometheus.NewDesc("privlink_proxy_dials_failed_total", "Attempts to reach a backend that failed, by how.", []string{"how"}, nil)
	carried = prometheus.NewDesc("privlink_proxy_bytes_total", "Bytes carried; direction in is from the consumers.", []string{"direction"}, nil)
)

var metrics = []metric{
	{prometheus.NewDesc("privlink_proxy_connections", "Proxied connections now.", nil, nil), prometheus.GaugeValue, nil, func(s *Stats) uint64 { return s.Active }},
	{prometheus.NewDesc("privlink_proxy_pipes", "Pipes that exist, in use or kept ready.", nil, nil), prometheus.GaugeValue, nil, func(s *Stats) uint64 { return s.Pipes }},
	{prometheus.NewDesc("privlink_proxy_sockets_ready", "Sockets kept ready for connections to backends.", nil, nil), prometheus.GaugeValue, nil, func(s *Stats) uint64 { return s.Sockets }},
	{prometheus.NewDesc("privlink_proxy_connections_opened_total", "Proxied connections whose header was written.", nil, nil), prometheus.CounterValue, nil, func(s *Stats) uint64 { return s.Opened }},
	{ended, prometheus.CounterValue, []string{"finished"}, func(s *Stats) uint64 { return s.Finished }},
	{ended, prometheus.CounterValue, []string{"reset"}, func(s *Stats) uint64 { return s.Reset }},
	{ended, prometheus.CounterValue, []string{"idle"}, func(s *Stats) uint64 { return s.Idle }},
	{ended, prometheus.CounterValue, []string{"cut"}, func(s *Stats) uint64 { return s.Cut }},
	{refused, prometheus.CounterValue, []string{"unknown"}, func(s *Stats) uint64 { return s.Unknown }},
	{refused, prometheus.CounterValue, []string{"limit"}, func(s *Stats) uint64 { return s.Limited }},
	{refused, prometheus.CounterValue, []string{"link_limit"}, func(s *Stats) uint64 { return s.LinkLimited }},
	{refused, prometheus.CounterValue, []string{"no_backend"}, func(s *Stats) uint64 { return s.NoBackend }},
	{prometheus.NewDesc("privlink_proxy_bytes_spliced_total", "Of the bytes carried, those that were never copied to user space.", nil, nil), prometheus.CounterValue, nil, func(s *Stats) uint64 { return s.Spliced }},
	{dials, prometheus.CounterValue, []string{"refused"}, func(s *Stats) uint64 { return s.DialFailed }},
	{dials, prometheus.CounterValue, []string{"timeout"}, func(s *Stats) uint64 { return s.DialTimedOut }},
	{carried, prometheus.CounterValue, []string{"in"}, func(s *Stats) uint64 { return s.BytesIn }},
	{carried, prometheus.CounterValue, []string{"out"}, func(s *Stats) uint64 { return s.BytesOut }},
}

// Describe implements prometheus.Collector.
func (s *Server) Describe(to chan<- *prometheus.Desc) { prometheus.DescribeByCollect(s, to) }

// Collect implements prometheus.Collector.
func (s *Server) Collect(to chan<- prometheus.Metric) {
	stats := s.Stats()
	for _, m := range metrics {
		to <- prometheus.MustNewConstMetric(m.desc, m.kind, float64(m.value(&stats)), m.label...)
	}
}
