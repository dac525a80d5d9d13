package auth

import (
	"fmt"
	"strings"
	"testing"

	"github.com/privlink/privlink/pkg/api"
)

func TestActor_May_ByRoleAndScope(t *testing.T) {
	const service = "/subscriptions/S1/resourceGroups/G1/providers/Microsoft.Network/privateLinkServices/web"
	for _, c := range []struct {
		role                 Role
		scope                string
		read, write, control bool
	}{
		{Owner, "/", true, true, true},
		{Contributor, "/", true, true, false},
		{Reader, "/", true, false, false},
		{Reader, "/subscriptions/s1", true, false, false},
		{Contributor, "/subscriptions/s1/resourcegroups/g1", true, true, false},
		{Owner, strings.ToUpper(service), true, true, true},
		{Owner, service + "2", false, false, false},
		{Owner, "/subscriptions/s", false, false, false},
		{Owner, "/subscriptions/s11", false, false, false},
		{Owner, "/subscriptions/s1/resourceGroups/g", false, false, false},
		{Role("Guest"), "/", false, false, false},
	} {
		a := Actor{Principal: "p", Grants: []Grant{{c.role, c.scope}}}
		for action, want := range map[Action]bool{Read: c.read, Write: c.write, Control: c.control} {
			if got := a.May(action, service); got != want {
				t.Errorf("%s on %s may %s: %v, want %v", c.role, c.scope, action, got, want)
			}
		}
	}
}

func TestActor_Check_HidesWhatMayNotBeRead(t *testing.T) {
	id, err := api.ParseID("privateLinkServices/web", api.ID{Subscription: "s", ResourceGroup: "g"})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		grants []Grant
		action Action
		status int
	}{
		{nil, Read, 404},
		{nil, Write, 404},
		{[]Grant{{Reader, "/subscriptions/s"}}, Read, 0},
		{[]Grant{{Reader, "/subscriptions/s"}}, Write, 403},
		{[]Grant{{Contributor, "/subscriptions/s"}}, Control, 403},
	} {
		status := 0
		if err := (Actor{Grants: c.grants}).Check(c.action, id); err != nil {
			status = api.AsError(err).Status
		}
		if status != c.status {
			t.Errorf("%v %s: %d, want %d", c.grants, c.action, status, c.status)
		}
	}
}

