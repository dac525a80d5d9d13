package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/client"
)

const (
	subscription  = "00000000-0000-0000-0000-000000000001" // of privlink apply
	resourceGroup = "default"
	// most endpoints of a writer, and members of its pool.
	mostEndpoints = 12
	mostMembers   = 6
)

// writer changes resources of its own, one after the other: a load balancer, a service, and endpoints of that.
type writer struct {
	api          *client.Client
	home         string // its network; also begins the names of its endpoints
	lb, service  string
	number       int
	random       *rand.Rand
	serial       int               // of its last write; in what it writes, so that each can be told from the others
	expect       map[string]string // what was acknowledged, by resource ("privateEndpoints/x"); absent = not there
	doubt        map[string]string // what the write under way would change when the daemon died; "" = not there
	endpoints    map[string]endpoint
	alias        string // of its service; empty = it has none
	acknowledged int
}

// endpoint is what a writer knows of one.
type endpoint struct {
	guid         string
	serial       int
	status, text string // of its connection
}

func (e endpoint) String() string { return fmt.Sprintf("write %d, %s %q", e.serial, e.status, e.text) }

func newWriter(c *client.Client, number int, seed uint64) *writer {
	return &writer{api: c, number: number, home: fmt.Sprint("home", number), lb: fmt.Sprint("lb", number), service: fmt.Sprint("web", number),
		random: rand.New(rand.NewPCG(seed, uint64(number)+1)), expect: map[string]string{}, endpoints: map[string]endpoint{}}
}

// begin makes the load balancer and the service.
func (w *writer) begin(ctx context.Context) error {
	if err := w.putBalancer(ctx); err != nil {
		return err
	}
	return w.putService(ctx)
}

// write writes until the daemon dies or done is closed. An error is an answer that says no.
func (w *writer) write(ctx context.Context, done <-chan struct{}) error {
	w.doubt = nil
	for {
		select {
		case <-done:
			return nil
		default:
		}
		err := w.one(ctx)
		var gone *client.Unreachable
		if errors.As(err, &gone) {
			return nil // doubt has what it would have changed
		}
		if err != nil {
			return fmt.Errorf("%s: %w", w.home, err)
		}
	}
}

// one does one write, of a kind that is possible now.
func (w *writer) one(ctx context.Context) error {
	if w.alias == "" {
		return w.putService(ctx)
	}
	name := w.any()
	e := w.endpoints[name]
	connected := name != "" && e.status != string(api.Disconnected)
	switch n := w.random.IntN(100); {
	case n < 2:
		return w.deleteService(ctx)
	case n < 6:
		return w.putService(ctx)
	case n < 14:
		return w.putBalancer(ctx)
	case connected && n < 40:
		return w.decide(ctx, name, api.Approved)
	case connected && n < 54:
		return w.decide(ctx, name, api.Rejected)
	case connected && n < 60:
		return w.removeConnection(ctx, name)
	case name != "" && n < 66:
		return w.tag(ctx, name)
	case name != "" && (n < 80 || len(w.endpoints) >= mostEndpoints):
		return w.deleteEndpoint(ctx, name)
	}
	return w.createEndpoint(ctx)
}

// any is one of the endpoints, or empty.
func (w *writer) any() string {
	names := slices.Sorted(maps.Keys(w.endpoints))
	if len(names) == 0 {
		return ""
	}
	return names[w.random.IntN(len(names))]
}

func id(kind api.Kind, name string) api.ID {
	return api.ID{Subscription: subscription, ResourceGroup: resourceGroup, Type: string(kind), Name: name}
}

// resource is how expectations name one.
func resource(kind api.Kind, name string) string { return string(kind) + "/" + name }

// call makes a write. Until it is acknowledged, what it changes is in doubt.
func (w *writer) call(ctx context.Context, method string, at api.ID, query url.Values, body string, changes map[string]string, into any) error {
	w.doubt = changes
	var sent any
	if body != "" {
		sent = json.RawMessage(body)
	}
	var err error
	if method == http.MethodDelete {
		_, err = w.api.Delete(ctx, at, query, client.Conditions{}) // waits for the end of a long-running operation
	} else {
		_, err = w.api.Call(ctx, method, client.Path(at), query, nil, sent, into)
	}
	if err != nil {
		return err
	}
	w.acknowledged++
	w.doubt = nil
	for name, value := range changes {
		if w.expect[name] = value; value == "" {
			delete(w.expect, name)
		}
	}
	return nil
}

func (w *writer) next() int { w.serial++; return w.serial }

func (w *writer) putBalancer(ctx context.Context) error {
	serial, members := w.next(), 1+w.random.IntN(mostMembers)
	var list []string
	for _, i := range w.random.Perm(2 * mostMembers)[:members] {
		list = append(list, fmt.Sprintf(`{"name":"m%d","properties":{"ipAddress":"10.9.%d.%d"}}`, i, w.number, 10+i))
	}
	body := fmt.Sprintf(`{"location":"local","sku":{"name":"Standard"},"tags":{"serial":"%d"},"properties":{
		"frontendIPConfigurations":[{"name":"front","properties":{"subnet":{"id":"%[2]s"}}}],
		"backendAddressPools":[{"name":"pool","properties":{"loadBalancerBackendAddresses":[%[3]s]}}],
		"loadBalancingRules":[{"name":"rule","properties":{"protocol":"Tcp","frontendPort":80,
			"frontendIPConfiguration":{"id":"%[4]s/frontendIPConfigurations/front"},"backendAddressPool":{"id":"%[4]s/backendAddressPools/pool"}}}]}}`,
		serial, id(api.VirtualNetworks, "dc").Sub(api.Subnets, "fronts"), strings.Join(list, ","), id(api.LoadBalancers, w.lb))
	return w.call(ctx, http.MethodPut, id(api.LoadBalancers, w.lb), nil, body,
		map[string]string{resource(api.LoadBalancers, w.lb): balancerText(strconv.Itoa(serial), members)}, nil)
}

