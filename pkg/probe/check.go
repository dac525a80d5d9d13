package probe

import (
	"time"

	"github.com/privlink/privlink/pkg/splice/inner"
)

// Kind is how a backend is asked.
type Kind uint8

// Kinds.
const (
	TCP   Kind = iota // connects, and closes in order
	HTTP              // GET, only 200 is healthy
	HTTPS             // the same over TLS; the certificate is not verified
)

// String returns the kind as ARM spells it.
func (k Kind) String() string { return [...]string{"Tcp", "Http", "Https"}[k] }

// Limits of a check's times.
const (
	MinInterval = time.Second
	MaxTimeout  = 30 * time.Second
)

// Check is one question. Two checks with equal fields are the same check.
type Check struct {
	// Key names the check in results; unique.
	Key string
	// Group is shared by the checks that decide together who takes new flows. The checks of a group that is new
	// are taken for healthy until their first result, as nobody must be taken out for not having been asked yet; one
	// that joins others is not.
	Group string
	// Owner is shared by checks among whom nobody else's probes must wait (see Prober); "" = an owner like others.
	Owner string
	Kind  Kind
	// To is the backend, as the dialler understands it.
	To inner.Destination
	// Path is asked for by HTTP and HTTPS; "" = "/".
	Path string
	// Header sends a PROXY protocol LOCAL header before anything else.
	Header bool
	// Expects says that the backend serves traffic with PROXY headers, with or without Header: it
	// decides what an error suggests.
	Expects bool
	// Interval is the time between two probes, at least MinInterval.
	Interval time.Duration
	// Timeout bounds one probe; 0 = Interval, at most MaxTimeout.
	Timeout time.Duration
	// Threshold is how many results in a row change the verdict, 1 or more (probeThreshold or
	// numberOfProbes).
	Threshold int
}

func (c Check) withDefaults() Check {
	c.Interval = max(c.Interval, MinInterval)
	if c.Timeout <= 0 {
		c.Timeout = c.Interval
	}
	c.Timeout = min(c.Timeout, MaxTimeout)
	c.Threshold = max(c.Threshold, 1)
	if c.Path == "" {
		c.Path = "/"
	}
	return c
}

// Result is what is known about a check.
type Result struct {
	Key     string
	Healthy bool
	// Reason is why the last probe succeeded or failed, one line.
	Reason string
	// Since is when Healthy became what it is, At when the last probe ended.
	Since, At time.Time
	// Took is how long the last probe took.
	Took time.Duration
	// Succeeded and Failed count probes.
	Succeeded, Failed uint64
}
