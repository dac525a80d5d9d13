package server

import (
	"bytes"
	"encoding/base64"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/auth"
	"github.com/privlink/privlink/pkg/control"
)

// callers are those that every route is tried with, besides nobody (401): a stranger who owns another subscription, in another
// tenant; somebody without any role; and those with a role on the subscription, and on everything.
var callers = []struct {
	name  string
	role  auth.Role
	scope string
}{
	{"stranger", auth.Owner, "/subscriptions/other"}, {"nothing", "", ""},
	{"reader", auth.Reader, "/subscriptions/s"}, {"contributor", auth.Contributor, "/subscriptions/s"}, {"owner", auth.Owner, "/subscriptions/s"},
	{"auditor", auth.Reader, auth.Everything}, {"helper", auth.Contributor, auth.Everything}, {"operator", auth.Owner, auth.Everything},
}

// statuses are the answers to the callers, in their order.
type statuses [8]int

// What a kind of route answers where the request itself is in order; yes is for those who may.
func reads(yes int) statuses  { return statuses{404, 404, yes, yes, yes, yes, yes, yes} }
func writes(yes int) statuses { return statuses{404, 404, 403, yes, yes, 403, yes, yes} }
func lists(yes int) statuses  { return statuses{403, 403, yes, yes, yes, yes, yes, yes} }
func watches(yes int) statuses {
	return statuses{403, 403, 403, 403, 403, yes, yes, yes}
}
func rules(yes int) statuses { return statuses{403, 403, 403, 403, 403, 403, 403, yes} }
func all(yes int) statuses   { return statuses{yes, yes, yes, yes, yes, yes, yes, yes} }

// attempt is a request that would be taken, and what each caller gets for it.
type attempt struct {
	method, route string // as the table of routes has it; {one} and {sub} stand for ARM's beginnings
	path, body    string // {as} is the caller's name
	want          statuses
	inBody        bool // the body asks for more than the route needs
	refusal       int  // what those get who may, where there is no such thing here
}

// beginnings are those of ARM's paths in routes, and those of the test's resources.
var beginnings = strings.NewReplacer("{one}", groupPath+provider, "{sub}", subscriptionPath+provider)

const subscriptionRoot = "/subscriptions/s/providers/Microsoft.Network"

