package notify

import (
	"context"
	"crypto/hmac"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/auth"
)

// book is a journal in memory.
type book struct {
	mu      sync.Mutex
	entries []api.JournalEntry
	cursors map[string]uint64
	more    chan struct{} // closed and replaced with every entry
	set     chan uint64   // what SetCursor was told
}

func newBook() *book {
	return &book{cursors: map[string]uint64{}, more: make(chan struct{}), set: make(chan uint64, 1000)}
}

func (b *book) add(events ...api.EventKind) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range events {
		b.entries = append(b.entries, api.JournalEntry{Number: uint64(len(b.entries) + 1), Event: e, Target: "t"})
	}
	close(b.more)
	b.more = make(chan struct{})
}

func (b *book) Journal(_ context.Context, who auth.Actor, after uint64, limit int) ([]api.JournalEntry, uint64, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !who.May(auth.Read, "/subscriptions/p") || who.May(auth.Write, "/subscriptions/p") {
		return nil, 0, fmt.Errorf("asked as %+v", who)
	}
	end := min(after+uint64(limit), uint64(len(b.entries)))
	return slices.Clone(b.entries[after:end]), end, nil
}

func (b *book) WaitJournal(ctx context.Context, after uint64) error {
	for {
		b.mu.Lock()
		n, more := len(b.entries), b.more
		b.mu.Unlock()
		if uint64(n) > after {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-more:
		}
	}
}

func (b *book) Cursor(_ context.Context, name string) (uint64, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.cursors[name], nil
}

func (b *book) SetCursor(_ context.Context, name string, n uint64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.cursors[name] = n
	b.set <- n
	return nil
}

var secret = []byte("0123456789abcdef")

// receiver takes events, or answers with a status as long as refuse says so.
type receiver struct {
	*httptest.Server
	t      *testing.T
	refuse func(n int) int // status for the n-th request, 0 = take it
	got    chan string
	mu     sync.Mutex
	n      int
}

func newReceiver(t *testing.T, refuse func(int) int) *receiver {
	r := &receiver{t: t, refuse: refuse, got: make(chan string, 1000)}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		body, _ := io.ReadAll(q.Body)
		want := Sign(secret, q.Header.Get(HeaderTimestamp), body)
		if !hmac.Equal([]byte(want), []byte(q.Header.Get(HeaderSignature))) {
			t.Errorf("signature %s, want %s", q.Header.Get(HeaderSignature), want)
		}
		r.mu.Lock()
		r.n++
		n := r.n
		r.mu.Unlock()
		if status := refuse(n); status != 0 {
			w.WriteHeader(status)
			return
		}
		var e api.JournalEntry
		if err := json.Unmarshal(body, &e); err != nil {
			t.Error(err)
		}
		if fmt.Sprint(e.Number) != q.Header.Get(HeaderDelivery) || string(e.Event) != q.Header.Get(HeaderEvent) {
			t.Errorf("headers %v, body %s", q.Header, body)
		}
		r.got <- fmt.Sprint(e.Number, " ", e.Event)
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) expect(want ...string) {
	r.t.Helper()
	for _, w := range want {
		select {
		case got := <-r.got:
			if got != w {
				r.t.Errorf("got %s, want %s", got, w)
			}
		case <-time.After(20 * time.Second):
			r.t.Fatalf("nothing came, want %s", w)
		}
	}
}

// follow runs a notifier until stop; pauses end at once and are noted.
func follow(t *testing.T, b *book, url string) (pauses func() []time.Duration, stop func()) {
	t.Helper()
	log := logrus.New()
	log.SetOutput(io.Discard)
	n, err := New(Webhook{Name: "h", URL: url, Secret: secret}, b, log)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var list []time.Duration
	n.pause = func(ctx context.Context, d time.Duration) error {
		mu.Lock()
		defer mu.Unlock()
		list = append(list, d)
		return ctx.Err()
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	return func() []time.Duration {
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(list)
		}, sync.OnceFunc(func() {
			cancel()
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Errorf("ended with %v", err)
			}
		})
}

func TestNotifier_DeliversInOrderSignedAndOnlyEvents(t *testing.T) {
	b, r := newBook(), newReceiver(t, func(int) int { return 0 })
	b.add(api.EventRequested, "", api.EventApproved)
	_, stop := follow(t, b, r.URL)
	defer stop()
	r.expect("1 ConnectionRequested", "3 ConnectionApproved")
	b.add("", api.EventRejected)
	r.expect("5 ConnectionRejected")
	var many []api.EventKind
	var want []string
	for i := range 3 * batch {
		many, want = append(many, api.EventApproved), append(want, fmt.Sprint(6+i, " ConnectionApproved"))
	}
	b.add(many...)
	r.expect(want...)
}

func TestNotifier_ReceiverDown_TriesAgainWithLongerPauses(t *testing.T) {
	b, r := newBook(), newReceiver(t, func(n int) int {
		if n <= 12 {
			return []int{500, 404, 302}[n%3]
		}
		return 0
	})
	b.add(api.EventRequested, api.EventApproved)
	pauses, stop := follow(t, b, r.URL)
	defer stop()
	r.expect("1 ConnectionRequested", "2 ConnectionApproved")
	got := pauses()
	if len(got) != 12 || got[0] != FirstPause || got[1] != 2*FirstPause || got[11] != LastPause {
		t.Errorf("pauses %v", got)
	}
}

func TestNotifier_Restart_GoesOnWhereItWas(t *testing.T) {
	b, r := newBook(), newReceiver(t, func(int) int { return 0 })
	b.add(api.EventRequested, api.EventApproved)
	_, stop := follow(t, b, r.URL)
	r.expect("1 ConnectionRequested", "2 ConnectionApproved")
	// What was delivered and not noted yet would come again.
	for n := range b.set {
		if n == 2 {
			break
		}
	}
	stop()
	b.add(api.EventRejected)
	_, stop = follow(t, b, r.URL)
	defer stop()
	r.expect("3 ConnectionRejected")
}

func TestNew_RefusesWhatCannotWork(t *testing.T) {
	for want, hook := range map[string]Webhook{
		"not an http or https URL": {Name: "h", URL: "ftp://x", Secret: secret},
		"at least 16 are needed":   {Name: "h", URL: "http://x", Secret: secret[:15]},
		"is not a scope":           {Name: "h", URL: "http://x", Secret: secret, Scope: "p"},
		"is empty":                 {URL: "http://x", Secret: secret},
	} {
		if _, err := New(hook, newBook(), logrus.New()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v", hook, err)
		}
	}
}
