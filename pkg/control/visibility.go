package control

import (
	"context"
	"slices"
	"strings"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/auth"
)

// CheckVisibility tells whether a subscription can see the service of an alias. A service in another location
// is seen too.
func (c *Controller) CheckVisibility(_ context.Context, who auth.Actor, scope Scope, alias string) (bool, error) {
	if err := checkScope(who, scope); err != nil {
		return false, err
	}
	if alias == "" {
		return false, api.Invalid("privateLinkServiceAlias", "is required")
	}
	c.mu.RLock()
	defer c.mu.RUnlock()
	rec := c.view.records[c.view.aliases[strings.ToLower(alias)]]
	return rec != nil && visible(who, rec, scope.Subscription), nil
}

func visible(who auth.Actor, service *record, subscription string) bool {
	if service.kept.Deleting != nil {
		return false
	}
	t := &tx{who: who}
	return t.request(&record{id: api.ID{Subscription: subscription}}, service, false).Visible()
}

// AutoApproved lists the services in a location ("": all) that approve the subscription's requests by
// themselves.
func (c *Controller) AutoApproved(_ context.Context, who auth.Actor, scope Scope, location string) ([]api.AutoApprovedService, error) {
	if err := checkScope(who, scope); err != nil {
		return nil, err
	}
	location = api.NormalLocation(location)
	c.mu.RLock()
	defer c.mu.RUnlock()
	list := []api.AutoApprovedService{}
	for _, rec := range c.view.records {
		s, ok := rec.resource.(*api.PrivateLinkService)
		if ok && (location == "" || s.Location == location) && s.Properties.AutoApproval.Has(scope.Subscription) &&
			visible(who, rec, scope.Subscription) {
			list = append(list, api.AutoApprovedService{PrivateLinkService: rec.id.String()})
		}
	}
	slices.SortFunc(list, func(a, b api.AutoApprovedService) int {
		return strings.Compare(strings.ToLower(a.PrivateLinkService), strings.ToLower(b.PrivateLinkService))
	})
	return list, nil
}
