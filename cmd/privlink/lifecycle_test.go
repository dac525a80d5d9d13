package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/client"
	"github.com/privlink/privlink/pkg/lab"
)

// packets is what a consumer's packets get in the end.
type packets string

const (
	silence packets = "silence" // nothing comes back, and nothing reaches the backend
	flow    packets = "flow"    // they pass; what was established goes on
	reset   packets = "reset"   // silence, and a RST for both ends of what was established
)

// cell is what an event comes to in a state.
type cell struct {
	after string // state that the consumer sees; empty = the endpoint is gone
	gets  packets
	code  int // of the refusal; 0: it is done
}

// states are where a cell begins, with what its packets get there.
var states = map[string]packets{"Pending": silence, "Approved": flow, "Rejected": silence, "Disconnected": silence}

// happening is an event with who makes it happen, and its cell in each state.
type happening struct {
	actor, name string
	do          func(context.Context, *link) error
	want        map[string]cell
}

// refused is a happening that nobody may make, whatever the state: it stays, and so does what packets get.
func refused(actor, name string, code int, do func(context.Context, *link, *client.Client) error) happening {
	want := map[string]cell{}
	for state, gets := range states {
		want[state] = cell{state, gets, code}
	}
	return happening{actor, name, func(ctx context.Context, l *link) error { return do(ctx, l, l.as(actor)) }, want}
}

func lifeCycle() []happening {
	list := []happening{
		{"provider", "approves", func(ctx context.Context, l *link) error { return l.decide(ctx, l.as("provider"), "Approved") }, map[string]cell{
			"Pending": {"Approved", flow, 0}, "Approved": {"Approved", flow, 0}, "Rejected": {"Approved", flow, 0}, "Disconnected": {"Disconnected", silence, 404}}},
		{"provider", "rejects", func(ctx context.Context, l *link) error { return l.decide(ctx, l.as("provider"), "Rejected") }, map[string]cell{
			"Pending": {"Rejected", silence, 0}, "Approved": {"Rejected", reset, 0}, "Rejected": {"Rejected", silence, 0}, "Disconnected": {"Disconnected", silence, 404}}},
		{"provider", "says Pending", func(ctx context.Context, l *link) error { return l.decide(ctx, l.as("provider"), "Pending") }, map[string]cell{
			"Pending": {"Pending", silence, 0}, "Approved": {"Approved", flow, 400}, "Rejected": {"Rejected", silence, 400}, "Disconnected": {"Disconnected", silence, 404}}},
		{"provider", "removes the connection", func(ctx context.Context, l *link) error { return l.remove(ctx, l.as("provider")) }, map[string]cell{
			"Pending": {"Disconnected", silence, 0}, "Approved": {"Disconnected", reset, 0}, "Rejected": {"Disconnected", silence, 0}, "Disconnected": {"Disconnected", silence, 0}}},
		{"provider", "deletes the service", func(ctx context.Context, l *link) error { return l.unpublish(ctx, l.as("provider"), false) }, map[string]cell{
			"Pending": {"Pending", silence, 409}, "Approved": {"Approved", flow, 409}, "Rejected": {"Disconnected", silence, 0}, "Disconnected": {"Disconnected", silence, 0}}},
		{"provider", "deletes the service with cascade", func(ctx context.Context, l *link) error { return l.unpublish(ctx, l.as("provider"), true) }, map[string]cell{
			"Pending": {"Disconnected", silence, 0}, "Approved": {"Disconnected", reset, 0}, "Rejected": {"Disconnected", silence, 0}, "Disconnected": {"Disconnected", silence, 0}}},
		{"consumer", "puts the endpoint as it was", func(ctx context.Context, l *link) error { return l.ask(ctx, l.as("consumer"), "") }, map[string]cell{
			"Pending": {"Pending", silence, 0}, "Approved": {"Approved", flow, 0}, "Rejected": {"Rejected", silence, 0}, "Disconnected": {"Disconnected", silence, 0}}},
		{"consumer", "asks again", func(ctx context.Context, l *link) error { return l.ask(ctx, l.as("consumer"), "Pending") }, map[string]cell{
			"Pending": {"Pending", silence, 0}, "Approved": {"Approved", flow, 0}, "Rejected": {"Pending", silence, 0}, "Disconnected": {"Pending", silence, 0}}},
		{"consumer", "says Approved", func(ctx context.Context, l *link) error { return l.ask(ctx, l.as("consumer"), "Approved") }, map[string]cell{
			"Pending": {"Pending", silence, 0}, "Approved": {"Approved", flow, 0}, "Rejected": {"Rejected", silence, 0}, "Disconnected": {"Disconnected", silence, 0}}},
		{"consumer", "deletes the endpoint", func(ctx context.Context, l *link) error { return l.leave(ctx, l.as("consumer")) }, map[string]cell{
			"Pending": {"", silence, 0}, "Approved": {"", reset, 0}, "Rejected": {"", silence, 0}, "Disconnected": {"", silence, 0}}},
	}
	list = append(list, happening{"consumer and provider", "ask again and approve", func(ctx context.Context, l *link) error {
		if err := l.ask(ctx, l.as("consumer"), "Pending"); err != nil {
			return err
		}
		if err := l.find(ctx); err != nil {
			return err
		}
		return l.decide(ctx, l.as("provider"), "Approved")
	}, map[string]cell{
		"Pending": {"Approved", flow, 0}, "Approved": {"Approved", flow, 0}, "Rejected": {"Approved", flow, 0}, "Disconnected": {"Approved", flow, 0}}})
	// Who may not make them happen: the other side and a stranger do not even learn that there is such a thing.
	providers := map[string]func(context.Context, *link, *client.Client) error{
		"approves":               func(ctx context.Context, l *link, as *client.Client) error { return l.decide(ctx, as, "Approved") },
		"rejects":                func(ctx context.Context, l *link, as *client.Client) error { return l.decide(ctx, as, "Rejected") },
		"removes the connection": func(ctx context.Context, l *link, as *client.Client) error { return l.remove(ctx, as) },
		"deletes the service":    func(ctx context.Context, l *link, as *client.Client) error { return l.unpublish(ctx, as, true) },
	}
	consumers := map[string]func(context.Context, *link, *client.Client) error{
		"asks again":           func(ctx context.Context, l *link, as *client.Client) error { return l.ask(ctx, as, "Pending") },
		"deletes the endpoint": func(ctx context.Context, l *link, as *client.Client) error { return l.leave(ctx, as) },
	}
	for actor, code := range map[string]int{"consumer": 404, "reader": 403, "stranger": 404} {
		for name, do := range providers {
			list = append(list, refused(actor, name, code, do))
		}
	}
	for actor, code := range map[string]int{"provider": 404, "reader": 403, "stranger": 404} {
		for name, do := range consumers {
			list = append(list, refused(actor, name, code, do))
		}
	}
	return list
}

