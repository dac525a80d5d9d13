package notify

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
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/auth"
)

// Webhook is a receiver of events.
type Webhook struct {
	// Name is unique and stable: what was delivered is remembered by it.
	Name string
	// URL is posted to: http or https.
	URL string
	// Secret signs the requests, at least MinSecret bytes.
	Secret []byte
	// Scope limits the events to those that a Reader of it may know of; "" is everything.
	Scope string
}

// MinSecret is the least length of a secret in bytes.
const MinSecret = 16

// Headers of a request. The signature is hex(HMAC-SHA256(secret, timestamp + "." + body)).
const (
	HeaderEvent     = "X-Privlink-Event"     // an api.EventKind
	HeaderDelivery  = "X-Privlink-Delivery"  // the entry's number, the same when it is repeated
	HeaderTimestamp = "X-Privlink-Timestamp" // seconds since 1970, of this try
	HeaderSignature = "X-Privlink-Signature" // "sha256=" and the signature
)

// Retries: the pause doubles from FirstPause to LastPause; after GiveUp an event is left out.
const (
	FirstPause = time.Second
	LastPause  = 5 * time.Minute
	GiveUp     = 24 * time.Hour
	// timeout bounds one try.
	timeout = 15 * time.Second
	// batch is how many entries of the journal are read at once.
	batch = 100
)

// Journal is where events come from. control.Controller is one.
type Journal interface {
	Journal(ctx context.Context, who auth.Actor, after uint64, limit int) ([]api.JournalEntry, uint64, error)
	WaitJournal(ctx context.Context, after uint64) error
	// Cursor is the number of the last entry that was dealt with under a name. One that is new begins with the
	// present end of the journal.
	Cursor(ctx context.Context, name string) (uint64, error)
	SetCursor(ctx context.Context, name string, number uint64) error
}

// Notifier delivers the events of a journal to one webhook.
type Notifier struct {
	hook    Webhook
	journal Journal
	client  *http.Client
	log     logrus.FieldLogger
	now     func() time.Time
	// pause waits, or returns the context's error.
	pause func(context.Context, time.Duration) error
}

// New makes a Notifier; nothing is sent before Run. Errors name what is wrong with the webhook.
func New(hook Webhook, journal Journal, log logrus.FieldLogger) (*Notifier, error) {
	u, err := url.Parse(hook.URL)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("webhook %s: %q is not an http or https URL", hook.Name, hook.URL)
	}
	if len(hook.Secret) < MinSecret {
		return nil, fmt.Errorf("webhook %s: the secret has %d bytes, at least %d are needed", hook.Name, len(hook.Secret), MinSecret)
	}
	if hook.Scope == "" {
		hook.Scope = auth.Everything
	}
	if hook.Scope, err = auth.CheckScope(hook.Scope); err != nil {
		return nil, fmt.Errorf("webhook %s: %w", hook.Name, err)
	}
	if err := api.CheckName("name", hook.Name); err != nil {
		return nil, fmt.Errorf("webhook: %w", err)
	}
	client := &http.Client{Timeout: timeout, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return &Notifier{hook: hook, journal: journal, client: client, log: log.WithField("webhook", hook.Name), now: time.Now, pause: pause}, nil
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// Run delivers until ctx ends, and returns its error, or that of the store.
func (n *Notifier) Run(ctx context.Context) error {
	at, err := n.journal.Cursor(ctx, n.hook.Name)
	if err != nil {
		return err
	}
	who := auth.Actor{Principal: "webhook " + n.hook.Name, Grants: []auth.Grant{{Role: auth.Reader, Scope: n.hook.Scope}}}
	for {
		entries, next, err := n.journal.Journal(ctx, who, at, batch)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if e.Event == "" {
				continue
			}
			if err := n.deliver(ctx, e); err != nil {
				return err
			}
			if err := n.journal.SetCursor(ctx, n.hook.Name, e.Number); err != nil {
				return err
			}
		}
		if at = next; len(entries) == batch {
			continue
		}
		if err := n.journal.WaitJournal(ctx, at); err != nil {
			return err
		}
	}
}

// deliver tries until the receiver has taken the event, the time is over, or ctx has ended.
func (n *Notifier) deliver(ctx context.Context, e api.JournalEntry) error {
	log := n.log.WithFields(logrus.Fields{"event": e.Event, "number": e.Number})
	body, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("deliver event %d: %w", e.Number, err)
	}
	began := n.now()
	for wait := FirstPause; ; wait = min(2*wait, LastPause) {
		err := n.post(ctx, e, body)
		if err == nil {
			log.Debug("delivered")
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if n.now().Sub(began) >= GiveUp {
			log.WithError(err).Error("event not delivered, left out")
			return nil
		}
		log.WithError(err).WithField("again", wait).Warn("event not delivered")
		if err := n.pause(ctx, wait); err != nil {
			return err
		}
	}
}

// post makes one try.
func (n *Notifier) post(ctx context.Context, e api.JournalEntry, body []byte) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, n.hook.URL, bytes.NewReader(body))
	if err != nil {
		return err
	}
	stamp := strconv.FormatInt(n.now().Unix(), 10)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set(HeaderEvent, string(e.Event))
	r.Header.Set(HeaderDelivery, strconv.FormatUint(e.Number, 10))
	r.Header.Set(HeaderTimestamp, stamp)
	r.Header.Set(HeaderSignature, Sign(n.hook.Secret, stamp, body))
	answer, err := n.client.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(answer.Body, 64<<10)) // so that the connection can be used again
	if answer.StatusCode < 200 || answer.StatusCode > 299 {
		return errors.New("answered " + answer.Status)
	}
	return nil
}

// Sign is the value of HeaderSignature for a body sent at a time, in seconds since 1970.
func Sign(secret []byte, timestamp string, body []byte) string {
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(timestamp + "."))
	mac.Write(body)
	return "sha256=" + hex.EncodeToString(mac.Sum(nil))
}
