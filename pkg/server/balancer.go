package server

import (
	"net/http"
	"slices"
	"strings"

	"github.com/privlink/privlink/pkg/api"
)

// loadBalancerInterfaces lists the network interfaces in a load balancer's pools.
func (s *Server) loadBalancerInterfaces(r *request) (*response, error) {
	return s.joined(r, api.LoadBalancers, api.NetworkInterfaces)
}

// interfaceLoadBalancers lists the load balancers whose pools a network interface is in.
func (s *Server) interfaceLoadBalancers(r *request) (*response, error) {
	return s.joined(r, api.NetworkInterfaces, api.LoadBalancers)
}

// joined lists resources of one kind that the pools of a load balancer join with one of the other kind.
func (s *Server) joined(r *request, from, to api.Kind) (*response, error) {
	id, err := r.id(from, "")
	if err != nil {
		return nil, err
	}
	resource, err := s.options.Controller.Get(r.Context(), r.actor, id)
	if err != nil {
		return nil, err
	}
	var refs []api.SubResource
	switch resource := resource.(type) {
	case *api.LoadBalancer:
		for _, pool := range resource.Properties.BackendAddressPools {
			refs = append(refs, pool.Properties.BackendIPConfigurations...)
		}
	case *api.NetworkInterface:
		for _, ip := range resource.Properties.IPConfigurations {
			refs = append(refs, ip.Properties.LoadBalancerBackendAddressPools...)
		}
	}
	elements := []listed{}
	seen := map[string]bool{}
	for _, ref := range refs {
		other, err := api.ParseID(ref.ID, id)
		if err != nil || other.Type != string(to) || seen[other.Parent().Key()] {
			continue
		}
		seen[other.Parent().Key()] = true
		found, err := s.options.Controller.Get(r.Context(), r.actor, other.Parent())
		if api.IsNotFound(err) {
			continue // not this caller's to see
		}
		if err != nil {
			return nil, err
		}
		elements = append(elements, listed{other.Parent().Key(), found})
	}
	return page(r, elements)
}

// ruleHealth tells how many backends of a rule are up. ARM makes this a long-running operation; it is quick here.
func (s *Server) ruleHealth(r *request) (*response, error) {
	id, err := r.id(api.LoadBalancers, api.LoadBalancingRules)
	if err != nil {
		return nil, err
	}
	resource, err := s.options.Controller.Get(r.Context(), r.actor, id.Parent())
	if err != nil {
		return nil, err
	}
	lb, ok := resource.(*api.LoadBalancer)
	if !ok || findPart(partsOf(resource, api.LoadBalancingRules), id.Child) < 0 {
		return nil, api.NotFound(id)
	}
	backends, err := s.options.Observer.Backends(r.Context(), api.IDOf(lb).Key())
	if err != nil {
		return nil, err
	}
	health := api.RuleHealth{Backends: []api.BackendHealth{}}
	for _, b := range backends {
		if !strings.EqualFold(b.Rule, id.Child) {
			continue
		}
		health.Backends = append(health.Backends, b)
		if b.State == api.BackendUp {
			health.Up++
		} else {
			health.Down++
		}
	}
	return &response{status: http.StatusOK, body: health}, nil
}

// backendHealth answers with every backend of every rule.
func (s *Server) backendHealth(r *request) (*response, error) {
	id, err := r.id(api.LoadBalancers, "")
	if err != nil {
		return nil, err
	}
	resource, err := s.options.Controller.Get(r.Context(), r.actor, id)
	if err != nil {
		return nil, err
	}
	backends, err := s.options.Observer.Backends(r.Context(), api.IDOf(resource).Key())
	return wholeList(r, backends, err)
}

// means says whether a question about a member of a pool is about this one. One by NIC is meant by its address, too, where the
// caller may read that.
func (s *Server) means(r *request, question api.PortMappingRequest, member *api.BackendAddressProperties) bool {
	ip := member.NetworkInterfaceIPConfiguration
	switch {
	case question.IPAddress != "" && member.IPAddress == question.IPAddress:
		return true
	case ip == nil:
		return false
	case question.IPConfiguration != nil && api.SameID(ip.ID, question.IPConfiguration.ID):
		return true
	}
	id, err := api.ParseID(ip.ID, api.ID{})
	if err != nil || question.IPAddress == "" {
		return false
	}
	resource, err := s.options.Controller.Get(r.Context(), r.actor, id.Parent())
	nic, ok := resource.(*api.NetworkInterface)
	if err != nil || !ok {
		return false
	}
	return slices.ContainsFunc(nic.Properties.IPConfigurations, func(c api.NICIPConfiguration) bool {
		return strings.EqualFold(c.Name, id.Child) && c.Properties.PrivateIPAddress == question.IPAddress
	})
}

// portMappings tells which frontend ports the inbound NAT rules of a pool give to one of its members.
func (s *Server) portMappings(r *request) (*response, error) {
	id, err := r.id(api.LoadBalancers, api.BackendAddressPools)
	if err != nil {
		return nil, err
	}
	var question api.PortMappingRequest
	if err := r.body(&question); err != nil {
		return nil, err
	}
	resource, err := s.options.Controller.Get(r.Context(), r.actor, id.Parent())
	if err != nil {
		return nil, err
	}
	lb, ok := resource.(*api.LoadBalancer)
	if !ok || lb.Pool(id.Child) == nil {
		return nil, api.NotFound(id)
	}
	answer := api.PortMappings{Value: []api.PortMapping{}}
	for _, member := range lb.Pool(id.Child).Properties.LoadBalancerBackendAddresses {
		if !s.means(r, question, &member.Properties) {
			continue
		}
		for _, mapping := range member.Properties.InboundNATRulesPortMapping {
			protocol := api.TransportTCP
			for i := range lb.Properties.InboundNATRules {
				if rule := &lb.Properties.InboundNATRules[i]; strings.EqualFold(rule.Name, mapping.InboundNATRuleName) {
					protocol = rule.Properties.Protocol
				}
			}
			answer.Value = append(answer.Value, api.PortMapping{InboundNATRuleName: mapping.InboundNATRuleName, Protocol: protocol,
				FrontendPort: mapping.FrontendPort, BackendPort: mapping.BackendPort})
		}
	}
	return &response{status: http.StatusOK, body: answer}, nil
}
