package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/lab"
)

// hook takes what the daemon's webhook tells. The daemon notes by a rename how far it is.
type hook struct {
	server http.Server

	mu   sync.Mutex
	told map[uint64]bool // numbers of entries
}

func newHook(n *lab.Namespace) (*hook, error) {
	n.Up("lo")
	listener, err := n.Listen("tcp", hookAddress)
	if err != nil {
		return nil, err
	}
	h := &hook{told: map[uint64]bool{}}
	h.server.Handler = http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		number, err := strconv.ParseUint(r.Header.Get("X-Privlink-Delivery"), 10, 64)
		if err != nil {
			return
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		h.told[number] = true
	})
	go func() { _ = h.server.Serve(listener) }() // ends with close
	return h, nil
}

func (h *hook) close() { h.server.Close() }

func (h *hook) has(number uint64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.told[number]
}

// told waits until the hook has every event of the journal: a kill delays them and loses none.
func (w *world) told(ctx context.Context) error {
	events, missing := 0, []uint64{}
	err := lab.Poll(10*time.Second, func() error {
		events, missing = 0, missing[:0]
		for after := uint64(0); ; {
			var page api.Journal
			if _, err := w.api.Call(ctx, http.MethodGet, "/privlink/journal", url.Values{"after": {strconv.FormatUint(after, 10)}}, nil, nil, &page); err != nil {
				return err
			}
			for _, e := range page.Value {
				if e.Event == "" {
					continue
				}
				if events++; !w.hook.has(e.Number) {
					missing = append(missing, e.Number)
				}
			}
			if page.Next == after {
				break
			}
			after = page.Next
		}
		if len(missing) > 0 {
			return fmt.Errorf("the webhook was not told of %d of %d events, the first is %d", len(missing), events, missing[0])
		}
		return nil
	})
	if err == nil {
		w.news = append(w.news, fmt.Sprintf("ok    the webhook was told of all %d events that the journal has", events))
	}
	return err
}
