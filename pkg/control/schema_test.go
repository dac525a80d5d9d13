package control

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/auth"
)

// What a daemon with the first schema of the store left is all there: a link goes on with its identifier.
func TestNew_StoreOfSchema1_HasEverything(t *testing.T) {
	w := newWorld(t)
	must(t, w.bolt.Close())
	old, err := os.ReadFile(filepath.Join("..", "store", "testdata", "schema1.db"))
	must(t, err)
	must(t, os.WriteFile(w.path, old, 0o600))
	w.start()
	if s := w.service(theService).Properties; s.ProvisioningState != api.Succeeded || !api.IsAlias(s.Alias) || s.IPConfigurations[0].Properties.PrivateIPAddress != "10.0.2.4" {
		t.Errorf("service: %s", text(s))
	}
	c := w.connection(theService).Properties
	if c.PrivateLinkServiceConnectionState.Status != api.Approved || c.RequestMessage != "please" {
		t.Errorf("connection: %s", text(c))
	}
	if l := w.link(theEndpoint); l.ID == 0 || text(c.LinkIdentifier) != text(w.endpoint(theEndpoint).Properties.LinkIdentifier) {
		t.Errorf("link: %+v", l)
	}
	if who, err := w.Identify(t.Context(), auth.Credentials{Certificate: "alice"}); err != nil || who.Tenant != "acme" {
		t.Errorf("principal: %+v %v", who, err)
	}
	if n := len(w.history()); n < 8 {
		t.Errorf("%d entries in the journal", n)
	}
}
