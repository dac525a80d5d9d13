package server

import (
	"net/http"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/auth"
)

// ARM's operations on what does not exist here: what only asks is told that there is nothing, what would change something is
// refused by name. Either way the resource is looked up first, as for any other operation.

// addUnsupported adds their routes.
func (s *Server) addUnsupported(add func(method, path string, on scope, needs auth.Action, handle func(*request) (*response, error))) {
	one := func(kind api.Kind) (string, scope) {
		return groupPath + provider + "/" + string(kind) + "/{name}", named(kind, "")
	}
	lb, it := one(api.LoadBalancers)
	add(http.MethodGet, lb+"/outboundRules/{child}", it, auth.Read, s.noPart(api.LoadBalancers, api.OutboundRules))
	add(http.MethodPost, lb+"/migrateToIpBased", it, auth.Write, s.unsupported(api.LoadBalancers,
		"migrateToIpBased is not supported: members by network interface and by address may stand in one pool here"))
	add(http.MethodPost, subscriptionPath+provider+"/locations/{location}/setLoadBalancerFrontendPublicIpAddresses", within, auth.Write,
		func(*request) (*response, error) { return nil, notSupported("public frontends are not supported") })

	nic, it := one(api.NetworkInterfaces)
	add(http.MethodPost, nic+"/effectiveRouteTable", it, auth.Read, s.unsupported(api.NetworkInterfaces,
		"effectiveRouteTable is not supported: privlink routes nothing but the addresses of endpoints, frontends and NAT IPs"))
	add(http.MethodPost, nic+"/effectiveNetworkSecurityGroups", it, auth.Read, s.none(api.NetworkInterfaces))
	add(http.MethodGet, nic+"/tapConfigurations", it, auth.Read, s.none(api.NetworkInterfaces))
	add(http.MethodGet, nic+"/tapConfigurations/{child}", it, auth.Read, s.noPart(api.NetworkInterfaces, "tapConfigurations"))
	add(http.MethodPut, nic+"/tapConfigurations/{child}", it, auth.Write, s.unsupported(api.NetworkInterfaces, "tap configurations are not supported"))
	add(http.MethodDelete, nic+"/tapConfigurations/{child}", it, auth.Write, s.nothingToDelete(api.NetworkInterfaces))

	network, it := one(api.VirtualNetworks)
	// It is about the public addresses of a network, of which there are none.
	add(http.MethodPost, network+"/ddosProtectionStatus", it, auth.Read, s.none(api.VirtualNetworks))
}

func notSupported(why string) error {
	return api.NewError(http.StatusBadRequest, api.CodeOperationNotSupported, "", "%s", why)
}

// of answers for a resource that exists, and 404 for any other.
func (s *Server) of(kind api.Kind, answer func(*request, api.ID) (*response, error)) func(*request) (*response, error) {
	return func(r *request) (*response, error) {
		id, err := r.id(kind, "")
		if err != nil {
			return nil, err
		}
		if _, err := s.options.Controller.Get(r.Context(), r.actor, id); err != nil {
			return nil, err
		}
		return answer(r, id)
	}
}

func (s *Server) unsupported(kind api.Kind, why string) func(*request) (*response, error) {
	return s.of(kind, func(*request, api.ID) (*response, error) { return nil, notSupported(why) })
}

// none is an empty list.
func (s *Server) none(kind api.Kind) func(*request) (*response, error) {
	return s.of(kind, func(r *request, _ api.ID) (*response, error) { return page(r, nil) })
}

// noPart is a part that no resource has.
func (s *Server) noPart(kind api.Kind, collection string) func(*request) (*response, error) {
	return s.of(kind, func(r *request, id api.ID) (*response, error) {
		return nil, api.NotFound(id.Sub(collection, r.parameters["child"]))
	})
}

func (s *Server) nothingToDelete(kind api.Kind) func(*request) (*response, error) {
	return s.of(kind, func(*request, api.ID) (*response, error) { return &response{status: http.StatusNoContent}, nil })
}
