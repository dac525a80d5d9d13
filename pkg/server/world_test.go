package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/sirupsen/logrus"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/auth"
	"github.com/privlink/privlink/pkg/control"
	"github.com/privlink/privlink/pkg/dataplane"
	"github.com/privlink/privlink/pkg/store"
)

// world is a server on loopback with a real store and control plane, and a kernel that agrees with everything
// unless hold is locked.
type world struct {
	t          testing.TB
	url        string
	controller *control.Controller
	store      store.Store
	hold       sync.RWMutex                 // held for writing: the kernel does not agree
	flow       atomic.Pointer[control.Flow] // the one live flow, if any
	tokens     map[string]string
	options    Options
}

func (w *world) Apply(_ context.Context, s dataplane.State) (dataplane.Result, error) {
	w.hold.RLock()
	defer w.hold.RUnlock()
	return dataplane.Result{Revision: s.Revision}, nil
}

func (w *world) flows(yield func(control.Flow) bool) error {
	if f := w.flow.Load(); f != nil {
		yield(*f)
	}
	return nil
}

// nothing observes nothing.
type nothing struct{}

func (nothing) Status(context.Context) (api.Status, error)                    { return api.Status{}, nil }
func (nothing) Flows(context.Context, func(Flow) bool) error                  { return nil }
func (nothing) Audit(context.Context) (api.Audit, error)                      { return api.Audit{}, nil }
func (nothing) Examine(context.Context) (api.Examination, error)              { return api.Examination{}, nil }
func (nothing) Repair(context.Context) error                                  { return nil }
func (nothing) Ports(context.Context) ([]Ports, error)                        { return nil, nil }
func (nothing) Backends(context.Context, string) ([]api.BackendHealth, error) { return nil, nil }

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, tokens: map[string]string{}}
	kept, err := store.OpenBolt(filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	w.store = kept
	log := logrus.New()
	log.SetOutput(io.Discard)
	ctx, cancel := context.WithCancel(context.Background())
	if w.controller, err = control.New(ctx, control.Options{Store: w.store, Applier: w, Flows: w.flows, Log: log}); err != nil {
		t.Fatal(err)
	}
	listener, err := ListenTCP(TCPOptions{Address: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	w.url = "http://" + listener.Addr().String()
	w.options = Options{Controller: w.controller, Observer: nothing{}, Metrics: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}),
		Log: log.WithField("part", "server"), Quick: 200e6}
	s := New(w.options)
	var ended sync.WaitGroup
	ended.Go(func() {
		if err := w.controller.Run(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("controller: %v", err)
		}
	})
	ended.Go(func() {
		if err := s.Serve(ctx, listener); err != nil {
			t.Errorf("server: %v", err)
		}
	})
	t.Cleanup(func() {
		cancel()
		ended.Wait()
		kept.Close()
	})
	w.principal("root", auth.Owner, auth.Everything)
	return w
}

// principal makes a principal with a role (or none) and a token, by which do knows it.
func (w *world) principal(name string, role auth.Role, scope string) {
	w.t.Helper()
	ctx, root := context.Background(), auth.Root()
	if name != "root" {
		if _, err := w.controller.PutPrincipal(ctx, root, api.Principal{Name: name, Tenant: name}); err != nil {
			w.t.Fatal(err)
		}
		if role != "" {
			if _, err := w.controller.PutRole(ctx, root, api.RoleAssignment{Principal: name, Role: string(role), Scope: scope}); err != nil {
				w.t.Fatal(err)
			}
		}
	}
	token, err := w.controller.CreateToken(ctx, root, name, 0)
	if err != nil {
		w.t.Fatal(err)
	}
	w.tokens[name] = token.Secret
}

// reply is an answer with its body read.
type reply struct {
	status int
	header http.Header
	body   string
}

