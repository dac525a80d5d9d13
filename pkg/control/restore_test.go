package control

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/store"
)

// history is the journal as the operator reads it.
func (w *world) history() []api.JournalEntry {
	w.Helper()
	list, _, err := w.Journal(w.Context(), operator(), 0, api.MaxJournal)
	must(w.TB, err)
	return list
}

func (w *world) backup() *bytes.Buffer {
	w.Helper()
	var b bytes.Buffer
	must(w.TB, w.Backup(w.Context(), &b))
	return &b
}

func TestRestore_Journal_KeepsWhatHappenedAndSaysSo(t *testing.T) {
	w, ctx := newWorld(t), t.Context()
	w.consume()
	must(t, w.SetCursor(ctx, "hook", 1))
	backup, then := w.backup(), w.view.journal
	revision, err := w.bolt.Revision(ctx)
	must(t, err)
	must(t, w.delete(theConsumer, false))
	must(t, w.SetCursor(ctx, "hook", 2))
	must(t, w.SetCursor(ctx, "later", 3))
	before := w.history()
	now, err := w.bolt.Revision(ctx)
	must(t, err)
	operator := operator()
	operator.From = "10.9.9.9:1"
	must(t, w.Restore(ctx, operator, backup))
	w.sync()
	w.get(theConsumer) // it is back
	w.restart()
	after := w.history()
	if len(after) != len(before)+1 || text(after[:len(before)]) != text(before) {
		t.Fatalf("the journal before %s\nafter %s", text(before), text(after))
	}
	want := api.JournalEntry{Number: uint64(len(after)), Time: w.clock.Now(), Principal: "root", Tenant: "root", From: "10.9.9.9:1", Action: "restore",
		Target: "/privlink/restore", Before: json.RawMessage(text(moment{now, uint64(len(before))})), After: json.RawMessage(text(moment{revision, then}))}
	if got := after[len(before)]; text(got) != text(want) {
		t.Errorf("got  %s\nwant %s", text(got), text(want))
	}
	for name, want := range map[string]uint64{"hook": 2, "later": 3} {
		if n, err := w.Cursor(ctx, name); n != want || err != nil {
			t.Errorf("cursor %s: %d %v", name, n, err)
		}
	}
	if list, _, err := w.Journal(ctx, root("c"), uint64(len(before)), 10); err != nil || len(list) != 0 {
		t.Errorf("a consumer sees the restore: %s %v", text(list), err)
	}
}

// A machine made anew has the history of the old one, and behind it its own.
func TestRestore_OnAnotherMachine_HistoryComesFirst(t *testing.T) {
	old, ctx := newWorld(t), t.Context()
	old.consume()
	must(t, old.SetCursor(ctx, "gone", 1))
	w := newWorld(t)
	w.clock.advance(1)
	must(t, w.SetCursor(ctx, "hook", 2))
	theirs, ours := old.history(), w.history()
	must(t, w.Restore(ctx, operator(), old.backup()))
	w.sync()
	after := w.history()
	if len(after) != len(theirs)+len(ours)+1 || text(after[:len(theirs)]) != text(theirs) || after[len(after)-1].Action != "restore" {
		t.Fatalf("old %s\nnew %s\ntogether %s", text(theirs), text(ours), text(after))
	}
	for i := range ours {
		ours[i].Number += uint64(len(theirs))
	}
	if got := after[len(theirs) : len(after)-1]; text(got) != text(ours) {
		t.Errorf("its own: %s\nwant %s", text(got), text(ours))
	}
	for name, want := range map[string]int{"hook": len(theirs) + 2, "gone": len(after)} {
		if n, err := w.Cursor(ctx, name); n != uint64(want) || err != nil {
			t.Errorf("cursor %s: %d %v, want %d", name, n, err, want)
		}
	}
	again := w.history()
	must(t, w.Restore(ctx, operator(), w.backup()))
	if got := w.history(); len(got) != len(again)+1 || text(got[:len(again)]) != text(again) {
		t.Errorf("restored once more: %s", text(got))
	}
}

