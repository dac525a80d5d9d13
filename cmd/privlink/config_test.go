package main

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"testing"

	"github.com/privlink/privlink/pkg/control"
	"github.com/privlink/privlink/pkg/dataplane"
)

// The configuration that comes with the unit has every setting there is, each with its default where that is a fixed one.
func TestConfig_Example_HasEverySettingAndItsDefault(t *testing.T) {
	const example = "../../scripts/privlink.yaml"
	none, err := readConfig("")
	if err != nil {
		t.Fatal(err)
	}
	asItIs, err := readConfig(example)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(asItIs, none) {
		t.Errorf("as it comes it says %+v, want the defaults %+v", asItIs, none)
	}
	text, err := os.ReadFile(example)
	if err != nil {
		t.Fatal(err)
	}
	inForce := filepath.Join(t.TempDir(), "privlink.yaml")
	if err := os.WriteFile(inForce, regexp.MustCompile(`(?m)^#(\S)`).ReplaceAll(text, []byte("$1")), 0o600); err != nil {
		t.Fatal(err)
	}
	all, err := readConfig(inForce)
	if err != nil {
		t.Fatal(err)
	}
	for i, value := range reflect.ValueOf(all).Fields() {
		if value.IsZero() {
			t.Errorf("%s is not in it", i.Name)
		}
	}
	if all.SocketMode != none.SocketMode || all.LogLevel != none.LogLevel || all.LogFormat != none.LogFormat ||
		all.Flows != dataplane.DefaultPairs || all.AliasSuffix != control.DefaultAliasSuffix {
		t.Errorf("its settings %+v are not the defaults", all)
	}
	if len(all.Listen) != 1 || reflect.ValueOf(all.Listen[0]).IsZero() || len(all.Webhooks) != 1 {
		t.Errorf("it listens on %+v and tells %+v", all.Listen, all.Webhooks)
	}
}
