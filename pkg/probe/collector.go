package probe

import "github.com/prometheus/client_golang/prometheus"

// labels of the metrics: the check's key, and where it goes.
var labels = []string{"check", "backend", "kind"}

var (
	healthy = prometheus.NewDesc("privlink_probe_healthy", "1 if the probe's verdict on the backend is healthy, else 0.", labels, nil)
	seconds = prometheus.NewDesc("privlink_probe_duration_seconds", "How long the last probe took.", labels, nil)
	results = prometheus.NewDesc("privlink_probe_results_total", "Probes by result.", append([]string{"result"}, labels...), nil)
)

// Describe implements prometheus.Collector.
func (p *Prober) Describe(to chan<- *prometheus.Desc) {
	to <- healthy
	to <- seconds
	to <- results
}

// Collect implements prometheus.Collector.
func (p *Prober) Collect(to chan<- prometheus.Metric) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for key, e := range p.entries {
		if !e.history.known {
			continue
		}
		values := []string{key, e.check.To.Target.String(), e.check.Kind.String()}
		up := 0.0
		if e.result.Healthy {
			up = 1
		}
		to <- prometheus.MustNewConstMetric(healthy, prometheus.GaugeValue, up, values...)
		to <- prometheus.MustNewConstMetric(seconds, prometheus.GaugeValue, e.result.Took.Seconds(), values...)
		to <- prometheus.MustNewConstMetric(results, prometheus.CounterValue, float64(e.result.Succeeded), append([]string{"success"}, values...)...)
		to <- prometheus.MustNewConstMetric(results, prometheus.CounterValue, float64(e.result.Failed), append([]string{"failure"}, values...)...)
	}
}
