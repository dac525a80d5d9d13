package control

import (
	"net/http"
	"strings"
	"time"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/auth"
)

// prepareEndpoint checks an endpoint's subnet and limits and gives it an address. The request itself is made by
// followRequest when the record is there.
func (t *tx) prepareEndpoint(id api.ID, doc, old *api.PrivateEndpoint, k *kept) error {
	network, s := t.view.subnet(doc.Properties.Subnet)
	if s == nil {
		return missing("properties.subnet.id", doc.Properties.Subnet.ID)
	}
	if k.GUID == "" {
		k.GUID = newGUID()
	}
	if old == nil {
		if err := t.checkEndpointCount(id, network); err != nil {
			return err
		}
		if strings.EqualFold(s.Properties.EndpointNetworkPolicies, "Enabled") {
			return api.Refused("PrivateEndpointCannotBeCreatedInSubnetThatHasNetworkPoliciesEnabled", "properties.subnet.id",
				"subnet %s has privateEndpointNetworkPolicies Enabled (set it to Disabled)", s.Name)
		}
	} else {
		if !api.SameID(old.Properties.Subnet.ID, doc.Properties.Subnet.ID) {
			return api.Refused(api.CodeConflict, "properties.subnet.id", "cannot be changed (delete the endpoint and make another)")
		}
		was, _ := old.Connection()
		is, _ := doc.Connection()
		if !strings.EqualFold(was.Properties.PrivateLinkServiceID, is.Properties.PrivateLinkServiceID) {
			return api.Refused(api.CodeConflict, "properties.privateLinkServiceConnections",
				"privateLinkServiceId cannot be changed (delete the endpoint and make another)")
		}
	}
	static, before := "", ""
	target := "properties"
	if c := doc.Properties.IPConfigurations; len(c) > 0 {
		static, target = c[0].Properties.PrivateIPAddress, "properties.ipConfigurations[0].properties"
	}
	if old != nil {
		before = old.Properties.IPAddress
	}
	a, err := t.claimer(id).claim(target, id.Name, doc.Properties.Subnet, static, before)
	if err != nil {
		return err
	}
	doc.Properties.IPAddress = a
	doc.Properties.CustomDNSConfigs = nil // follow from the service's fqdns
	asked, _ := doc.Connection()
	t.again = asked.Properties.PrivateLinkServiceConnectionState != nil && asked.Properties.PrivateLinkServiceConnectionState.Status == api.Pending
	asked.Properties.PrivateLinkServiceConnectionState = nil // kept with the connection
	if name := doc.Properties.CustomNetworkInterfaceName; name != "" && (old == nil || old.Properties.CustomNetworkInterfaceName != name) {
		nic := id.Sibling(api.NetworkInterfaces, name)
		o := t.view.ownerOfNIC(nic)
		if t.view.records[nic.Key()] != nil || o != nil && o.key != id.Key() {
			return api.Refused(api.CodeConflict, "properties.customNetworkInterfaceName", "%s exists", nic.Short())
		}
	}
	return nil
}

func (t *tx) checkEndpointCount(id api.ID, network *record) error {
	inNetwork, inSubscription := 0, 0
	for _, rec := range t.view.records {
		if rec.resource.Kind() != api.PrivateEndpoints {
			continue
		}
		if strings.EqualFold(rec.id.Subscription, id.Subscription) {
			inSubscription++
		}
		if len(rec.holds) > 0 && rec.holds[0].network == network.key {
			inNetwork++
		}
	}
	if inNetwork >= api.MaxEndpointsPerNetwork {
		return api.OverLimit("", "%s has %d private endpoints, at most %d allowed", network.id.Short(), inNetwork, api.MaxEndpointsPerNetwork)
	}
	if inSubscription >= api.MaxEndpoints {
		return api.OverLimit("", "subscription %s has %d private endpoints, at most %d allowed", id.Subscription, inSubscription, api.MaxEndpoints)
	}
	return nil
}

// followRequest makes the connection of a new endpoint, and asks again where the document says Pending and
// the connection was rejected or removed.
func (t *tx) followRequest(rec *record, doc *api.PrivateEndpoint) (bool, error) {
	asked, manual := doc.Connection()
	target := "properties.privateLinkServiceConnections[0].properties.privateLinkServiceId"
	if manual {
		target = "properties.manualPrivateLinkServiceConnections[0].properties.privateLinkServiceId"
	}
	existing := t.view.byEndpoint[rec.key]
	switch {
	case existing != nil && existing.State.Status == api.Rejected && t.again:
		return t.askAgain(rec, existing, asked, target)
	case existing != nil && existing.RequestMessage != asked.Properties.RequestMessage:
		c := *existing
		if c.State.Status == api.Pending && c.State.Description == c.RequestMessage {
			c.State.Description = asked.Properties.RequestMessage
		}
		c.RequestMessage = asked.Properties.RequestMessage
		return true, t.setConnection(&c)
	case existing != nil:
		return false, nil
	case rec.kept.Disconnected != nil && !t.again:
		return false, nil
	}
	service, err := t.requested(rec, asked, target)
	if err != nil {
		return false, err
	}
	if rec.kept.Disconnected != nil {
		k := rec.kept
		k.Disconnected, k.LastLinkID = nil, 0
		fresh, err := newRecord(rec.resource, k)
		if err != nil {
			return false, err
		}
		t.set(fresh)
	}
	return true, t.connect(rec, service, asked, !manual)
}

