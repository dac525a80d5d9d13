package probe

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

func TestCollector_OneFailedCheck_ShowsVerdictAndCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{}
		p := startProber(t, w)
		p.Set(checks(1, 5*time.Second))
		time.Sleep(6 * time.Second)
		registry := prometheus.NewPedanticRegistry()
		registry.MustRegister(p)
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		var text strings.Builder
		for _, f := range families {
			text.WriteString(f.String())
		}
		for _, part := range []string{"privlink_probe_healthy", "privlink_probe_results_total", `value:"failure"`, `value:"Tcp"`} {
			if !strings.Contains(text.String(), part) {
				t.Errorf("metrics lack %s:\n%s", part, text.String())
			}
		}
	})
}
