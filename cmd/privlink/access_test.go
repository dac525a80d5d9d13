package main

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/privlink/privlink/pkg/api"
)

func TestAccess_CreateListDelete_Shown(t *testing.T) {
	r := newRig(t)
	r.must("subscription create s1 --tenant red")
	if got := r.must("subscription list"); got != "NAME  TENANT\ns1    red\n" {
		t.Errorf("subscriptions:\n%s", got)
	}
	r.must("principal create alice --tenant red --uid 1000 --certificate alice.example")
	if got := r.must("principal list"); !strings.Contains(got, "alice  red     uid 1000, certificate alice.example") {
		t.Errorf("principals:\n%s", got)
	}
	r.must("role create --principal alice --role reader --scope /subscriptions/s1")
	var roles []api.RoleAssignment
	if err := json.Unmarshal([]byte(r.must("role list -o json")), &roles); err != nil || len(roles) != 2 {
		t.Fatalf("roles %+v, %v; want root's and alice's", roles, err)
	}
	made := r.must("token create --principal alice --life 1h")
	if !strings.Contains(made, "plk_") || strings.Contains(r.must("token list"), "plk_") {
		t.Errorf("a token's secret is shown once:\n%s", made)
	}
	for _, role := range roles {
		if role.Principal == "alice" {
			r.must("role delete " + role.ID)
		}
	}
	if got := r.run("principal delete root"); got.code != exitRefused {
		t.Errorf("the last owner could be deleted: %+v", got)
	}
	r.must("principal delete alice")
	if got := r.must("principal delete alice"); got != "principal alice did not exist\n" {
		t.Errorf("second delete: %q", got)
	}
	r.must("subscription delete s1")
	if got := r.must("event list"); !strings.Contains(got, "/privlink/principals/alice") || !strings.Contains(got, "root") {
		t.Errorf("the journal:\n%s", got)
	}
}

func TestBackup_Restore_EverythingIsBack(t *testing.T) {
	r := newRig(t)
	r.must("vnet create datacenter --prefix 10.0.0.0/16")
	file := filepath.Join(t.TempDir(), "backup")
	r.must("backup " + file)
	r.must("vnet delete datacenter")
	r.must("vnet create other --prefix 10.0.0.0/16")
	r.must("restore " + file)
	if got := r.must("vnet list"); !strings.Contains(got, "datacenter") || strings.Contains(got, "other") {
		t.Errorf("networks after restore:\n%s", got)
	}
	r.stdin = "this is no backup"
	before := r.contents()
	if got := r.run("restore -"); got.code != exitRefused {
		t.Errorf("restore of something else: %+v", got)
	}
	if after := r.contents(); after != before {
		t.Error("a refused restore changed the store")
	}
}

func TestStatus_Degraded_ExactTextAndExitCode(t *testing.T) {
	r := newRig(t)
	got := r.run("status")
	const want = `Status:      degraded
Version:     test
Revision:    3 applied, 4 wanted
Flows:       1
Proxied:     0 of 8432 connections, 100 a link
Last sweep:  0.5 s ago
Problem:     revision 4 is not applied

INTERFACE  NETWORK     HOOK  MODE  WHY        OTHER PROGRAMS  TROUBLE
eth1.7     datacenter  tcx   tc    asked for  other#12        -

MAP    USED  SIZE  %
flows  25    100   25
`
	if got.stdout != want || got.code != exitFailed || got.stderr != "" {
		t.Errorf("exit code %d, stderr %q\n%s\nwant\n%s", got.code, got.stderr, got.stdout, want)
	}
}

// failing is a full disk.
type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, syscall.ENOSPC }

func TestPrint_WriterFails_CommandFails(t *testing.T) {
	for _, format := range []string{"table", "json", "yaml"} {
		p, err := newPrinter(failing{}, format)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.value([]string{"a"}, func(t *columns) { t.row("a") }); err == nil {
			t.Errorf("%s: a failed write is no error", format)
		}
	}
}

func TestColumns_ForeignText_CannotForgeLines(t *testing.T) {
	for in, want := range map[string]string{
		"two\nlines": "two lines", "\x1b[2Jgone": " [2Jgone", "tab\there": "tab here", "näme": "näme", "a\u2028b": "a b",
	} {
		if got := oneLine(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
