package server

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// 1,000 endpoints on 100 services: a whole list in one answer. What counts is processor time, client
// included, as the machine may be busy with other tests.
func TestScale_ThousandEndpoints_ListUnder50ms(t *testing.T) {
	w := newWorld(t)
	for i := range 20 { // 8 services at most stand on one load balancer
		put := func(path, body string) {
			t.Helper()
			if got := w.do("root", http.MethodPut, path, body); got.status != http.StatusCreated {
				t.Fatalf("PUT %s: %d %s", path, got.status, got.body)
			}
		}
		net := fmt.Sprintf("%s/virtualNetworks/net%d", rg, i)
		put(net, netBody)
		lb := fmt.Sprintf("%s/loadBalancers/lb%d", rg, i)
		var frontends []string
		for f := range 5 {
			frontends = append(frontends, fmt.Sprintf(`{"name":"f%d","properties":{"subnet":{"id":"%s/subnets/a"}}}`, f, net))
		}
		put(lb, `{"location":"local","sku":{"name":"Standard"},"properties":{"frontendIPConfigurations":[`+strings.Join(frontends, ",")+`]}}`)
		for f := range 5 {
			service := fmt.Sprintf("%s/privateLinkServices/pls%d-%d", rg, i, f)
			put(service, fmt.Sprintf(`{"location":"local","properties":{"visibility":{"subscriptions":["*"]},"loadBalancerFrontendIpConfigurations":[{"id":"%s/frontendIPConfigurations/f%d"}],`+
				`"ipConfigurations":[{"name":"n","properties":{"subnet":{"id":"%s/subnets/a"}}}]}}`, lb, f, net))
			for e := range 10 {
				put(fmt.Sprintf("%s/privateEndpoints/pe%d-%d-%d", rg, i, f, e), fmt.Sprintf(`{"location":"local","properties":{"subnet":{"id":"%s/subnets/a"},`+
					`"manualPrivateLinkServiceConnections":[{"name":"c","properties":{"privateLinkServiceId":"%s"}}]}}`, net, service))
			}
		}
	}
	for _, kind := range []string{"privateEndpoints", "privateLinkServices"} {
		least := time.Hour
		for range 10 {
			began := used(t)
			got := w.do("root", http.MethodGet, rg+"/"+kind, "")
			least = min(least, used(t)-began)
			if strings.Contains(got.body, "nextLink") || got.status != http.StatusOK {
				t.Fatalf("list of %s: %d, more than one page", kind, got.status)
			}
		}
		t.Logf("list of %s: %s", kind, least)
		if least > 50*time.Millisecond {
			t.Errorf("list of %s takes %s, want less than 50ms", kind, least)
		}
	}
}

// used is the processor time of this process.
func used(t *testing.T) time.Duration {
	t.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
