package control

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/auth"
)

func ptr[T any](v T) *T { return &v }

func TestIdentify_FirstStart_RootOnTheSocketAndNobodyElse(t *testing.T) {
	w := newWorld(t)
	who, err := w.Identify(t.Context(), auth.Credentials{UID: ptr(uint32(0)), From: "socket"})
	if err != nil || !who.May(auth.Control, auth.Everything) || who.From != "socket" {
		t.Errorf("root: %+v %v", who, err)
	}
	for what, x := range map[string]auth.Credentials{
		"nothing": {}, "another uid": {UID: ptr(uint32(1000)), GIDs: []uint32{0}}, "a certificate": {Certificate: "root"},
		"a token": {Token: "plk_x_y"}, "root with a bad token": {UID: ptr(uint32(0)), Token: "x"},
	} {
		if who, err := w.Identify(t.Context(), x); err == nil || api.AsError(err).Status != 401 {
			t.Errorf("%s: %+v %v", what, who, err)
		}
	}
	w.restart()
	if n := len(w.view.access.principals) + len(w.view.access.roles); n != 2 {
		t.Errorf("%d principals and roles after a restart", n)
	}
}

func TestAccess_PrincipalsTokensRoles(t *testing.T) {
	w, ctx := newWorld(t), t.Context()
	for _, p := range []api.Principal{
		{Name: "alice", Tenant: "acme", UID: ptr(uint32(1000))}, {Name: "ops", Tenant: "acme", GID: ptr(uint32(50))}, {Name: "bob", Tenant: "shop", Certificate: "bob"},
	} {
		if _, err := w.PutPrincipal(ctx, operator(), p); err != nil {
			t.Fatal(err)
		}
	}
	role, err := w.PutRole(ctx, operator(), api.RoleAssignment{Principal: "ALICE", Role: "contributor", Scope: "/subscriptions/p"})
	must(t, err)
	if again, err := w.PutRole(ctx, operator(), api.RoleAssignment{Principal: "alice", Role: "Contributor", Scope: "/Subscriptions/P/"}); err != nil || again.ID != role.ID {
		t.Errorf("the same again: %+v %v", again, err)
	}
	_, err = w.PutRole(ctx, operator(), api.RoleAssignment{Principal: "ops", Role: "Reader", Scope: "/"})
	must(t, err)
	who, err := w.Identify(ctx, auth.Credentials{UID: ptr(uint32(1000)), GIDs: []uint32{1000, 50}})
	if err != nil || who.Principal != "alice" || who.Tenant != "acme" || !who.May(auth.Write, "/subscriptions/p/x") || !who.May(auth.Read, "/subscriptions/q") || who.May(auth.Write, "/subscriptions/q") {
		t.Errorf("uid and gid: %+v %v", who, err)
	}
	token, err := w.CreateToken(ctx, operator(), "bob", time.Hour)
	must(t, err)
	if strings.Contains(w.dump(t), token.Secret) || !strings.HasPrefix(token.Secret, "plk_") {
		t.Error("the secret is in the store")
	}
	w.restart()
	if who, err := w.Identify(ctx, auth.Credentials{Token: token.Secret}); err != nil || who.Principal != "bob" || len(who.Grants) != 0 {
		t.Errorf("token: %+v %v", who, err)
	}
	if who, err := w.Identify(ctx, auth.Credentials{Certificate: "bob"}); err != nil || who.Principal != "bob" {
		t.Errorf("certificate: %+v %v", who, err)
	}
	if _, err := w.Identify(ctx, auth.Credentials{Token: token.Secret + "x"}); err == nil {
		t.Error("a longer token")
	}
	w.clock.advance(time.Hour)
	if _, err := w.Identify(ctx, auth.Credentials{Token: token.Secret}); err == nil {
		t.Error("an expired token")
	}
	second, err := w.CreateToken(ctx, auth.Actor{Principal: "bob"}, "bob", 0) // its own
	must(t, err)
	must(t, w.DeletePrincipal(ctx, operator(), "bob"))
	if _, err := w.Identify(ctx, auth.Credentials{Token: second.Secret}); err == nil {
		t.Error("a token of a deleted principal")
	}
	must(t, w.DeleteRole(ctx, operator(), role.ID))
	if who, err := w.Identify(ctx, auth.Credentials{UID: ptr(uint32(1000))}); err != nil || len(who.Grants) != 0 {
		t.Errorf("role taken away: %+v %v", who, err)
	}
	if list, err := w.Tokens(ctx, operator()); err != nil || len(list) != 0 {
		t.Errorf("tokens left: %+v %v", list, err)
	}
}

