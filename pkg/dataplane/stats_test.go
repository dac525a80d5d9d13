package dataplane

import (
	"testing"

	"github.com/cilium/ebpf"
)

// mapUse is what MapUse says is used of every map.
func mapUse(t *testing.T, g *gateway) map[string]uint32 {
	t.Helper()
	all, err := g.d.MapUse()
	if err != nil {
		t.Fatal(err)
	}
	used := make(map[string]uint32, len(all))
	for _, m := range all {
		if m.Used > m.Max || m.Noun == "" {
			t.Errorf("%+v", m)
		}
		used[m.Map] = m.Used
	}
	return used
}

// An insert fails in a hash that is full: each is watched.
func TestMapUse_EveryHash_IsThere(t *testing.T) {
	g, _, _, _, _ := opened(t)
	used := mapUse(t, g)
	hashes := 0
	for name, m := range g.d.k.maps {
		if m.Type() != ebpf.Hash {
			continue
		}
		hashes++
		if _, ok := used[name]; !ok {
			t.Errorf("nobody sees how full %s is", name)
		}
	}
	if hashes < 4 {
		t.Errorf("only %d hashes", hashes)
	}
	for name, want := range map[string]uint32{mapFlows: 1, mapDomains: 1, mapLinks: 1, mapRules: 1, mapRuleIndex: 1, mapNatsets: 1, mapDials: 0} {
		if used[name] != want {
			t.Errorf("%d used of %s, want %d", used[name], name, want)
		}
	}
}
