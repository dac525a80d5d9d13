package splice

import "testing"

// TestCutRevoked_LinkGivenAgain_OldConnectionsAreReset takes a link back and gives it again: its name is the same, and yet
// only who came afterwards stays.
func TestCutRevoked_LinkGivenAgain_OldConnectionsAreReset(t *testing.T) {
	r := startRig(t, func(_ *Config, g *fakeGateway) { g.identity.LinkRef = 1 })
	consumer, server := r.pair()
	if n := r.server.CutRevoked(); n != 0 {
		t.Errorf("%d connections of an approved link were cut", n)
	}
	mustWrite(t, consumer, "hello")
	mustRead(t, server, "hello")

	r.gateway.mu.Lock()
	r.gateway.identity.LinkRef = 2
	r.gateway.mu.Unlock()
	later, laterServer := r.pair()
	if n := r.server.CutRevoked(); n != 1 {
		t.Errorf("%d connections were cut, want the older one", n)
	}
	mustReset(t, consumer)
	mustReset(t, server)
	mustWrite(t, later, "still here")
	mustRead(t, laterServer, "still here")
	if s := r.server.Stats(); s.Cut != 1 || s.Active != 1 {
		t.Errorf("%+v", s)
	}
}
