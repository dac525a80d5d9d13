package webhook

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/auth"
)

// Hook is one receiver.
type Hook struct {
	URL    string
	Secret []byte // of the signature; not empty
}

// Source has the entries; *control.Controller is one.
type Source interface {
	Journal(ctx context.Context, who auth.Actor, after uint64, limit int) (list []api.JournalEntry, next uint64, err error)
	WaitJournal(ctx context.Context, after uint64) error
}

// Options of a Notifier.
type Options struct {
	Source Source
	Hooks  []Hook
	// Dir is the folder in which it is kept how far each hook is.
	Dir string
	Log logrus.FieldLogger
	// Pause and Longest are the first and the longest time between two tries; GiveUp is how long one entry is tried.
	// Defaults: 1 s, 1 min, 1 h.
	Pause, Longest, GiveUp time.Duration
}

// timeout bounds one request.
const timeout = 10 * time.Second

// batch is how many entries are read at once.
const batch = 100

// Check tells whether a hook can be used.
func (h Hook) Check() error {
	u, err := url.Parse(h.URL)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return fmt.Errorf("webhook %q: not an http or https URL", h.URL)
	}
	if len(h.Secret) == 0 {
		return fmt.Errorf("webhook %s: the secret is empty", h.URL)
	}
	return nil
}

// Run delivers until ctx ends.
func Run(ctx context.Context, o Options) error {
	if o.Pause <= 0 {
		o.Pause = time.Second
	}
	if o.Longest <= 0 {
		o.Longest = time.Minute
	}
	if o.GiveUp <= 0 {
		o.GiveUp = time.Hour
	}
	var group sync.WaitGroup
	failed := make([]error, len(o.Hooks))
	for i, hook := range o.Hooks {
		group.Go(func() {
			failed[i] = (&courier{Options: o, hook: hook, client: &http.Client{Timeout: timeout}}).run(ctx)
		})
	}
	group.Wait()
	return errors.Join(failed...)
}

// courier delivers to one hook.
type courier struct {
	Options
	hook   Hook
	client *http.Client
}

// position is the file with the number of the last entry that was delivered or given up.
func (c *courier) position() string {
	sum := sha256.Sum256([]byte(c.hook.URL))
	return filepath.Join(c.Dir, "webhook-"+hex.EncodeToString(sum[:8]))
}

func (c *courier) run(ctx context.Context) error {
	after, err := c.begin(ctx)
	if err != nil {
		return err
	}
	for ctx.Err() == nil {
		entries, next, err := c.Source.Journal(ctx, auth.Root(), after, batch)
		if err != nil {
			return fmt.Errorf("deliver to webhook %s: %w", c.hook.URL, err)
		}
		for _, entry := range entries {
			if entry.Event != "" && !c.deliver(ctx, entry) {
				return nil // ctx ended; the entry comes first next time
			}
			if err := c.keep(entry.Number); err != nil {
				return err
			}
		}
		if after != next {
			if err := c.keep(next); err != nil {
				return err
			}
		}
		if after = next; len(entries) == 0 {
			if err := c.Source.WaitJournal(ctx, after); err != nil && ctx.Err() == nil {
				return fmt.Errorf("deliver to webhook %s: %w", c.hook.URL, err)
			}
		}
	}
	return nil
}

// begin is the number to go on from: what was kept, or for a new hook the end of the journal.
func (c *courier) begin(ctx context.Context) (uint64, error) {
	text, err := os.ReadFile(c.position())
	if err == nil {
		number, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read position of webhook %s: %w", c.hook.URL, err)
		}
		return number, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("read position of webhook %s: %w", c.hook.URL, err)
	}
	for after := uint64(0); ; {
		_, next, err := c.Source.Journal(ctx, auth.Root(), after, batch)
		if err != nil {
			return 0, fmt.Errorf("find the end of the journal: %w", err)
		}
		if next == after {
			return after, c.keep(after)
		}
		after = next
	}
}

// keep notes how far the hook is; a crash in the middle leaves the old number.
func (c *courier) keep(number uint64) error {
	fresh := c.position() + ".new"
	if err := os.WriteFile(fresh, []byte(strconv.FormatUint(number, 10)+"\n"), 0o600); err != nil {
		return fmt.Errorf("keep position of webhook %s: %w", c.hook.URL, err)
	}
	if err := os.Rename(fresh, c.position()); err != nil {
		return fmt.Errorf("keep position of webhook %s: %w", c.hook.URL, err)
	}
	return nil
}

// deliver tries until the hook takes the entry or it is given up; false if ctx ended before.
func (c *courier) deliver(ctx context.Context, entry api.JournalEntry) bool {
	body, err := json.Marshal(entry)
	if err != nil {
		c.Log.WithError(err).WithField("entry", entry.Number).Error("entry cannot be told")
		return true
	}
	deadline := time.Now().Add(c.GiveUp)
	for pause := c.Pause; ; pause = min(2*pause, c.Longest) {
		err := c.post(ctx, entry, body)
		if err == nil {
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		log := c.Log.WithError(err).WithFields(logrus.Fields{"url": c.hook.URL, "entry": entry.Number})
		if time.Now().Add(pause).After(deadline) {
			log.Error("webhook does not take the entry; given up")
			return true
		}
		log.WithField("again_in", pause).Warn("webhook does not take the entry")
		select {
		case <-ctx.Done():
			return false
		case <-time.After(pause):
		}
	}
}

func (c *courier) post(ctx context.Context, entry api.JournalEntry, body []byte) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.hook.URL, bytes.NewReader(body))
	if err != nil {
		return err
	}
	now := strconv.FormatInt(time.Now().Unix(), 10)
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("X-Privlink-Event", string(entry.Event))
	request.Header.Set("X-Privlink-Delivery", strconv.FormatUint(entry.Number, 10))
	request.Header.Set("X-Privlink-Timestamp", now)
	request.Header.Set("X-Privlink-Signature", Signature(c.hook.Secret, now, body))
	response, err := c.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	// A short answer is read so that the connection can be used again.
	_, _ = io.CopyN(io.Discard, response.Body, 4096)
	if response.StatusCode < 200 || response.StatusCode > 299 {
		return fmt.Errorf("it answers %s", response.Status)
	}
	return nil
}

// Signature is what X-Privlink-Signature has for a body sent at a time (the X-Privlink-Timestamp header's text).
func Signature(secret []byte, timestamp string, body []byte) string {
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(timestamp + "."))
	mac.Write(body)
	return "sha256=" + hex.EncodeToString(mac.Sum(nil))
}
