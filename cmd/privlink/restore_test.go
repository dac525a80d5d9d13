package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/client"
	"github.com/privlink/privlink/pkg/control"
	"github.com/privlink/privlink/pkg/dataplane"
	"github.com/privlink/privlink/pkg/lab"
	"github.com/privlink/privlink/pkg/store"
)

// Backups and restores while others write: each copy is whole, traffic follows what is restored, both ways, and in the end the
// kernel has what the store says.
func TestRun_BackupRestore_WhileOthersWrite_KernelFollows(t *testing.T) {
	r := newLinkRig(t, "tc")
	dir := t.TempDir()
	c, err := client.New(client.Options{Socket: r.Socket})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	writing, stop := context.WithCancel(t.Context())
	defer stop()
	var writers sync.WaitGroup
	var writes atomic.Int64
	for i := range 4 {
		writers.Go(func() {
			for n := 0; writing.Err() == nil; n++ {
				id := api.ID{Subscription: fmt.Sprint("w", i), ResourceGroup: "g", Type: string(api.VirtualNetworks), Name: fmt.Sprint("n", n/2%8)}
				var err error
				if n%2 == 0 {
					_, err = client.Put[api.VirtualNetwork](writing, c, id, map[string]any{"location": "local", "tags": map[string]string{"n": fmt.Sprint(n)},
						"properties": map[string]any{"addressSpace": map[string]any{"addressPrefixes": []string{"10.0.0.0/16"}}}}, client.Conditions{})
				} else {
					_, err = c.Delete(writing, id, nil, client.Conditions{})
				}
				// What was written may be gone by a restore before the answer is read.
				if err != nil && writing.Err() == nil && !strings.HasSuffix(err.Error(), "was not found") {
					t.Errorf("write %d of writer %d: %v", n, i, err)
					return
				}
				writes.Add(1)
			}
		})
	}
	stored := func(name string) dataplane.State {
		t.Helper()
		kept, err := store.OpenBolt(name)
		if err != nil {
			t.Fatalf("a copy made while others wrote: %v", err)
		}
		defer kept.Close()
		state, err := control.StateOf(t.Context(), kept)
		if err != nil {
			t.Fatalf("a copy made while others wrote: %v", err)
		}
		return state
	}
	backup := func(name string) string {
		t.Helper()
		name = filepath.Join(dir, name)
		before := writes.Load()
		r.must("backup " + name)
		stored(name)
		r.Namespace.Lab().Wait("others to write", 10*time.Second, func() error {
			if writes.Load() == before {
				return errors.New("nobody wrote")
			}
			return nil
		})
		return name
	}
	r.must("connection approve --service shop --name to-shop")
	approved := backup("approved")
	consumer, served := r.establish()
	r.must("connection reject --service shop --name to-shop")
	wantReset(t, "client, rejected", consumer)
	wantReset(t, "server, rejected", served)
	rejected := backup("rejected")
	for range 3 {
		r.must("restore " + approved)
		consumer, served = r.establish()
		wantFlow(t, "restored as approved", consumer, served)
		r.must("restore " + rejected)
		wantReset(t, "client, restored as rejected", consumer)
		wantReset(t, "server, restored as rejected", served)
	}
	r.must("restore " + approved)
	consumer, served = r.establish()
	stop()
	writers.Wait()
	// What there is now, as the store has it, is what the kernel has.
	name := filepath.Join(dir, "last")
	r.must("backup " + name)
	last := stored(name)
	err = lab.Poll(15*time.Second, func() error {
		found, err := dataplane.Differences(r.BPFFS, last, "inner")
		if err == nil && len(found) > 0 {
			err = fmt.Errorf("%d differences between kernel and store, the first: %v", len(found), found[0])
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	wantFlow(t, "in the end", consumer, served)
	t.Logf("%d writes beside", writes.Load())
}
