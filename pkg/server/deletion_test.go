package server

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/auth"
	"github.com/privlink/privlink/pkg/control"
)

// A service with an approved connection is deleted in a long-running operation with absolute URLs, which outlive the server
// that gave them.
func TestARM_CascadeDelete_LongRunningOperation(t *testing.T) {
	w := newWorld(t)
	w.make()
	connection := plsPath + "/privateEndpointConnections/" + w.connection()
	if got := w.do("root", http.MethodPut, connection, `{"properties":{"privateLinkServiceConnectionState":{"status":"Approved"}}}`); got.status != http.StatusOK {
		t.Fatalf("approve: %d %s", got.status, got.body)
	}
	if got := w.do("root", http.MethodDelete, plsPath, ""); got.status != http.StatusConflict {
		t.Errorf("DELETE without cascade: %d %s", got.status, got.body)
	}
	w.hold.Lock()
	begun := w.do("root", http.MethodDelete, plsPath+"?cascade=true", "")
	poll, results := begun.header.Get("Azure-AsyncOperation"), begun.header.Get("Location")
	if begun.status != http.StatusAccepted || !strings.HasPrefix(poll, w.url+"/") || !strings.HasPrefix(results, w.url+"/") || begun.header.Get("Retry-After") == "" {
		t.Fatalf("DELETE: %d, %q, %q", begun.status, poll, results)
	}
	if got := w.do("root", http.MethodGet, plsPath, ""); got.status != http.StatusOK || !strings.Contains(got.body, `"provisioningState":"Deleting"`) {
		t.Errorf("GET: %d %s", got.status, got.body)
	}
	if got := w.do("root", http.MethodPut, plsPath, plsBody); got.status != http.StatusConflict || got.code() != string(api.CodeBeingDeleted) {
		t.Errorf("PUT: %d %s", got.status, got.body)
	}
	// Another server of the same control plane, as after a restart: the URL is all that there is to know.
	restarted := New(w.options)
	ask := func(url string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(http.MethodGet, url, nil)
		r.Header.Set("Authorization", "Bearer "+w.tokens["root"])
		answer := httptest.NewRecorder()
		restarted.ServeHTTP(answer, r)
		return answer
	}
	if got := ask(poll); got.Code != http.StatusOK || !strings.Contains(got.Body.String(), `"status":"InProgress"`) {
		t.Errorf("operation under way: %d %s", got.Code, got.Body)
	}
	if got := ask(results); got.Code != http.StatusAccepted || !strings.HasPrefix(got.Header().Get("Location"), w.url+"/") {
		t.Errorf("result under way: %d %v", got.Code, got.Header())
	}
	w.hold.Unlock()
	id, err := api.ParseID(plsPath, api.ID{})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.controller.WaitGone(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if got := ask(poll); !strings.Contains(got.Body.String(), `"status":"Succeeded"`) {
		t.Errorf("operation at its end: %s", got.Body)
	}
	if got := ask(results); got.Code != http.StatusNoContent {
		t.Errorf("result at the end: %d", got.Code)
	}
	if got := w.do("root", http.MethodGet, pePath, ""); !strings.Contains(got.body, `"status":"Disconnected"`) {
		t.Errorf("endpoint: %s", got.body)
	}
}

// A NAT IP that drains keeps its service Updating, and the write an operation.
func TestARM_NATIPDrains_LongRunningOperation(t *testing.T) {
	w := newWorld(t)
	w.make()
	connection := plsPath + "/privateEndpointConnections/" + w.connection()
	if got := w.do("root", http.MethodPut, connection, `{"properties":{"privateLinkServiceConnectionState":{"status":"Approved"}}}`); got.status != http.StatusOK {
		t.Fatalf("approve: %d %s", got.status, got.body)
	}
	id, err := api.ParseID(plsPath, api.ID{})
	if err != nil {
		t.Fatal(err)
	}
	service, err := w.controller.Get(t.Context(), auth.Root(), id)
	if err != nil {
		t.Fatal(err)
	}
	nat := netip.MustParseAddr(service.(*api.PrivateLinkService).Properties.IPConfigurations[0].Properties.PrivateIPAddress)
	w.flow.Store(&control.Flow{Link: strings.ToLower(pePath), NAT: nat})
	moved := strings.Replace(plsBody, `{"name":"n","properties":{`, `{"name":"m","properties":{"privateIPAddress":"10.0.0.99","privateIPAllocationMethod":"Static",`, 1)
	begun := w.do("root", http.MethodPut, plsPath, moved)
	poll := begun.header.Get("Azure-AsyncOperation")
	if begun.status != http.StatusOK || !strings.HasPrefix(poll, w.url+"/") || begun.header.Get("Retry-After") == "" || !strings.Contains(begun.body, `"provisioningState":"Updating"`) {
		t.Fatalf("PUT: %d, %q %s", begun.status, poll, begun.body)
	}
	if got := w.do("root", http.MethodGet, poll, ""); !strings.Contains(got.body, `"status":"InProgress"`) {
		t.Errorf("under way: %d %s", got.status, got.body)
	}
	w.flow.Store(nil)
	if err := w.controller.Wait(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if got := w.do("root", http.MethodGet, poll, ""); !strings.Contains(got.body, `"status":"Succeeded"`) {
		t.Errorf("at the end: %d %s", got.status, got.body)
	}
}

// What the kernel agrees with at once is answered at once.
func TestARM_CascadeDelete_QuickKernel_AnsweredAtOnce(t *testing.T) {
	w := newWorld(t)
	w.make()
	connection := plsPath + "/privateEndpointConnections/" + w.connection()
	if got := w.do("root", http.MethodPut, connection, `{"properties":{"privateLinkServiceConnectionState":{"status":"Approved"}}}`); got.status != http.StatusOK {
		t.Fatalf("approve: %d %s", got.status, got.body)
	}
	if got := w.do("root", http.MethodDelete, plsPath+"?cascade=true", ""); got.status != http.StatusOK || got.header.Get("Location") != "" {
		t.Errorf("DELETE: %d %s", got.status, got.body)
	}
	if got := w.do("root", http.MethodGet, plsPath, ""); got.status != http.StatusNotFound {
		t.Errorf("GET: %d", got.status)
	}
}
