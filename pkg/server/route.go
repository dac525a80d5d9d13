package server

import (
	"net/http"
	"net/url"
	"sort"
	"strings"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/auth"
)

// route is one operation of the API.
type route struct {
	method string
	// path has parameters in braces: "/subscriptions/{subscription}/...". Other parts are compared without case.
	path string
	// The caller must be allowed to do what needs says on this.
	on     scope
	needs  auth.Action
	handle func(*request) (*response, error)
	parts  []string
}

// routes finds the operation of a request.
type routes struct {
	// byLength has the routes by their number of parts; those with more literal parts come first.
	byLength map[int][]*route
}

func newRoutes(list []route) *routes {
	table := &routes{byLength: map[int][]*route{}}
	for i := range list {
		r := &list[i]
		r.parts = strings.Split(strings.Trim(r.path, "/"), "/")
		table.byLength[len(r.parts)] = append(table.byLength[len(r.parts)], r)
	}
	for _, group := range table.byLength {
		sort.SliceStable(group, func(a, b int) bool { return group[a].literals() > group[b].literals() })
	}
	return table
}

func (r *route) literals() int {
	n := 0
	for _, part := range r.parts {
		if !parameter(part) {
			n++
		}
	}
	return n
}

func parameter(part string) bool { return strings.HasPrefix(part, "{") }

// find returns the route of a method and path, with the parameters by name as the request spelt them.
// A path that exists with other methods only is a 405, anything else a 404.
func (t *routes) find(method string, u *url.URL) (*route, map[string]string, error) {
	parts, err := pathParts(u)
	if err != nil {
		return nil, nil, err
	}
	var allowed []string
	for _, r := range t.byLength[len(parts)] {
		if !r.matches(parts) {
			continue
		}
		if r.method != method {
			allowed = append(allowed, r.method)
			continue
		}
		parameters := map[string]string{}
		for i, part := range r.parts {
			if parameter(part) {
				parameters[strings.Trim(part, "{}")] = parts[i]
			}
		}
		return r, parameters, nil
	}
	if len(allowed) > 0 {
		return nil, nil, api.NewError(http.StatusMethodNotAllowed, api.CodeMethodNotAllowed, "",
			"%s is not possible here (%s is)", method, strings.Join(allowed, ", "))
	}
	return nil, nil, api.NewError(http.StatusNotFound, api.CodeNotFound, "", "there is nothing at %s", u.Path)
}

func (r *route) matches(parts []string) bool {
	for i, part := range r.parts {
		if !parameter(part) && !strings.EqualFold(part, parts[i]) {
			return false
		}
	}
	return true
}

// pathParts splits a path before it unescapes, so that an escaped slash stays inside its part
// and is refused there.
func pathParts(u *url.URL) ([]string, error) {
	parts := strings.Split(strings.Trim(u.EscapedPath(), "/"), "/")
	for i, part := range parts {
		plain, err := url.PathUnescape(part)
		if err != nil || strings.ContainsAny(plain, "/\x00") || plain == "" && len(parts) > 1 {
			return nil, api.NewError(http.StatusBadRequest, api.CodeInvalidRequest, "", "the path has a part %q, which cannot be a name", part)
		}
		parts[i] = plain
	}
	return parts, nil
}
