package main

import (
	"errors"
	"net"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/privlink/privlink/pkg/lab"
)

// linkRig is a daemon with a service and an endpoint at 10.0.1.10 that asks for it.
type linkRig struct {
	*lab.Daemon
	t        *testing.T
	vm       *lab.Namespace
	listener net.Listener
}

func newLinkRig(t *testing.T, mode string) *linkRig {
	t.Helper()
	ctx, l := t.Context(), lab.New(t)
	gw, web, vm := l.Namespace("gateway"), l.Namespace("web"), l.Namespace("vm")
	l.Veth(gw, "eth1", web, "eth0", wire("10.0.0.4/16"))
	l.Veth(gw, "eth2", vm, "eth0", wire("10.0.1.4/16"))
	r := &linkRig{Daemon: gw.Daemon(ctx, lab.DaemonOptions{Binary: l.Build(ctx, "./cmd/privlink")}), t: t, vm: vm}
	r.must("vnet create datacenter --prefix 10.0.0.0/16 --interface eth1 --mode " + mode)
	r.must("lb create web --vnet datacenter --rule tcp:80 --backend 10.0.0.4")
	published := r.must("service create shop --lb web --nat-ip-count 1 --visibility *")
	r.must("vnet create home --prefix 10.0.0.0/16 --interface eth2 --mode " + mode)
	r.must("endpoint create to-shop --vnet home --ip 10.0.1.10 --service " + regexp.MustCompile(`\S+\.privatelinkservice`).FindString(published))
	var err error
	if r.listener, err = web.Listen("tcp", "10.0.0.4:80"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.listener.Close() })
	return r
}

// must runs a command that has to succeed.
func (r *linkRig) must(line string) string {
	r.t.Helper()
	out, err := r.CLI(r.t.Context(), strings.Fields(line)...)
	if err != nil {
		r.t.Fatal(err)
	}
	return out
}

// establish opens a connection through the endpoint: the client's end and the server's.
func (r *linkRig) establish() (client, served net.Conn) {
	r.t.Helper()
	client, err := r.vm.Dial(r.t.Context(), "tcp", "", "10.0.1.10:80")
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { client.Close() })
	if served, err = r.listener.Accept(); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { served.Close() })
	return client, served
}

// wantFlow wants a connection to carry bytes both ways.
func wantFlow(t *testing.T, when string, client, served net.Conn) {
	t.Helper()
	b := make([]byte, 1)
	for _, way := range [][2]net.Conn{{client, served}, {served, client}} {
		for _, c := range way {
			if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := way[0].Write([]byte("x")); err != nil {
			t.Errorf("%s: %v", when, err)
		}
		if _, err := way[1].Read(b); err != nil {
			t.Errorf("%s: %v", when, err)
		}
	}
}

// wantReset wants a RST on a connection on which nobody says anything.
func wantReset(t *testing.T, who string, c net.Conn) {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the %s got %v, not a RST", who, err)
	}
}
