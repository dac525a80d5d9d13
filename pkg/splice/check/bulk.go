package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"net"
	"time"
)

var bulkCases = []namedCase{
	{nameUpload, func(ctx context.Context, s *suite) (string, error) { return s.transfer(ctx, true) }},
	{nameDownload, func(ctx context.Context, s *suite) (string, error) { return s.transfer(ctx, false) }},
	{nameShort, shortOnes},
}

// transfer sends random bytes one way.
func (s *suite) transfer(ctx context.Context, put bool) (string, error) {
	size := pick(s, int64(1<<30), int64(64<<20))
	before, err := s.stats()
	if err != nil {
		return "", err
	}
	client, server, err := s.pairOf(ctx, 0, "azure")
	if err != nil {
		return "", err
	}
	defer client.Close()
	defer server.Close()
	from, to := client, server.TCPConn
	if !put {
		from, to = to, from
	}
	deadline := time.Now().Add(5 * time.Minute)
	if err := errors.Join(from.SetDeadline(deadline), to.SetDeadline(deadline)); err != nil {
		return "", err
	}
	start := time.Now()
	sent := make(chan error, 1)
	sums := [2]hash.Hash{sha256.New(), sha256.New()}
	go func() {
		_, err := io.CopyBuffer(io.MultiWriter(struct{ io.Writer }{from}, sums[0]), io.LimitReader(rand.NewChaCha8([32]byte{byte(size)}), size), make([]byte, 256<<10))
		sent <- errors.Join(err, from.CloseWrite())
	}()
	n, err := io.CopyBuffer(sums[1], struct{ io.Reader }{to}, make([]byte, 256<<10))
	if err := errors.Join(err, <-sent); err != nil {
		return "", fmt.Errorf("after %d bytes: %w", n, err)
	}
	if n != size || string(sums[0].Sum(nil)) != string(sums[1].Sum(nil)) {
		return "", fmt.Errorf("%d of %d bytes arrived, or others", n, size)
	}
	took := time.Since(start)
	after, err := s.stats()
	if err != nil {
		return "", err
	}
	spliced := float64(after.Spliced-before.Spliced) / float64(size)
	note := fmt.Sprintf("%d MiB at %.0f MB/s, hashing included, %.1f %% by splice(2)", size>>20, float64(size)/took.Seconds()/1e6, spliced*100)
	if spliced < 0.9 {
		return note, errors.New("the rest was copied")
	}
	return note, nil
}

func shortOnes(ctx context.Context, s *suite) (string, error) {
	count := pick(s, 100000, 5000)
	rest := pick(s, s.rest, s.settle)
	before, err := rest()
	if err != nil {
		return "", err
	}
	// Half of a client's ports are in TIME_WAIT after 14,000 connections, and every connect then looks through all of
	// those. The NAT IP has 64,512 ports to the backend, and each is held for half a minute after the end: 2,150 a second.
	const rate = 2000
	for _, c := range s.consumers {
		c.Sysctl("net.ipv4.tcp_tw_reuse", "1")
	}
	start := time.Now()
	const width = 8
	err = parallel(width, width, func(worker int) error {
		return s.consumers[worker%2].Do(func() error {
			for i := worker; i < count && ctx.Err() == nil; i += width {
				time.Sleep(time.Until(start.Add(time.Duration(i) * time.Second / rate)))
				if err := shortOne(); err != nil {
					return fmt.Errorf("connection %d: %w", i, err)
				}
			}
			return ctx.Err()
		})
	})
	if err != nil {
		return "", err
	}
	took := time.Since(start)
	after, err := rest()
	if err == nil {
		err = leaks(before, after)
	}
	if err != nil {
		return "", err
	}
	note := fmt.Sprintf("%d in %v (%.0f/s), then %s", count, took.Round(time.Second), float64(count)/took.Seconds(),
		pick(s, "no flow, no port, and as many descriptors as before", "as many descriptors as before"))
	if opened, finished := after.Splice.Opened-before.Splice.Opened, after.Splice.Finished-before.Splice.Finished; opened != uint64(count) || finished != opened {
		return note, fmt.Errorf("%d were opened, %d ended in order", opened, finished)
	}
	return note, nil
}

// shortOne is one connection with a byte each way, made where the thread is.
func shortOne() error {
	c, err := net.DialTimeout("tcp4", fmt.Sprintf("%s:%d", endpoint("azure"), portEcho), 10*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	if err := echoed(c, "x"); err != nil {
		return err
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	return expectEnd(c)
}
