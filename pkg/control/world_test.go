package control

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/auth"
	"github.com/privlink/privlink/pkg/dataplane"
	"github.com/privlink/privlink/pkg/store"
)

// world is a control plane with a store on disk, a kernel that agrees at once, and a clock that stands still.
type world struct {
	testing.TB
	*Controller
	kernel *kernel
	clock  *clock
	path   string
	bolt   *store.Bolt
}

// kernel takes every State and remembers the last.
type kernel struct {
	mu    sync.Mutex
	state dataplane.State
	err   error
	calls int
	with  dataplane.Result // what is found out besides the revision
}

func (k *kernel) Apply(_ context.Context, s dataplane.State) (dataplane.Result, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.calls++
	if k.err != nil {
		return dataplane.Result{}, k.err
	}
	k.state = s
	r := k.with
	r.Revision = s.Revision
	return r, nil
}

func (k *kernel) set(f func(*kernel)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	f(k)
}

type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func newWorld(t testing.TB) *world {
	w := &world{TB: t, kernel: &kernel{}, path: filepath.Join(memoryDir(t), "state.db"),
		clock: &clock{now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}}
	w.start()
	return w
}

// memoryDir is a folder in memory where there is one: these tests sync a disk a thousand times otherwise, and pkg/store
// tests what syncing is for.
func memoryDir(t testing.TB) string {
	dir, err := os.MkdirTemp("/dev/shm", "privlink-control")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// start opens the store and loads it, as a daemon that begins.
func (w *world) start() {
	w.Helper()
	var err error
	if w.bolt, err = store.OpenBolt(w.path); err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { w.bolt.Close() })
	log := logrus.New()
	log.SetOutput(io.Discard)
	if w.Controller, err = New(context.Background(), Options{Store: w.bolt, Applier: w.kernel, Now: w.clock.Now, Log: log}); err != nil {
		w.Fatal(err)
	}
	w.sync()
}

// restart is what a daemon that ends and begins again does.
func (w *world) restart() {
	w.Helper()
	if err := w.bolt.Close(); err != nil {
		w.Fatal(err)
	}
	w.start()
}

// sync does what Run would have done by now.
func (w *world) sync() {
	w.Helper()
	ctx := context.Background()
	if _, err := w.tidy(ctx); err != nil {
		w.Fatal(err)
	}
	_ = w.apply(ctx)
	// Deletions end when the kernel agrees with their beginning.
	if done, _ := w.drained(); len(done.deletions)+len(done.drains) > 0 {
		if _, err := w.tidy(ctx); err != nil {
			w.Fatal(err)
		}
		_ = w.apply(ctx)
	}
}

// who is a principal with a role on a subscription.
func who(subscription string, role auth.Role) auth.Actor {
	return auth.Actor{Principal: subscription + "-" + string(role), Tenant: "tenant-" + subscription, From: "test",
		Grants: []auth.Grant{{Role: role, Scope: auth.SubscriptionScope(subscription)}}}
}

func id(s string) api.ID {
	subscription, rest, _ := strings.Cut(s, ":")
	parsed, err := api.ParseID(rest, api.ID{Subscription: subscription, ResourceGroup: "rg"})
	if err != nil {
		panic(err)
	}
	return parsed
}

// doc fills a document in short JSON: 'single quotes', and location loc.
func doc(kind api.Kind, format string, args ...any) api.Resource {
	text := strings.ReplaceAll(fmt.Sprintf(format, args...), "'", `"`)
	if !strings.Contains(text, `"location"`) {
		text = `{"location":"west",` + strings.TrimPrefix(text, "{")
	}
	r, err := api.Decode([]byte(text), kind, api.Strict)
	if err != nil {
		panic(fmt.Sprintf("%s\n%v", text, err))
	}
	return r
}

// try puts a document as the owner of its subscription.
func (w *world) try(name, format string, args ...any) (Outcome, error) {
	at := id(name)
	out, err := w.Put(context.Background(), root(at.Subscription), at, doc(api.Kind(at.Type), format, args...), Conditions{})
	w.sync()
	return out, err
}

// root owns one subscription, and the node's interfaces too where tests attach some.
func root(subscription string) auth.Actor { return who(subscription, auth.Owner) }

func (w *world) put(name, format string, args ...any) api.Resource {
	w.Helper()
	out, err := w.try(name, format, args...)
	if err != nil {
		w.Fatalf("put %s: %v", name, err)
	}
	return out.Resource
}

func (w *world) get(name string) api.Resource {
	w.Helper()
	at := id(name)
	r, err := w.Get(context.Background(), root(at.Subscription), at)
	if err != nil {
		w.Fatal(err)
	}
	return r
}

func (w *world) endpoint(name string) *api.PrivateEndpoint {
	w.Helper()
	return w.get(name).(*api.PrivateEndpoint)
}

func (w *world) service(name string) *api.PrivateLinkService {
	w.Helper()
	return w.get(name).(*api.PrivateLinkService)
}

// seen is the state of an endpoint's connection as its consumer sees it.
func (w *world) seen(name string) api.ConnectionState {
	w.Helper()
	c, _ := w.endpoint(name).Connection()
	if c.Properties.PrivateLinkServiceConnectionState == nil {
		return api.ConnectionState{}
	}
	return *c.Properties.PrivateLinkServiceConnectionState
}