// A principal written in another case is the same one, with its roles.
func TestAccess_PrincipalInAnotherCase_KeepsItsRoles(t *testing.T) {
	w, ctx := newWorld(t), t.Context()
	made, err := w.PutPrincipal(ctx, operator(), api.Principal{Name: "ROOT", Tenant: "root", UID: ptr(uint32(0))})
	if err != nil || made.Name != "root" {
		t.Errorf("%+v %v", made, err)
	}
	check := func() {
		t.Helper()
		if who, err := w.Identify(ctx, auth.Credentials{UID: ptr(uint32(0))}); err != nil || who.Principal != "root" || !who.May(auth.Control, auth.Everything) {
			t.Errorf("root: %+v %v", who, err)
		}
	}
	check()
	w.restart()
	check()
	// A store in which the two differ already.
	w.view.access.principals[prefixPrincipal+"root"].value.Name = "Root"
	if who, err := w.Identify(ctx, auth.Credentials{UID: ptr(uint32(0))}); err != nil || !who.May(auth.Control, auth.Everything) {
		t.Errorf("root, stored in two spellings: %+v %v", who, err)
	}
	for _, s := range []string{"Shop", "SHOP"} {
		if made, err := w.PutSubscription(ctx, operator(), api.Subscription{Name: s, Tenant: s}); err != nil || made.Name != "Shop" {
			t.Errorf("%+v %v", made, err)
		}
	}
}

// Whoever got hold of a token cannot get one that outlives it.
func TestAccess_TokenOfAToken_EndsWithIt(t *testing.T) {
	w, ctx := newWorld(t), t.Context()
	_, err := w.PutPrincipal(ctx, operator(), api.Principal{Name: "bob", Tenant: "shop"})
	must(t, err)
	_, err = w.PutRole(ctx, operator(), api.RoleAssignment{Principal: "bob", Role: "Owner", Scope: "/"})
	must(t, err)
	as := func(token api.Token) auth.Actor {
		t.Helper()
		who, err := w.Identify(ctx, auth.Credentials{Token: token.Secret})
		must(t, err)
		return who
	}
	make := func(who auth.Actor, life time.Duration) api.Token {
		t.Helper()
		made, err := w.CreateToken(ctx, who, "BOB", life)
		must(t, err)
		return made
	}
	first := make(operator(), time.Hour)
	eternal := make(operator(), 0)
	if !eternal.Expires.IsZero() || eternal.Parent != "" {
		t.Errorf("by the operator: %+v", eternal)
	}
	w.clock.advance(time.Minute)
	if second := make(as(first), 0); !second.Expires.Equal(first.Expires) || second.Parent != first.ID {
		t.Errorf("for as long as may be: %+v", second)
	}
	if short := make(as(first), time.Minute); !short.Expires.Equal(w.clock.Now().Add(time.Minute)) {
		t.Errorf("for a minute: %+v", short)
	}
	_, err = w.CreateToken(ctx, as(first), "bob", time.Hour)
	if want := "expires: the token that asks is valid until 2026-01-02T04:04:05Z, and so can be at most what it asks for"; err == nil || err.Error() != want || api.AsError(err).Status != 403 {
		t.Errorf("for longer: %v", err)
	}
	if other, err := w.CreateToken(ctx, as(first), "root", 0); err != nil || !other.Expires.IsZero() {
		t.Errorf("for another principal, as access control allows: %+v %v", other, err)
	}
	child := make(as(eternal), 0)
	grandchild := make(as(child), 0)
	gone := as(eternal)
	must(t, w.DeleteToken(ctx, operator(), eternal.ID))
	for _, x := range []api.Token{eternal, child, grandchild} {
		if _, err := w.Identify(ctx, auth.Credentials{Token: x.Secret}); err == nil {
			t.Errorf("still valid: %+v", x)
		}
	}
	if _, err := w.CreateToken(ctx, gone, "bob", 0); err == nil {
		t.Error("a token that is gone made another")
	}
	as(first) // somebody else's is as before
}