func balancerText(serial string, members int) string {
	return fmt.Sprintf("write %s, %d members", serial, members)
}

func (w *writer) putService(ctx context.Context) error {
	serial, limit := w.next(), 1+w.random.Int64N(1000)
	body := fmt.Sprintf(`{"location":"local","tags":{"serial":"%d"},"properties":{"visibility":{"subscriptions":["*"]},"maxFlowsPerEndpoint":%d,
		"loadBalancerFrontendIpConfigurations":[{"id":"%s"}],"ipConfigurations":[{"name":"nat","properties":{"subnet":{"id":"%s"}}}]}}`,
		serial, limit, id(api.LoadBalancers, w.lb).Sub(api.FrontendIPConfigurations, "front"), id(api.VirtualNetworks, "dc").Sub(api.Subnets, "fronts"))
	var made api.PrivateLinkService
	err := w.call(ctx, http.MethodPut, id(api.PrivateLinkServices, w.service), nil, body,
		map[string]string{resource(api.PrivateLinkServices, w.service): serviceText(strconv.Itoa(serial), limit)}, &made)
	if err == nil {
		w.alias = made.Properties.Alias
	}
	return err
}

func serviceText(serial string, limit int64) string {
	return fmt.Sprintf("write %s, %d flows", serial, limit)
}

// deleteService removes the service with all of its connections.
func (w *writer) deleteService(ctx context.Context) error {
	changes := map[string]string{resource(api.PrivateLinkServices, w.service): ""}
	after := maps.Clone(w.endpoints)
	for name, e := range after {
		if e.status != string(api.Disconnected) {
			e.status, e.text = string(api.Disconnected), "The private link service was deleted"
			after[name] = e
			changes[resource(api.PrivateEndpoints, name)] = e.String()
		}
	}
	err := w.call(ctx, http.MethodDelete, id(api.PrivateLinkServices, w.service), url.Values{"cascade": {"true"}}, "", changes, nil)
	if err == nil {
		w.alias, w.endpoints = "", after
	}
	return err
}

func (w *writer) createEndpoint(ctx context.Context) error {
	e := endpoint{serial: w.next(), status: string(api.Pending), text: "please"}
	name := fmt.Sprintf("%s-%d", w.home, e.serial)
	body := fmt.Sprintf(`{"location":"local","tags":{"serial":"%d"},"properties":{"subnet":{"id":"%s"},"manualPrivateLinkServiceConnections":[
		{"name":"c","properties":{"privateLinkServiceId":"%s","requestMessage":"please"}}]}}`, e.serial, id(api.VirtualNetworks, w.home).Sub(api.Subnets, "default"), w.alias)
	var made api.PrivateEndpoint
	err := w.call(ctx, http.MethodPut, id(api.PrivateEndpoints, name), nil, body, map[string]string{resource(api.PrivateEndpoints, name): e.String()}, &made)
	if err == nil {
		e.guid = made.Properties.ResourceGUID
		w.endpoints[name] = e
	}
	return err
}

// change is a write that leaves an endpoint as e.
func (w *writer) change(ctx context.Context, method string, at api.ID, body, name string, e endpoint) error {
	err := w.call(ctx, method, at, nil, body, map[string]string{resource(api.PrivateEndpoints, name): e.String()}, nil)
	if err == nil {
		w.endpoints[name] = e
	}
	return err
}

func (w *writer) tag(ctx context.Context, name string) error {
	e := w.endpoints[name]
	e.serial = w.next()
	return w.change(ctx, http.MethodPatch, id(api.PrivateEndpoints, name), fmt.Sprintf(`{"tags":{"serial":"%d"}}`, e.serial), name, e)
}

func (w *writer) connection(name string) api.ID {
	return id(api.PrivateLinkServices, w.service).Sub(api.PrivateEndpointConnections, name+"."+w.endpoints[name].guid)
}

func (w *writer) decide(ctx context.Context, name string, status api.ConnectionStatus) error {
	e := w.endpoints[name]
	e.status, e.text = string(status), fmt.Sprint("decision ", w.next())
	body := fmt.Sprintf(`{"properties":{"privateLinkServiceConnectionState":{"status":"%s","description":"%s"}}}`, e.status, e.text)
	return w.change(ctx, http.MethodPut, w.connection(name), body, name, e)
}

func (w *writer) removeConnection(ctx context.Context, name string) error {
	e := w.endpoints[name]
	e.status, e.text = string(api.Disconnected), "The connection was removed by the provider"
	return w.change(ctx, http.MethodDelete, w.connection(name), "", name, e)
}

func (w *writer) deleteEndpoint(ctx context.Context, name string) error {
	err := w.call(ctx, http.MethodDelete, id(api.PrivateEndpoints, name), nil, "", map[string]string{resource(api.PrivateEndpoints, name): ""}, nil)
	if err == nil {
		delete(w.endpoints, name)
	}
	return err
}
