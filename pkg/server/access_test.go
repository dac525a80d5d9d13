package server

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/auth"
)

// Every route, for every role: who may do nothing learns nothing (404, or 403 for what has no id), a reader reads, a
// contributor writes, an owner controls access. Nobody at all gets 401 everywhere.
func TestRoutes_EveryRouteAndRole_AllowedOrNot(t *testing.T) {
	w := newWorld(t)
	w.make()
	w.principal("owner", auth.Owner, auth.Everything)
	w.principal("contributor", auth.Contributor, auth.Everything)
	w.principal("reader", auth.Reader, auth.Everything)
	w.principal("elsewhere", auth.Owner, "/subscriptions/other")
	w.principal("nothing", "", "")
	connection := w.connection()
	fill := strings.NewReplacer("{subscription}", "s", "{group}", "g", "{location}", "local", "{operation}", "bm90aGluZw")
	names := map[string][2]string{
		"/virtualNetworks/": {"net", "a"}, "/loadBalancers/": {"lb", "p"}, "/networkInterfaces/": {"nic", "i"},
		"/privateLinkServices/": {"pls", connection}, "/privateEndpoints/": {"pe", ""}, "/privlink/": {"none", ""},
	}
	server := &Server{options: Options{Controller: w.controller}}
	tried := 0
	for _, r := range server.operations() {
		path := fill.Replace(r.path)
		for kind, name := range names {
			if strings.Contains(path, kind) {
				path = strings.NewReplacer("{name}", name[0], "{child}", name[1]).Replace(path)
			}
		}
		own := strings.HasPrefix(r.path, "/privlink") || r.path == "/metrics"
		for _, as := range []string{"", "nothing", "elsewhere", "reader", "contributor", "owner"} {
			// A body that no handler takes: who may pass is told so (400), not what he may not do.
			body := ""
			if r.method == http.MethodPut || r.method == http.MethodPost || r.method == http.MethodPatch {
				body = "["
			}
			if r.method == http.MethodDelete && (as == "owner" || as == "contributor" && !own) {
				continue // it would do what it is allowed to
			}
			got := w.do(as, r.method, path, body)
			tried++
			if problem := unlike(r, as, own, got); problem != "" {
				t.Errorf("%s %s as %q: %d %s: %s", r.method, path, as, got.status, got.code(), problem)
			}
		}
	}
	if tried < 300 {
		t.Errorf("only %d routes and roles tried", tried)
	}
}

// unlike says what is wrong with an answer to a principal.
func unlike(r route, as string, own bool, got reply) string {
	refused := got.status == http.StatusNotFound || got.status == http.StatusForbidden
	write := r.method != http.MethodGet
	switch {
	case as == "":
		if got.status != http.StatusUnauthorized {
			return "want 401 for nobody"
		}
	case got.status == http.StatusUnauthorized:
		return "401 for a known principal"
	case got.status >= 500:
		return "the server failed"
	case r.anyScope && (as == "nothing" || as == "elsewhere"):
		if got.status != http.StatusForbidden {
			return "want 403 for what is not a resource"
		}
	case own || strings.Contains(r.path, "/locations/"):
		// What these show depends on the caller; what they may do is checked one by one below and in pkg/control.
	case as == "nothing" || as == "elsewhere":
		named := strings.Contains(r.path, "{name}")
		bad := got.status == http.StatusBadRequest && write
		if named && got.status == http.StatusForbidden {
			return "403 tells that it may exist"
		}
		if !refused && !bad && !(r.method == http.MethodDelete && got.status == http.StatusNoContent) {
			return "want 404 for what this principal may not know of"
		}
	case as == "reader" && write && r.method == http.MethodDelete:
		if got.status != http.StatusForbidden {
			return "want 403 for a reader"
		}
	case !write && got.status == http.StatusForbidden:
		return "a reader may read"
	}
	return ""
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

// Writes with a body that would be taken, for every kind: only who may write does.
func TestRoutes_Write_ByRole(t *testing.T) {
	w := newWorld(t)
	w.make()
	w.principal("contributor", auth.Contributor, "/subscriptions/s")
	w.principal("reader", auth.Reader, "/subscriptions/s/resourceGroups/g")
	w.principal("elsewhere", auth.Owner, "/subscriptions/other")
	for _, c := range []struct {
		as   string
		want int
	}{{"elsewhere", http.StatusNotFound}, {"reader", http.StatusForbidden}, {"contributor", http.StatusOK}} {
		for _, r := range [][2]string{{netPath, netBody}, {lbPath, lbBody}, {nicPath, nicBody}, {plsPath, plsBody}, {pePath, peBody}} {
			if got := w.do(c.as, http.MethodPut, r[0], r[1]); got.status != c.want {
				t.Errorf("PUT %s as %s: %d %s, want %d", r[0], c.as, got.status, got.body, c.want)
			}
		}
		decision := fmt.Sprintf(`{"name":%q,"properties":{"privateLinkServiceConnectionState":{"status":"Approved"}}}`, w.connection())
		if got := w.do(c.as, http.MethodPut, plsPath+"/privateEndpointConnections/"+w.connection(), decision); got.status != c.want {
			t.Errorf("approve as %s: %d %s, want %d", c.as, got.status, got.body, c.want)
		}
	}
}

// Whether a thing exists makes no difference to who may not know: neither the answer nor what is read for it.
func TestRoutes_NotAllowed_SameForWhatExistsAndWhatDoesNot(t *testing.T) {
	w := newWorld(t)
	w.make()
	w.principal("elsewhere", auth.Owner, "/subscriptions/other")
	for _, method := range []string{http.MethodGet, http.MethodDelete} {
		for _, path := range []string{netPath, lbPath, nicPath, plsPath, pePath, plsPath + "/privateEndpointConnections/x", netPath + "/subnets/a"} {
			missing := strings.Replace(path, "/resourceGroups/g", "/resourceGroups/none", 1)
			before := w.store.count()
			there := w.do("elsewhere", method, path, "")
			middle := w.store.count()
			gone := w.do("elsewhere", method, missing, "")
			if there.status != gone.status || there.body != gone.body {
				t.Errorf("%s %s: %d %s where it exists, %d %s where not", method, path, there.status, there.body, gone.status, gone.body)
			}
			if a, b := middle-before, w.store.count()-middle; a != b || a != 0 {
				t.Errorf("%s %s: %d store reads where it exists, %d where not, want none", method, path, a, b)
			}
		}
	}
}