// matrix is a daemon with a service and an endpoint for each cell, all on one backend.
type matrix struct {
	t       *testing.T
	daemon  *lab.Daemon
	vm      *lab.Namespace
	clients map[string]*client.Client // by actor; they talk to the daemon as what their tokens say

	mu   sync.Mutex
	ends map[uint32]chan error // of a cell's TCP connections at the backend: how each ended
	seen map[uint32]int        // datagrams of a cell that reached the backend
}

// link is one cell's service, endpoint and connection.
type link struct {
	*matrix
	number     uint32
	service    api.ID
	endpoint   api.ID
	ip, alias  string
	connection api.ID // as it was when there was one
}

const (
	matrixTCP, matrixUDP = "80", "7"
	cellsPerLB           = api.MaxServicesPerLoadBalancer
)

// newMatrix makes everything but the endpoints.
func newMatrix(t *testing.T, mode string, cells int) *matrix {
	t.Helper()
	ctx, l := t.Context(), lab.New(t)
	gw, web := l.Namespace("gateway"), l.Namespace("web")
	m := &matrix{t: t, vm: l.Namespace("vm"), clients: map[string]*client.Client{}, ends: map[uint32]chan error{}, seen: map[uint32]int{}}
	l.Veth(gw, "eth1", web, "eth0", wire("10.0.0.4/16"))
	l.Veth(gw, "eth2", m.vm, "eth0", wire("10.0.1.4/16"))
	m.serve(web)
	m.daemon = gw.Daemon(ctx, lab.DaemonOptions{Binary: l.Build(ctx, "./cmd/privlink")})
	run := func(stdin string, args ...string) string {
		t.Helper()
		out, err := m.daemon.CLIInput(ctx, stdin, args...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	for actor, roles := range map[string][]string{
		"provider": {"Owner /subscriptions/p"}, "consumer": {"Owner /subscriptions/c"}, "reader": {"Reader /subscriptions/p", "Reader /subscriptions/c"},
		"stranger": {"Owner /subscriptions/x"},
	} {
		run("", "principal", "create", actor, "--tenant", actor)
		for _, r := range roles {
			role, scope, _ := strings.Cut(r, " ")
			run("", "role", "create", "--principal", actor, "--role", role, "--scope", scope)
		}
		var token api.Token
		if err := json.Unmarshal([]byte(run("", "token", "create", "--principal", actor, "-o", "json")), &token); err != nil {
			t.Fatal(err)
		}
		c, err := client.New(client.Options{Socket: m.daemon.Socket, TokenFile: l.WriteFile(actor, []byte(token.Secret))})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		m.clients[actor] = c
	}
	root, err := client.New(client.Options{Socket: m.daemon.Socket})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(root.Close)
	m.clients["root"] = root
	run("", "vnet", "create", "home", "--prefix", "10.0.0.0/16", "--interface", "eth2", "--mode", mode, "--subscription", "c")
	var documents strings.Builder
	fmt.Fprintf(&documents, `
type: Microsoft.Network/virtualNetworks
name: dc
location: local
properties:
  addressSpace: {addressPrefixes: [10.0.0.0/16]}
  subnets: [{name: vms, properties: {addressPrefix: 10.0.0.0/24}}, {name: fronts, properties: {addressPrefix: 10.0.2.0/24}}]
  attachments: [{interface: eth1, mode: %s, answerGateway: true}]
`, mode)
	for lb := range (cells + cellsPerLB - 1) / cellsPerLB {
		var fronts, rules, published strings.Builder
		for i := lb * cellsPerLB; i < min((lb+1)*cellsPerLB, cells); i++ {
			fmt.Fprintf(&fronts, "\n  - {name: f%d, properties: {subnet: {id: virtualNetworks/dc/subnets/fronts}}}", i)
			for protocol, port := range map[string]string{"Tcp": matrixTCP, "Udp": matrixUDP} {
				fmt.Fprintf(&rules, "\n  - {name: %s%d, properties: {protocol: %s, frontendPort: %s, frontendIPConfiguration: {id: loadBalancers/lb%d/frontendIPConfigurations/f%d}, "+
					"backendAddressPool: {id: loadBalancers/lb%d/backendAddressPools/pool}}}", protocol, i, protocol, port, lb, i, lb)
			}
			fmt.Fprintf(&published, `
---
type: Microsoft.Network/privateLinkServices
name: s%d
location: local
properties:
  visibility: {subscriptions: [c]}
  loadBalancerFrontendIpConfigurations: [{id: loadBalancers/lb%d/frontendIPConfigurations/f%d}]
  ipConfigurations: [{name: nat, properties: {subnet: {id: virtualNetworks/dc/subnets/vms}}}]
`, i, lb, i)
		}
		fmt.Fprintf(&documents, `
---
type: Microsoft.Network/loadBalancers
name: lb%d
location: local
sku: {name: Standard}
properties:
  frontendIPConfigurations:%s
  backendAddressPools: [{name: pool, properties: {loadBalancerBackendAddresses: [{name: web, properties: {ipAddress: 10.0.0.4}}]}}]
  loadBalancingRules:%s
%s`, lb, &fronts, &rules, &published)
	}
	run(documents.String(), "apply", "-f", "-", "--subscription", "p")
	return m
}

// serve echoes what comes to the backend; each conversation begins with its cell's number.
func (m *matrix) serve(web *lab.Namespace) {
	m.t.Helper()
	listener, err := web.Listen("tcp", "10.0.0.4:"+matrixTCP)
	if err != nil {
		m.t.Fatal(err)
	}
	socket, err := web.ListenPacket("udp", "10.0.0.4:"+matrixUDP)
	if err != nil {
		m.t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer conn.Close()
				b := make([]byte, 4)
				if _, err := io.ReadFull(conn, b); err != nil {
					return // a SYN that nobody went on with
				}
				_, err := io.Copy(conn, conn)
				m.end(binary.BigEndian.Uint32(b)) <- err
			})
		}
	})
	serving.Go(func() {
		for b := make([]byte, 64); ; {
			n, from, err := socket.ReadFrom(b)
			if err != nil {
				return
			}
			if n == 4 {
				m.mu.Lock()
				m.seen[binary.BigEndian.Uint32(b)]++
				m.mu.Unlock()
			}
			_, _ = socket.WriteTo(b[:n], from)
		}
	})
	m.t.Cleanup(func() {
		listener.Close()
		socket.Close()
		serving.Wait()
	})
}

