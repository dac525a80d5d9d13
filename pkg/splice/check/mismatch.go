package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/privlink/privlink/pkg/lab"
	"github.com/privlink/privlink/pkg/probe"
)

var mismatchCases = []namedCase{
	{"mismatch: PROXY on, nginx does not read it", func(ctx context.Context, s *suite) (string, error) {
		return s.mismatch(ctx, "azure", portNginxBare, "may not read PROXY headers")
	}},
	{"mismatch: PROXY on, haproxy does not read it", func(ctx context.Context, s *suite) (string, error) {
		return s.mismatch(ctx, "azure", portHaproxyBare, "may not read PROXY headers")
	}},
	{"mismatch: PROXY off, nginx waits for it", func(ctx context.Context, s *suite) (string, error) {
		return s.mismatch(ctx, "plain", portNginx, "may wait for a PROXY header")
	}},
	{"mismatch: PROXY off, haproxy waits for it", func(ctx context.Context, s *suite) (string, error) {
		return s.mismatch(ctx, "plain", portHaproxy, "may wait for a PROXY header")
	}},
	{"mismatch: no connection, flow, port or descriptor is left of any", func(_ context.Context, s *suite) (string, error) {
		if s.quick {
			return "", leftOut("flows and ports rest for 15 s")
		}
		after, err := s.rest()
		if err == nil {
			err = leaks(s.mismatched, after)
		}
		return "", err
	}},
}

// mismatch expects a request to fail within the server's timeout of 5 s, nothing to be left of it,
// and the probe's reason to say what is wrong.
func (s *suite) mismatch(ctx context.Context, name string, port uint16, hint string) (string, error) {
	if s.mismatched.PID == 0 && !s.quick {
		var err error
		if s.mismatched, err = s.rest(); err != nil {
			return "", err
		}
	}
	before, err := s.numbers()
	if err != nil {
		return "", err
	}
	c, err := s.dial(ctx, 0, "", name, port)
	if err != nil {
		return "", err
	}
	defer c.Close()
	start := time.Now()
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); err != nil {
		return "", err
	}
	if err := c.SetReadDeadline(start.Add(6 * time.Second)); err != nil {
		return "", err
	}
	answer, err := io.ReadAll(c)
	if strings.Contains(string(answer), "you are") {
		return "", fmt.Errorf("the request was served: %q", answer)
	}
	if took := time.Since(start); took > 5500*time.Millisecond {
		return "", fmt.Errorf("the request hangs for %v (%v)", took, err)
	}
	c.Close()
	err = lab.Poll(5*time.Second, func() error {
		after, err := s.numbers()
		if err != nil {
			return err
		}
		if after.Splice.Active != before.Splice.Active || after.Descriptors != before.Descriptors {
			return fmt.Errorf("%d connections and %d descriptors, %d and %d before", after.Splice.Active, after.Descriptors, before.Splice.Active, before.Descriptors)
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	return s.unhealthy(checkOf(name, probe.HTTP, backendIP, port, name != "plain"), hint)
}