func TestRestore_Journal_ForgetsTheOldest(t *testing.T) {
	w, ctx := newWorld(t), t.Context()
	backup := w.backup()
	w.view.journal = api.MaxJournal + 5 // as if there had been so many
	w.consume()
	must(t, w.Restore(ctx, operator(), backup))
	list, _, err := w.bolt.List(ctx, prefixJournal)
	if err != nil || len(list) != 2 || list[0].Key != journalKey(api.MaxJournal+6) || list[1].Key != journalKey(api.MaxJournal+7) {
		t.Errorf("%d entries kept, %v", len(list), err)
	}
}

// A backup whose file is whole and whose content is not changes nothing.
func TestRestore_ContentDamaged_IsRefused(t *testing.T) {
	w, other := newWorld(t), newWorld(t)
	w.consume()
	_, err := other.bolt.Commit(t.Context(), store.Txn{Put: []store.Entry{{Key: prefixPrincipal + "x", Value: []byte("{")}}})
	must(t, err)
	before := w.dump(t)
	if err := w.Restore(t.Context(), operator(), other.backup()); !errors.Is(err, store.ErrDamaged) {
		t.Errorf("restored: %v", err)
	}
	if w.dump(t) != before {
		t.Error("the store changed")
	}
	w.consume()
}

// Every kind of write, with who asked from where, and what was and what is.
func TestJournal_EveryKindOfWrite_FromBeforeAfter(t *testing.T) {
	w, ctx := newWorld(t), t.Context()
	service := w.provide(open)
	w.consume()
	by := operator()
	by.From = "192.0.2.7:4711"
	decide := func(status api.ConnectionStatus) error {
		at := id(theService).Sub(api.PrivateEndpointConnections, w.connection(theService).Name)
		_, err := w.Decide(ctx, by, at, api.PrivateEndpointConnection{Properties: api.ConnectionProperties{
			PrivateLinkServiceConnectionState: &api.ConnectionState{Status: status, Description: "because"}}}, Conditions{})
		return err
	}
	put := func(name, format string, args ...any) func() error {
		return func() error {
			_, err := w.Put(ctx, by, id(name), doc(api.Kind(id(name).Type), format, args...), Conditions{})
			return err
		}
	}
	const extra = "p:virtualNetworks/extra"
	subnet := id(extra).Sub(api.Subnets, "s")
	var token api.Token
	var role api.RoleAssignment
	for _, c := range []struct {
		what string
		do   func() error
		// want are the entries: action, end of target, what Before and After contain ("-": there is none).
		want [][4]string
	}{
		{"resource made", put(extra, `{'properties':{'addressSpace':{'addressPrefixes':['10.9.0.0/16']}}}`), [][4]string{{"create", "extra", "-", "10.9.0.0/16"}}},
		{"resource changed", put(extra, `{'properties':{'addressSpace':{'addressPrefixes':['10.8.0.0/16']}}}`), [][4]string{{"change", "extra", "10.9.0.0/16", "10.8.0.0/16"}}},
		{"part made", func() error {
			_, err := w.PutPart(ctx, by, subnet, []byte(`{"properties":{"addressPrefix":"10.8.1.0/24"}}`), api.Strict, Conditions{})
			return err
		}, [][4]string{{"change", "extra", "10.8.0.0/16", "10.8.1.0/24"}}},
		{"part deleted", func() error { _, err := w.DeletePart(ctx, by, subnet, Conditions{}); return err }, [][4]string{{"change", "extra", "10.8.1.0/24", "10.8.0.0/16"}}},
		{"resource deleted", func() error { _, err := w.Delete(ctx, by, id(extra), DeleteOptions{}, Conditions{}); return err },
			[][4]string{{"delete", "extra", "10.8.0.0/16", "-"}}},
		{"connection asked for", put(theEndpoint, "%s", endpointDoc(service.Properties.Alias, "")),
			[][4]string{{"create", "connection", "-", `"status":"Pending"`}, {"create", "pe", "-", `"requestMessage":"please"`}}},
		{"approved", func() error { return decide(api.Approved) }, [][4]string{{"change", "connection", `"status":"Pending"`, `"decidedBy":"root"`}}},
		{"rejected", func() error { return decide(api.Rejected) }, [][4]string{{"change", "connection", `"status":"Approved"`, `"description":"because"`}}},
		{"removed", func() error {
			_, err := w.Remove(ctx, by, id(theService).Sub(api.PrivateEndpointConnections, w.connection(theService).Name), Conditions{})
			return err
		}, [][4]string{{"delete", "connection", `"status":"Rejected"`, "-"}}},
		{"batch", func() error {
			_, err := w.Batch(ctx, by, []Step{{ID: id(theEndpoint)}, {ID: id(theService)}}, false)
			return err
		}, [][4]string{{"delete", "pe", "please", "-"}, {"delete", "web", "ipConfigurations", "-"}}},
		{"subscription registered", func() error {
			_, err := w.PutSubscription(ctx, by, api.Subscription{Name: "s", Tenant: "t"})
			return err
		},
			[][4]string{{"create", "/privlink/subscriptions/s", "-", `"tenant":"t"`}}},
		{"subscription changed", func() error {
			_, err := w.PutSubscription(ctx, by, api.Subscription{Name: "s", Tenant: "u"})
			return err
		},
			[][4]string{{"change", "/privlink/subscriptions/s", `"tenant":"t"`, `"tenant":"u"`}}},
		{"subscription forgotten", func() error { return w.DeleteSubscription(ctx, by, "s") }, [][4]string{{"delete", "/privlink/subscriptions/s", `"tenant":"u"`, "-"}}},
		{"principal made", func() error { _, err := w.PutPrincipal(ctx, by, api.Principal{Name: "x", Tenant: "t"}); return err },
			[][4]string{{"create", "/privlink/principals/x", "-", `"tenant":"t"`}}},
		{"principal changed", func() error { _, err := w.PutPrincipal(ctx, by, api.Principal{Name: "x", Tenant: "u"}); return err },
			[][4]string{{"change", "/privlink/principals/x", `"tenant":"t"`, `"tenant":"u"`}}},
		{"token made", func() (err error) { token, err = w.CreateToken(ctx, by, "x", 0); return err }, [][4]string{{"create", "TOKEN", "-", `"principal":"x"`}}},
		{"token deleted", func() error { return w.DeleteToken(ctx, by, token.ID) }, [][4]string{{"delete", "TOKEN", `"principal":"x"`, "-"}}},
		{"role given", func() (err error) {
			role, err = w.PutRole(ctx, by, api.RoleAssignment{Principal: "x", Role: "Reader", Scope: "/"})
			return err
		}, [][4]string{{"create", "ROLE", "-", `"role":"Reader"`}}},
		{"role taken", func() error { return w.DeleteRole(ctx, by, role.ID) }, [][4]string{{"delete", "ROLE", `"role":"Reader"`, "-"}}},
		{"principal deleted", func() error { return w.DeletePrincipal(ctx, by, "x") }, [][4]string{{"delete", "/privlink/principals/x", `"tenant":"u"`, "-"}}},
		{"restored", func() error { return w.Restore(ctx, by, w.backup()) }, [][4]string{{"restore", "/privlink/restore", `"revision":`, `"journal":`}}},
	} {
		start := w.view.journal
		must(t, c.do())
		w.sync()
		list, _, err := w.Journal(ctx, operator(), start, 100)
		must(t, err)
		if len(list) != len(c.want) {
			t.Errorf("%s: %s", c.what, text(list))
			continue
		}
		for i, e := range list {
			want := c.want[i]
			end := map[string]string{"TOKEN": "tokens/" + token.ID, "ROLE": "roles/" + role.ID, "connection": ""}
			suffix, ok := end[want[1]]
			if !ok {
				suffix = want[1]
			}
			shows := func(raw json.RawMessage, part string) bool {
				return (part == "-") == (len(raw) == 0) && (part == "-" || bytes.Contains(raw, []byte(part)))
			}
			if e.Action != want[0] || !strings.HasSuffix(e.Target, suffix) || want[1] == "connection" != strings.Contains(e.Target, api.PrivateEndpointConnections) ||
				!shows(e.Before, want[2]) || !shows(e.After, want[3]) {
				t.Errorf("%s:\n got %s\nwant %q", c.what, text(e), want)
			}
			if e.From != by.From || e.Principal != by.Principal || e.Tenant != by.Tenant || !e.Time.Equal(w.clock.Now()) {
				t.Errorf("%s: who, from where, when: %s", c.what, text(e))
			}
		}
	}
	if secret := token.Secret; secret == "" || slices.ContainsFunc(w.history(), func(e api.JournalEntry) bool { return strings.Contains(text(e), secret) }) {
		t.Error("the journal has a token's secret")
	}
}
