package control

import (
	"context"
	"strings"
	"testing"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/dataplane"
)

// sized is a kernel whose table holds so many flows.
type sized uint32

func (s sized) Apply(context.Context, dataplane.State) (dataplane.Result, error) {
	return dataplane.Result{}, nil
}
func (s sized) Pairs() uint32 { return uint32(s) }

func TestFlowLimit_MoreThanTheTable_Refused(t *testing.T) {
	c := &Controller{options: Options{Applier: sized(1000)}}
	for _, x := range []struct {
		name          string
		limit, before api.Own[int64]
		refused       bool
	}{
		{"absent", api.Own[int64]{}, api.Own[int64]{}, false},
		{"all of it", api.Set(int64(1000)), api.Own[int64]{}, false},
		{"one more", api.Set(int64(1001)), api.Own[int64]{}, true},
		{"one more than before", api.Set(int64(1002)), api.Set(int64(1001)), true},
		{"as before, of a table that was larger", api.Set(int64(5000)), api.Set(int64(5000)), false},
	} {
		err := c.checkFlowLimit("properties.maxFlows", x.limit, x.before)
		if x.refused != (err != nil) || err != nil && !strings.Contains(err.Error(), "is not within 1..1000: the flow table holds no more") {
			t.Errorf("%s: %v, want a refusal: %t", x.name, err, x.refused)
		}
	}
}
