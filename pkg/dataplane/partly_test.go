package dataplane

import (
	"context"
	"net/netip"
	"slices"
	"testing"
)

// A State is everybody's: what in it the kernel has no place for is left out and named, and the others' changes, and what is
// right of the same rule set, reach the kernel.
func TestApply_PartOfTheStateHasNoPlace_RestIsApplied(t *testing.T) {
	g, consumer, provider, s := newPair(t)
	g.open()
	echo(t, provider, "10.0.1.4:8080")
	bad := s.RuleSets[0]
	bad.Key, bad.Sources = "bad", []Source{{Addr: netip.MustParseAddr("10.0.2.7")}}
	for range 9 {
		bad.Sources = append(bad.Sources, Source{Addr: bad.Sources[len(bad.Sources)-1].Addr.Next()})
	}
	rule := func(key string, protocol Protocol, port uint16, proxy bool) Rule {
		r := bad.Rules[0]
		r.Key, r.Protocol, r.Port, r.Proxy = "bad|"+key, protocol, port, proxy
		return r
	}
	bad.Rules = []Rule{rule("first", ProtocolTCP, 81, false), rule("second", ProtocolTCP, 81, false), rule("third", ProtocolUDP, 0, false)}
	for _, more := range [][]Rule{
		{rule("good", ProtocolTCP, 80, false)},
		{rule("good", ProtocolTCP, 80, true)},
		{rule("good", ProtocolTCP, 80, false), rule("every", ProtocolAll, 0, false), rule("every proxied", ProtocolAll, 0, true)},
	} {
		set := bad
		set.Rules = append(slices.Clone(bad.Rules), more...)
		s.RuleSets = append(s.RuleSets, set)
	}
	s.RuleSets[2].Key, s.RuleSets[2].Network = "nowhere", "no such network"
	s.RuleSets[3].Key, s.RuleSets[3].Sources = "six", []Source{{Addr: netip.MustParseAddr("fd00::1")}, {Addr: netip.MustParseAddr("10.0.2.30")}}
	s.RuleSets[3].Rules = s.RuleSets[3].Rules[3:]
	s.RuleSets[3].Rules[0].Targets = append(slices.Clone(s.RuleSets[3].Rules[0].Targets), Target{Pool: "pool", Addr: netip.MustParseAddr("fd00::4"), Healthy: true})
	link := s.Links[0]
	add := func(key, addr, ruleSet string) {
		link.Key, link.Addr, link.RuleSet = key, netip.MustParseAddr(addr), ruleSet
		s.Links = append(s.Links, link)
	}
	add("to bad", "10.0.1.11", "bad")
	add("to six", "10.0.1.12", "six")
	add("to nothing", "10.0.1.13", "no such rule set")
	add("same address", "10.0.1.10", "service")
	add("six too", "fd00::10", "service")
	r := g.apply(s)
	want := []Failure{
		{"bad", "source addresses after the first 8 are left out"},
		{"nowhere", "there is no network no such network"},
		{"same address", "10.0.1.10 in consumers belongs to another link"},
		{"six", "fd00::1 is no IPv4 address"},
		{"six too", "fd00::10 is no IPv4 address"},
		{"to nothing", "there is no rule set no such rule set"},
	}
	if r.Revision != s.Revision || !slices.Equal(r.Failed, want) {
		t.Errorf("revision %d of %d, failed\n%q\nwant\n%q", r.Revision, s.Revision, r.Failed, want)
	}
	for _, at := range []string{"10.0.1.10:80", "10.0.1.11:80", "10.0.1.11:81", "10.0.1.12:80"} {
		c, err := dial(consumer, at)
		if err != nil {
			t.Errorf("%s: %v", at, err)
			continue
		}
		if err := say(c, "hello\n"); err != nil {
			t.Errorf("%s: %v", at, err)
		}
		c.Close()
	}

	// The reasons of single rules, which the first reason of their set hid.
	s.Revision++
	s.RuleSets, s.Links = s.RuleSets[:2], s.Links[:2]
	s.RuleSets[1].Sources = s.RuleSets[1].Sources[:1]
	for _, c := range []struct {
		rules []Rule
		want  string
	}{
		{[]Rule{rule("a", ProtocolTCP, 81, false), rule("b", ProtocolTCP, 81, false)}, "rule b is left out: rule a is for port 81 of protocol 6 already"},
		{[]Rule{rule("a", ProtocolTCP, 81, true), rule("b", ProtocolTCP, 81, false)}, "rule b is left out: rule a is for port 81 of protocol 6 already"},
		{[]Rule{rule("a", ProtocolAll, 0, false), rule("b", ProtocolAll, 0, true)}, "rule b is left out: rule a is for port 0 of protocol 0 already"},
		{[]Rule{rule("a", ProtocolTCP, 81, false), rule("a", ProtocolTCP, 82, false)}, "rule a is left out: there are two rules with this name"},
		{[]Rule{rule("a", ProtocolUDP, 0, false)}, "rule a is left out: port 0 with protocol 17"},
		{[]Rule{rule("a", ProtocolTCP, 81, false)}, ""},
	} {
		s.RuleSets[1].Rules = c.rules
		s.Revision++
		r, err := g.d.Apply(context.Background(), s)
		got := ""
		if len(r.Failed) > 0 {
			got = r.Failed[0].Reason
		}
		if err != nil || len(r.Failed) > 1 || got != c.want {
			t.Errorf("got  %q %v\nwant %q", r.Failed, err, c.want)
		}
		g.waitSame()
	}
}

// Numbers are everybody's, too: who comes when they are all in use waits, and those who have some keep them.
func TestApply_NumbersRunOut_NewOnesFailAlone(t *testing.T) {
	g, consumer, provider, s := newPair(t)
	g.open()
	echo(t, provider, "10.0.1.4:8080")
	g.apply(s)
	more := s.RuleSets[0]
	more.Key, more.Sources = "more", []Source{{Addr: netip.MustParseAddr("10.0.2.7")}}
	link := s.Links[0]
	link.Key, link.Addr, link.RuleSet = "to more", netip.MustParseAddr("10.0.1.11"), "more"
	grown := s
	grown.RuleSets = append(slices.Clone(s.RuleSets), more)
	grown.Links = append(slices.Clone(s.Links), link)
	for name, c := range map[string]struct {
		of     *slots
		failed []string
	}{
		"rule sets": {g.d.services, []string{"more", "to more"}}, "rules": {g.d.rules, []string{"more"}}, "backends": {g.d.backends, []string{"more"}},
		"NAT sets": {g.d.natsets, []string{"more"}}, "links": {g.d.links, []string{"to more"}},
	} {
		max := c.of.max
		c.of.max = 2 // the service's own is 1
		grown.Revision++
		r := g.apply(grown)
		var failed []string
		for _, f := range r.Failed {
			failed = append(failed, f.Key)
		}
		if !slices.Equal(failed, c.failed) {
			t.Errorf("%s: failed %q, want %q", name, r.Failed, c.failed)
		}
		conn, err := dial(consumer, "10.0.1.10:80")
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := say(conn, "hello\n"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		conn.Close()
		c.of.max = max
		s.Revision = grown.Revision
		if r := g.apply(s); len(r.Failed) > 0 {
			t.Errorf("%s: afterwards %q", name, r.Failed)
		}
	}
	grown.Revision++
	if r := g.apply(grown); len(r.Failed) > 0 {
		t.Errorf("with numbers again: %q", r.Failed)
	}
	conn, err := dial(consumer, "10.0.1.11:80")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := say(conn, "hello\n"); err != nil {
		t.Error(err)
	}
}
