package server

import (
	"context"
	"maps"
	"net/http"
	"strings"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/control"
)

func conditionsOf(r *request) control.Conditions {
	return control.Conditions{
		IfMatch:     r.Header.Get("If-Match"),
		IfNoneMatch: r.Header.Get("If-None-Match"),
		DryRun:      flag(r, "dryRun"),
	}
}

// flag is a query parameter that is true or absent.
func flag(r *request, name string) bool {
	return strings.EqualFold(queryValue(r.URL.Query(), name), "true")
}

func (s *Server) getResource(kind api.Kind) func(*request) (*response, error) {
	return func(r *request) (*response, error) {
		id, err := r.id(kind, "")
		if err != nil {
			return nil, err
		}
		resource, err := s.options.Controller.Get(r.Context(), r.actor, id)
		if err != nil {
			return nil, err
		}
		body, err := s.expanded(r, resource)
		return &response{status: http.StatusOK, header: etagHeader(resource.Meta().Etag), body: body}, err
	}
}

func (s *Server) putResource(kind api.Kind) func(*request) (*response, error) {
	return func(r *request) (*response, error) {
		id, err := r.id(kind, "")
		if err != nil {
			return nil, err
		}
		resource := kind.New()
		// The type a document may leave out is not the type it says.
		resource.Meta().Type = ""
		if err := r.body(resource); err != nil {
			return nil, err
		}
		return s.write(r, id, resource, conditionsOf(r))
	}
}

// write puts a resource and answers 201 or 200 as ARM does.
func (s *Server) write(r *request, id api.ID, resource api.Resource, conditions control.Conditions) (*response, error) {
	var created bool
	settled, header := resource, map[string]string(nil)
	if conditions.DryRun {
		outcome, err := s.options.Controller.Put(r.Context(), r.actor, id, resource, conditions)
		if err != nil {
			return nil, err
		}
		created, settled = outcome.Created(), outcome.Resource
	} else {
		var err error
		if created, err = s.options.Controller.Write(r.Context(), r.actor, id, resource, conditions); err != nil {
			return nil, err
		}
		if settled, header, err = s.settle(r, id, resource); err != nil {
			return nil, err
		}
	}
	status := http.StatusOK
	if created {
		status = http.StatusCreated
	}
	answer := &response{status: status, header: etagHeader(settled.Meta().Etag), body: settled}
	maps.Copy(answer.header, header)
	return answer, nil
}

// tagTries bounds how often tags are written again because somebody else changed the resource in between.
const tagTries = 10

// patchTags replaces the tags of a resource and nothing else.
func (s *Server) patchTags(kind api.Kind) func(*request) (*response, error) {
	return func(r *request) (*response, error) {
		id, err := r.id(kind, "")
		if err != nil {
			return nil, err
		}
		var body struct {
			Tags map[string]string `json:"tags"`
		}
		if err := r.body(&body); err != nil {
			return nil, err
		}
		asked := conditionsOf(r)
		for try := 1; ; try++ {
			current, err := s.options.Controller.Get(r.Context(), r.actor, id)
			if err != nil {
				return nil, err
			}
			if err := asked.Check(&id, current.Meta().Etag); err != nil {
				return nil, err
			}
			resource := api.Clone(current)
			resource.Meta().Tags = body.Tags
			answer, err := s.write(r, id, resource, control.Conditions{IfMatch: current.Meta().Etag, DryRun: asked.DryRun})
			if refused := api.AsError(err); refused != nil && refused.Status == http.StatusPreconditionFailed && r.Context().Err() == nil && try < tagTries {
				continue
			}
			if err == nil {
				answer.status = http.StatusOK
			}
			return answer, err
		}
	}
}

func (s *Server) deleteResource(kind api.Kind) func(*request) (*response, error) {
	return func(r *request) (*response, error) {
		id, err := r.id(kind, "")
		if err != nil {
			return nil, err
		}
		outcome, err := s.options.Controller.Delete(r.Context(), r.actor, id, control.DeleteOptions{Cascade: flag(r, "cascade")}, conditionsOf(r))
		switch {
		case err != nil:
			return nil, err
		case outcome.Before == nil:
			return &response{status: http.StatusNoContent}, nil
		}
		if conditionsOf(r).DryRun {
			return &response{status: http.StatusOK}, nil
		}
		if outcome.Resource == nil {
			// Gone from the store; the answer waits for the kernel as long as that is quick.
			if err := s.agree(r); err != nil {
				return nil, err
			}
			return &response{status: http.StatusOK}, nil
		}
		// Its flows end first.
		ctx, cancel := context.WithTimeout(r.Context(), s.options.Quick)
		defer cancel()
		if err := s.options.Controller.WaitGone(ctx, id); err == nil {
			return &response{status: http.StatusOK}, nil
		}
		if err := r.Context().Err(); err != nil {
			return nil, err
		}
		op := operation{ID: id.String(), Delete: true}
		return &response{status: http.StatusAccepted, header: op.begin(r, outcome.Resource.Meta().Location)}, nil
	}
}

// listResources lists the resources of a kind in a resource group, or of a subscription where the path names no group.
func (s *Server) listResources(kind api.Kind) func(*request) (*response, error) {
	return func(r *request) (*response, error) {
		resources, err := s.options.Controller.List(r.Context(), r.actor, kind, r.scope())
		if err != nil {
			return nil, err
		}
		elements := make([]listed, len(resources))
		for i, resource := range resources {
			elements[i] = listed{strings.ToLower(resource.Meta().ID), resource}
		}
		return page(r, elements)
	}
}
