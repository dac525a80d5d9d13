package dataplane

import (
	"testing"
)

// A decision on a connection lists no interfaces and asks for no attachment, as the kernel may let both wait;
// another attachment does.
func TestApply_DecisionOnly_LooksAtNoInterface(t *testing.T) {
	g, _, _, _ := newPair(t)
	g.open()
	s := small()
	g.apply(s)
	count := func(change func(n int)) uint64 {
		g.d.mu.Lock()
		before := g.d.looks
		g.d.mu.Unlock()
		for n := range 10 {
			change(n)
			if _, err := g.d.Apply(t.Context(), s); err != nil {
				t.Fatal(err)
			}
		}
		g.d.mu.Lock()
		defer g.d.mu.Unlock()
		return g.d.looks - before
	}
	// What changes by itself, and the regular look, may come in between.
	if looks := count(func(n int) { s.Links[0].State = []LinkState{LinkRejected, LinkApproved}[n%2] }); looks > 3 {
		t.Errorf("10 decisions looked at the interfaces %d times", looks)
	}
	if looks := count(func(n int) { s.Networks[0].Attachments[0].PassOther = n%2 == 0 }); looks < 10 {
		t.Errorf("10 changes of an attachment looked at the interfaces %d times", looks)
	}
	g.d.mu.Lock()
	defer g.d.mu.Unlock()
	if len(g.d.bound) != len(g.d.bindings) || len(g.d.bound) == 0 {
		t.Errorf("%d of %d attachments are known from the last look", len(g.d.bound), len(g.d.bindings))
	}
}
