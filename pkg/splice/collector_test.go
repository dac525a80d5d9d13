package splice

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

func TestCollector_OneConnection_IsCounted(t *testing.T) {
	r := startRig(t, nil)
	r.pair()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(r.server)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "privlink_proxy_connections" {
			if got := f.GetMetric()[0].GetGauge().GetValue(); got != 1 {
				t.Errorf("%v connections, want 1", got)
			}
			return
		}
	}
	t.Error("no metric privlink_proxy_connections")
}