func TestCheckScope_Form(t *testing.T) {
	for in, want := range map[string]string{
		"/":                                 "/",
		"/subscriptions/s/":                 "/subscriptions/s",
		"/Subscriptions/s/resourcegroups/g": "/subscriptions/s/resourceGroups/g",
		"/subscriptions/s/resourceGroups/g/providers/microsoft.network/virtualnetworks/v": "/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/v",
		"": "", "s": "", "/subscriptions": "", "/subscriptions/": "", "/subscriptions/s/x/y": "",
		"/subscriptions/s/resourceGroups/g/providers/microsoft.network/virtualnetworks/v/subnets/a": "",
	} {
		got, err := CheckScope(in)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("CheckScope(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
}

// Every cell of: 3 visibilities x 4 roles x (not listed, listed, auto-approved) x (automatic, manual).
// The tenant appears nowhere: a role given across tenants counts like one at home.
func TestDecide_Matrix(t *testing.T) {
	const hidden, refused = "hidden", "refused"
	pending, approved := string(api.Pending), string(api.Approved)
	// Per visibility and role, for (not listed, listed, auto-approved): manual, then automatic.
	want := map[string]map[string][2][3]string{
		"roles only": {
			"none":        {{hidden, hidden, hidden}, {hidden, hidden, hidden}},
			"Reader":      {{pending, pending, pending}, {refused, refused, refused}},
			"Contributor": {{pending, pending, pending}, {approved, approved, approved}},
			"Owner":       {{pending, pending, pending}, {approved, approved, approved}},
		},
		"subscriptions": {
			"none":        {{hidden, pending, approved}, {hidden, refused, approved}},
			"Reader":      {{pending, pending, approved}, {refused, refused, approved}},
			"Contributor": {{pending, pending, approved}, {approved, approved, approved}},
			"Owner":       {{pending, pending, approved}, {approved, approved, approved}},
		},
		"anyone": {
			"none":        {{pending, pending, approved}, {refused, refused, approved}},
			"Reader":      {{pending, pending, approved}, {refused, refused, approved}},
			"Contributor": {{pending, pending, approved}, {approved, approved, approved}},
			"Owner":       {{pending, pending, approved}, {approved, approved, approved}},
		},
	}
	cells := 0
	for visibility, roles := range want {
		for role, ways := range roles {
			for way, row := range ways {
				for listed, expected := range row {
					r := Request{Subscription: "Consumer", Automatic: way == 1,
						Reads: role != "none", Approves: role == "Contributor" || role == "Owner"}
					switch {
					case visibility == "anyone":
						r.Visibility = &api.SubscriptionList{Subscriptions: []string{api.Anyone}}
					case visibility == "subscriptions" && listed > 0:
						r.Visibility = &api.SubscriptionList{Subscriptions: []string{"other", "consumer"}}
					case visibility == "subscriptions":
						r.Visibility = &api.SubscriptionList{Subscriptions: []string{"other"}}
					}
					// Auto-approval lies within visibility; with roles only there is none.
					if listed == 2 && visibility != "roles only" {
						r.AutoApproval = &api.SubscriptionList{Subscriptions: []string{"consumer"}}
					}
					got := hidden
					if r.Visible() {
						d, err := r.Decide()
						got = string(d.Status)
						if err != nil {
							got = refused
						}
					}
					cells++
					if got != expected {
						t.Errorf("%s, %s, automatic %v, listed %d: %s, want %s", visibility, role, way == 1, listed, got, expected)
					}
				}
			}
		}
	}
	if cells != 3*4*2*3 {
		t.Errorf("%d cells", cells)
	}
}

func TestDecide_Restricted_RolesDoNotOpen(t *testing.T) {
	r := Request{Subscription: "c", Reads: true, Approves: true, Restricted: true}
	if r.Visible() {
		t.Error("visible by role")
	}
	r.Visibility = &api.SubscriptionList{Subscriptions: []string{"c"}}
	if !r.Visible() {
		t.Error("not visible though listed")
	}
}

func TestDecide_Approvals_EndpointBeforeSubscriptionBeforeAutoApproval(t *testing.T) {
	const endpoint = "/subscriptions/c/resourceGroups/g/providers/Microsoft.Network/privateEndpoints/pe"
	sub := func(s api.ConnectionStatus) api.Approval {
		return api.Approval{Subscription: "C", Status: s, Description: "sub"}
	}
	pe := func(s api.ConnectionStatus) api.Approval {
		return api.Approval{PrivateEndpoint: strings.ToUpper(endpoint), Status: s, Description: "pe"}
	}
	for _, c := range []struct {
		list []api.Approval
		auto bool
		want string
	}{
		{nil, false, "Pending  "},
		{nil, true, "Approved Auto-approved autoApproval"},
		{[]api.Approval{sub(api.Approved)}, false, "Approved sub approvals"},
		{[]api.Approval{sub(api.Rejected)}, true, "Rejected sub approvals"},
		{[]api.Approval{sub(api.Rejected), pe(api.Approved)}, false, "Approved pe approvals"},
		{[]api.Approval{pe(api.Rejected), sub(api.Approved)}, true, "Rejected pe approvals"},
		{[]api.Approval{{Subscription: "d", Status: api.Approved}}, false, "Pending  "},
	} {
		r := Request{Subscription: "c", Endpoint: endpoint, Approvals: c.list}
		if c.auto {
			r.AutoApproval = &api.SubscriptionList{Subscriptions: []string{"c"}}
		}
		d, err := r.Decide()
		if got := fmt.Sprintf("%s %s %s", d.Status, d.Description, d.By); err != nil || got != c.want {
			t.Errorf("%+v auto %v: %q %v, want %q", c.list, c.auto, got, err, c.want)
		}
	}
}
