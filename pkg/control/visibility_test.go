package control

import (
	"fmt"
	"strings"
	"testing"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/auth"
)

// Every cell of 3 visibilities x (same tenant, other tenant) x 4 roles on the service x (not listed, listed,
// auto-approved), by alias and by id: the state of the connection, or that nothing can be seen. pkg/auth has the rule;
// this is what becomes of real requests. And by id in the automatic list: approved at once, by who may approve or by the
// service itself, or refused.
func TestVisibility_EveryCell_ThroughTheController(t *testing.T) {
	const hidden, refused, pending, approved = "hidden", "refused", string(api.Pending), string(api.Approved)
	want := map[string]map[string][3]string{ // by visibility and role: not listed, listed, auto-approved
		"roles only": {
			"none": {hidden, hidden, hidden}, "Reader": {pending, pending, pending}, "Contributor": {pending, pending, pending}, "Owner": {pending, pending, pending}},
		"subscriptions": {
			"none": {hidden, pending, approved}, "Reader": {pending, pending, approved}, "Contributor": {pending, pending, approved}, "Owner": {pending, pending, approved}},
		"anyone": {
			"none": {pending, pending, approved}, "Reader": {pending, pending, approved}, "Contributor": {pending, pending, approved}, "Owner": {pending, pending, approved}},
	}
	w, cells := newWorld(t), 0
	w.provide("")
	w.consume()
	for visibility, roles := range want {
		for listed := range 3 {
			list, auto := "", ""
			switch {
			case visibility == "anyone":
				list = `'*'`
			case visibility == "subscriptions" && listed > 0:
				list = `'other','c'`
			case visibility == "subscriptions":
				list = `'other'`
			}
			if listed == 2 && list != "" {
				auto = `,'autoApproval':{'subscriptions':['c']}` // lies within visibility, so there is none with roles only
			}
			service := w.put(theService, "%s", serviceDoc(`,'visibility':{'subscriptions':[`+list+`]}`+auto)).(*api.PrivateLinkService)
			for role, row := range roles {
				for _, tenant := range []string{"tenant-p", "tenant-c"} {
					actor := auth.Actor{Principal: "somebody", Tenant: tenant, From: "test", Grants: []auth.Grant{{Role: auth.Owner, Scope: auth.SubscriptionScope("c")}}}
					if role != "none" {
						actor.Grants = append(actor.Grants, auth.Grant{Role: auth.Role(role), Scope: service.ID})
					}
					for _, target := range []string{service.Properties.Alias, service.ID} {
						cells++
						name := fmt.Sprintf("%s, %s, %s, listed %d, %s", visibility, role, tenant, listed, target[:5])
						if got := w.asked(actor, endpointDoc(target, "")); got != row[listed] {
							t.Errorf("%s: %s, want %s", name, got, row[listed])
						}
						if target == service.ID {
							want := row[listed]
							switch approves := role == string(auth.Contributor) || role == string(auth.Owner); {
							case want == pending && approves:
								want = approved
							case want == pending:
								want = refused
							}
							automatic := strings.Replace(endpointDoc(target, ""), "manualPrivate", "private", 1)
							if got := w.asked(actor, automatic); got != want {
								t.Errorf("%s, automatic: %s, want %s", name, got, want)
							}
						}
						seen, err := w.CheckVisibility(t.Context(), actor, Scope{Subscription: "c"}, service.Properties.Alias)
						if err != nil || seen != (row[listed] != hidden) {
							t.Errorf("%s: checkPrivateLinkServiceVisibility says %v, %v", name, seen, err)
						}
					}
				}
			}
		}
	}
	if cells != 3*2*4*3*2 {
		t.Errorf("%d cells", cells)
	}
}

// asked makes an endpoint, says what became of it, and removes it.
func (w *world) asked(actor auth.Actor, document string) string {
	w.Helper()
	at := id(theEndpoint)
	out, err := w.Put(w.Context(), actor, at, doc(api.PrivateEndpoints, "%s", document), Conditions{})
	if err != nil {
		if refused := api.AsError(err); refused.Status == 400 && strings.Contains(err.Error(), "there is no private link service") {
			return "hidden"
		} else if refused.Status == 403 && refused.Code == api.CodeApproval {
			return "refused"
		}
		return err.Error()
	}
	c, _ := out.Resource.(*api.PrivateEndpoint).Connection()
	if _, err := w.Delete(w.Context(), actor, at, DeleteOptions{}, Conditions{}); err != nil {
		w.Fatal(err)
	}
	return string(c.Properties.PrivateLinkServiceConnectionState.Status)
}
