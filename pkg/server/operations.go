package server

import (
	"net/http"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/auth"
)

// Beginnings of ARM's paths.
const (
	subscriptionPath = "/subscriptions/{subscription}"
	groupPath        = subscriptionPath + "/resourceGroups/{group}"
	provider         = "/providers/" + api.Namespace
)

// operations is every operation of the API, with who may use it.
func (s *Server) operations() []route {
	var list []route
	add := func(method, path string, on scope, needs auth.Action, handle func(*request) (*response, error)) {
		list = append(list, route{method: method, path: path, on: on, needs: needs, handle: handle})
	}
	for _, kind := range api.Kinds() {
		one := groupPath + provider + "/" + string(kind) + "/{name}"
		it := named(kind, "")
		add(http.MethodGet, one, it, auth.Read, s.getResource(kind))
		add(http.MethodPut, one, it, auth.Write, s.putResource(kind))
		add(http.MethodDelete, one, it, auth.Write, s.deleteResource(kind))
		add(http.MethodPatch, one, it, auth.Write, s.patchTags(kind))
		add(http.MethodGet, groupPath+provider+"/"+string(kind), within, auth.Read, s.listResources(kind))
		add(http.MethodGet, subscriptionPath+provider+"/"+string(kind), within, auth.Read, s.listResources(kind))
		for _, collection := range kind.Children() {
			if collection == api.PrivateEndpointConnections || kind == api.PrivateEndpoints || kind == api.PrivateLinkServices {
				continue // connections have operations of their own; the rest has no paths in ARM
			}
			add(http.MethodGet, one+"/"+collection, it, auth.Read, s.listParts(kind, collection))
			if !partsOf(kind.New(), collection).IsValid() {
				continue
			}
			part := named(kind, collection)
			add(http.MethodGet, one+"/"+collection+"/{child}", part, auth.Read, s.getPart(kind, collection))
			switch collection {
			case api.Subnets, api.Peerings, api.BackendAddressPools, api.InboundNATRules:
				add(http.MethodPut, one+"/"+collection+"/{child}", part, auth.Write, s.putPart(kind, collection))
				add(http.MethodDelete, one+"/"+collection+"/{child}", part, auth.Write, s.deletePart(kind, collection))
			}
		}
	}
	service := groupPath + provider + "/" + string(api.PrivateLinkServices) + "/{name}"
	it, connection := named(api.PrivateLinkServices, ""), named(api.PrivateLinkServices, api.PrivateEndpointConnections)
	add(http.MethodGet, service+"/privateEndpointConnections", it, auth.Read, s.listConnections)
	add(http.MethodGet, service+"/privateEndpointConnections/{child}", connection, auth.Read, s.getConnection)
	add(http.MethodPut, service+"/privateEndpointConnections/{child}", connection, auth.Write, s.decideConnection)
	add(http.MethodDelete, service+"/privateEndpointConnections/{child}", connection, auth.Write, s.removeConnection)
	add(http.MethodGet, service+"/natPortUsage", it, auth.Read, s.natPortUsage)

	// What only tells something is a read, by whatever method ARM asks it.
	lb := groupPath + provider + "/" + string(api.LoadBalancers) + "/{name}"
	nic := groupPath + provider + "/" + string(api.NetworkInterfaces) + "/{name}"
	it = named(api.LoadBalancers, "")
	add(http.MethodPost, lb+"/loadBalancingRules/{child}/health", named(api.LoadBalancers, api.LoadBalancingRules), auth.Read, s.ruleHealth)
	add(http.MethodGet, lb+"/backendHealth", it, auth.Read, s.backendHealth)
	add(http.MethodPost, lb+"/backendAddressPools/{child}/queryInboundNatRulePortMapping", named(api.LoadBalancers, api.BackendAddressPools), auth.Read, s.portMappings)
	add(http.MethodGet, lb+"/networkInterfaces", it, auth.Read, s.loadBalancerInterfaces)
	add(http.MethodGet, nic+"/loadBalancers", named(api.NetworkInterfaces, ""), auth.Read, s.interfaceLoadBalancers)

	network := groupPath + provider + "/" + string(api.VirtualNetworks) + "/{name}"
	it, subnet := named(api.VirtualNetworks, ""), named(api.VirtualNetworks, api.Subnets)
	add(http.MethodGet, network+"/usages", it, auth.Read, s.networkUsage)
	add(http.MethodGet, network+"/CheckIPAddressAvailability", it, auth.Read, s.checkAddress)
	// Network policies have no meaning here; the calls that prepare a subnet for them have nothing to do.
	add(http.MethodPost, network+"/subnets/{child}/PrepareNetworkPolicies", subnet, auth.Write, s.nothingToPrepare)
	add(http.MethodPost, network+"/subnets/{child}/UnprepareNetworkPolicies", subnet, auth.Write, s.nothingToPrepare)

	for _, scope := range []string{subscriptionPath, groupPath} {
		location := scope + provider + "/locations/{location}"
		add(http.MethodPost, location+"/checkPrivateLinkServiceVisibility", within, auth.Read, s.checkVisibility)
		add(http.MethodGet, location+"/autoApprovedPrivateLinkServices", within, auth.Read, s.autoApproved)
		add(http.MethodGet, location+"/availablePrivateEndpointTypes", within, auth.Read, s.availableTypes)
	}
	location := subscriptionPath + provider + "/locations/{location}"
	add(http.MethodGet, location+"/operations/{operation}", ofOperation, auth.Read, s.getOperation)
	add(http.MethodGet, location+"/operationResults/{operation}", ofOperation, auth.Read, s.getOperationResult)

	s.addUnsupported(add)

	// privlink's own.
	add(http.MethodGet, "/privlink/flows", eachByItself, auth.Read, s.listFlows)
	add(http.MethodPost, "/privlink/batch", eachByItself, auth.Write, s.batch)
	add(http.MethodGet, "/privlink/journal", eachByItself, auth.Read, s.readJournal)
	add(http.MethodGet, "/privlink/status", everything, auth.Read, s.status)
	add(http.MethodGet, "/privlink/audit", everything, auth.Read, s.audit)
	add(http.MethodGet, "/privlink/examination", everything, auth.Read, s.examination)
	add(http.MethodPost, "/privlink/repair", everything, auth.Control, s.repair)
	add(http.MethodGet, "/privlink/backup", everything, auth.Control, s.backup)
	add(http.MethodPost, "/privlink/restore", everything, auth.Control, s.restore)
	add(http.MethodGet, "/metrics", everything, auth.Read, s.metrics)

	// Access control. Everybody makes, sees and ends his own tokens, and gives roles on what he controls.
	control := s.options.Controller
	add(http.MethodGet, "/privlink/subscriptions", eachByItself, auth.Read, s.listSubscriptions)
	add(http.MethodPut, "/privlink/subscriptions/{name}", everything, auth.Control, s.putSubscription)
	add(http.MethodDelete, "/privlink/subscriptions/{name}", everything, auth.Control, s.deleteAccess(control.DeleteSubscription))
	add(http.MethodGet, "/privlink/principals", everything, auth.Control, s.listPrincipals)
	add(http.MethodPut, "/privlink/principals/{name}", everything, auth.Control, s.putPrincipal)
	add(http.MethodDelete, "/privlink/principals/{name}", everything, auth.Control, s.deleteAccess(control.DeletePrincipal))
	add(http.MethodGet, "/privlink/tokens", eachByItself, auth.Read, s.listTokens)
	add(http.MethodPost, "/privlink/tokens", eachByItself, auth.Control, s.createToken)
	add(http.MethodDelete, "/privlink/tokens/{name}", eachByItself, auth.Control, s.deleteAccess(control.DeleteToken))
	add(http.MethodGet, "/privlink/roles", eachByItself, auth.Read, s.listRoles)
	add(http.MethodPost, "/privlink/roles", eachByItself, auth.Control, s.createRole)
	add(http.MethodDelete, "/privlink/roles/{name}", eachByItself, auth.Control, s.deleteAccess(control.DeleteRole))
	return list
}
