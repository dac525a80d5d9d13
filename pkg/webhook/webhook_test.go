package webhook

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/auth"
)

// journal is a Source that grows.
type journal struct {
	mu      sync.Mutex
	entries []api.JournalEntry
	grown   chan struct{}
}

func newJournal() *journal { return &journal{grown: make(chan struct{})} }

func (j *journal) add(event api.EventKind) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.entries = append(j.entries, api.JournalEntry{Number: uint64(len(j.entries) + 1), Event: event, Target: "t"})
	close(j.grown)
	j.grown = make(chan struct{})
}

func (j *journal) Journal(_ context.Context, _ auth.Actor, after uint64, limit int) ([]api.JournalEntry, uint64, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	end := min(after+uint64(limit), uint64(len(j.entries)))
	return append([]api.JournalEntry(nil), j.entries[after:end]...), end, nil
}

func (j *journal) WaitJournal(ctx context.Context, after uint64) error {
	for {
		j.mu.Lock()
		more, grown := uint64(len(j.entries)) > after, j.grown
		j.mu.Unlock()
		if more {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-grown:
		}
	}
}

// start runs a Notifier until the test ends or stop is called.
func start(t *testing.T, source Source, dir string, hooks ...Hook) (stop func()) {
	t.Helper()
	log := logrus.New()
	log.SetOutput(io.Discard)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := Run(ctx, Options{Source: source, Hooks: hooks, Dir: dir, Log: log, Pause: time.Millisecond, Longest: 2 * time.Millisecond, GiveUp: 10 * time.Second}); err != nil {
			t.Error(err)
		}
	}()
	stop = sync.OnceFunc(func() { cancel(); <-done })
	t.Cleanup(stop)
	return stop
}

func TestRun_Events_DeliveredInOrderSignedOnce(t *testing.T) {
	secret := []byte("s3cret")
	got := make(chan api.JournalEntry, 10)
	refusals := 3
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if want := Signature(secret, r.Header.Get("X-Privlink-Timestamp"), body); r.Header.Get("X-Privlink-Signature") != want {
			t.Errorf("signature %q, want %q", r.Header.Get("X-Privlink-Signature"), want)
		}
		if refusals--; refusals >= 0 {
			w.WriteHeader(http.StatusServiceUnavailable) // tried again
			return
		}
		var entry api.JournalEntry
		if err := json.Unmarshal(body, &entry); err != nil {
			t.Error(err)
		}
		got <- entry
	}))
	defer server.Close()
	source, dir := newJournal(), t.TempDir()
	source.add("before") // of the time before the hook was known
	stop := start(t, source, dir, Hook{server.URL, secret}, Hook{"http://127.0.0.1:1/nobody", secret})
	receive := func() api.JournalEntry {
		t.Helper()
		select {
		case entry := <-got:
			return entry
		case <-time.After(10 * time.Second):
			t.Fatal("nothing is delivered")
			return api.JournalEntry{}
		}
	}
	// The hook has begun when its position is kept.
	hook := &courier{Options: Options{Dir: dir}, hook: Hook{URL: server.URL}}
	waitFor(t, func() bool { _, err := os.Stat(hook.position()); return err == nil })
	source.add("requested")
	source.add("") // no event: not told
	source.add("approved")
	if first, second := receive(), receive(); first.Event != "requested" || second.Event != "approved" {
		t.Errorf("got %s and %s", first.Event, second.Event)
	}
	stop()
	// What happens while nobody delivers comes after the restart. The entry before may come again, where the end came
	// between its delivery and its being kept.
	source.add("rejected")
	start(t, source, dir, Hook{server.URL, secret})
	next := receive()
	if next.Number == 4 {
		next = receive()
	}
	if next.Number != 5 {
		t.Errorf("after the restart entry %d, want 5", next.Number)
	}
}

// The signature as others compute it: `printf '1764324427.{"number":1}\n' | openssl dgst -sha256 -hmac s3cret`.
func TestSignature_FixedVector(t *testing.T) {
	const want = "sha256=37c6c5c583856bd65f0858400971589d1fbb352ac2683414cde483ac9c9cfc7f"
	if got := Signature([]byte("s3cret"), "1764324427", []byte("{\"number\":1}\n")); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func waitFor(t *testing.T, condition func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not come")
		}
	}
}

func TestHook_Wrong_Refused(t *testing.T) {
	for _, c := range []struct {
		hook Hook
		want string
	}{
		{Hook{"https://hooks.example/x", []byte("s")}, ""},
		{Hook{"ftp://hooks.example/x", []byte("s")}, "not an http or https URL"},
		{Hook{"hooks.example", []byte("s")}, "not an http or https URL"},
		{Hook{"https://hooks.example/x", nil}, "the secret is empty"},
	} {
		err := c.hook.Check()
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.hook.URL, err, c.want)
		}
	}
}
