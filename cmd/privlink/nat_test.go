package main

import (
	"errors"
	"fmt"
	"net"
	"syscall"
	"testing"
	"time"
)

// A NAT IP that is taken out takes no new flow from then on; those on it have their time and then a RST at both
// ends, whoever is asleep meanwhile: the daemon is killed and started while they drain. New ones notice nothing.
func TestRun_NATIPTakenOut_FlowsDrainAndAreReset(t *testing.T) {
	const drain = 5 * time.Second
	r := newLinkRig(t, "xdp")
	r.must("connection approve --service shop --name to-shop")
	client, served := r.establish()
	old := natOf(t, served)
	begin := time.Now()
	// The command waits for the drain's end; that of the daemon ends it.
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = r.CLI(t.Context(), "service", "update", "shop", "--nat-ip", "10.0.0.97", "--nat-drain", "5")
	}()
	defer func() { <-ended }()
	if old == "10.0.0.97" {
		t.Fatal("that is the NAT IP of before")
	}
	// Until the new one is known to be nobody's, new connections are refused.
	r.Namespace.Lab().Wait("a connection from the new NAT IP", drain-time.Second, func() error {
		c, err := r.vm.Dial(t.Context(), "tcp", "", "10.0.1.10:80")
		if err != nil {
			return err
		}
		c.Close()
		accepted, err := r.listener.Accept()
		if err != nil {
			return err
		}
		defer accepted.Close()
		if nat := natOf(t, accepted); nat != "10.0.0.97" {
			return fmt.Errorf("it comes from %s", nat)
		}
		return nil
	})
	later, laterServed := r.establish()
	wantFlow(t, "draining", client, served)
	r.Kill()
	r.Start(t.Context())
	wantFlow(t, "draining, after a crash of the daemon", client, served)
	for who, c := range map[string]net.Conn{"client": client, "server": served} {
		if err := c.SetReadDeadline(begin.Add(drain + 15*time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the %s got %v, not a RST", who, err)
		}
	}
	if took := time.Since(begin); took < drain {
		t.Errorf("the drain took %v, not %v", took, drain)
	}
	wantFlow(t, "after the drain", later, laterServed)
}

// natOf is where a connection comes from, as its server sees it.
func natOf(t *testing.T, served net.Conn) string {
	t.Helper()
	host, _, err := net.SplitHostPort(served.RemoteAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	return host
}