// code is the error code of the body, or empty.
func (r reply) code() string {
	var body api.ErrorBody
	if json.Unmarshal([]byte(r.body), &body) != nil || body.Error == nil {
		return ""
	}
	return string(body.Error.Code)
}

// do sends a request as a principal; header is "Name: value" lines.
func (w *world) do(as, method, path, body string, header ...string) reply {
	w.t.Helper()
	if strings.HasPrefix(path, "/subscriptions") && !strings.Contains(path, "api-version") {
		separator := "?"
		if strings.Contains(path, "?") {
			separator = "&"
		}
		path += separator + "api-version=" + api.LatestVersion
	}
	if !strings.HasPrefix(path, "http") {
		path = w.url + path
	}
	request, err := http.NewRequest(method, path, bytes.NewReader([]byte(body)))
	if err != nil {
		w.t.Fatal(err)
	}
	if token := w.tokens[as]; token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	if body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	for _, line := range header {
		name, value, _ := strings.Cut(line, ": ")
		request.Header.Set(name, value)
	}
	response, err := http.DefaultTransport.RoundTrip(request)
	if err != nil {
		w.t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return reply{response.StatusCode, response.Header, string(text)}
}

const (
	rg      = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Network"
	netPath = rg + "/virtualNetworks/net"
	netBody = `{"location":"local","properties":{"addressSpace":{"addressPrefixes":["10.0.0.0/16"]},"subnets":[{"name":"a","properties":{"addressPrefix":"10.0.0.0/24"}}]}}`
	lbPath  = rg + "/loadBalancers/lb"
	lbBody  = `{"location":"local","sku":{"name":"Standard"},"properties":{"frontendIPConfigurations":[{"name":"f","properties":{"subnet":{"id":"` + netPath + `/subnets/a"}}}],"backendAddressPools":[{"name":"p"}],
"probes":[{"name":"up","properties":{"protocol":"Tcp","port":80,"intervalInSeconds":5,"numberOfProbes":2}}],
"loadBalancingRules":[{"name":"web","properties":{"protocol":"Tcp","frontendPort":80,"backendPort":80,"frontendIPConfiguration":{"id":"` + lbPath + `/frontendIPConfigurations/f"},"backendAddressPool":{"id":"` + lbPath + `/backendAddressPools/p"}}}],
"inboundNatRules":[{"name":"ssh","properties":{"protocol":"Tcp","frontendPort":22,"backendPort":22,"frontendIPConfiguration":{"id":"` + lbPath + `/frontendIPConfigurations/f"}}}]}}`
	plsPath = rg + "/privateLinkServices/pls"
	plsBody = `{"location":"local","properties":{"loadBalancerFrontendIpConfigurations":[{"id":"` + lbPath + `/frontendIPConfigurations/f"}],"ipConfigurations":[{"name":"n","properties":{"subnet":{"id":"` + netPath + `/subnets/a"}}}],"visibility":{"subscriptions":["*"]}}}`
	pePath  = rg + "/privateEndpoints/pe"
	peBody  = `{"location":"local","properties":{"subnet":{"id":"` + netPath + `/subnets/a"},"manualPrivateLinkServiceConnections":[{"name":"c","properties":{"privateLinkServiceId":"` + plsPath + `"}}]}}`
	nicPath = rg + "/networkInterfaces/nic"
	nicBody = `{"location":"local","properties":{"ipConfigurations":[{"name":"i","properties":{"subnet":{"id":"` + netPath + `/subnets/a"}}}]}}`
)

// make makes one resource of each kind.
func (w *world) make() {
	w.t.Helper()
	for _, r := range [][2]string{{netPath, netBody}, {lbPath, lbBody}, {nicPath, nicBody}, {plsPath, plsBody}, {pePath, peBody}} {
		if got := w.do("root", http.MethodPut, r[0], r[1]); got.status != http.StatusCreated {
			w.t.Fatalf("PUT %s: %d %s", r[0], got.status, got.body)
		}
	}
}
