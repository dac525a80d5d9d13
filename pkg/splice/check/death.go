package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/privlink/privlink/pkg/lab"
)

var deathCases = []namedCase{
	{"killed splice: a close-delimited download ends with a reset, never a clean end", killedDownload},
}

// killedDownload does it three times. Loading the programs takes most of the time until new connections are served; of
// three times the middle one has to be within a second.
func killedDownload(ctx context.Context, s *suite) (string, error) {
	var times []time.Duration
	for range 3 {
		served, err := s.killInDownload(ctx)
		if err != nil {
			return "", err
		}
		times = append(times, served.Round(10*time.Millisecond))
	}
	slices.Sort(times)
	note := fmt.Sprintf("new connections %v, %v and %v after the start of the process", times[0], times[1], times[2])
	if times[1] > time.Second {
		return note, errors.New("too late")
	}
	return note, nil
}

// killInDownload kills the gateway's process with kill -9 in the middle of a download, and starts it
// again: proxied connections are reset, new ones work, plain flows notice nothing.
func (s *suite) killInDownload(ctx context.Context) (time.Duration, error) {
	client, server, err := s.pairOf(ctx, 0, "azure")
	if err != nil {
		return 0, err
	}
	defer client.Close()
	defer server.Close()
	plain, err := s.dial(ctx, 0, "", "plain", portPlainEcho)
	if err != nil {
		return 0, err
	}
	defer plain.Close()
	if err := echoed(plain, "before"); err != nil {
		return 0, err
	}
	go func() { // a file without a length: only the end of the stream says that it is whole
		block := make([]byte, 1<<16)
		for {
			if _, err := server.Write(block); err != nil {
				return
			}
		}
	}()
	if _, err := io.CopyN(io.Discard, client, 16<<20); err != nil {
		return 0, err
	}

	s.calls.Close()
	s.process.Kill()
	if err := errors.Join(expectReset(client), echoed(plain, "during")); err != nil {
		return 0, err
	}
	start := time.Now()
	type result struct {
		served time.Duration
		err    error
	}
	done := make(chan result, 1)
	go func() { // as a client would, who knows nothing of the restart
		err := lab.Poll(10*time.Second, func() error {
			short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
			defer cancel()
			c, err := s.dial(short, 0, "", "azure", portEcho)
			if err != nil {
				return err
			}
			defer c.Close()
			return echoed(c, "new")
		})
		done <- result{time.Since(start), err}
	}()
	if err := s.start(ctx); err != nil {
		return 0, err
	}
	r := <-done
	return r.served, errors.Join(r.err, echoed(plain, "after"))
}
