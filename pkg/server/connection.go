package server

import (
	"net/http"
	"strings"

	"github.com/privlink/privlink/pkg/api"
)

func (s *Server) listConnections(r *request) (*response, error) {
	id, err := r.id(api.PrivateLinkServices, "")
	if err != nil {
		return nil, err
	}
	connections, err := s.options.Controller.Connections(r.Context(), r.actor, id)
	if err != nil {
		return nil, err
	}
	elements := make([]listed, len(connections))
	for i, connection := range connections {
		elements[i] = listed{strings.ToLower(connection.Name), connection}
	}
	return page(r, elements)
}

func (s *Server) getConnection(r *request) (*response, error) {
	id, err := r.id(api.PrivateLinkServices, api.PrivateEndpointConnections)
	if err != nil {
		return nil, err
	}
	connection, err := s.options.Controller.Connection(r.Context(), r.actor, id)
	if err != nil {
		return nil, err
	}
	body, err := s.expanded(r, connection)
	return &response{status: http.StatusOK, header: etagHeader(connection.Etag), body: body}, err
}

// decideConnection approves or rejects. It answers when the kernel agrees, since ARM has no long-running operation for it.
func (s *Server) decideConnection(r *request) (*response, error) {
	id, err := r.id(api.PrivateLinkServices, api.PrivateEndpointConnections)
	if err != nil {
		return nil, err
	}
	var decision api.PrivateEndpointConnection
	if err := r.body(&decision); err != nil {
		return nil, err
	}
	if decision.Name != "" && !strings.EqualFold(decision.Name, id.Child) {
		return nil, api.Invalid("name", "%q is not the name in the path, %q", decision.Name, id.Child)
	}
	connection, err := s.options.Controller.Decide(r.Context(), r.actor, id, decision, conditionsOf(r))
	if err != nil {
		return nil, err
	}
	if conditionsOf(r).DryRun {
		return &response{status: http.StatusOK, header: etagHeader(connection.Etag), body: connection}, nil
	}
	if err := s.agree(r); err != nil {
		return nil, err
	}
	if now, err := s.options.Controller.Connection(r.Context(), r.actor, id); err == nil {
		connection = now
	}
	return &response{status: http.StatusOK, header: etagHeader(connection.Etag), body: connection}, nil
}

func (s *Server) removeConnection(r *request) (*response, error) {
	id, err := r.id(api.PrivateLinkServices, api.PrivateEndpointConnections)
	if err != nil {
		return nil, err
	}
	existed, err := s.options.Controller.Remove(r.Context(), r.actor, id, conditionsOf(r))
	switch {
	case err != nil && !api.IsNotFound(err):
		return nil, err
	case err != nil, !existed:
		return &response{status: http.StatusNoContent}, nil
	}
	if err := s.agree(r); err != nil {
		return nil, err
	}
	return &response{status: http.StatusOK}, nil
}

// checkVisibility tells whether a subscription can see the service of an alias. What cannot be seen and what does
// not exist are the same answer.
func (s *Server) checkVisibility(r *request) (*response, error) {
	var question api.VisibilityRequest
	if err := r.body(&question); err != nil {
		return nil, err
	}
	visible, err := s.options.Controller.CheckVisibility(r.Context(), r.actor, r.scope(), question.Alias)
	if err != nil {
		return nil, err
	}
	return &response{status: http.StatusOK, body: api.Visibility{Visible: visible}}, nil
}

func (s *Server) autoApproved(r *request) (*response, error) {
	services, err := s.options.Controller.AutoApproved(r.Context(), r.actor, r.scope(), r.parameters["location"])
	if err != nil {
		return nil, err
	}
	elements := make([]listed, len(services))
	for i, service := range services {
		elements[i] = listed{strings.ToLower(service.PrivateLinkService), service}
	}
	return page(r, elements)
}

// endpointType is one kind of resource that endpoints can be made for.
type endpointType struct {
	Name         string `json:"name"`
	ID           string `json:"id"`
	Type         string `json:"type"`
	ResourceName string `json:"resourceName"`
	DisplayName  string `json:"displayName"`
}

// availableTypes tells what endpoints can be made for: private link services and nothing else.
func (s *Server) availableTypes(r *request) (*response, error) {
	const name = "Microsoft.Network.privateLinkServices"
	return page(r, []listed{{name, endpointType{
		Name:         name,
		ID:           "/subscriptions/" + r.parameters["subscription"] + provider + "/AvailablePrivateEndpointTypes/" + name,
		Type:         api.Namespace + "/AvailablePrivateEndpointTypes",
		ResourceName: api.PrivateLinkServices.Type(),
		DisplayName:  "Private link service",
	}}})
}
