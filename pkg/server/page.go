package server

import (
	"encoding/base64"
	"net/http"
	"net/url"
	"sort"
	"strconv"
	"strings"

	"github.com/privlink/privlink/pkg/api"
)

// Elements on a page of a list: what a caller gets who does not ask, and at most with $top.
const (
	defaultPage = 1000
	maxPage     = 5000
)

// listBody is a page of a list.
type listBody struct {
	Value    any    `json:"value"`
	NextLink string `json:"nextLink,omitempty"` // absolute, with api-version
}

// listed is an element of a list with the key that orders it: the id in lower case.
type listed struct {
	key   string
	value any
}

// page answers with the part of a list that the request asks for ($top, $skipToken). The token is the last
// key seen, so that elements made or removed between two pages shift nothing.
func page(r *request, elements []listed) (*response, error) {
	query := r.URL.Query()
	size := defaultPage
	if top := queryValue(query, "$top"); top != "" {
		n, err := strconv.Atoi(top)
		if err != nil || n < 1 {
			return nil, api.Invalid("$top", "%q is not a number from 1 up", top)
		}
		size = min(n, maxPage)
	}
	sort.Slice(elements, func(a, b int) bool { return elements[a].key < elements[b].key })
	if token := queryValue(query, "$skipToken"); token != "" {
		after, err := base64.RawURLEncoding.DecodeString(token)
		if err != nil {
			return nil, api.Invalid("$skipToken", "not a token of nextLink")
		}
		elements = elements[sort.Search(len(elements), func(i int) bool { return elements[i].key > string(after) }):]
	}
	body := listBody{}
	if len(elements) > size {
		elements = elements[:size]
		next := *r.URL
		for name := range query {
			if strings.EqualFold(name, "$skipToken") {
				query.Del(name)
			}
		}
		query.Set("$skipToken", base64.RawURLEncoding.EncodeToString([]byte(elements[size-1].key)))
		next.RawQuery = query.Encode()
		body.NextLink = r.absolute(&next)
	}
	values := make([]any, len(elements))
	for i := range elements {
		values[i] = elements[i].value
	}
	body.Value = values
	return &response{status: http.StatusOK, body: body}, nil
}

// queryValue is a query parameter by its name in any case.
func queryValue(query url.Values, name string) string {
	for known, values := range query {
		if strings.EqualFold(known, name) && len(values) > 0 {
			return values[0]
		}
	}
	return ""
}