func TestAccess_LastOwner_Stays(t *testing.T) {
	w, ctx := newWorld(t), t.Context()
	const want = "nobody would be Owner of / with a uid, gid or certificate any more"
	refused := func(what string, err error) {
		t.Helper()
		if err == nil || err.Error() != want {
			t.Errorf("%s: %v", what, err)
		}
	}
	roles, err := w.Roles(ctx, operator())
	must(t, err)
	refused("role", w.DeleteRole(ctx, operator(), roles[0].ID))
	refused("principal", w.DeletePrincipal(ctx, operator(), "root"))
	_, err = w.PutPrincipal(ctx, operator(), api.Principal{Name: "root", Tenant: "root"})
	refused("uid", err)
	_, err = w.PutPrincipal(ctx, operator(), api.Principal{Name: "admin", Tenant: "root", Certificate: "admin"})
	must(t, err)
	_, err = w.PutRole(ctx, operator(), api.RoleAssignment{Principal: "admin", Role: "Owner", Scope: "/"})
	must(t, err)
	must(t, w.DeletePrincipal(ctx, operator(), "root"))
	w.restart() // and it does not come back
	if _, err := w.Identify(ctx, auth.Credentials{UID: ptr(uint32(0))}); err == nil {
		t.Error("root is back")
	}
}