// token and role are ids of a token and of a role of the reader's.
func attempts(connection, token, role string, backup []byte) []attempt {
	operation := base64.RawURLEncoding.EncodeToString([]byte(`{"i":"` + netPath + `"}`))
	tags, decision := `{"tags":{"a":"b"}}`, `{"properties":{"privateLinkServiceConnectionState":{"status":"Approved"}}}`
	list := []attempt{}
	add := func(method, route, path, body string, want statuses) {
		list = append(list, attempt{method: method, route: beginnings.Replace(route), path: path, body: body, want: want})
	}
	for _, kind := range []struct{ name, path, body, gone string }{
		{"virtualNetworks", netPath, netBody, rg + "/virtualNetworks/spare"}, {"loadBalancers", lbPath, lbBody, rg + "/loadBalancers/spare"},
		{"networkInterfaces", nicPath, nicBody, nicPath}, {"privateLinkServices", plsPath, plsBody, plsPath + "?cascade=true"},
		{"privateEndpoints", pePath, peBody, pePath},
	} {
		one := "{one}/" + kind.name + "/{name}"
		add("GET", one, kind.path, "", reads(200))
		add("PUT", one, kind.path, kind.body, writes(200))
		add("PATCH", one, kind.path, tags, writes(200))
		add("DELETE", one, kind.gone, "", writes(200))
		add("GET", "{one}/"+kind.name, rg+"/"+kind.name, "", lists(200))
		add("GET", "{sub}/"+kind.name, subscriptionRoot+"/"+kind.name, "", lists(200))
	}
	add("PUT", "{one}/virtualNetworks/{name}", rg+"/virtualNetworks/fresh", netBody, writes(201))
	// An interface of the host's is the operator's to give away.
	add("PUT", "{one}/virtualNetworks/{name}", netPath, strings.Replace(netBody, `"subnets"`, `"attachments":[{"interface":"eth1"}],"subnets"`, 1),
		statuses{404, 404, 403, 403, 403, 403, 200, 200})
	list[len(list)-1].inBody = true

	part := func(kind, path, collection, name, body, gone string) {
		collected := "{one}/" + kind + "/{name}/" + collection
		add("GET", collected, path+"/"+collection, "", reads(200))
		add("GET", collected+"/{child}", path+"/"+collection+"/"+name, "", reads(200))
		if body != "" {
			add("PUT", collected+"/{child}", path+"/"+collection+"/"+name, body, writes(200))
			add("DELETE", collected+"/{child}", gone, "", writes(200))
		}
	}
	part("virtualNetworks", netPath, "subnets", "a", `{"properties":{"addressPrefix":"10.0.0.0/24"}}`, netPath+"/subnets/b")
	part("virtualNetworks", netPath, "virtualNetworkPeerings", "far", peeringBody, netPath+"/virtualNetworkPeerings/far")
	part("networkInterfaces", nicPath, "ipConfigurations", "i", "", "")
	part("loadBalancers", lbPath, "frontendIPConfigurations", "f", "", "")
	part("loadBalancers", lbPath, "loadBalancingRules", "web", "", "")
	part("loadBalancers", lbPath, "probes", "up", "", "")
	part("loadBalancers", lbPath, "backendAddressPools", "p", `{}`, rg+"/loadBalancers/spare/backendAddressPools/p")
	part("loadBalancers", lbPath, "inboundNatRules", "ssh", natRuleBody, lbPath+"/inboundNatRules/ssh")
	add("GET", "{one}/loadBalancers/{name}/outboundRules", lbPath+"/outboundRules", "", reads(200))
	// What does not exist here is refused by name, or not there.
	without := func(method, route, path, body string, want statuses, refusal int) {
		add(method, route, path, body, want)
		list[len(list)-1].refusal = refusal
	}
	without("GET", "{one}/loadBalancers/{name}/outboundRules/{child}", lbPath+"/outboundRules/x", "", reads(200), 404)
	without("POST", "{one}/loadBalancers/{name}/migrateToIpBased", lbPath+"/migrateToIpBased", `{"pools":["p"]}`, writes(200), 400)
	without("POST", "{sub}/locations/{location}/setLoadBalancerFrontendPublicIpAddresses", subscriptionRoot+"/locations/local/setLoadBalancerFrontendPublicIpAddresses", "{}",
		statuses{403, 403, 403, 200, 200, 403, 200, 200}, 400)
	without("POST", "{one}/networkInterfaces/{name}/effectiveRouteTable", nicPath+"/effectiveRouteTable", "", reads(200), 400)
	add("POST", "{one}/networkInterfaces/{name}/effectiveNetworkSecurityGroups", nicPath+"/effectiveNetworkSecurityGroups", "", reads(200))
	add("GET", "{one}/networkInterfaces/{name}/tapConfigurations", nicPath+"/tapConfigurations", "", reads(200))
	without("GET", "{one}/networkInterfaces/{name}/tapConfigurations/{child}", nicPath+"/tapConfigurations/x", "", reads(200), 404)
	without("PUT", "{one}/networkInterfaces/{name}/tapConfigurations/{child}", nicPath+"/tapConfigurations/x", "{}", writes(200), 400)
	add("DELETE", "{one}/networkInterfaces/{name}/tapConfigurations/{child}", nicPath+"/tapConfigurations/x", "", writes(204))
	add("POST", "{one}/virtualNetworks/{name}/ddosProtectionStatus", netPath+"/ddosProtectionStatus", "", reads(200))

	one := "{one}/privateLinkServices/{name}"
	add("GET", one+"/privateEndpointConnections", plsPath+"/privateEndpointConnections", "", reads(200))
	add("GET", one+"/privateEndpointConnections/{child}", plsPath+"/privateEndpointConnections/"+connection, "", reads(200))
	add("PUT", one+"/privateEndpointConnections/{child}", plsPath+"/privateEndpointConnections/"+connection, decision, writes(200))
	add("DELETE", one+"/privateEndpointConnections/{child}", plsPath+"/privateEndpointConnections/"+connection, "", writes(200))
	add("GET", one+"/natPortUsage", plsPath+"/natPortUsage", "", reads(200))

	one = "{one}/loadBalancers/{name}"
	add("POST", one+"/loadBalancingRules/{child}/health", lbPath+"/loadBalancingRules/web/health", "", reads(200))
	add("GET", one+"/backendHealth", lbPath+"/backendHealth", "", reads(200))
	add("POST", one+"/backendAddressPools/{child}/queryInboundNatRulePortMapping", lbPath+"/backendAddressPools/p/queryInboundNatRulePortMapping", `{"ipAddress":"10.0.0.9"}`, reads(200))
	add("GET", one+"/networkInterfaces", lbPath+"/networkInterfaces", "", reads(200))
	add("GET", "{one}/networkInterfaces/{name}/loadBalancers", nicPath+"/loadBalancers", "", reads(200))

	one = "{one}/virtualNetworks/{name}"
	add("GET", one+"/usages", netPath+"/usages", "", reads(200))
	add("GET", one+"/CheckIPAddressAvailability", netPath+"/CheckIPAddressAvailability?ipAddress=10.0.0.77", "", reads(200))
	add("POST", one+"/subnets/{child}/PrepareNetworkPolicies", netPath+"/subnets/a/PrepareNetworkPolicies", "{}", writes(200))
	add("POST", one+"/subnets/{child}/UnprepareNetworkPolicies", netPath+"/subnets/a/UnprepareNetworkPolicies", "{}", writes(200))

	for scope, root := range map[string]string{"{one}": rg, "{sub}": subscriptionRoot} {
		at := root + "/locations/local/"
		add("POST", scope+"/locations/{location}/checkPrivateLinkServiceVisibility", at+"checkPrivateLinkServiceVisibility", `{"privateLinkServiceAlias":"x"}`, lists(200))
		add("GET", scope+"/locations/{location}/autoApprovedPrivateLinkServices", at+"autoApprovedPrivateLinkServices", "", lists(200))
		add("GET", scope+"/locations/{location}/availablePrivateEndpointTypes", at+"availablePrivateEndpointTypes", "", lists(200))
	}
	add("GET", "{sub}/locations/{location}/operations/{operation}", subscriptionRoot+"/locations/local/operations/"+operation, "", reads(200))
	add("GET", "{sub}/locations/{location}/operationResults/{operation}", subscriptionRoot+"/locations/local/operationResults/"+operation, "", reads(204))

	add("GET", "/privlink/status", "/privlink/status", "", watches(200))
	add("GET", "/privlink/audit", "/privlink/audit", "", watches(200))
	add("GET", "/privlink/examination", "/privlink/examination", "", watches(200))
	add("POST", "/privlink/repair", "/privlink/repair", "", rules(200))
	add("GET", "/metrics", "/metrics", "", watches(200))
	add("GET", "/privlink/backup", "/privlink/backup", "", rules(200))
	add("POST", "/privlink/restore", "/privlink/restore", string(backup), rules(200))
	add("GET", "/privlink/flows", "/privlink/flows", "", all(200))
	add("GET", "/privlink/flows", "/privlink/flows?service="+plsPath, "", reads(200))
	add("GET", "/privlink/flows", "/privlink/flows?endpoint="+pePath, "", reads(200))
	add("POST", "/privlink/batch", "/privlink/batch", `{"steps":[{"id":"`+netPath+`","put":`+netBody+`}]}`, writes(200))
	add("POST", "/privlink/batch", "/privlink/batch", `{"steps":[{"id":"`+nicPath+`"}]}`, writes(200))
	add("GET", "/privlink/journal", "/privlink/journal", "", all(200))
	add("GET", "/privlink/subscriptions", "/privlink/subscriptions", "", all(200))
	add("PUT", "/privlink/subscriptions/{name}", "/privlink/subscriptions/s", `{"tenant":"t"}`, rules(200))
	add("DELETE", "/privlink/subscriptions/{name}", "/privlink/subscriptions/empty", "", rules(200))
	add("GET", "/privlink/principals", "/privlink/principals", "", rules(200))
	add("PUT", "/privlink/principals/{name}", "/privlink/principals/reader", `{"tenant":"t"}`, rules(200))
	add("DELETE", "/privlink/principals/{name}", "/privlink/principals/reader", "", rules(200))
	add("GET", "/privlink/tokens", "/privlink/tokens", "", all(200))
	add("POST", "/privlink/tokens", "/privlink/tokens", `{"principal":"{as}"}`, all(201))
	add("POST", "/privlink/tokens", "/privlink/tokens", `{"principal":"root"}`, rules(201))
	// Somebody else's token or role is as if there were none.
	add("DELETE", "/privlink/tokens/{name}", "/privlink/tokens/"+token, "", statuses{204, 204, 200, 204, 204, 204, 204, 200})
	add("GET", "/privlink/roles", "/privlink/roles", "", all(200))
	add("POST", "/privlink/roles", "/privlink/roles", `{"principal":"nothing","role":"Reader","scope":"/subscriptions/s"}`, statuses{403, 403, 403, 403, 201, 403, 403, 201})
	add("POST", "/privlink/roles", "/privlink/roles", `{"principal":"{as}","role":"Owner","scope":"/"}`, rules(201))
	add("DELETE", "/privlink/roles/{name}", "/privlink/roles/"+role, "", statuses{204, 204, 204, 204, 200, 204, 204, 200})
	return list
}

