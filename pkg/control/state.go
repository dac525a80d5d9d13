package control

import (
	"context"

	"github.com/privlink/privlink/pkg/dataplane"
	"github.com/privlink/privlink/pkg/store"
)

// StateOf compiles what a store wants of the kernel where nothing probes: what Controller.Run hands to its Applier.
func StateOf(ctx context.Context, s store.Store) (dataplane.State, error) {
	c := &Controller{options: Options{Store: s}}
	if err := c.reload(ctx); err != nil {
		return dataplane.State{}, err
	}
	state, _ := compile(c.view.snapshot(), nil)
	return state, nil
}
