package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/control"
	"github.com/privlink/privlink/pkg/dataplane"
	"github.com/privlink/privlink/pkg/lab"
	"github.com/privlink/privlink/pkg/server"
	"github.com/privlink/privlink/pkg/store"
)

// rig is a daemon without its kernel: real store, control plane and server on a socket of the test's own, and an
// applier that keeps what it is given, or (newKernelRig) the dataplane.
type rig struct {
	t          *testing.T
	socket     string
	store      *store.Bolt
	applier    *recorder
	observed   *observed
	controller *control.Controller
	variables  map[string]string
	stdin      string
	now        func() time.Time
	lab        *lab.Lab // of newKernelRig
}

// recorder stands where the dataplane stands: it agrees with everything and remembers it, or does so once it may.
type recorder struct {
	mu     sync.Mutex
	last   dataplane.State
	count  int
	held   sync.RWMutex     // locked: nothing is applied
	broken map[string]error // interfaces that cannot be attached
}

func (r *recorder) Apply(_ context.Context, s dataplane.State) (dataplane.Result, error) {
	r.held.RLock()
	defer r.held.RUnlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last = s
	r.count++
	result := dataplane.Result{Revision: s.Revision}
	for _, network := range s.Networks {
		for _, a := range network.Attachments {
			result.Attachments = append(result.Attachments, dataplane.AttachmentStatus{
				Network: network.Key, Attachment: a, Hook: "tcx", Mode: dataplane.ModeTC, Why: "asked for", Err: r.broken[a.Interface],
			})
		}
	}
	return result, nil
}

func (r *recorder) refuse(interfaceName string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.broken = map[string]error{interfaceName: err}
}

func (r *recorder) state() dataplane.State {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.last
}

// observed answers for a dataplane that is degraded, and has the flows and ports that a test says.
type observed struct {
	flows []server.Flow
	ports []server.Ports
}

func (observed) Status(context.Context) (api.Status, error) {
	return api.Status{
		Version: "test", WantedRevision: 4, AppliedRevision: 3, Flows: 1, SweepAgeSeconds: 0.5, Degraded: true,
		Problems: []string{"revision 4 is not applied"}, Proxied: api.ProxiedStatus{Limit: 8432, LinkLimit: 100},
		Interfaces: []api.InterfaceStatus{{
			Network:   "/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/datacenter",
			Interface: "eth1", VLAN: 7, Hook: "tcx", Mode: "tc", Why: "asked for", Others: []string{"other#12"},
		}},
		Maps: []api.MapStatus{{Name: "flows", Used: 25, Size: 100}},
	}, nil
}

func (o observed) Flows(_ context.Context, yield func(server.Flow) bool) error {
	for _, f := range o.flows {
		if !yield(f) {
			break
		}
	}
	return nil
}

func (observed) Audit(context.Context) (api.Audit, error) {
	return api.Audit{Disagreements: []api.Disagreement{
		{What: "port taken without an entry", NAT: "10.0.1.4:4711", Backend: "10.0.0.4:80", Protocol: "tcp"},
		{What: "quota of link", Endpoint: "/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/privateEndpoints/to-shop", Have: 3, Due: 2},
	}}, nil
}

func (observed) Examine(context.Context) (api.Examination, error) { return api.Examination{}, nil }

func (observed) Repair(context.Context) error { return nil }

func (o observed) Ports(context.Context) ([]server.Ports, error) { return o.ports, nil }

func (observed) Backends(context.Context, string) ([]api.BackendHealth, error) { return nil, nil }

func newRig(t *testing.T) *rig {
	t.Helper()
	applier := &recorder{}
	r := newRigOn(t, applier)
	r.applier = applier
	return r
}