const (
	peeringBody = `{"properties":{"remoteVirtualNetwork":{"id":"` + rg + `/virtualNetworks/far"},"allowVirtualNetworkAccess":true}}`
	natRuleBody = `{"properties":{"protocol":"Tcp","frontendPort":22,"backendPort":22,"frontendIPConfiguration":{"id":"` + lbPath + `/frontendIPConfigurations/f"}}}`
	farBody     = `{"location":"local","properties":{"addressSpace":{"addressPrefixes":["10.9.0.0/16"]}}}`
)

// populate makes everything that the attempts name, and all callers.
func (w *world) populate() []attempt {
	w.t.Helper()
	w.make()
	for _, r := range [][2]string{
		{rg + "/virtualNetworks/far", farBody}, {rg + "/virtualNetworks/spare", netBody}, {netPath + "/virtualNetworkPeerings/far", peeringBody},
		{netPath + "/subnets/b", `{"properties":{"addressPrefix":"10.0.1.0/24"}}`},
		{rg + "/loadBalancers/spare", `{"location":"local","sku":{"name":"Standard"},"properties":{"backendAddressPools":[{"name":"p"}]}}`},
		{"/privlink/subscriptions/s", `{"tenant":"t"}`}, {"/privlink/subscriptions/empty", `{"tenant":"t"}`},
	} {
		if got := w.do("root", "PUT", r[0], r[1]); got.status/100 != 2 {
			w.t.Fatalf("PUT %s: %d %s", r[0], got.status, got.body)
		}
	}
	for _, c := range callers {
		w.principal(c.name, c.role, c.scope)
	}
	second, err := w.controller.CreateToken(w.t.Context(), auth.Root(), "reader", 0)
	if err != nil {
		w.t.Fatal(err)
	}
	roles, err := w.controller.Roles(w.t.Context(), auth.Root())
	if err != nil {
		w.t.Fatal(err)
	}
	role := ""
	for _, r := range roles {
		if r.Principal == "reader" {
			role = r.ID
		}
	}
	return attempts(w.connection(), second.ID, role, w.backup())
}

