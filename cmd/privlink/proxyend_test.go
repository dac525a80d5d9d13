package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/client"
)

// connectionOf is a consumer's connection to the service: the endpoints of both have one name.
func (p *proxied) connectionOf(subscription string) (api.PrivateLinkService, api.PrivateEndpointConnection) {
	p.Helper()
	var service api.PrivateLinkService
	read(p.T, p.must("service show shop -o json"), &service)
	for _, connection := range service.Properties.PrivateEndpointConnections {
		if connection.Properties.Subscription == subscription {
			return service, connection
		}
	}
	p.Fatalf("no connection of %s among %d", subscription, len(service.Properties.PrivateEndpointConnections))
	return service, api.PrivateEndpointConnection{}
}

// metric is the sum of all samples whose name and labels begin so.
func (p *proxied) metric(prefix string) (sum float64) {
	p.Helper()
	page, err := p.daemon.Namespace.Run(p.Context(), "curl", "-sS", "--unix-socket", p.daemon.Socket, "http://privlink/metrics")
	if err != nil {
		p.Fatal(err)
	}
	for line := range strings.Lines(page) {
		if !strings.HasPrefix(line, prefix) {
			continue
		}
		var value float64
		if _, err := fmt.Sscan(line[strings.LastIndexByte(line, ' ')+1:], &value); err != nil {
			p.Fatalf("metric %q: %v", line, err)
		}
		sum += value
	}
	return sum
}

// TestRun_ProxyReject_BothEndsAreResetOthersStay has a connection of each consumer open and rejects one's.
func TestRun_ProxyReject_BothEndsAreResetOthersStay(t *testing.T) {
	p := newProxied(t, "{}", "tcp:443:7009")
	// The backend's ends of the two connections that will be looked at, by what was said on them last.
	ended := map[byte]chan error{'1': make(chan error, 1), '2': make(chan error, 1)}
	p.serve(7009, func(c net.Conn) {
		b := make([]byte, 16)
		var last byte
		for {
			n, err := c.Read(b)
			if err == nil {
				last = b[n-1]
				_, err = c.Write(b[:n])
			}
			if err != nil {
				if end := ended[last]; end != nil {
					end <- err
				}
				return
			}
		}
	})
	rejected, other := p.served(0, 443), p.served(1, 443)
	if err := errors.Join(echoed(rejected, "1"), echoed(other, "2")); err != nil {
		t.Fatal(err)
	}
	type end struct {
		err error
		at  time.Time
	}
	atClient, atBackend := make(chan end, 1), make(chan end, 1)
	go func() {
		_, err := rejected.Read(make([]byte, 1))
		atClient <- end{err, time.Now()}
	}()
	go func() { atBackend <- end{<-ended['1'], time.Now()} }()

	_, connection := p.connectionOf("one")
	p.must("connection reject --service shop --name " + connection.Name)
	decided := time.Now()
	for where, at := range map[string]chan end{"client": atClient, "backend": atBackend} {
		select {
		case e := <-at:
			if late := e.at.Sub(decided); !errors.Is(e.err, syscall.ECONNRESET) || late > time.Second {
				t.Errorf("the %s of the rejected connection: %v, %v after the decision, want a reset within a second", where, e.err, late)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("the %s of the rejected connection notices nothing", where)
		}
	}
	if err := echoed(other, "2"); err != nil {
		t.Errorf("the other consumer's connection: %v", err)
	}
	select {
	case err := <-ended['2']:
		t.Errorf("the backend's end of the other's connection: %v", err)
	default:
	}
	if cut := p.metric(`privlink_proxy_connections_ended_total{how="cut"}`); cut != 1 {
		t.Errorf("%v connections are counted as cut, want 1", cut)
	}
}

// TestRun_ProxyQuota_NextIsRefusedBytesCountOnce gives one endpoint five flows: a proxied connection is one of them,
// although two flows carry it.
func TestRun_ProxyQuota_NextIsRefusedBytesCountOnce(t *testing.T) {
	p := newProxied(t, "{}", "tcp:443:7009")
	p.serve(7009, echo)
	p.served(1, 443) // who connects afterwards is served at once
	service, connection := p.connectionOf("one")
	c, err := client.New(client.Options{Socket: p.daemon.Socket})
	if err != nil {
		t.Fatal(err)
	}
	const limit = 5
	connection.Properties.MaxFlows = api.Set[int64](limit)
	id := api.IDOf(&service).Sub(api.PrivateEndpointConnections, connection.Name)
	if _, err := client.Put[api.PrivateEndpointConnection](t.Context(), c, id, &connection, client.Conditions{}); err != nil {
		t.Fatal(err)
	}
	refused := func() float64 {
		return p.metric(`privlink_link_flows_refused_total{`)
	}
	before := refused()
	var open []net.Conn
	for range limit {
		c, err := p.dial(0, 443)
		if err != nil {
			t.Fatalf("connection %d: %v", len(open)+1, err)
		}
		defer c.Close()
		if err := echoed(c, "hello"); err != nil {
			t.Fatalf("connection %d: %v", len(open)+1, err)
		}
		open = append(open, c)
	}
	if c, err := p.dial(0, 443); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("the sixth connection: %v, want it refused by a reset", err)
		if err == nil {
			c.Close()
		}
	}
	if n := refused() - before; n != 1 {
		t.Errorf("%v flows were counted as refused, want 1", n)
	}
	if c, err := p.dial(1, 443); err != nil {
		t.Errorf("the other consumer: %v", err)
	} else {
		c.Close()
	}

	const size = 4 << 20
	in := func() float64 { return p.metric(`privlink_service_bytes_total{direction="in"`) }
	start := in()
	if start == 0 {
		t.Error("nothing was counted so far")
	}
	sent := make(chan error, 1)
	go func() {
		_, err := open[0].Write(make([]byte, size))
		sent <- err
	}()
	_, err = io.CopyN(io.Discard, open[0], size)
	if err := errors.Join(err, <-sent); err != nil {
		t.Fatal(err)
	}
	// Headers and acknowledgements are packets as well.
	if counted := in() - start; counted < size || counted > size*3/2 {
		t.Errorf("%v bytes were counted for %d carried each way", counted, size)
	}
}