func (m *matrix) end(number uint32) chan error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ends[number] == nil {
		m.ends[number] = make(chan error, 8)
	}
	return m.ends[number]
}

func (m *matrix) datagrams(number uint32) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.seen[number]
}

func (m *matrix) as(actor string) *client.Client { return m.clients[actor] }

func (m *matrix) link(ctx context.Context, number int) (*link, error) {
	id := func(subscription string, kind api.Kind, name string) api.ID {
		return api.ID{Subscription: subscription, ResourceGroup: defaultResourceGroup, Type: string(kind), Name: name}
	}
	l := &link{matrix: m, number: uint32(number), service: id("p", api.PrivateLinkServices, fmt.Sprint("s", number)),
		endpoint: id("c", api.PrivateEndpoints, fmt.Sprint("e", number)), ip: fmt.Sprintf("10.0.1.%d", 10+number)}
	service, err := client.Get[api.PrivateLinkService](ctx, m.as("provider"), l.service)
	if err != nil {
		return nil, err
	}
	l.alias = service.Properties.Alias
	return l, nil
}

// reach brings a new link into a state.
func (l *link) reach(ctx context.Context, state string) error {
	if err := l.ask(ctx, l.as("consumer"), ""); err != nil {
		return err
	}
	if err := l.as("consumer").Await(ctx, l.endpoint, false); err != nil {
		return err
	}
	if err := l.find(ctx); err != nil {
		return err
	}
	if state == "Pending" {
		return nil
	}
	if err := l.decide(ctx, l.as("provider"), "Approved"); err != nil || state == "Approved" {
		return err
	}
	if state == "Disconnected" {
		return l.remove(ctx, l.as("provider"))
	}
	return l.decide(ctx, l.as("provider"), api.ConnectionStatus(state))
}

