package dataplane

import (
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
)

// Rules that go together share one empty table: deleting each would wait for all running programs a thousand times.
func TestRules_SeveralTakenOut_ShareAnEmptyTableAndReturn(t *testing.T) {
	g, consumer, provider, s := newPair(t)
	g.open()
	echo(t, provider, "10.0.1.4:8080")
	web := s.RuleSets[0].Rules[0]
	second, third := web, web
	second.Key, second.Port = "second", 81
	third.Key, third.Port = "third", 82
	s.RuleSets[0].Rules = []Rule{web, second, third}
	g.apply(s)
	places := func() (all, empty int) {
		t.Helper()
		var slot, id uint32
		for entries := g.d.k.maps[mapMaglev].Iterate(); entries.Next(&slot, &id); {
			rule := g.d.k.rules.load(slot)
			all++
			if rule.Ident == 0 {
				empty++
			}
		}
		return all, empty
	}
	before, _ := places()
	s.RuleSets[0].Rules = []Rule{web}
	g.apply(s)
	if err := works(consumer, "10.0.1.10:80"); err != nil {
		t.Errorf("the rule that stays: %v", err)
	}
	for _, address := range []string{"10.0.1.10:81", "10.0.1.10:82"} {
		if err := works(consumer, address); err == nil {
			t.Errorf("%s is served without its rule", address)
		}
	}
	if all, empty := places(); all != before || empty != 2 {
		t.Errorf("%d tables, %d without a rule; want %d and 2", all, empty, before)
	}
	s.RuleSets[0].Rules = []Rule{web, second, third}
	g.apply(s)
	for _, address := range []string{"10.0.1.10:80", "10.0.1.10:81", "10.0.1.10:82"} {
		if err := works(consumer, address); err != nil {
			t.Errorf("%s: %v", address, err)
		}
	}
}

// A table that keeps its size is rewritten where it stands, one of another size is replaced; both are then what a daemon
// that starts with that State would have made.
func TestRules_MembersChange_TableIsRewrittenOrReplaced(t *testing.T) {
	g, _, provider, s := newPair(t)
	if _, err := provider.Run(t.Context(), "ip", "route", "add", "local", "10.0.64.0/24", "dev", "lo"); err != nil {
		t.Fatal(err)
	}
	pool := func(n int, down ...int) {
		rule := s.RuleSets[0].Rules[0]
		rule.Targets, s.Pools[0].Members = nil, nil
		for i := range n {
			a := netip.AddrFrom4([4]byte{10, 0, 64, byte(i)})
			rule.Targets = append(rule.Targets, Target{Pool: "pool", Addr: a, Weight: 1, Healthy: !slices.Contains(down, i)})
			s.Pools[0].Members = append(s.Pools[0].Members, a)
		}
		s.RuleSets[0].Rules = []Rule{rule}
		s.Revision++
	}
	var dies error
	g.edit = func(o *Options) {
		o.step = func(at string) error {
			if at == stepTables {
				return dies
			}
			return nil
		}
	}
	g.open()
	look := func() (id uint32, places []uint32) {
		t.Helper()
		g.apply(s)
		slot := g.d.rules.find(ruleIdent("service", "web"))
		if err := g.d.k.maps[mapMaglev].Lookup(slot, &id); err != nil {
			t.Fatal(err)
		}
		m, err := ebpf.NewMapFromID(ebpf.MapID(id))
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		var key, value uint32
		for all := m.Iterate(); all.Next(&key, &value); {
			places = append(places, value)
		}
		table := g.d.plan.tables[slot]
		if want := table.places(table.choose(g.d.k.config.load(0).MaglevSeed)); int(places[0]) != len(want) || !slices.Equal(places[1:], want) {
			t.Errorf("revision %d: the kernel's table is not the one of the State", s.Revision)
		}
		return id, places
	}
	pool(8)
	first, before := look()
	pool(8, 3)
	second, after := look()
	if second != first || slices.Equal(before, after) {
		t.Errorf("one backend down: table %d after %d, or the same places", second, first)
	}
	pool(40)
	third, whole := look()
	if third == second {
		t.Error("the table of five times as many backends is the same map")
	}
	// Halfway to a State that is then no more: a backend fell silent, and who starts next has not asked it yet.
	for _, again := range []string{"apply", "start"} {
		for _, n := range []int{40, 8} { // rewritten, replaced
			dies = errors.New("dead")
			pool(n, 3)
			if _, err := g.d.Apply(t.Context(), s); !errors.Is(err, dies) {
				t.Fatal(err)
			}
			dies = nil
			if again == "start" {
				g.d.Close()
				g.open()
			}
			pool(40)
			if _, places := look(); !slices.Equal(places, whole) {
				t.Errorf("%s with the State of before, after death on the way to %d backends: the table is another one", again, n)
			}
		}
	}
}
