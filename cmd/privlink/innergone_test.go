package main

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/privlink/privlink/pkg/lab"
	"github.com/privlink/privlink/pkg/lab/load"
)

// Somebody deletes the interface that privlink made for itself, through which proxied connections and all probes go: it is made anew,
// what was proxied goes on, no backend counts as down, and plain flows notice nothing.
func TestRun_OwnInterfaceTakenAway_IsMadeAnewAndNothingLost(t *testing.T) {
	l, d, c := loadedGateway(t, lab.DaemonOptions{})
	vm := l.VM(d.Namespace, "other", "10.0.1.4/16", lab.VethOptions{})
	for _, line := range []string{
		fmt.Sprintf("lb create web --vnet provider --rule all:0 --backend 10.0.0.4 --probe tcp:%d", load.PortEcho),
		fmt.Sprintf("lb create proxied --vnet provider --rule tcp:%d --backend 10.0.0.4 --probe tcp:%[1]d", load.PortEcho),
		"service create proxied --lb proxied --proxy-protocol --nat-ip-count 1 --visibility * --auto-approval *",
		"vnet create other --prefix 10.0.0.0/16 --interface other",
		"endpoint create to-proxied --vnet other --ip 10.0.1.11 --service " + defaultService("proxied"),
	} {
		mustRun(t, d, line)
	}
	healthy := func() error {
		for _, lb := range []string{"web", "proxied"} {
			out, err := d.CLI(t.Context(), "lb", "show", lb)
			if err != nil {
				return err
			}
			if !strings.Contains(out, "Up: connected") {
				return errors.New(out)
			}
		}
		return nil
	}
	l.Wait("probes to be answered", 20*time.Second, healthy)
	dial := func() (conn net.Conn, err error) {
		conn, err = vm.Dial(t.Context(), "tcp4", "", fmt.Sprintf("10.0.1.11:%d", load.PortEcho))
		if err == nil {
			if err = echoes(conn); err != nil {
				conn.Close()
			}
		}
		return conn, err
	}
	var open net.Conn
	l.Wait("a proxied connection", 20*time.Second, func() (err error) { open, err = dial(); return err })
	defer open.Close()
	name := innerConfig(d.BPFFS).Interface
	for what, take := range map[string]func(netlink.Link) error{
		"deleted": d.Namespace.Netlink().LinkDel,
		"renamed": func(l netlink.Link) error { return d.Namespace.Netlink().LinkSetName(l, "renamed") },
	} {
		before := d.Namespace.Link(name)
		if err := take(before); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if err := echoes(open); err != nil {
			t.Errorf("%s: the proxied connection of before: %v", what, err)
		}
		// A renamed one still carries what is there, until it is made anew.
		l.Wait("an interface made anew", 20*time.Second, func() error {
			now, err := d.Namespace.Netlink().LinkByName(name)
			if err == nil && now.Attrs().Index == before.Attrs().Index {
				err = fmt.Errorf("%s: %s is the interface of before", what, name)
			}
			return err
		})
		l.Wait("another proxied connection", 20*time.Second, func() error {
			conn, err := dial()
			if err == nil {
				conn.Close()
			}
			return err
		})
		moreLoad(l, c, 3)
		if err := healthy(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	out := d.Process().Output()
	if n := strings.Count(out, "somebody took it away"); n != 2 || strings.Contains(out, "healthy=false") {
		t.Errorf("it said %d times that its interface was taken away: %s", n, out)
	}
	wantNothingLost(t, c)
}