// find looks for the service's one connection.
func (l *link) find(ctx context.Context) error {
	service, err := client.Get[api.PrivateLinkService](ctx, l.as("provider"), l.service)
	if err != nil {
		return err
	}
	if n := len(service.Properties.PrivateEndpointConnections); n != 1 {
		return fmt.Errorf("%s has %d connections", l.service.Name, n)
	}
	l.connection = l.service.Sub(api.PrivateEndpointConnections, service.Properties.PrivateEndpointConnections[0].Name)
	return nil
}

func (l *link) decide(ctx context.Context, as *client.Client, status api.ConnectionStatus) error {
	decision := &api.PrivateEndpointConnection{}
	decision.Properties.PrivateLinkServiceConnectionState = &api.ConnectionState{Status: status}
	_, err := as.Call(ctx, http.MethodPut, client.Path(l.connection), nil, nil, decision, nil)
	return err
}

func (l *link) remove(ctx context.Context, as *client.Client) error {
	_, err := as.Call(ctx, http.MethodDelete, client.Path(l.connection), nil, nil, nil, nil)
	return err
}

func (l *link) unpublish(ctx context.Context, as *client.Client, cascade bool) error {
	query := url.Values{}
	if cascade {
		query.Set("cascade", "true")
	}
	_, err := as.Delete(ctx, l.service, query, client.Conditions{})
	return err
}

func (l *link) leave(ctx context.Context, as *client.Client) error {
	_, err := as.Delete(ctx, l.endpoint, nil, client.Conditions{})
	return err
}

// ask puts the endpoint, with a status in its connection if there is one.
func (l *link) ask(ctx context.Context, as *client.Client, status api.ConnectionStatus) error {
	asked := map[string]any{"privateLinkServiceId": l.alias}
	if status != "" {
		asked["privateLinkServiceConnectionState"] = map[string]any{"status": status}
	}
	_, err := as.Call(ctx, http.MethodPut, client.Path(l.endpoint), nil, nil, map[string]any{"location": "local", "properties": map[string]any{
		"subnet":                              map[string]any{"id": "/subscriptions/c/resourceGroups/default/providers/Microsoft.Network/virtualNetworks/home/subnets/default"},
		"ipConfigurations":                    []any{map[string]any{"name": "ip", "properties": map[string]any{"privateIPAddress": l.ip}}},
		"manualPrivateLinkServiceConnections": []any{map[string]any{"name": "c", "properties": asked}},
	}}, nil)
	return err
}

