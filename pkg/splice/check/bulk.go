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

	"github.com/privlink/privlink/pkg/lab"
)

var bulkCases = []namedCase{
	{"1 GiB from the client to the backend, checksums equal", func(ctx context.Context, s *suite) (string, error) { return s.transfer(ctx, true) }},
	{"1 GiB from the backend to the client, checksums equal", func(ctx context.Context, s *suite) (string, error) { return s.transfer(ctx, false) }},
	{"100,000 short connections leave no descriptor, flow or port", shortOnes},
}

// transfer sends random bytes one way.
func (s *suite) transfer(ctx context.Context, put bool) (string, error) {
	size := pick(s, int64(1<<30), int64(64<<20))
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
	return fmt.Sprintf("%d MiB at %.0f MB/s, hashing included", size>>20, float64(size)/time.Since(start).Seconds()/1e6), nil
}

func shortOnes(ctx context.Context, s *suite) (string, error) {
	count := pick(s, 100000, 5000)
	if err := s.settle(ctx); err != nil {
		return "", err
	}
	before, err := s.numbers()
	if err != nil {
		return "", err
	}
	start := time.Now()
	const width = 8
	err = parallel(width, width, func(worker int) error {
		return s.consumers[worker%2].Do(func() error {
			for i := worker; i < count && ctx.Err() == nil; i += width {
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
	var after Numbers
	err = lab.Poll(90*time.Second, func() error {
		if after, err = s.numbers(); err != nil {
			return err
		}
		descriptors := after.Descriptors - 2*int(after.Splice.Pipes) - (before.Descriptors - 2*int(before.Splice.Pipes))
		switch {
		case after.Splice.Active != 0 || descriptors > 2:
			return fmt.Errorf("%d connections and %d descriptors are left", after.Splice.Active, descriptors)
		case after.Flows > 20:
			return fmt.Errorf("%d flows are left", after.Flows)
		case after.Ports > 20:
			return fmt.Errorf("%d NAT ports are left", after.Ports)
		}
		return nil
	})
	note := fmt.Sprintf("%d in %v (%.0f/s), %d flows and %d ports left", count, took.Round(time.Second), float64(count)/took.Seconds(), after.Flows, after.Ports)
	if err != nil {
		return note, err
	}
	if opened := after.Splice.Opened - before.Splice.Opened; opened != uint64(count) {
		return note, fmt.Errorf("%d were opened", opened)
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
