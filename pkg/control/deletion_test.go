package control

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/auth"
	"github.com/privlink/privlink/pkg/dataplane"
)

// leaving is a world whose service is being deleted while a flow of its approved connection is left.
func leavingWorld(t *testing.T) (w *world, flows *int) {
	t.Helper()
	w, flows = newWorld(t), new(int)
	*flows = 1
	w.options.Flows = func(yield func(Flow) bool) error {
		yield(Flow{Link: "another"})
		yield(Flow{Link: id(theEndpoint).Key(), Inner: true})
		for range *flows {
			yield(Flow{Link: id(theEndpoint).Key()})
		}
		return nil
	}
	service := w.provide(open)
	w.consume()
	w.put(theEndpoint, "%s", endpointDoc(service.Properties.Alias, ""))
	must(t, w.decide(theService, api.Approved, "yes"))
	out, err := w.Delete(t.Context(), root("p"), id(theService), DeleteOptions{Cascade: true}, Conditions{})
	if err != nil || out.Resource == nil || *out.Resource.State() != api.Deleting || !out.Changed {
		t.Fatalf("delete: %+v, %v", out, err)
	}
	w.sync()
	return w, flows
}

func TestDeletion_WhileFlowsAreLeft_DeletingAndClosed(t *testing.T) {
	w, flows := leavingWorld(t)
	ctx := t.Context()
	s := w.service(theService)
	if s.Properties.ProvisioningState != api.Deleting || len(s.Properties.PrivateEndpointConnections) != 1 {
		t.Fatalf("service: %s", text(s))
	}
	if seen := w.seen(theEndpoint); seen.Status != api.Rejected || seen.Description != "The private link service is being deleted" {
		t.Errorf("consumer sees %+v", seen)
	}
	if l := w.link(theEndpoint); l.State != dataplane.LinkRejected || l.RuleSet == "" {
		t.Errorf("kernel: %+v", l)
	}
	at := id(theService).Sub(api.PrivateEndpointConnections, w.connection(theService).Name)
	approve := api.PrivateEndpointConnection{Properties: api.ConnectionProperties{PrivateLinkServiceConnectionState: &api.ConnectionState{Status: api.Approved}}}
	for what, do := range map[string]func() error{
		"put":     func() error { _, err := w.try(theService, "%s", serviceDoc(open)); return err },
		"approve": func() error { _, err := w.Decide(ctx, root("p"), at, approve, Conditions{}); return err },
		"remove":  func() error { _, err := w.Remove(ctx, root("p"), at, Conditions{}); return err },
	} {
		refused := (*api.Error)(nil)
		if err := do(); !errors.As(err, &refused) || refused.Status != 409 || refused.Code != api.CodeBeingDeleted || refused.Message != "privateLinkServices/web is being deleted" {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := w.again(`,'privateLinkServiceConnectionState':{'status':'Pending'}`); err == nil || !strings.Contains(err.Error(), "there is no private link service") {
		t.Errorf("asking again: %v", err)
	}
	if visible, err := w.CheckVisibility(ctx, root("c"), Scope{Subscription: "c"}, s.Properties.Alias); err != nil || visible {
		t.Errorf("still visible: %v %v", visible, err)
	}
	// Once more is the same deletion.
	before := w.Revision()
	for _, cascade := range []bool{true, false} {
		out, err := w.Delete(ctx, root("p"), id(theService), DeleteOptions{Cascade: cascade}, Conditions{})
		if err != nil || out.Changed || out.Resource == nil || w.Revision() != before {
			t.Errorf("deleted again: %+v, %v", out, err)
		}
	}
	*flows = 0
	w.sync()
	wantDeleted(t, w)
}

// wantDeleted wants the service gone, its endpoint Disconnected and the journal to name who asked.
func wantDeleted(t *testing.T, w *world) {
	t.Helper()
	if _, err := w.Get(t.Context(), root("p"), id(theService)); !api.IsNotFound(err) {
		t.Errorf("the service is still there: %v", err)
	}
	if s := w.seen(theEndpoint); s.Status != api.Disconnected || s.Description != "The private link service was deleted" {
		t.Errorf("consumer sees %+v", s)
	}
	if l := w.link(theEndpoint); l.State != dataplane.LinkDisconnected {
		t.Errorf("kernel: %+v", l)
	}
	list, _, err := w.Journal(t.Context(), operator(), 0, 100)
	must(t, err)
	var said []string
	for _, e := range list[len(list)-4:] {
		said = append(said, strings.Join([]string{e.Principal, e.From, e.Action, e.Target[strings.LastIndex(e.Target, "/")+1:][:2], string(e.Event)}, " "))
	}
	want := []string{"p-Owner test change pe ConnectionRejected", "p-Owner test change we ", "p-Owner test delete pe ConnectionDisconnected", "p-Owner test delete we "}
	if strings.Join(said, "\n") != strings.Join(want, "\n") {
		t.Errorf("journal:\n%s", strings.Join(said, "\n"))
	}
	if !strings.Contains(string(list[len(list)-3].After), `"provisioningState":"Deleting"`) {
		t.Errorf("the journal does not say that the deletion began: %s", list[len(list)-3].After)
	}
	// Nothing of it is left.
	must(t, w.delete("p:networkInterfaces/vm1", false))
	must(t, w.delete(theLB, false))
}

func TestDeletion_SilentEnds_AreNotWaitedForLong(t *testing.T) {
	w, _ := leavingWorld(t)
	w.clock.advance(deleteWithin - 1)
	w.sync()
	if s := w.service(theService); s.Properties.ProvisioningState != api.Deleting {
		t.Errorf("too early: %s", s.Properties.ProvisioningState)
	}
	w.clock.advance(1)
	w.sync()
	wantDeleted(t, w)
}

func TestDeletion_RestartInTheMiddle_GoesOn(t *testing.T) {
	w, flows := leavingWorld(t)
	asked := w.options.Flows
	w.restart() // and finds nobody to ask
	if w.options.Flows != nil || asked == nil {
		t.Fatal("the test asks for flows")
	}
	*flows = 0
	wantDeleted(t, w)
}

func TestDeletion_KernelDoesNotAgree_Waits(t *testing.T) {
	w := newWorld(t)
	service := w.provide(open)
	w.consume()
	w.put(theEndpoint, "%s", endpointDoc(service.Properties.Alias, ""))
	must(t, w.decide(theService, api.Approved, "yes"))
	w.kernel.set(func(k *kernel) { k.err = errors.New("no") })
	must(t, w.delete(theService, true))
	w.clock.advance(2 * deleteWithin)
	w.sync()
	if s := w.service(theService); s.Properties.ProvisioningState != api.Deleting {
		t.Errorf("gone before the kernel rejected its connection: %s", s.Properties.ProvisioningState)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.WaitGone(gone, id(theService)); err == nil {
		t.Error("WaitGone says that it is gone")
	}
	w.kernel.set(func(k *kernel) { k.err = nil })
	w.sync()
	must(t, w.WaitGone(t.Context(), id(theService)))
	wantDeleted(t, w)
}

func TestDeletion_NothingApprovedOrInABatch_IsOneStep(t *testing.T) {
	w := newWorld(t)
	service := w.provide(open)
	w.consume()
	w.put(theEndpoint, "%s", endpointDoc(service.Properties.Alias, ""))
	out, err := w.Delete(t.Context(), root("p"), id(theService), DeleteOptions{Cascade: true}, Conditions{})
	if err != nil || out.Resource != nil {
		t.Errorf("pending only: %+v, %v", out, err)
	}
	service = w.put(theService, "%s", serviceDoc(open)).(*api.PrivateLinkService)
	must(t, w.delete(theEndpoint, false))
	w.put(theEndpoint, "%s", endpointDoc(service.Properties.Alias, ""))
	must(t, w.decide(theService, api.Approved, "yes"))
	steps := []Step{{ID: id(theService), Delete: DeleteOptions{Cascade: true}}, {ID: id("p:networkInterfaces/vm1")}, {ID: id(theLB)}}
	if _, err := w.Batch(t.Context(), root("p"), steps, true); err != nil {
		t.Errorf("dry run: %v", err)
	}
	outs, err := w.Batch(t.Context(), auth.Root(), steps, false)
	if err != nil || outs[0].Resource != nil || outs[2].Resource != nil {
		t.Errorf("batch: %+v, %v", outs, err)
	}
}