// newKernelRig is a rig with the dataplane, in a namespace that has eth1; its pins are in bpffs.
func newKernelRig(t *testing.T) (r *rig, bpffs string) {
	t.Helper()
	l := lab.New(t)
	gw := l.Namespace("gateway")
	l.Veth(gw, "eth1", l.Namespace("vm"), "eth0", lab.VethOptions{})
	bpffs = l.BPFFS("rig")
	log := logrus.New()
	log.SetOutput(&testWriter{t: t})
	var plane *dataplane.Dataplane
	var controller atomic.Pointer[control.Controller]
	plane, err := dataplane.Open(context.Background(), dataplane.Options{BPFFS: bpffs, NetNS: gw.Path(), Pairs: 64, Log: log, Notify: func() {
		if c := controller.Load(); c != nil {
			c.Report(plane.Result())
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := plane.Close(); err != nil {
			t.Error(err)
		}
	})
	r = newRigOn(t, plane)
	controller.Store(r.controller)
	r.lab = l
	return r, bpffs
}

func newRigOn(t *testing.T, applier control.Applier) *rig {
	t.Helper()
	dir := t.TempDir()
	log := logrus.New()
	log.SetOutput(&testWriter{t: t})
	kept, err := store.OpenBolt(filepath.Join(dir, "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, socket: filepath.Join(dir, "socket"), store: kept, observed: &observed{}, variables: map[string]string{}, now: time.Now}
	ctx, cancel := context.WithCancel(context.Background())
	r.controller, err = control.New(ctx, control.Options{Store: kept, Applier: applier, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := server.ListenUnix(r.socket, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	s := server.New(server.Options{Controller: r.controller, Observer: r.observed, Metrics: http.NotFoundHandler(),
		Log: log.WithField("part", "server")})
	var ended sync.WaitGroup
	ended.Go(func() {
		if err := r.controller.Run(ctx); err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("controller: %v", err)
		}
	})
	ended.Go(func() {
		if err := s.Serve(ctx, listener); err != nil {
			t.Errorf("server: %v", err)
		}
	})
	t.Cleanup(func() {
		cancel()
		ended.Wait()
		if err := kept.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// testWriter sends logs to the test's output while it runs.
type testWriter struct{ t *testing.T }

func (w *testWriter) Write(p []byte) (int, error) {
	if w.t.Context().Err() == nil {
		w.t.Log(strings.TrimRight(string(p), "\n"))
	}
	return len(p), nil
}

// ran is what a command did.
type ran struct {
	stdout, stderr string
	code           int
}

// run runs a command line; words with spaces stand in single quotes.
func (r *rig) run(line string) ran {
	r.t.Helper()
	var stdout, stderr bytes.Buffer
	env := testEnvironment(&stdout, &stderr)
	env.stdin = strings.NewReader(r.stdin)
	env.now = r.now
	env.getenv = func(name string) string {
		if name == "PRIVLINK_SOCKET" && r.variables[name] == "" {
			return r.socket
		}
		return r.variables[name]
	}
	code := run(r.t.Context(), env, append([]string{"privlink"}, split(line)...))
	return ran{stdout.String(), stderr.String(), code}
}

// must runs a command that has to succeed and returns what it printed.
func (r *rig) must(line string) string {
	r.t.Helper()
	result := r.run(line)
	if result.code != exitOK {
		r.t.Fatalf("privlink %s: exit code %d\n%s%s", line, result.code, result.stdout, result.stderr)
	}
	return result.stdout
}

// split is a shell's view of a line with single quotes.
func split(line string) []string {
	var words []string
	word, open, quoted := "", false, false
	for _, r := range line {
		switch {
		case r == '\'':
			quoted, open = !quoted, true
		case r == ' ' && !quoted:
			if open {
				words = append(words, word)
			}
			word, open = "", false
		default:
			word, open = word+string(r), true
		}
	}
	if open {
		words = append(words, word)
	}
	return words
}

// contents is everything in the store, to compare.
func (r *rig) contents() string {
	r.t.Helper()
	return everything(r.t, r.store)
}

func everything(t *testing.T, kept *store.Bolt) string {
	t.Helper()
	entries, revision, err := kept.List(context.Background(), "")
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	fmt.Fprintln(&text, "revision", revision)
	for _, e := range entries {
		fmt.Fprintf(&text, "%s %d %s\n", e.Key, e.Revision, e.Value)
	}
	return text.String()
}