func TestAccess_Refusals(t *testing.T) {
	w, ctx := newWorld(t), t.Context()
	_, err := w.PutPrincipal(ctx, operator(), api.Principal{Name: "alice", Tenant: "acme", UID: ptr(uint32(1000))})
	must(t, err)
	_, err = w.PutSubscription(ctx, operator(), api.Subscription{Name: "p", Tenant: "acme"})
	must(t, err)
	w.provide(open)
	owner := who("p", auth.Owner)
	for _, c := range []struct {
		what string
		do   func() error
		want string
	}{
		{"uid taken", func() error {
			_, err := w.PutPrincipal(ctx, operator(), api.Principal{Name: "b", Tenant: "t", UID: ptr(uint32(1000))})
			return err
		}, "uid: 1000 is principal alice"},
		{"principal by an owner of a subscription", func() error { _, err := w.PutPrincipal(ctx, owner, api.Principal{Name: "b", Tenant: "t"}); return err },
			`principal "p-Owner" may not control access to /`},
		{"principals listed", func() error { _, err := w.Principals(ctx, owner); return err }, `principal "p-Owner" may not control access to /`},
		{"token of another", func() error { _, err := w.CreateToken(ctx, owner, "alice", 0); return err }, `principal "p-Owner" may not control access to /`},
		{"role beyond the own scope", func() error {
			_, err := w.PutRole(ctx, owner, api.RoleAssignment{Principal: "alice", Role: "Reader", Scope: "/subscriptions/q"})
			return err
		}, `principal "p-Owner" may not control access to /subscriptions/q`},
		{"role by a contributor", func() error {
			_, err := w.PutRole(ctx, who("p", auth.Contributor), api.RoleAssignment{Principal: "alice", Role: "Reader", Scope: "/subscriptions/p"})
			return err
		}, `principal "p-Contributor" may not control access to /subscriptions/p`},
		{"role of nobody", func() error {
			_, err := w.PutRole(ctx, owner, api.RoleAssignment{Principal: "carol", Role: "Reader", Scope: "/subscriptions/p"})
			return err
		}, `principal: "carol" was not found`},
		{"unknown role", func() error {
			_, err := w.PutRole(ctx, owner, api.RoleAssignment{Principal: "alice", Role: "Admin", Scope: "/subscriptions/p"})
			return err
		}, `role: "Admin" is not one of Owner, Contributor, Reader`},
		{"unknown scope", func() error {
			_, err := w.PutRole(ctx, operator(), api.RoleAssignment{Principal: "alice", Role: "Reader", Scope: "p"})
			return err
		}, `scope: "p" is not a scope (want /, /subscriptions/S, /subscriptions/S/resourceGroups/G or a resource id)`},
		{"subscription in use", func() error { return w.DeleteSubscription(ctx, operator(), "P") }, ""},
		{"unknown subscription", func() error { return w.DeleteSubscription(ctx, operator(), "x") }, `subscription "x" was not found`},
		{"bad name", func() error {
			_, err := w.PutSubscription(ctx, operator(), api.Subscription{Name: "a b", Tenant: "t"})
			return err
		},
			`name: "a b" may contain letters, digits, '_', '.' and '-' only`},
	} {
		before := w.dump(t)
		err := c.do()
		if err == nil || c.want != "" && err.Error() != c.want {
			t.Errorf("%s\n got %v\nwant %s", c.what, err, c.want)
		}
		if after := w.dump(t); after != before {
			t.Errorf("%s: the store changed", c.what)
		}
	}
}

