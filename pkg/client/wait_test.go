package client

import (
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"github.com/privlink/privlink/pkg/api"
)

// A write that takes long is said to, once, whichever way it is waited for.
func TestPut_TakesLong_IsSaidOnce(t *testing.T) {
	t.Parallel()
	var told atomic.Int64
	var server *httptest.Server
	server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		done := told.Load() > 0
		w.Header().Set("Content-Type", "application/json")
		switch {
		case r.Method == http.MethodPut:
			w.Header().Set("Azure-AsyncOperation", server.URL+"/operation")
			_, _ = w.Write([]byte(`{}`))
		case r.URL.Path == "/operation":
			_, _ = w.Write([]byte(`{"status":"` + map[bool]string{true: "Succeeded", false: "InProgress"}[done] + `"}`))
		default:
			_, _ = w.Write([]byte(`{"properties":{"provisioningState":"` + map[bool]string{true: "Succeeded", false: "Updating"}[done] + `"}}`))
		}
	}))
	defer server.Close()
	c, err := New(Options{Server: server.URL, Waiting: func() { told.Add(1) }})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	id := api.ID{Subscription: "s", ResourceGroup: "g", Type: string(api.PrivateLinkServices), Name: "n"}
	if _, err := Put[api.PrivateLinkService](t.Context(), c, id, struct{}{}, Conditions{}); err != nil || told.Load() != 1 {
		t.Errorf("Put: %v, told %d times", err, told.Load())
	}
	told.Store(0)
	if err := c.Await(t.Context(), id, false); err != nil || told.Load() != 1 {
		t.Errorf("Await: %v, told %d times", err, told.Load())
	}
	// What is quick says nothing.
	if err := c.Await(t.Context(), id, false); err != nil || told.Load() != 1 {
		t.Errorf("Await of what is done: %v, told %d times", err, told.Load())
	}
}