// askAgain makes a rejected connection a request again. It keeps its LinkID.
func (t *tx) askAgain(rec *record, existing *connection, asked *api.ServiceConnection, target string) (bool, error) {
	service, err := t.requested(rec, asked, target)
	if err != nil {
		return false, err
	}
	request := t.request(rec, service, false)
	decision, err := request.Decide()
	if err != nil {
		return false, err
	}
	c := *existing
	c.State = api.ConnectionState{Status: decision.Status, Description: decision.Description}
	if c.State.Description == "" {
		c.State.Description = asked.Properties.RequestMessage
	}
	c.RequestMessage, c.Requested, c.Decided, c.DecidedBy = asked.Properties.RequestMessage, t.now, time.Time{}, ""
	if decision.Status != api.Pending {
		c.Decided, c.DecidedBy = t.now, decision.By
	}
	c.Entry = auth.Entry(request.Approvals, request.Subscription, request.Endpoint)
	return true, t.setConnection(&c)
}

// requested finds the service that an endpoint asks for. One that does not exist and one that may not be
// seen look the same.
func (t *tx) requested(rec *record, asked *api.ServiceConnection, target string) (*record, error) {
	unknown := api.BadReference(target, "there is no private link service %q that subscription %q can see",
		asked.Properties.PrivateLinkServiceID, rec.id.Subscription)
	to, err := api.ParseTarget(asked.Properties.PrivateLinkServiceID, rec.id)
	if err != nil {
		return nil, unknown
	}
	key := to.ID.Key()
	if to.Alias != "" {
		key = t.view.aliases[strings.ToLower(to.Alias)]
	}
	service := t.view.records[key]
	if service == nil || service.resource.Kind() != api.PrivateLinkServices || service.kept.Deleting != nil || !t.request(rec, service, false).Visible() {
		return nil, unknown
	}
	return service, nil
}

// request is what auth decides about.
func (t *tx) request(endpoint, service *record, automatic bool) auth.Request {
	p := &service.resource.(*api.PrivateLinkService).Properties
	return auth.Request{
		Subscription: endpoint.id.Subscription, Endpoint: endpoint.id.String(), Automatic: automatic,
		Reads: t.who.May(auth.Read, service.id.String()), Approves: t.who.May(auth.Write, service.id.String()),
		Visibility: p.Visibility, AutoApproval: p.AutoApproval, Restricted: p.AccessMode == api.AccessRestricted,
		Approvals: p.Approvals.Or(nil),
	}
}

// connect makes the connection of an endpoint with a service.
func (t *tx) connect(endpoint, service *record, asked *api.ServiceConnection, automatic bool) error {
	if n := len(t.view.byService[service.key]); n >= api.MaxEndpointsPerService {
		return api.NewError(http.StatusBadRequest, api.CodeLimit, "properties.privateLinkServiceConnections",
			"the private link service has %d private endpoints, at most %d allowed", n, api.MaxEndpointsPerService)
	}
	request := t.request(endpoint, service, automatic)
	decision, err := request.Decide()
	if err != nil {
		return err
	}
	id, err := t.giveLinkID()
	if err != nil {
		return err
	}
	c := &connection{
		Service: service.id.String(), Name: endpoint.id.Name + "." + endpoint.kept.GUID, Endpoint: endpoint.id.String(), LinkID: id,
		State:          api.ConnectionState{Status: decision.Status, Description: decision.Description},
		RequestMessage: asked.Properties.RequestMessage, Subscription: endpoint.id.Subscription, Tenant: t.view.tenantOf(endpoint.id.Subscription),
		Location: endpoint.resource.Meta().Location, Requested: t.now,
	}
	if api.IsAlias(asked.Properties.PrivateLinkServiceID) {
		c.Alias = asked.Properties.PrivateLinkServiceID
	}
	if c.State.Description == "" {
		c.State.Description = asked.Properties.RequestMessage
	}
	if decision.Status != api.Pending {
		c.Decided, c.DecidedBy = t.now, decision.By
		if c.DecidedBy == "" {
			c.DecidedBy = t.who.Principal
		}
	}
	c.Entry = auth.Entry(request.Approvals, request.Subscription, request.Endpoint)
	return t.setConnection(c)
}
