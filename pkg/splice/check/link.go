package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

var linkCases = []namedCase{
	{"rejecting the link cuts its proxied connections at once, both ends, and no other's", rejectCuts},
	{"rejected link: nothing answers; approved again: served", rejectedThenApproved},
}

func rejectCuts(ctx context.Context, s *suite) (string, error) {
	client, server, err := s.pairOf(ctx, 0, "azure")
	if err != nil {
		return "", err
	}
	defer client.Close()
	defer server.Close()
	other, otherServer, err := s.pairOf(ctx, 1, "azure")
	if err != nil {
		return "", err
	}
	defer other.Close()
	defer otherServer.Close()

	ended := make(chan error, 1)
	start := time.Now()
	go func() { ended <- errors.Join(expectReset(client), expectReset(server)) }()
	if err := s.reject(0, "azure"); err != nil {
		return "", err
	}
	if err := <-ended; err != nil {
		return "", err
	}
	took := time.Since(start)
	if took > time.Second {
		return "", fmt.Errorf("cut after %v", took)
	}
	if err := echoBetween(other, otherServer, "alive"); err != nil {
		return "", fmt.Errorf("the other consumer: %w", err)
	}
	return fmt.Sprintf("after %v", took.Round(time.Millisecond)), s.apply(s.newState())
}

func rejectedThenApproved(ctx context.Context, s *suite) (string, error) {
	if err := s.reject(0, "azure"); err != nil {
		return "", err
	}
	short, cancel := context.WithTimeout(ctx, 1500*time.Millisecond)
	defer cancel()
	if c, err := s.dial(short, 0, "", "azure", portEcho); err == nil {
		c.Close()
		return "", errors.New("a rejected link was answered")
	}
	if err := s.apply(s.newState()); err != nil {
		return "", err
	}
	c, err := s.dial(ctx, 0, "", "azure", portEcho)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if _, err := io.WriteString(c, "x"); err != nil {
		return "", err
	}
	return "", expect(c, "x")
}