// state is what the consumer sees; empty if the endpoint is gone.
func (l *link) state(ctx context.Context) (string, error) {
	e, err := client.Get[api.PrivateEndpoint](ctx, l.as("consumer"), l.endpoint)
	if api.IsNotFound(err) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	c, _ := e.Connection()
	return string(c.Properties.PrivateLinkServiceConnectionState.Status), nil
}

// talk is a TCP connection through the endpoint and a UDP socket that spoke through it.
type talk struct{ tcp, udp net.Conn }

func (c *talk) close() {
	c.tcp.Close()
	c.udp.Close()
}

// establish opens both, and hears them answered.
func (l *link) establish(ctx context.Context) (*talk, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	tcp, err := l.vm.Dial(ctx, "tcp", "", l.ip+":"+matrixTCP)
	if err != nil {
		return nil, err
	}
	udp, err := l.vm.Dial(ctx, "udp4", "", l.ip+":"+matrixUDP)
	if err != nil {
		tcp.Close()
		return nil, err
	}
	c := &talk{tcp, udp}
	if _, err := tcp.Write(binary.BigEndian.AppendUint32(nil, l.number)); err != nil {
		c.close()
		return nil, err
	}
	if err := l.passes(c); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

// passes hears both answered.
func (l *link) passes(c *talk) error {
	end := time.Now().Add(10 * time.Second)
	if err := c.tcp.SetDeadline(end); err != nil {
		return err
	}
	b := make([]byte, 8)
	if _, err := c.tcp.Write([]byte("x")); err != nil {
		return fmt.Errorf("TCP: %w", err)
	}
	if _, err := c.tcp.Read(b); err != nil {
		return fmt.Errorf("TCP: %w", err)
	}
	// A datagram that gets lost is sent again.
	for hello := binary.BigEndian.AppendUint32(nil, l.number); time.Now().Before(end); {
		if _, err := c.udp.Write(hello); err != nil {
			return fmt.Errorf("UDP: %w", err)
		}
		if err := c.udp.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
			return err
		}
		if n, err := c.udp.Read(b); err == nil && bytes.Equal(b[:n], hello) {
			return nil
		}
	}
	return errors.New("UDP: no answer")
}

// quiet is how long nothing must come. What is answered at all is answered within a millisecond.
const quiet = 300 * time.Millisecond

// silent wants no answer to a new TCP connection, a new UDP conversation, and the UDP conversation of before if there was one.
func (l *link) silent(ctx context.Context, before *talk) error {
	ctx, cancel := context.WithTimeout(ctx, quiet)
	defer cancel()
	heard := l.datagrams(l.number)
	udp, err := l.vm.Dial(ctx, "udp4", "", l.ip+":"+matrixUDP)
	if err != nil {
		return err
	}
	defer udp.Close()
	sockets := []net.Conn{udp}
	if before != nil {
		sockets = append(sockets, before.udp)
	}
	for _, s := range sockets {
		_, _ = s.Write(binary.BigEndian.AppendUint32(nil, l.number)) // no route to a host that is gone is silence too
	}
	var timeout net.Error
	if c, err := l.vm.Dial(ctx, "tcp", "", l.ip+":"+matrixTCP); err == nil {
		c.Close()
		return errors.New("TCP: connected")
	} else if !errors.As(err, &timeout) || !timeout.Timeout() {
		return fmt.Errorf("TCP: %w", err)
	}
	for _, s := range sockets {
		if err := s.SetReadDeadline(time.Now().Add(time.Millisecond)); err != nil {
			return err
		}
		if n, err := s.Read(make([]byte, 8)); err == nil {
			return fmt.Errorf("UDP: an answer of %d bytes", n)
		} else if errors.Is(err, syscall.ECONNREFUSED) {
			return fmt.Errorf("UDP: %w", err)
		}
	}
	if n := l.datagrams(l.number) - heard; n > 0 {
		return fmt.Errorf("UDP: %d datagrams reached the backend", n)
	}
	return nil
}

// resets wants a RST at both ends of a connection on which nobody says anything.
func (l *link) resets(before *talk) error {
	if err := before.tcp.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	if _, err := before.tcp.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		return fmt.Errorf("the client got %v, not a RST", err)
	}
	select {
	case err := <-l.end(l.number):
		if !errors.Is(err, syscall.ECONNRESET) {
			return fmt.Errorf("the server got %v, not a RST", err)
		}
	case <-time.After(10 * time.Second):
		return errors.New("the server got no RST")
	}
	return nil
}

