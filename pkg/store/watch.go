package store

import (
	"context"
	"slices"
	"strings"
	"sync"
)

// watchers hands changes to those who watch. What a slow receiver has not taken is merged, so memory is
// bounded by the number of keys.
type watchers struct {
	*watcherSet
}

type watcherSet struct {
	mu     sync.Mutex
	list   map[*watcher]bool
	closed bool
}

type watcher struct {
	prefix string
	wake   chan struct{} // holds one token while something waits

	// Guarded by watcherSet.mu.
	revision uint64
	keys     map[string]bool
}

func newWatchers() watchers { return watchers{&watcherSet{list: map[*watcher]bool{}}} }

func (s *watcherSet) notify(rev uint64, keys []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for w := range s.list {
		for _, k := range keys {
			if strings.HasPrefix(k, w.prefix) {
				w.keys[k], w.revision = true, rev
			}
		}
		if len(w.keys) > 0 {
			select {
			case w.wake <- struct{}{}:
			default: // awake already
			}
		}
	}
}

func (s *watcherSet) watch(ctx context.Context, prefix string) <-chan Change {
	out := make(chan Change)
	w := &watcher{prefix: prefix, wake: make(chan struct{}, 1), keys: map[string]bool{}}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		close(out)
		return out
	}
	s.list[w] = true
	s.mu.Unlock()
	go func() {
		defer close(out)
		defer func() {
			s.mu.Lock()
			delete(s.list, w)
			s.mu.Unlock()
		}()
		for {
			select {
			case <-ctx.Done():
				return
			case _, open := <-w.wake:
				if !open {
					return
				}
			}
			select {
			case out <- s.take(w):
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

func (s *watcherSet) take(w *watcher) Change {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := Change{Revision: w.revision, Keys: make([]string, 0, len(w.keys))}
	for k := range w.keys {
		c.Keys = append(c.Keys, k)
	}
	slices.Sort(c.Keys)
	clear(w.keys)
	return c
}

// close ends every watch.
func (s *watcherSet) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.closed = true
	for w := range s.list {
		close(w.wake)
	}
	clear(s.list)
}