// connection is the only connection of a service, as its provider sees it.
func (w *world) connection(service string) *api.PrivateEndpointConnection {
	w.Helper()
	at := id(service)
	list, err := w.Connections(context.Background(), root(at.Subscription), at)
	if err != nil || len(list) != 1 {
		w.Fatalf("connections of %s: %d, %v", service, len(list), err)
	}
	return list[0]
}

func (w *world) decide(service string, status api.ConnectionStatus, description string) error {
	w.Helper()
	at := id(service)
	c := w.connection(service)
	_, err := w.Decide(context.Background(), root(at.Subscription), at.Sub(api.PrivateEndpointConnections, c.Name),
		api.PrivateEndpointConnection{Properties: api.ConnectionProperties{
			PrivateLinkServiceConnectionState: &api.ConnectionState{Status: status, Description: description}}}, Conditions{})
	w.sync()
	return err
}

func (w *world) remove(service string) {
	w.Helper()
	at := id(service)
	ok, err := w.Remove(context.Background(), root(at.Subscription), at.Sub(api.PrivateEndpointConnections, w.connection(service).Name), Conditions{})
	if !ok || err != nil {
		w.Fatalf("remove: %v %v", ok, err)
	}
	w.sync()
}

func (w *world) delete(name string, cascade bool) error {
	at := id(name)
	_, err := w.Delete(context.Background(), root(at.Subscription), at, DeleteOptions{Cascade: cascade}, Conditions{})
	w.sync()
	return err
}

// link is what the kernel knows of an endpoint.
func (w *world) link(name string) dataplane.Link {
	w.Helper()
	w.kernel.mu.Lock()
	defer w.kernel.mu.Unlock()
	for _, l := range w.kernel.state.Links {
		if l.Key == id(name).Key() {
			return l
		}
	}
	w.Fatalf("the kernel has no link %s", name)
	return dataplane.Link{}
}

// The names of the usual world: subscription p publishes, c consumes; both use 10.0.0.0/16.
const (
	theNetwork  = "p:virtualNetworks/dc"
	theLB       = "p:loadBalancers/lb"
	theService  = "p:privateLinkServices/web"
	theConsumer = "c:virtualNetworks/home"
	theEndpoint = "c:privateEndpoints/pe"
)

// serviceDoc is a service with one dynamic NAT IP and further properties.
func serviceDoc(more string) string {
	return `{'properties':{'loadBalancerFrontendIpConfigurations':[{'id':'loadBalancers/lb/frontendIPConfigurations/fe'}],
		'ipConfigurations':[{'name':'nat0','properties':{'subnet':{'id':'virtualNetworks/dc/subnets/nat'}}}]` + more + `}}`
}

const open = `,'visibility':{'subscriptions':['*']}`

// provide makes the provider's side up to the service.
func (w *world) provide(more string) *api.PrivateLinkService {
	w.Helper()
	w.put(theNetwork, `{'properties':{'addressSpace':{'addressPrefixes':['10.0.0.0/16']},'subnets':[
		{'name':'vms','properties':{'addressPrefix':'10.0.1.0/24'}},{'name':'nat','properties':{'addressPrefix':'10.0.2.0/24'}}]}}`)
	w.put(theLB, `{'properties':{
		'frontendIPConfigurations':[{'name':'fe','properties':{'subnet':{'id':'virtualNetworks/dc/subnets/vms'}}}],
		'backendAddressPools':[{'name':'pool'}],
		'loadBalancingRules':[{'name':'http','properties':{'protocol':'Tcp','frontendPort':80,'backendPort':8080,
			'frontendIPConfiguration':{'id':'loadBalancers/lb/frontendIPConfigurations/fe'},
			'backendAddressPool':{'id':'loadBalancers/lb/backendAddressPools/pool'}}}]}}`)
	w.put("p:networkInterfaces/vm1", `{'properties':{'ipConfigurations':[{'name':'ip','properties':{'privateIPAddress':'10.0.1.9',
		'subnet':{'id':'virtualNetworks/dc/subnets/vms'},'loadBalancerBackendAddressPools':[{'id':'loadBalancers/lb/backendAddressPools/pool'}]}}]}}`)
	return w.put(theService, "%s", serviceDoc(more)).(*api.PrivateLinkService)
}

// consume makes the consumer's network.
func (w *world) consume() {
	w.Helper()
	w.put(theConsumer, `{'properties':{'addressSpace':{'addressPrefixes':['10.0.0.0/16']},'subnets':[
		{'name':'default','properties':{'addressPrefix':'10.0.1.0/24'}}]}}`)
}

// endpointDoc is an endpoint's document that asks for a service by hand.
func endpointDoc(target, more string) string {
	return `{'properties':{'subnet':{'id':'virtualNetworks/home/subnets/default'},'manualPrivateLinkServiceConnections':[
		{'name':'link','properties':{'privateLinkServiceId':'` + target + `','requestMessage':'please'` + more + `}}]}}`
}

func text(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// operator is root on the socket.
func operator() auth.Actor { return auth.Root() }
