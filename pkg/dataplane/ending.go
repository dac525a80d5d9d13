package dataplane

import (
	"context"
)

// nudge is one end of an ended flow that was asked for its numbers.
type nudge struct{ slot, state uint32 }

// endFlows ends what the configuration ended without a packet to answer.
func (d *Dataplane) endFlows(ctx context.Context) {
}
