package main

import (
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A daemon that is told to end lets requests come to theirs. Whoever never finishes one holds up the end for some seconds, and
// nothing else: connections are proxied until the process goes.
func TestRun_StopsWithARequestHeldOpen_ProxiesUntilTheEnd(t *testing.T) {
	p := newProxied(t, "{}", "tcp:7009")
	p.serve(7009, echo)
	before := p.served(0, 7009)
	held, err := net.Dial("unix", p.daemon.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if _, err := fmt.Fprint(held, "PUT /subscriptions/one HTTP/1.1\r\nHost: privlink\r\nContent-Length: 100\r\n\r\n{"); err != nil {
		t.Fatal(err)
	}
	p.must("status") // was accepted later
	if err := p.daemon.Process().Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	p.lab.Wait("the daemon to take no more requests", 10*time.Second, func() error {
		c, err := net.Dial("unix", p.daemon.Socket)
		if err != nil {
			return nil //nolint:nilerr // as it should be
		}
		c.Close()
		return errors.New("it does")
	})
	if err := echoed(before, "go on"); err != nil {
		t.Errorf("a connection of before: %v", err)
	}
	c, err := p.dial(1, 7009)
	if err == nil {
		defer c.Close()
		err = echoed(c, "hello")
	}
	select {
	case <-p.daemon.Process().Exited():
		t.Fatal("the daemon did not wait for the request: nothing is shown")
	default:
	}
	if err != nil {
		t.Errorf("a new connection: %v", err)
	}
	held.Close()
	if err := p.daemon.Process().Wait(t.Context()); err != nil {
		t.Errorf("the daemon's end: %v\n%s", err, p.daemon.Process().Output())
	}
}
