package control

import (
	"context"
	"strings"
	"testing"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/auth"
	"github.com/privlink/privlink/pkg/dataplane"
)

// Every state of a connection x every event, by whom: the state as the consumer sees it and the kernel has it,
// whether established flows must end, and whether the LinkID stays.
func TestConnection_Matrix(t *testing.T) {
	reach := map[string]func(*world){
		"Pending":  func(w *world) {},
		"Approved": func(w *world) { must(w, w.decide(theService, api.Approved, "yes")) },
		"Rejected": func(w *world) {
			must(w, w.decide(theService, api.Approved, "yes"))
			must(w, w.decide(theService, api.Rejected, "no"))
		},
		"Disconnected": func(w *world) {
			must(w, w.decide(theService, api.Approved, "yes"))
			w.remove(theService)
		},
	}
	kernelState := map[string]dataplane.LinkState{"Pending": dataplane.LinkPending, "Approved": dataplane.LinkApproved,
		"Rejected": dataplane.LinkRejected, "Disconnected": dataplane.LinkDisconnected}
	type result struct {
		state  string // "" = the endpoint is gone; "refused ..." = the error, the state stays
		linkID string // same, new
	}
	events := []struct {
		name string
		do   func(*world) error
		want map[string]result
	}{
		{"provider approves", func(w *world) error { return w.decide(theService, api.Approved, "ok") }, map[string]result{
			"Pending": {"Approved", "same"}, "Approved": {"Approved", "same"}, "Rejected": {"Approved", "same"}}},
		{"provider rejects", func(w *world) error { return w.decide(theService, api.Rejected, "ok") }, map[string]result{
			"Pending": {"Rejected", "same"}, "Approved": {"Rejected", "same"}, "Rejected": {"Rejected", "same"}}},
		{"provider says Pending", func(w *world) error { return w.decide(theService, api.Pending, "ok") }, map[string]result{
			"Pending":  {"Pending", "same"},
			"Approved": {"refused properties.privateLinkServiceConnectionState.status: a decision is Approved or Rejected; a connection that is Approved becomes Pending when its consumer asks again", "same"},
			"Rejected": {"refused properties.privateLinkServiceConnectionState.status: a decision is Approved or Rejected; a connection that is Rejected becomes Pending when its consumer asks again", "same"}}},
		{"provider removes", func(w *world) error { w.remove(theService); return nil }, map[string]result{
			"Pending": {"Disconnected", "same"}, "Approved": {"Disconnected", "same"}, "Rejected": {"Disconnected", "same"}}},
		{"provider deletes the service", func(w *world) error { return w.delete(theService, false) }, map[string]result{
			"Pending":      {"refused privateLinkServices/web has 1 pending connection (reject or remove them, or delete with --cascade)", "same"},
			"Approved":     {"refused privateLinkServices/web has 1 approved connection (reject or remove them, or delete with --cascade)", "same"},
			"Rejected":     {"Disconnected", "same"},
			"Disconnected": {"Disconnected", "same"}}},
		{"provider deletes the service with cascade", func(w *world) error { return w.delete(theService, true) }, map[string]result{
			"Pending": {"Disconnected", "same"}, "Approved": {"Disconnected", "same"}, "Rejected": {"Disconnected", "same"},
			"Disconnected": {"Disconnected", "same"}}},
		{"consumer puts the endpoint unchanged", func(w *world) error { return w.again("") }, map[string]result{
			"Pending": {"Pending", "same"}, "Approved": {"Approved", "same"}, "Rejected": {"Rejected", "same"}, "Disconnected": {"Disconnected", "same"}}},
		{"consumer asks again", func(w *world) error { return w.again(`,'privateLinkServiceConnectionState':{'status':'Pending'}`) }, map[string]result{
			"Pending": {"Pending", "same"}, "Approved": {"Approved", "same"}, "Rejected": {"Pending", "same"}, "Disconnected": {"Pending", "new"}}},
		{"consumer says Approved", func(w *world) error { return w.again(`,'privateLinkServiceConnectionState':{'status':'Approved'}`) }, map[string]result{
			"Pending": {"Pending", "same"}, "Approved": {"Approved", "same"}, "Rejected": {"Rejected", "same"}, "Disconnected": {"Disconnected", "same"}}},
		{"consumer deletes the endpoint", func(w *world) error { return w.delete(theEndpoint, false) }, map[string]result{
			"Pending": {}, "Approved": {}, "Rejected": {}, "Disconnected": {}}},
		{"the daemon restarts", func(w *world) error { w.restart(); return nil }, map[string]result{
			"Pending": {"Pending", "same"}, "Approved": {"Approved", "same"}, "Rejected": {"Rejected", "same"}, "Disconnected": {"Disconnected", "same"}}},
	}
	for _, event := range events {
		for from, want := range event.want {
			t.Run(event.name+"/"+from, func(t *testing.T) {
				w := newWorld(t)
				service := w.provide(open)
				w.consume()
				w.put(theEndpoint, "%s", endpointDoc(service.Properties.Alias, ""))
				reach[from](w)
				if got := w.seen(theEndpoint); string(got.Status) != from {
					t.Fatalf("begins as %s", got.Status)
				}
				before := w.link(theEndpoint)
				err := event.do(w)
				expected := want.state
				if refusal, ok := strings.CutPrefix(want.state, "refused "); ok {
					if err == nil || err.Error() != refusal {
						t.Errorf("got  %v\nwant %s", err, refusal)
					}
					expected = from
				} else if err != nil {
					t.Fatal(err)
				}
				if expected == "" {
					if len(w.kernel.state.Links) != 1 { // the frontend's
						t.Errorf("links in the kernel: %s", text(w.kernel.state.Links))
					}
					return
				}
				if got := w.seen(theEndpoint); string(got.Status) != expected {
					t.Errorf("consumer sees %s, want %s", got.Status, expected)
				}
				link := w.link(theEndpoint)
				if link.State != kernelState[expected] {
					t.Errorf("kernel has state %d, want %d", link.State, kernelState[expected])
				}
				if (want.linkID == "same") != (link.ID == before.ID) {
					t.Errorf("LinkID %#x, then %#x", before.ID, link.ID)
				}
				if before.State == dataplane.LinkApproved && link.State == dataplane.LinkRejected && link.Epoch == before.Epoch {
					t.Error("a rejected link keeps its epoch: approved again at once, its flows would live on")
				}
			})
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// again puts the endpoint as it was put first, with more in its connection.
func (w *world) again(more string) error {
	c, _ := w.endpoint(theEndpoint).Connection()
	_, err := w.try(theEndpoint, "%s", endpointDoc(c.Properties.PrivateLinkServiceID, more))
	return err
}

func TestConnection_RejectedAndApprovedBetweenTwoApplies_ChangesEpoch(t *testing.T) {
	w := newWorld(t)
	service := w.provide(open)
	w.consume()
	w.put(theEndpoint, "%s", endpointDoc(service.Properties.Alias, ""))
	must(t, w.decide(theService, api.Approved, ""))
	before := w.link(theEndpoint)
	at := id(theService).Sub(api.PrivateEndpointConnections, w.connection(theService).Name)
	for _, s := range []api.ConnectionStatus{api.Rejected, api.Approved} {
		_, err := w.Decide(context.Background(), root("p"), at, api.PrivateEndpointConnection{Properties: api.ConnectionProperties{
			PrivateLinkServiceConnectionState: &api.ConnectionState{Status: s}}}, Conditions{})
		must(t, err)
	}
	w.sync()
	if after := w.link(theEndpoint); after.State != before.State || after.ID != before.ID || after.Epoch == before.Epoch {
		t.Errorf("before %+v, after %+v", before, after)
	}
}

func TestConnection_WhatEachSideSees(t *testing.T) {
	w := newWorld(t)
	service := w.provide(open + `,'fqdns':['db.example.com']`)
	w.consume()
	w.put(theEndpoint, "%s", endpointDoc(service.Properties.Alias, ""))
	p := w.connection(theService).Properties
	if p.PrivateLinkServiceConnectionState.Description != "please" || p.RequestMessage != "please" || p.Subscription != "c" ||
		p.Tenant != "c" || !strings.HasSuffix(p.PrivateEndpoint.ID, "/privateEndpoints/pe") || p.PrivateEndpointLocation != "west" ||
		!p.RequestTime.Equal(w.clock.Now()) || p.LinkIdentifier != "536870913" || p.ProvisioningState != api.Succeeded {
		t.Errorf("provider sees %s", text(p))
	}
	must(t, w.decide(theService, api.Approved, "welcome"))
	if e := w.endpoint(theEndpoint); e.Properties.LinkIdentifier != "536870913" || len(e.Properties.CustomDNSConfigs) != 1 ||
		e.Properties.CustomDNSConfigs[0].IPAddresses[0] != "10.0.1.4" || w.seen(theEndpoint).Description != "welcome" {
		t.Errorf("consumer sees %s", text(e))
	}
	// Nothing of the provider but the alias, the names it published and its words.
	for _, state := range []string{"Approved", "Disconnected"} {
		all := text(w.endpoint(theEndpoint))
		nic := strings.TrimPrefix(w.endpoint(theEndpoint).Properties.NetworkInterfaces[0].ID, "/subscriptions/c/resourceGroups/rg/providers/Microsoft.Network/")
		all += text(w.get("c:" + nic))
		for _, secret := range []string{"subscriptions/p", "virtualNetworks/dc", "10.0.2", "10.0.1.9", "loadBalancers", "privateLinkServices/"} {
			if strings.Contains(all, secret) {
				t.Errorf("%s: the consumer sees %q in %s", state, secret, all)
			}
		}
		if state == "Approved" {
			w.remove(theService)
		}
	}
}

func TestEndpoint_ServiceUnknownOrNotVisible_LooksTheSame(t *testing.T) {
	w := newWorld(t)
	service := w.provide(`,'visibility':{'subscriptions':['other']}`)
	w.consume()
	asked := func(target string) string {
		t.Helper()
		_, err := w.try(theEndpoint, "%s", endpointDoc(target, ""))
		if err == nil {
			t.Fatalf("%s was accepted", target)
		}
		return strings.ReplaceAll(err.Error(), target, "X")
	}
	hidden := asked(service.Properties.Alias)
	unknown := asked(makeAlias("nothing", newGUID(), "west", DefaultAliasSuffix))
	byID := asked(service.ID)
	noID := asked("/subscriptions/p/resourceGroups/rg/providers/Microsoft.Network/privateLinkServices/nothing")
	const want = `properties.manualPrivateLinkServiceConnections[0].properties.privateLinkServiceId: there is no private link service "X" that subscription "c" can see`
	for _, got := range []string{hidden, unknown, byID, noID} {
		if got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
	if _, err := w.Get(context.Background(), root("c"), id(theEndpoint)); !api.IsNotFound(err) {
		t.Errorf("a refused endpoint exists: %v", err)
	}
	if w.linkIDsGiven() != 0 {
		t.Error("a refused request took a LinkID")
	}
}

func (w *world) linkIDsGiven() uint64 {
	w.mu.RLock()
	defer w.mu.RUnlock()
	return w.view.linkIDs
}

func TestEndpoint_AutomaticByID(t *testing.T) {
	automatic := func(target string) string {
		return strings.Replace(endpointDoc(target, ""), "manualPrivate", "private", 1)
	}
	w := newWorld(t)
	service := w.provide(open + `,'autoApproval':{'subscriptions':['friend']}`)
	for _, sub := range []string{"c", "friend", "p"} {
		w.put(sub+":virtualNetworks/home", `{'properties':{'addressSpace':{'addressPrefixes':['10.0.0.0/16']},'subnets':[
			{'name':'default','properties':{'addressPrefix':'10.0.1.0/24'}}]}}`)
	}
	_, err := w.try("c:privateEndpoints/pe", "%s", automatic(service.ID))
	const want = `properties.privateLinkServiceConnections: the service does not approve subscription "c" by itself, ` +
		`and you may not approve (ask in properties.manualPrivateLinkServiceConnections)`
	if err == nil || err.Error() != want {
		t.Errorf("stranger: %v", err)
	}
	w.put("friend:privateEndpoints/pe", "%s", automatic(service.ID))
	w.put("p:privateEndpoints/pe", "%s", automatic(service.ID))
	for name, by := range map[string]string{"friend": auth.ByAutoApproval, "p": "p-Owner"} {
		x := w.view.byEndpoint[id(name+":privateEndpoints/pe").Key()]
		if x.State.Status != api.Approved || x.DecidedBy != by {
			t.Errorf("%s: %s by %s", name, x.State.Status, x.DecidedBy)
		}
	}
	_, err = w.try("c:privateEndpoints/pe2", "%s", automatic(service.Properties.Alias))
	if err == nil || !strings.Contains(err.Error(), "an alias belongs into properties.manualPrivateLinkServiceConnections") {
		t.Errorf("alias in the automatic list: %v", err)
	}
}

func TestService_ListsAreReadWhenTheRequestIsMade(t *testing.T) {
	w := newWorld(t)
	service := w.provide(open + `,'autoApproval':{'subscriptions':['c']}`)
	w.consume()
	w.put(theEndpoint, "%s", endpointDoc(service.Properties.Alias, ""))
	if s := w.seen(theEndpoint); s.Status != api.Approved || s.Description != "Auto-approved" {
		t.Fatalf("auto-approval: %+v", s)
	}
	w.put(theService, "%s", serviceDoc(`,'visibility':{'subscriptions':['other']}`))
	if s := w.seen(theEndpoint); s.Status != api.Approved {
		t.Errorf("after the lists changed: %+v", s)
	}
}

func TestService_Approvals_DecideAndStandAside(t *testing.T) {
	w := newWorld(t)
	service := w.provide(open)
	w.consume()
	w.put(theEndpoint, "%s", endpointDoc(service.Properties.Alias, ""))
	apply := func(entries string) {
		t.Helper()
		w.put(theService, "%s", serviceDoc(open+`,'approvals':`+entries))
	}
	expect := func(what string, status api.ConnectionStatus, description string) {
		t.Helper()
		if s := w.seen(theEndpoint); s.Status != status || s.Description != description {
			t.Errorf("%s: %+v", what, s)
		}
	}
	apply(`[{'subscription':'c','status':'Approved','description':'partner'}]`)
	expect("entry for a pending request", api.Approved, "partner")
	must(t, w.decide(theService, api.Rejected, "by hand"))
	apply(`[{'subscription':'c','status':'Approved','description':'partner'}]`)
	expect("manual decision, entry unchanged", api.Rejected, "by hand")
	apply(`[{'subscription':'c','status':'Approved','description':'partner again'}]`)
	expect("entry changed", api.Approved, "partner again")
	apply(`[{'subscription':'c','status':'Approved','description':'partner again'},
		{'privateEndpoint':'/subscriptions/c/resourceGroups/rg/providers/Microsoft.Network/privateEndpoints/pe','status':'Rejected'}]`)
	expect("entry for the endpoint", api.Rejected, "")
	apply(`null`)
	expect("no entries", api.Rejected, "")
	must(t, w.decide(theService, api.Approved, "by hand"))
	apply(`[{'subscription':'d','status':'Rejected'}]`)
	expect("entry for another", api.Approved, "by hand")
}

func TestService_Delete_DisconnectsItsEndpointsForGood(t *testing.T) {
	w := newWorld(t)
	service := w.provide(open)
	w.consume()
	w.put(theEndpoint, "%s", endpointDoc(service.Properties.Alias, ""))
	must(t, w.delete(theService, true))
	if s := w.seen(theEndpoint); s.Status != api.Disconnected || s.Description != "The private link service was deleted" {
		t.Errorf("%+v", s)
	}
	again := w.put(theService, "%s", serviceDoc(open)).(*api.PrivateLinkService)
	if again.Properties.Alias == service.Properties.Alias {
		t.Error("an alias was given twice")
	}
	if s := w.seen(theEndpoint); s.Status != api.Disconnected {
		t.Errorf("a new service of the same name took the endpoint: %+v", s)
	}
	if err := w.again(`,'privateLinkServiceConnectionState':{'status':'Pending'}`); err == nil {
		t.Error("the old alias works for the new service")
	}
}
