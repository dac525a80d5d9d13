package dataplane

import (
	"context"
	"net/netip"
	"testing"
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
