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

// operations is every operation of the API.
func (s *Server) operations() []route {
	var list []route
	add := func(method, path string, handle func(*request) (*response, error)) {
		list = append(list, route{method: method, path: path, handle: handle})
	}
	for _, kind := range api.Kinds() {
		one := groupPath + provider + "/" + string(kind) + "/{name}"
		add(http.MethodGet, one, s.getResource(kind))
		add(http.MethodPut, one, s.putResource(kind))
		add(http.MethodDelete, one, s.deleteResource(kind))
		add(http.MethodPatch, one, s.patchTags(kind))
		add(http.MethodGet, groupPath+provider+"/"+string(kind), s.listResources(kind))
		add(http.MethodGet, subscriptionPath+provider+"/"+string(kind), s.listResources(kind))
		for _, collection := range kind.Children() {
			if collection == api.PrivateEndpointConnections || kind == api.PrivateEndpoints || kind == api.PrivateLinkServices {
				continue // connections have operations of their own; the rest has no paths in ARM
			}
			add(http.MethodGet, one+"/"+collection, s.listParts(kind, collection))
			if !partsOf(kind.New(), collection).IsValid() {
				continue
			}
			add(http.MethodGet, one+"/"+collection+"/{child}", s.getPart(kind, collection))
			switch collection {
			case api.Subnets, api.Peerings, api.BackendAddressPools, api.InboundNATRules:
				add(http.MethodPut, one+"/"+collection+"/{child}", s.putPart(kind, collection))
				add(http.MethodDelete, one+"/"+collection+"/{child}", s.deletePart(kind, collection))
			}
		}
	}
	service := groupPath + provider + "/" + string(api.PrivateLinkServices) + "/{name}"
	add(http.MethodGet, service+"/privateEndpointConnections", s.listConnections)
	add(http.MethodGet, service+"/privateEndpointConnections/{child}", s.getConnection)
	add(http.MethodPut, service+"/privateEndpointConnections/{child}", s.decideConnection)
	add(http.MethodDelete, service+"/privateEndpointConnections/{child}", s.removeConnection)
	add(http.MethodGet, service+"/natPortUsage", s.natPortUsage)

	lb := groupPath + provider + "/" + string(api.LoadBalancers) + "/{name}"
	add(http.MethodPost, lb+"/loadBalancingRules/{child}/health", s.ruleHealth)
	add(http.MethodGet, lb+"/backendHealth", s.backendHealth)
	add(http.MethodPost, lb+"/backendAddressPools/{child}/queryInboundNatRulePortMapping", s.portMappings)
	add(http.MethodGet, lb+"/networkInterfaces", s.loadBalancerInterfaces)
	add(http.MethodGet, groupPath+provider+"/"+string(api.NetworkInterfaces)+"/{name}/loadBalancers", s.interfaceLoadBalancers)

	network := groupPath + provider + "/" + string(api.VirtualNetworks) + "/{name}"
	add(http.MethodGet, network+"/usages", s.networkUsage)
	add(http.MethodGet, network+"/CheckIPAddressAvailability", s.checkAddress)
	// Network policies have no meaning here; the calls that prepare a subnet for them have nothing to do.
	add(http.MethodPost, network+"/subnets/{child}/PrepareNetworkPolicies", s.nothingToPrepare)
	add(http.MethodPost, network+"/subnets/{child}/UnprepareNetworkPolicies", s.nothingToPrepare)

	for _, scope := range []string{subscriptionPath, groupPath} {
		location := scope + provider + "/locations/{location}"
		add(http.MethodPost, location+"/checkPrivateLinkServiceVisibility", s.checkVisibility)
		add(http.MethodGet, location+"/autoApprovedPrivateLinkServices", s.autoApproved)
		add(http.MethodGet, location+"/availablePrivateEndpointTypes", s.availableTypes)
	}
	add(http.MethodGet, subscriptionPath+provider+"/locations/{location}/operations/{operation}", s.getOperation)
	add(http.MethodGet, subscriptionPath+provider+"/locations/{location}/operationResults/{operation}", s.getOperationResult)

	// privlink's own. Flows and batches look at what the caller may see and do themselves.
	add(http.MethodGet, "/privlink/flows", s.listFlows)
	add(http.MethodPost, "/privlink/batch", s.batch)
	list = append(list,
		route{method: http.MethodGet, path: "/privlink/status", handle: s.status, anyScope: true, needs: auth.Read},
		route{method: http.MethodGet, path: "/privlink/audit", handle: s.audit, anyScope: true, needs: auth.Read},
		route{method: http.MethodGet, path: "/privlink/backup", handle: s.backup, anyScope: true, needs: auth.Control},
		route{method: http.MethodPost, path: "/privlink/restore", handle: s.restore, anyScope: true, needs: auth.Control},
		route{method: http.MethodGet, path: "/metrics", handle: s.metrics, anyScope: true, needs: auth.Read},
	)
	list = append(list, s.accessOperations()...)
	return list
}
