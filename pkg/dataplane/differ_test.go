package dataplane

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// differences are those of what is pinned from a State; ownDifferences are those that the dataplane finds itself.
func (g *gateway) differences(want State) string { return g.lines(Differences(g.bpffs, want, "")) }
func (g *gateway) ownDifferences() string        { return g.lines(g.d.Differences()) }

func (g *gateway) lines(list []Difference, err error) string {
	g.t.Helper()
	if err != nil {
		g.t.Fatal(err)
	}
	lines := make([]string, len(list))
	for i, d := range list {
		lines[i] = d.String()
	}
	return strings.Join(lines, "\n")
}

func TestDifferences_AfterApply_NoneAndEachDamageIsFound(t *testing.T) {
	g, _, _, s, _ := opened(t)
	if got := g.differences(s); got != "" {
		t.Fatalf("after Apply:\n%s", got)
	}
	// Each damage says how it is found, and how it is undone.
	k := g.d.k
	link := g.d.links.find(ident("link", "endpoint"))
	rule := g.d.rules.find(ruleIdent("service", "web"))
	change := func(err error) {
		if err != nil {
			t.Error(err)
		}
	}
	table := func(places []uint32) {
		m, err := k.newTable(places)
		change(err)
		change(k.maps[mapMaglev].Put(rule, uint32(m.FD())))
		change(m.Close())
	}
	for want, damage := range map[string]func() (undo func()){
		"link endpoint is Rejected": func() func() {
			was := k.links.load(link)
			l := was
			l.State = uint8(bpfLinkStateLINK_REJECTED)
			k.links.storeWord(link, l, wordLink)
			return func() { k.links.storeWord(link, was, wordLink) }
		},
		"link unknown 0x1267 should not be there": func() func() {
			k.links.store(link+9, bpfLink{Ident: 0x1267}, wordLink)
			return func() { k.links.store(link+9, bpfLink{}, wordLink) }
		},
		"address 10.0.1.10 of consumers is missing": func() func() {
			key := bpfAddressKey{Addr: netOrder(s.Links[0].Addr), Vnet: k.links.load(link).Vnet}
			value := g.d.addresses[key]
			change(k.maps[mapAddresses].Delete(&key))
			return func() { change(k.maps[mapAddresses].Put(&key, &value)) }
		},
		"port 81 protocol 6 of service should not be there": func() func() {
			key := bpfRuleKey{Service: k.rules.load(rule).Service, Port: portOrder(81), Proto: uint8(ProtocolTCP)}
			change(k.maps[mapRuleIndex].Put(&key, &bpfRuleRef{Key: key, Rule: rule}))
			return func() { change(k.maps[mapRuleIndex].Delete(&key)) }
		},
		"from [11.0.2.5]": func() func() {
			slot := k.rules.load(rule).Nat
			was := k.natsets.load(slot)
			set := was
			set.Addr[0]++ // the first byte: net order
			k.natsets.store(slot, set, wordNatset)
			return func() { k.natsets.store(slot, was, wordNatset) }
		},
		"backends [slot 77 of another], should be": func() func() {
			members := g.d.plan.tables[rule]
			built := members.places(members.choose(k.config.load(0).MaglevSeed))
			table([]uint32{77})
			return func() { table(built) }
		},
		"backends [], should be": func() func() {
			members := g.d.plan.tables[rule]
			built := members.places(members.choose(k.config.load(0).MaglevSeed))
			change(k.maps[mapMaglev].Delete(rule))
			return func() { table(built) }
		},
		"backend 10.0.1.4 port 8080 of web|pool is down": func() func() {
			slot := g.d.backends.find(backendIdent(&s.RuleSets[0], &s.RuleSets[0].Rules[0], s.RuleSets[0].Rules[0].Targets[0]))
			was := k.backends.load(slot)
			b := was
			b.State = uint8(bpfBackendStateBACKEND_DOWN)
			k.backends.storeWord(slot, b, wordBackend)
			return func() { k.backends.storeWord(slot, was, wordBackend) }
		},
	} {
		undo := damage()
		if got := g.differences(s); !strings.Contains(got, want) || strings.Contains(got, "\n") {
			t.Errorf("found %q, want %q in one line", got, want)
		}
		undo()
		if got := g.differences(s); got != "" {
			t.Fatalf("%s, put right:\n%s", want, got)
		}
		// The running dataplane finds the same, and repairs it.
		damage()
		if got := g.ownDifferences(); !strings.Contains(got, want) || strings.Contains(got, "\n") {
			t.Errorf("by itself it found %q, want %q in one line", got, want)
		}
		if err := g.d.Repair(t.Context()); err != nil {
			t.Errorf("%s, repaired: %v", want, err)
		}
		if got := g.differences(s) + g.ownDifferences(); got != "" {
			t.Fatalf("%s, repaired:\n%s", want, got)
		}
	}
	more := s
	more.Links = append(slices.Clone(s.Links), Link{Key: "another", Network: "consumers", Addr: s.Links[0].Addr.Next(), State: LinkPending})
	if got := g.differences(more); !strings.Contains(got, "link another is missing") {
		t.Errorf("a link more: %q", got)
	}
	less := s
	less.Links = nil
	if got := g.differences(less); !strings.Contains(got, "should not be there") {
		t.Errorf("no links: %q", got)
	}
}

func TestDifferences_NoLimitOfItsOwn_HalfOfThePortsIsDue(t *testing.T) {
	g, _, _, s := newPair(t)
	g.edit = func(o *Options) { o.Pairs = 1 << 18 }
	g.open()
	g.apply(s)
	if got := g.differences(s); got != "" {
		t.Fatalf("after Apply:\n%s", got)
	}
	s.Links[0].MaxFlows = 1 << 16 // a quarter of the table's
	if got := g.differences(s); !strings.Contains(got, "flows 32256, should be") {
		t.Errorf("with another limit due: %q", got)
	}
}

// Whoever looks while States are applied sees each as a whole.
func TestDifferences_WhileStatesChange_None(t *testing.T) {
	g, _, _, s, _ := opened(t)
	const looks = 20
	var applies atomic.Int32
	var stop atomic.Bool
	var changing sync.WaitGroup
	changing.Go(func() {
		for !stop.Load() {
			i := applies.Add(1)
			s := s
			s.Revision += uint64(i)
			s.Links = slices.Clone(s.Links)
			s.Links[0].State = []LinkState{LinkRejected, LinkApproved}[i%2]
			s.RuleSets = slices.Clone(s.RuleSets)
			s.RuleSets[0].Rules = slices.Clone(s.RuleSets[0].Rules)
			s.RuleSets[0].Rules[0].Port = 80 + uint16(i%2)
			if _, err := g.d.Apply(t.Context(), s); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for range looks {
		if found := g.ownDifferences(); found != "" {
			t.Error(found)
			break
		}
	}
	stop.Store(true)
	changing.Wait()
	if n := applies.Load(); n < looks {
		t.Errorf("only %d Applies while it was looked", n)
	}
}