// settled waits until the kernel agrees with everything written.
func (m *matrix) settled(ctx context.Context) error {
	return lab.Poll(30*time.Second, func() error {
		var s api.Status
		if _, err := m.as("root").Call(ctx, http.MethodGet, "/privlink/status", nil, nil, nil, &s); err != nil {
			return err
		}
		if s.AppliedRevision < s.WantedRevision {
			return fmt.Errorf("the kernel has revision %d of %d", s.AppliedRevision, s.WantedRevision)
		}
		return nil
	})
}

// check compares state and packets with what a cell says, and what was established before with what becomes of it.
func (l *link) check(ctx context.Context, want cell, before *talk) error {
	state, err := l.state(ctx)
	if err != nil {
		return err
	}
	if state != want.after {
		return fmt.Errorf("the consumer sees %q, want %q", state, want.after)
	}
	if want.gets == flow {
		if before != nil {
			if err := l.passes(before); err != nil {
				return fmt.Errorf("what was established: %w", err)
			}
		}
		after, err := l.establish(ctx)
		if err != nil {
			return err
		}
		after.close()
		<-l.end(l.number) // in order, so that a RST is told from it
		return nil
	}
	if want.gets == reset {
		if err := l.resets(before); err != nil {
			return err
		}
	}
	return l.silent(ctx, before)
}

// Every actor x every event x every state: the state afterwards or the refusal, and what packets get, TCP and UDP, of before and
// new. Those of one who may do nothing are one cell, for packets: between them nothing may change.
func TestRun_LifeCycle_ActorEventState_Packets(t *testing.T) {
	for _, mode := range []string{"tc", "xdp"} {
		t.Run(mode, func(t *testing.T) { runMatrix(t, mode) })
	}
}

func runMatrix(t *testing.T, mode string) {
	type group struct {
		state  string
		events []happening
	}
	var groups []group
	for state := range states {
		var idle []happening
		for _, h := range lifeCycle() {
			if h.want[state] == (cell{}) {
				t.Fatalf("%s %s says nothing of %s", h.actor, h.name, state)
			}
			if code := h.want[state].code; code == http.StatusForbidden || code == http.StatusNotFound {
				idle = append(idle, h)
			} else {
				groups = append(groups, group{state, []happening{h}})
			}
		}
		groups = append(groups, group{state, idle})
	}
	daemons := len(groups) // and one for each state that sees the daemon killed
	for state := range states {
		groups = append(groups, group{state: state})
	}
	ctx := t.Context()
	m := newMatrix(t, mode, len(groups))
	links, before := make([]*link, len(groups)), make([]*talk, len(groups))
	each := func(from, to int, do func(int) error) {
		t.Helper()
		var running sync.WaitGroup
		for i := from; i < to; i++ {
			running.Go(func() {
				if err := do(i); err != nil {
					name := "the daemon is killed"
					if len(groups[i].events) > 0 {
						name = groups[i].events[0].actor + " " + groups[i].events[0].name
					}
					t.Errorf("%s in %s: %v", name, groups[i].state, err)
				}
			})
		}
		running.Wait()
		if t.Failed() {
			t.FailNow()
		}
	}
	each(0, len(groups), func(i int) (err error) {
		if links[i], err = m.link(ctx, i); err != nil {
			return err
		}
		if err := links[i].reach(ctx, groups[i].state); err != nil {
			return err
		}
		if err := m.settled(ctx); err != nil {
			return err
		}
		if states[groups[i].state] == flow {
			before[i], err = links[i].establish(ctx)
			if err == nil {
				t.Cleanup(before[i].close)
			}
			return err
		}
		return nil
	})
	each(0, daemons, func(i int) error {
		var last cell
		for _, h := range groups[i].events {
			last = h.want[groups[i].state]
			err, code := h.do(ctx, links[i]), 0
			if err != nil {
				code = api.AsError(err).Status
			}
			if code != last.code {
				return fmt.Errorf("%s %s: %v, want status %d", h.actor, h.name, err, last.code)
			}
		}
		if err := m.settled(ctx); err != nil {
			return err
		}
		return links[i].check(ctx, last, before[i])
	})
	m.daemon.Kill()
	m.daemon.Start(ctx)
	each(daemons, len(groups), func(i int) error {
		return links[i].check(ctx, cell{after: groups[i].state, gets: states[groups[i].state]}, before[i])
	})
}