// Every method of resources x every role: what each may do, and that who may not read cannot tell what exists.
func TestControl_RolesOnEveryMethod(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	alias := w.provide(open).Properties.Alias
	w.consume()
	w.put(theEndpoint, "%s", endpointDoc(alias, ""))
	service := id(theService)
	theConnection := service.Sub(api.PrivateEndpointConnections, w.connection(theService).Name)
	nothing, noConnection := service, theConnection
	nothing.Name, noConnection.Name = "nothing", "nothing"
	body := func() api.Resource { return doc(api.PrivateLinkServices, "%s", serviceDoc(open)) }
	state := api.PrivateEndpointConnection{Properties: api.ConnectionProperties{PrivateLinkServiceConnectionState: &api.ConnectionState{Status: api.Approved}}}
	methods := []struct {
		name  string
		needs auth.Action
		do    func(who auth.Actor, exists bool) error
	}{
		{"Get", auth.Read, func(who auth.Actor, exists bool) error {
			_, err := w.Get(ctx, who, pick(exists, service, nothing))
			return err
		}},
		{"Put", auth.Write, func(who auth.Actor, exists bool) error {
			_, err := w.Put(ctx, who, pick(exists, service, nothing), body(), Conditions{DryRun: true})
			return err
		}},
		{"Delete", auth.Write, func(who auth.Actor, exists bool) error {
			_, err := w.Delete(ctx, who, pick(exists, service, nothing), DeleteOptions{Cascade: true}, Conditions{DryRun: true})
			return err
		}},
		{"Batch", auth.Write, func(who auth.Actor, exists bool) error {
			_, err := w.Batch(ctx, who, []Step{{ID: pick(exists, service, nothing), Put: body()}}, true)
			return err
		}},
		{"PutPart", auth.Write, func(who auth.Actor, exists bool) error {
			_, err := w.PutPart(ctx, who, id(theNetwork).Sub(api.Subnets, pick(exists, "nat", "new")), []byte(`{"properties":{"addressPrefix":"10.0.2.0/24"}}`), api.Strict, Conditions{DryRun: true})
			return err
		}},
		{"DeletePart", auth.Write, func(who auth.Actor, exists bool) error {
			_, err := w.DeletePart(ctx, who, id(theNetwork).Sub(api.Subnets, pick(exists, "nat", "new")), Conditions{DryRun: true})
			return err
		}},
		{"GetPart", auth.Read, func(who auth.Actor, exists bool) error {
			_, err := w.GetPart(ctx, who, id(theNetwork).Sub(api.Subnets, pick(exists, "nat", "new")))
			return err
		}},
		{"ListParts", auth.Read, func(who auth.Actor, exists bool) error {
			_, err := w.ListParts(ctx, who, pick(exists, service, nothing), api.IPConfigurations)
			return err
		}},
		{"Connection", auth.Read, func(who auth.Actor, exists bool) error {
			_, err := w.Connection(ctx, who, pick(exists, theConnection, noConnection))
			return err
		}},
		{"Connections", auth.Read, func(who auth.Actor, exists bool) error {
			_, err := w.Connections(ctx, who, pick(exists, service, nothing))
			return err
		}},
		{"Decide", auth.Write, func(who auth.Actor, exists bool) error {
			_, err := w.Decide(ctx, who, pick(exists, theConnection, noConnection), state, Conditions{})
			return err
		}},
		{"Remove", auth.Write, func(who auth.Actor, exists bool) error {
			_, err := w.Remove(ctx, who, noConnection, Conditions{})
			return err
		}},
	}
	roles := map[string]auth.Actor{"nobody": {Principal: "x"}, "consumer": who("c", auth.Owner), "Reader": who("p", auth.Reader),
		"Contributor": who("p", auth.Contributor), "Owner": who("p", auth.Owner)}
	cells := 0
	for _, m := range methods {
		for name, actor := range roles {
			want := 0
			switch name {
			case "nobody", "consumer":
				want = 404
			case "Reader":
				if m.needs == auth.Write {
					want = 403
				}
			}
			texts := []string{}
			for _, exists := range []bool{true, false} {
				cells++
				err := m.do(actor, exists)
				status := 0
				if err != nil {
					status = api.AsError(err).Status
					texts = append(texts, strings.NewReplacer("nothing", "X", "/web", "/X", "/nat", "/X", "/new", "/X").Replace(err.Error()))
				}
				switch {
				case want != 0 && status != want, want == 0 && exists && status != 0 && status != 409, want == 0 && (status == 401 || status == 403):
					t.Errorf("%s as %s, exists %v: %d %v, want %d", m.name, name, exists, status, err, want)
				}
			}
			if want == 404 && (len(texts) != 2 || texts[0] != texts[1]) {
				t.Errorf("%s as %s tells what exists: %q", m.name, name, texts)
			}
		}
	}
	if cells != len(methods)*len(roles)*2 {
		t.Errorf("%d cells", cells)
	}
	// Lists: only what may be read.
	for name, want := range map[string]int{"Reader": 1, "Contributor": 1, "Owner": 1, "consumer": 0, "nobody": 0} {
		for _, scope := range []Scope{{}, {Subscription: "p"}, {Subscription: "p", ResourceGroup: "RG"}} {
			list, err := w.List(ctx, roles[name], api.PrivateLinkServices, scope)
			inbox, err2 := w.Inbox(ctx, roles[name], scope)
			if len(list) != want || len(inbox) != want || want == 1 && (err != nil || err2 != nil) {
				t.Errorf("%s %+v: %d services, %d connections, %v %v", name, scope, len(list), len(inbox), err, err2)
			}
		}
	}
}

func pick[T any](first bool, a, b T) T {
	if first {
		return a
	}
	return b
}

