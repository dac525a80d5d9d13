package main

import (
	"strings"
	"testing"
)

// Who changes one thing about an attachment does not lose the others: a gateway its own traffic, or backends their router.
func TestVNetAttach_Again_ChangesOnlyWhatIsNamed(t *testing.T) {
	r := newRig(t)
	r.must("vnet create datacenter --prefix 10.0.0.0/16")
	for _, c := range []struct{ flags, want string }{
		{"--interface eth1 --mode xdp --pass-other --next-hop 10.0.0.1 --answer-gateway", "eth1, mode xdp, pass-other, next hop 10.0.0.1, answers for the gateway"},
		{"--interface eth1", "eth1, mode xdp, pass-other, next hop 10.0.0.1, answers for the gateway"},
		{"--interface eth1 --mode tc", "eth1, mode tc, pass-other, next hop 10.0.0.1, answers for the gateway"},
		{"--interface eth1 --next-hop 10.0.0.2", "eth1, mode tc, pass-other, next hop 10.0.0.2, answers for the gateway"},
		{"--interface eth1 --exclusive", "eth1, mode tc, exclusive, next hop 10.0.0.2, answers for the gateway"},
		{"--interface eth1 --pass-other", "eth1, mode tc, pass-other, next hop 10.0.0.2, answers for the gateway"},
		{"--interface eth1 --pass-other=false --next-hop= --answer-gateway=false", "eth1, mode tc"},
		{"--interface eth1 --vlan 7", "eth1, mode tc; eth1, vlan 7, mode auto"}, // another one
	} {
		shown := r.must("vnet attach datacenter " + c.flags)
		var got []string
		for line := range strings.Lines(shown) {
			if value, ok := strings.CutPrefix(line, "Interface:"); ok {
				got = append(got, strings.TrimSpace(value))
			}
		}
		if strings.Join(got, "; ") != c.want {
			t.Errorf("vnet attach %s makes it %q, want %q", c.flags, got, c.want)
		}
	}
}
