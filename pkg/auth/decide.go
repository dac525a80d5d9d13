package auth

import (
	"strings"

	"github.com/privlink/privlink/pkg/api"
)

// Request is a consumer's request for a connection, with what of the service the decision needs.
type Request struct {
	Subscription string // the consumer's
	Endpoint     string // its resource id
	// Automatic says that it stands in privateLinkServiceConnections: approved now or refused.
	Automatic bool
	// Reads and Approves are the requester's rights on the service.
	Reads, Approves bool

	Visibility, AutoApproval *api.SubscriptionList
	// Restricted is accessMode Restricted: only the subscriptions of Visibility, whatever the roles.
	Restricted bool
	Approvals  []api.Approval
}

// Deciders other than principals.
const (
	ByAutoApproval = "autoApproval"
	ByApprovals    = "approvals"
)

// Decision is what becomes of a request.
type Decision struct {
	Status      api.ConnectionStatus
	Description string // empty: the request message stands
	By          string // ByAutoApproval, ByApprovals, "" for the requester or nobody
}

// Visible tells whether the service exists as far as the requester can know. With an empty list
// only roles open it, with subscriptions these too, with "*" everybody who has the alias or id.
func (r Request) Visible() bool {
	return r.Visibility.Has(r.Subscription) || r.Reads && !r.Restricted
}

// Decide is the state a new connection starts with. The request must be Visible. An automatic request
// that nobody approves is refused with what to use instead.
func (r Request) Decide() (Decision, error) {
	if r.Automatic && r.Approves {
		return Decision{Status: api.Approved}, nil
	}
	if d, ok := Declared(r.Approvals, r.Subscription, r.Endpoint); ok {
		return d, nil
	}
	if r.AutoApproval.Has(r.Subscription) {
		return Decision{Status: api.Approved, Description: "Auto-approved", By: ByAutoApproval}, nil
	}
	if r.Automatic {
		return Decision{}, api.NewError(403, api.CodeApproval, "properties.privateLinkServiceConnections",
			"the service does not approve subscription %q by itself, and you may not approve (ask in properties.manualPrivateLinkServiceConnections)",
			r.Subscription)
	}
	return Decision{Status: api.Pending}, nil
}

// Declared is the service's declarative decision for an endpoint: an entry for the endpoint goes before
// one for its subscription.
func Declared(list []api.Approval, subscription, endpoint string) (Decision, bool) {
	a := Entry(list, subscription, endpoint)
	if a == nil {
		return Decision{}, false
	}
	return Decision{Status: a.Status, Description: a.Description, By: ByApprovals}, true
}

// Entry is the entry of approvals that Declared follows, or nil.
func Entry(list []api.Approval, subscription, endpoint string) *api.Approval {
	var found *api.Approval
	for i := range list {
		switch a := &list[i]; {
		case a.PrivateEndpoint != "" && strings.EqualFold(a.PrivateEndpoint, endpoint):
			return a
		case a.Subscription != "" && strings.EqualFold(a.Subscription, subscription):
			found = a
		}
	}
	return found
}
