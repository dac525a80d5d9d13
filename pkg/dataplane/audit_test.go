package dataplane

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"
)

func TestAudit_AfterTraffic_FindsNothing(t *testing.T) {
	g, consumer, _, _, _ := opened(t)
	for i := range 50 {
		c, err := dial(consumer, "10.0.1.10:80")
		if err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 {
			c.Close()
		} else {
			defer c.Close()
		}
	}
	leaks, err := g.d.Audit(context.Background())
	if err != nil || len(leaks) != 0 {
		t.Fatalf("leaks: %v, %v", leaks, err)
	}
	ports, err := g.d.Ports()
	if err != nil || len(ports) != 1 || ports[0].Used != 51 || ports[0].NAT != netip.MustParseAddr("10.0.2.5") || ports[0].Backend != netip.MustParseAddrPort("10.0.1.4:8080") {
		t.Errorf("ports: %+v, %v", ports, err)
	}
}

func TestAudit_BitsChanged_FindsThem(t *testing.T) {
	g, _, _, _, _ := opened(t)
	var key bpfDomainKey
	var value bpfDomain
	all := g.d.k.maps[mapDomains].Iterate()
	if !all.Next(&key, &value) {
		t.Fatal("no domain")
	}
	var flow Flow
	if err := g.d.Flows(context.Background(), func(f Flow) bool { flow = f; return false }); err != nil {
		t.Fatal(err)
	}
	config := g.d.k.config.load(0)
	mine := config.bitOf(flow.NAT.Port())
	if config.portOf(mine) != flow.NAT.Port() {
		t.Fatalf("bit %d is port %d, not %d", mine, config.portOf(mine), flow.NAT.Port())
	}
	other := (mine + 100) % uint32(PortsPerDomain)
	value.Word[mine/64] &^= 1 << (mine % 64)
	value.Word[other/64] |= 1 << (other % 64)
	if err := g.d.k.maps[mapDomains].Put(&key, &value); err != nil {
		t.Fatal(err)
	}
	slot := g.d.links.find(ident("link", "endpoint"))
	g.d.k.usage.store32(slot, 0, 7)
	leaks, err := g.d.Audit(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[string]uint16)
	for _, l := range leaks {
		found[l.What] = l.NAT.Port()
		t.Log(l)
	}
	if len(leaks) != 3 || found["entry without its port"] != flow.NAT.Port() || found["port taken without an entry"] != config.portOf(other) {
		t.Errorf("leaks: %v", leaks)
	}
	if _, ok := found["quota of link"]; !ok {
		t.Error("the wrong quota was not found")
	}
}

func TestStats_KnownMix_IsCounted(t *testing.T) {
	g, consumer, _, _, c := opened(t) // "hello\n", there and back
	for range 9 {
		if err := say(c, "0123456789"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := dial(consumer, "10.0.1.10:81"); err == nil {
		t.Fatal("a port without a rule answered")
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	var s LinkStats
	g.Wait("the counters to stand", 5*time.Second, func() error {
		before := s
		all, err := g.d.LinkStats()
		if err != nil || len(all) != 1 {
			t.Fatalf("%+v, %v", all, err)
		}
		if s = all[0]; s != before || s.PacketsIn == 0 {
			return errors.New("still moving")
		}
		return nil
	})
	// SYN, ACK, 10 requests, their acknowledgements as TCP likes, FIN; no byte less than the sockets sent.
	payload := uint64(len("hello\n") + 90)
	if s.BytesIn-40*s.PacketsIn < payload || s.BytesOut-40*s.PacketsOut < payload || s.PacketsIn < 13 || s.PacketsOut < 11 {
		t.Errorf("too little: %+v", s)
	}
	if s.Opened != 1 || s.Refused != 0 || s.Dropped != 1 || s.ID != 0x01020304 || s.Link != "endpoint" || s.RuleSet != "service" {
		t.Errorf("counters: %+v", s)
	}
	reasons, err := g.d.ReasonStats()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range reasons {
		if (r.Label == "no_rule" || r.Label == "rst_sent") && r.Packets != 1 {
			t.Errorf("%s: %d packets", r.Label, r.Packets)
		}
	}
}
