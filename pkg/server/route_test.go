package server

import (
	"net/http"
	"net/url"
	"testing"

	"github.com/privlink/privlink/pkg/api"
)

func TestRoutes_Find_PathInAnyCase(t *testing.T) {
	table := newRoutes([]route{
		{method: http.MethodGet, path: "/subscriptions/{subscription}/things/{name}"},
		{method: http.MethodPut, path: "/subscriptions/{subscription}/things/{name}"},
		{method: http.MethodGet, path: "/subscriptions/{subscription}/things/special"},
		{method: http.MethodGet, path: "/metrics"},
	})
	for _, c := range []struct {
		method, path string
		found        string // path of the route
		name         string
		status       int
	}{
		{"GET", "/subscriptions/S/things/Web", "/subscriptions/{subscription}/things/{name}", "Web", 0},
		{"GET", "/SUBSCRIPTIONS/S/Things/web/", "/subscriptions/{subscription}/things/{name}", "web", 0},
		{"GET", "/subscriptions/S/things/SPECIAL", "/subscriptions/{subscription}/things/special", "", 0},
		{"GET", "/subscriptions/S/things/a%20b", "/subscriptions/{subscription}/things/{name}", "a b", 0},
		{"GET", "/Metrics", "/metrics", "", 0},
		{"DELETE", "/subscriptions/S/things/web", "", "", http.StatusMethodNotAllowed},
		{"GET", "/subscriptions/S/others/web", "", "", http.StatusNotFound},
		{"GET", "/subscriptions/S/things", "", "", http.StatusNotFound},
		{"GET", "/", "", "", http.StatusNotFound},
		{"GET", "/subscriptions/S/things/a%2fb", "", "", http.StatusBadRequest},
		{"GET", "/subscriptions//things/web", "", "", http.StatusBadRequest},
		{"GET", "/subscriptions/S/things/a%00", "", "", http.StatusBadRequest},
	} {
		u, err := url.Parse("http://host" + c.path)
		if err != nil {
			t.Fatal(err)
		}
		r, parameters, err := table.find(c.method, u)
		switch {
		case err != nil && api.AsError(err).Status != c.status:
			t.Errorf("%s %s: %v (%d), want status %d", c.method, c.path, err, api.AsError(err).Status, c.status)
		case err == nil && c.status != 0:
			t.Errorf("%s %s: found %s, want status %d", c.method, c.path, r.path, c.status)
		case err == nil && (r.path != c.found || parameters["name"] != c.name):
			t.Errorf("%s %s: found %s with name %q, want %s with %q", c.method, c.path, r.path, parameters["name"], c.found, c.name)
		}
	}
}
