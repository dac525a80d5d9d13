package metrics

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/privlink/privlink/pkg/dataplane"
)

type fake struct{ fail error }

func (f fake) LinkStats() ([]dataplane.LinkStats, error) {
	return []dataplane.LinkStats{
		{Link: "one", ID: 1, RuleSet: "service", BytesIn: 10, BytesOut: 20, Flows: 3, MaxFlows: 4, Opened: 5},
		{Link: "two", ID: 2, RuleSet: "service", BytesIn: 100, BytesOut: 200, Flows: 30, MaxFlows: 40},
		{Link: "frontend", RuleSet: "frontend", BytesIn: 7},
	}, f.fail
}

func (fake) ReasonStats() ([]dataplane.ReasonStats, error) {
	return []dataplane.ReasonStats{{Reason: dataplane.Reason{Label: "no_rule"}, Packets: 8, Bytes: 9}}, nil
}

func (fake) Ports() ([]dataplane.PortUse, error) {
	u := dataplane.PortUse{Network: "n", NAT: netip.MustParseAddr("10.0.2.5"), Backend: netip.MustParseAddrPort("10.0.1.4:80"), Protocol: dataplane.ProtocolTCP, Used: 11}
	return []dataplane.PortUse{u, u}, nil
}

func (fake) MapUse() ([]dataplane.MapUse, error) {
	return []dataplane.MapUse{{Map: "flows_v1", Used: 1, Max: 2, Noun: "flows"}}, nil
}

func (fake) Sweep() (time.Time, uint64, dataplane.SweepStats) {
	return time.Unix(1000, 0), 12, dataplane.SweepStats{Live: 2}
}

func (fake) Result() dataplane.Result {
	return dataplane.Result{Revision: 13, Attachments: []dataplane.AttachmentStatus{
		{Network: "n", Attachment: dataplane.Attachment{Interface: "eth1"}, Hook: "tcx", Mode: dataplane.ModeTC},
		{Network: "n", Attachment: dataplane.Attachment{Interface: "eth2"}, Err: errors.New("gone")},
	}}
}

func scrape(f fake) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	now := func() time.Time { return time.Unix(1003, 0) }
	Handler(f, now).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	return w
}

func TestCollector_Scrape_HasEveryNumber(t *testing.T) {
	text := scrape(fake{}).Body.String()
	for _, want := range []string{
		`privlink_link_bytes_total{direction="in",link="one",link_id="1",service="service"} 10`,
		`privlink_link_bytes_total{direction="out",link="two",link_id="2",service="service"} 200`,
		`privlink_link_flows{link="one",link_id="1",service="service"} 3`,
		`privlink_service_bytes_total{direction="in",service="service"} 110`,
		`privlink_service_flows{service="service"} 33`,
		`privlink_nat_ports_used{backend="10.0.1.4:80",nat_ip="10.0.2.5",network="n",protocol="tcp"} 11`,
		`privlink_packets_by_reason_total{reason="no_rule"} 8`,
		`privlink_map_entries_used{map="flows_v1"} 1`,
		`privlink_sweep_age_seconds 3`,
		`privlink_sweeps_total 12`,
		`privlink_revision_applied 13`,
		`privlink_attachment_up{hook="tcx",interface="eth1",mode="tc",network="n",vlan="0"} 1`,
		`privlink_attachment_up{hook="",interface="eth2",mode="",network="n",vlan="0"} 0`,
	} {
		if !strings.Contains(text, want+"\n") {
			t.Errorf("missing: %s", want)
		}
	}
	if strings.Contains(text, `privlink_service_bytes_total{direction="in",service="frontend"}`) {
		t.Error("a frontend in its own network is shown as a service")
	}
}

func TestCollector_Text_PromtoolIsContent(t *testing.T) {
	check := exec.Command("promtool", "check", "metrics")
	check.Stdin = strings.NewReader(scrape(fake{}).Body.String())
	if out, err := check.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("promtool: %v\n%s", err, out)
	}
}

func TestCollector_SourceFails_ScrapeFails(t *testing.T) {
	if w := scrape(fake{fail: errors.New("no")}); w.Code != http.StatusInternalServerError {
		t.Errorf("status %d", w.Code)
	}
}