func TestJournal_SaysEveryWriteAndOnlyToThoseWhoMayRead(t *testing.T) {
	w, ctx := newWorld(t), t.Context()
	service := w.provide(open)
	w.consume()
	start := w.view.journal
	w.put(theEndpoint, "%s", endpointDoc(service.Properties.Alias, ""))
	must(t, w.decide(theService, api.Approved, "yes"))
	must(t, w.decide(theService, api.Rejected, "no"))
	w.remove(theService)
	must(t, w.delete(theEndpoint, false))
	_, err := w.PutSubscription(ctx, operator(), api.Subscription{Name: "s", Tenant: "t"})
	must(t, err)
	read := func(who auth.Actor) (lines []string) {
		t.Helper()
		list, next, err := w.Journal(ctx, who, start, 100)
		if err != nil || next != w.view.journal {
			t.Fatal(err, next)
		}
		for _, e := range list {
			target := e.Target[strings.LastIndex(e.Target, "/")+1:]
			if e.Event != "" && e.Target != e.Endpoint {
				target = "connection"
			}
			lines = append(lines, strings.TrimSpace(fmt.Sprintf("%s %s %s %s", e.Principal, e.Action, target, e.Event)))
		}
		return lines
	}
	for who, want := range map[string][]string{
		"p": {"c-Owner create connection ConnectionRequested", "p-Owner change connection ConnectionApproved", "p-Owner change connection ConnectionRejected",
			"p-Owner delete connection ConnectionDisconnected"},
		"c": {"create pe ConnectionRequested", "c-Owner create pe", "change pe ConnectionApproved", "change pe ConnectionRejected",
			"delete pe ConnectionDisconnected", "c-Owner delete pe"},
		"d": nil,
	} {
		if got := read(root(who)); !slices.Equal(got, want) {
			t.Errorf("%s\ngot  %q\nwant %q", who, got, want)
		}
	}
	if got := read(operator()); len(got) != 7 || got[6] != "root create s" {
		t.Errorf("operator: %q", got)
	}
	list, _, err := w.Journal(ctx, root("c"), start, 100)
	must(t, err)
	if all := text(list); strings.Contains(all, "subscriptions/p") || strings.Contains(all, `"decidedBy":"p-Owner"`) {
		t.Errorf("the consumer sees the provider: %s", all)
	}
}

func TestJournal_ForgetsTheOldest(t *testing.T) {
	w, ctx := newWorld(t), t.Context()
	w.view.journal = api.MaxJournal + 5 // as if there had been so many
	for i := range 3 {
		_, err := w.PutSubscription(ctx, operator(), api.Subscription{Name: fmt.Sprint("s", i), Tenant: "t"})
		must(t, err)
	}
	list, next, err := w.Journal(ctx, operator(), 0, 100)
	if err != nil || len(list) != 3 || list[0].Number != api.MaxJournal+6 || next != api.MaxJournal+8 {
		t.Errorf("%d entries, next %d, %v", len(list), next, err)
	}
	waiting, cancel := context.WithCancel(ctx)
	cancel()
	if err := w.WaitJournal(waiting, next); err == nil {
		t.Error("waiting for what is not there ended")
	}
	must(t, w.WaitJournal(ctx, next-1))
}

func TestCursor_BeginsAtTheEndAndIsKept(t *testing.T) {
	w, ctx := newWorld(t), t.Context()
	w.consume()
	end := w.view.journal
	if n, err := w.Cursor(ctx, "hook"); err != nil || n != end || n == 0 {
		t.Errorf("new: %d %v, the end is %d", n, err, end)
	}
	must(t, w.SetCursor(ctx, "hook", 1))
	w.restart()
	if n, err := w.Cursor(ctx, "hook"); err != nil || n != 1 {
		t.Errorf("kept: %d %v", n, err)
	}
	w.put(theConsumer, `{'tags':{'a':'b'},'properties':{'addressSpace':{'addressPrefixes':['10.0.0.0/16']},'subnets':[
		{'name':'default','properties':{'addressPrefix':'10.0.1.0/24'}}]}}`)
}
