package control

import "github.com/privlink/privlink/pkg/api"

// TableSizer is an Applier that knows how many flows its table holds. A limit above that would be none, so it is
// refused. dataplane.Dataplane is one.
type TableSizer interface {
	Pairs() uint32
}

// checkFlowLimit refuses a limit that a write sets and that is larger than the table. One that was there before
// stays: the table may have been made smaller since.
func (c *Controller) checkFlowLimit(path string, limit, before api.Own[int64]) error {
	sizer, ok := c.options.Applier.(TableSizer)
	wanted, set := limit.Get()
	if was, had := before.Get(); !ok || !set || had && was == wanted {
		return nil
	}
	if pairs := sizer.Pairs(); wanted > int64(pairs) {
		return api.Invalid(path, "%d is not within 1..%d: the flow table holds no more (a larger `flows` in the daemon's configuration makes room at its next start)", wanted, pairs)
	}
	return nil
}

// checkServiceFlows is checkFlowLimit for a write of a service.
func (c *Controller) checkServiceFlows(o Outcome) error {
	service, ok := o.Resource.(*api.PrivateLinkService)
	if !ok {
		return nil
	}
	var before api.Own[int64]
	if was, ok := o.Before.(*api.PrivateLinkService); ok {
		before = was.Properties.MaxFlowsPerEndpoint
	}
	return c.checkFlowLimit("properties.maxFlowsPerEndpoint", service.Properties.MaxFlowsPerEndpoint, before)
}
