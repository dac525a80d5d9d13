package main

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
)

// moduleRoot is the folder with go.mod, above the one the test runs in.
func moduleRoot(t *testing.T) string {
	t.Helper()
	folder, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(folder, "go.mod")); err == nil {
			return folder
		}
		if folder == filepath.Dir(folder) {
			t.Fatal("no go.mod above the test's folder")
		}
		folder = filepath.Dir(folder)
	}
}

// TestVerifier_EveryProgram_Loads loads every program of every committed object, one at a time and
// with the constants it was compiled with, into the kernel that runs.
func TestVerifier_EveryProgram_Loads(t *testing.T) {
	if err := rlimit.RemoveMemlock(); err != nil {
		t.Fatal(err)
	}
	root := moduleRoot(t)
	objects, err := objectFiles(root)
	if err != nil {
		t.Fatal(err)
	}
	if len(objects) == 0 {
		t.Fatalf("no objects below %s", root)
	}
	for _, object := range objects {
		path := filepath.Join(root, object)
		spec, err := ebpf.LoadCollectionSpec(path)
		if err != nil {
			t.Fatal(err)
		}
		for name := range spec.Programs {
			t.Run(object+"/"+name, func(t *testing.T) { loadAlone(t, path, name, nil) })
			// What the verifier leaves out of it until a flow table has to be replaced.
			if spec.Variables["migrating"] != nil {
				t.Run(object+"/"+name+"_migrating", func(t *testing.T) { loadAlone(t, path, name, map[string]any{"migrating": uint8(1)}) })
			}
		}
	}
}

// loadAlone loads one program of an object with the maps it uses, and other constants than it was compiled with.
func loadAlone(t *testing.T, path, name string, constants map[string]any) {
	spec, err := ebpf.LoadCollectionSpec(path)
	if err != nil {
		t.Fatal(err)
	}
	for constant, value := range constants {
		if err := spec.Variables[constant].Set(value); err != nil {
			t.Fatal(err)
		}
	}
	for other := range spec.Programs {
		if other != name {
			delete(spec.Programs, other)
		}
	}
	for _, m := range spec.Maps {
		m.Pinning = ebpf.PinNone
		// Sizes that the loader sets: any will do for the verifier.
		if m.MaxEntries == 0 {
			m.MaxEntries = 1
		}
	}
	coll, err := ebpf.NewCollection(spec)
	if err != nil {
		var verifier *ebpf.VerifierError
		if errors.As(err, &verifier) {
			t.Fatalf("%-20v", verifier)
		}
		t.Fatal(err)
	}
	defer coll.Close()
	if info, err := coll.Programs[name].Info(); err == nil {
		if count, ok := info.VerifiedInstructions(); ok {
			t.Logf("%d instructions verified", count)
		}
	}
}
