package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/privlink/privlink/pkg/api"
)

const examples = "../../testdata/resources/"

// TestExamples_EveryKind_AppliesAndIsThenAsTheFileSays applies the example files one by one, in the order in which
// they refer to one another, then all of them again, and deletes them as one file.
func TestExamples_EveryKind_AppliesAndIsThenAsTheFileSays(t *testing.T) {
	kinds := []api.Kind{api.VirtualNetworks, api.LoadBalancers, api.NetworkInterfaces, api.PrivateLinkServices, api.PrivateEndpoints}
	files, err := filepath.Glob(examples + "*")
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(files, func(a, b string) int { return kindOfFile(t, kinds, a) - kindOfFile(t, kinds, b) })
	if len(files) != len(kinds) {
		t.Fatalf("%d example files, want one of each of %v", len(files), kinds)
	}
	r := newRig(t)
	var all, created strings.Builder
	for i, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all.WriteString("\n---\n" + string(text))
		documents := strings.Count(string(text), kinds[i].Type())
		got := r.must("apply -f " + file)
		created.WriteString(got)
		if documents == 0 || strings.Count(got, "create "+string(kinds[i])) != documents {
			t.Errorf("%s: apply of %d documents prints\n%s", file, documents, got)
		}
		if again := r.must("apply -f " + file); again != strings.ReplaceAll(got, "create ", "nothing ") {
			t.Errorf("%s: the second apply prints\n%s", file, again)
		}
	}
	r.stdin = all.String() // JSON is YAML, too
	want := strings.Split(strings.TrimSpace(strings.ReplaceAll(created.String(), "create ", "nothing ")), "\n")
	got := strings.Split(strings.TrimSpace(r.must("apply -f -")), "\n")
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("all as one file print\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if list := r.must("connection list"); !strings.Contains(list, "Approved") || !strings.Contains(list, "to-shop") {
		t.Errorf("the approvals of the example decide nothing:\n%s", list)
	}
	if got := r.must("connection reject --service shop --name to-shop"); got == "" {
		t.Error("reject prints nothing")
	}
	r.must("delete -f -")
	if left := r.must("vnet list -o json"); strings.TrimSpace(left) != "[]" {
		t.Errorf("left after delete: %s", left)
	}
}

// kindOfFile is the place of a file's kind; its name says which.
func kindOfFile(t *testing.T, kinds []api.Kind, file string) int {
	name := strings.TrimSuffix(filepath.Base(file), filepath.Ext(file))
	i := slices.Index(kinds, api.Kind(name))
	if i < 0 {
		t.Fatalf("%s is not named after a kind of resource: %v", file, kinds)
	}
	return i
}

// The README's commands for those who operate it work as they stand, behind its quick start.
func TestExamples_CommandsOfTheReadme_Work(t *testing.T) {
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, after, found := strings.Cut(string(text), "\n## Who is calling\n")
	r := newRig(t)
	r.must("vnet create datacenter --prefix 10.0.0.0/16 --interface eth1")
	r.must("lb create web --vnet datacenter --rule tcp:80 --backend 10.0.0.4")
	r.must("service create shop --lb web --nat-ip-count 1")
	count := 0
	for line := range strings.Lines(after) {
		if command, ok := strings.CutPrefix(line, "privlink "); ok {
			count++
			r.must(strings.TrimSpace(command))
		}
	}
	if !found || count < 5 {
		t.Errorf("README has %d commands behind its quick start", count)
	}
	if shown := r.must("service show shop -o json"); !strings.Contains(shown, `"enableProxyProtocol": true`) {
		t.Errorf("PROXY protocol is off:\n%s", shown)
	}
	if shown := r.must("service show shop"); !strings.Contains(shown, "on for TCP, TLV azure; UDP passes plain\n") {
		t.Errorf("it does not say what becomes of UDP:\n%s", shown)
	}
	if roles := r.must("role list"); !strings.Contains(roles, "alice") || !strings.Contains(roles, "Contributor") {
		t.Errorf("roles are\n%s", roles)
	}
}
