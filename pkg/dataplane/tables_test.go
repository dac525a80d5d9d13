package dataplane

import (
	"testing"
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
