package control

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/privlink/privlink/pkg/api"
)

// tablePairs is how many flows the tests' kernel holds.
const tablePairs = 100_000

func (*kernel) Pairs() uint32 { return tablePairs }

func TestFlowLimit_MoreThanTheTable_Refused(t *testing.T) {
	c := &Controller{options: Options{Applier: &kernel{}}}
	for _, x := range []struct {
		name          string
		limit, before api.Own[int64]
		refused       bool
	}{
		{"absent", api.Own[int64]{}, api.Own[int64]{}, false},
		{"all of it", api.Set(int64(tablePairs)), api.Own[int64]{}, false},
		{"one more", api.Set(int64(tablePairs + 1)), api.Own[int64]{}, true},
		{"one more than before", api.Set(int64(tablePairs + 2)), api.Set(int64(tablePairs + 1)), true},
		{"as before, of a table that was larger", api.Set(int64(5 * tablePairs)), api.Set(int64(5 * tablePairs)), false},
	} {
		err := c.checkFlowLimit("properties.maxFlows", x.limit, x.before)
		if x.refused != (err != nil) || err != nil && !strings.Contains(err.Error(), "is not within 1..100000: the flow table holds no more") {
			t.Errorf("%s: %v, want a refusal: %t", x.name, err, x.refused)
		}
	}
}

func TestFlowLimit_OfServiceAndConnection_Asked(t *testing.T) {
	w := newWorld(t)
	w.provide(open)
	w.consume()
	w.put(theEndpoint, "%s", endpointDoc(w.service(theService).Properties.Alias, ""))
	at := id(theService)
	connection := at.Sub(api.PrivateEndpointConnections, w.connection(theService).Name)
	limit := func(n int64) error {
		_, err := w.Decide(context.Background(), root(at.Subscription), connection,
			api.PrivateEndpointConnection{Properties: api.ConnectionProperties{ConnectionOwn: api.ConnectionOwn{MaxFlows: api.Set(n)}}}, Conditions{})
		return err
	}
	if err := limit(tablePairs + 1); err == nil || !strings.Contains(err.Error(), "properties.maxFlows: 100001 is not within 1..100000") {
		t.Errorf("a connection with more flows than the table: %v", err)
	}
	if err := limit(tablePairs); err != nil {
		t.Errorf("a connection with the whole table: %v", err)
	}
	more := func(n int) string { return open + fmt.Sprintf(",'maxFlowsPerEndpoint':%d", n) }
	if _, err := w.try(theService, "%s", serviceDoc(more(tablePairs+1))); err == nil || !strings.Contains(err.Error(), "properties.maxFlowsPerEndpoint: 100001 is not within 1..100000") {
		t.Errorf("a service with more flows than the table: %v", err)
	}
	if _, err := w.try(theService, "%s", serviceDoc(more(tablePairs))); err != nil {
		t.Errorf("a service with the whole table: %v", err)
	}
}