func (w *world) backup() []byte {
	w.t.Helper()
	var kept bytes.Buffer
	if err := w.controller.Backup(w.t.Context(), &kept); err != nil {
		w.t.Fatal(err)
	}
	return kept.Bytes()
}

// connection is the name of the one connection of plsPath.
func (w *world) connection() string {
	w.t.Helper()
	id, err := api.ParseID(plsPath, api.ID{})
	if err != nil {
		w.t.Fatal(err)
	}
	list, err := w.controller.Connections(w.t.Context(), auth.Root(), id)
	if err != nil || len(list) != 1 {
		w.t.Fatalf("%d connections, %v", len(list), err)
	}
	return list[0].Name
}

// byThemselves are the routes that are everybody's: what they name stands in the body, or the answer has what the caller may
// see of it.
var byThemselves = map[string]bool{
	"GET /privlink/flows": true, "POST /privlink/batch": true, "GET /privlink/journal": true, "GET /privlink/subscriptions": true,
	"GET /privlink/tokens": true, "POST /privlink/tokens": true, "DELETE /privlink/tokens/{name}": true,
	"GET /privlink/roles": true, "POST /privlink/roles": true, "DELETE /privlink/roles/{name}": true,
}

// ask sends a request to a server that does not listen.
func ask(s *Server, token, method, path, body string) (status int, answer string) {
	if strings.HasPrefix(path, "/subscriptions") {
		separator := "?"
		if strings.Contains(path, "?") {
			separator = "&"
		}
		path += separator + "api-version=" + api.LatestVersion
	}
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Header.Set("Authorization", "Bearer "+token)
	answered := httptest.NewRecorder()
	s.ServeHTTP(answered, r)
	return answered.Code, answered.Body.String()
}

// Every route x every caller, with requests that are in order: the exact status.
func TestRoutes_EveryRouteAndCaller_ExactStatus(t *testing.T) {
	w := newWorld(t)
	list := w.populate()
	start := w.backup()
	// The same routes with handlers that do whatever they are asked: what the table of routes refuses by itself.
	bare := New(w.options)
	for _, group := range bare.routes.byLength {
		for _, r := range group {
			r.handle = func(*request) (*response, error) { return &response{status: http.StatusOK}, nil }
		}
	}
	tried := map[string]bool{}
	for _, a := range list {
		tried[a.method+" "+a.route] = true
		for i, c := range callers {
			want := http.StatusOK
			if a.inBody {
				continue
			}
			if a.want[i] >= 400 && !byThemselves[a.method+" "+a.route] {
				want = a.want[i]
			}
			if got, _ := ask(bare, w.tokens[c.name], a.method, a.path, ""); got != want {
				t.Errorf("%s %s as %s: the table of routes says %d, want %d", a.method, a.path, c.name, got, want)
			}
		}
		if got := w.do("", a.method, a.path, a.body); got.status != http.StatusUnauthorized {
			t.Errorf("%s %s as nobody: %d %s, want 401", a.method, a.path, got.status, got.code())
		}
		for i, c := range callers {
			got := w.do(c.name, a.method, a.path, strings.ReplaceAll(a.body, "{as}", c.name))
			want := a.want[i]
			if a.refusal != 0 && want < 400 {
				want = a.refusal
			}
			if got.status != want {
				t.Errorf("%s %s as %s: %d, want %d\n%.300s", a.method, a.path, c.name, got.status, want, got.body)
			}
			if got.status < 300 && a.method != http.MethodGet {
				// What it did is taken back, for the next caller.
				if err := w.controller.Restore(t.Context(), auth.Root(), bytes.NewReader(start)); err != nil {
					t.Fatal(err)
				}
				if err := w.controller.WaitRevision(t.Context(), w.controller.Revision()); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	for _, r := range (&Server{options: w.options}).operations() {
		if name := r.method + " " + r.path; !tried[name] {
			t.Errorf("%s is tried with nobody", name)
		} else {
			delete(tried, name)
		}
	}
	for name := range tried {
		t.Errorf("%s is no route", name)
	}
}

// Whether a thing exists makes no difference to who may not know: neither the answer nor how often anybody looks what there is,
// which is once, for who asks. Who may know gets more than that for the same requests.
func TestRoutes_NotAllowed_NobodyLooksWhetherItExists(t *testing.T) {
	w := newWorld(t)
	list := w.populate()
	start := w.backup()
	// Another control plane on the same store, which nothing drives but the requests.
	var looks atomic.Int64
	log := logrus.New()
	log.SetOutput(io.Discard)
	quiet, err := control.New(t.Context(), control.Options{Store: w.store, Applier: w, Log: log, Looked: func() { looks.Add(1) }})
	if err != nil {
		t.Fatal(err)
	}
	options := w.options
	options.Controller, options.Quick = quiet, time.Millisecond
	server := New(options)
	do := func(as, method, path, body string) (status int, answer string, looked int64) {
		before := looks.Load()
		status, answer = ask(server, w.tokens[as], method, path, strings.ReplaceAll(body, "{as}", as))
		return status, answer, looks.Load() - before
	}
	missing := strings.NewReplacer("/resourceGroups/g/", "/resourceGroups/h/", "/subscriptions/s/providers/", "/subscriptions/z/providers/")
	found := strings.NewReplacer("/resourceGroups/h", "/resourceGroups/g", "/subscriptions/z", "/subscriptions/s")
	compared := 0
	for _, a := range list {
		if a.want[0] < 400 {
			continue // everybody's, and the same for everybody or his own
		}
		// Without the group or subscription, and with all but the part.
		absent := [][2]string{{missing.Replace(a.path), missing.Replace(a.body)}}
		if i := strings.Index(a.route, "{child}"); i >= 0 {
			parts := strings.Split(a.path, "/")
			parts[strings.Count(a.route[:i], "/")] = "none"
			absent = append(absent, [2]string{strings.Join(parts, "/"), a.body})
		}
		for _, as := range []string{"stranger", "nothing"} {
			status, there, looked := do(as, a.method, a.path, a.body)
			for _, other := range absent {
				status2, gone, looked2 := do(as, a.method, other[0], other[1])
				if gone = found.Replace(gone); status != status2 || there != gone {
					t.Errorf("%s %s as %s: %d %s where it exists, %d %s where not", a.method, a.path, as, status, there, status2, gone)
				}
				if looked != 1 || looked2 != 1 {
					t.Errorf("%s %s as %s: %d looks where it exists, %d where not, want one for who asks", a.method, a.path, as, looked, looked2)
				}
				compared++
			}
		}
		if a.want[0] == http.StatusForbidden && !strings.HasPrefix(a.path, "/subscriptions") || strings.HasSuffix(a.route, "availablePrivateEndpointTypes") ||
			strings.HasSuffix(a.route, "setLoadBalancerFrontendPublicIpAddresses") {
			continue // about nothing that is kept
		}
		if status, answer, looked := do("operator", a.method, a.path, a.body); looked < 2 || status >= 400 && status != a.refusal {
			t.Errorf("%s %s as operator: %d after %d looks, so that counting shows nothing\n%.300s", a.method, a.path, status, looked, answer)
		}
		if a.method != http.MethodGet {
			if err := quiet.Restore(t.Context(), auth.Root(), bytes.NewReader(start)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if compared < 120 {
		t.Errorf("only %d comparisons", compared)
	}
}
