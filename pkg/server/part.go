package server

import (
	"maps"
	"net/http"
	"reflect"
	"strings"

	"github.com/privlink/privlink/pkg/api"
)

// Parts are what stands in lists inside resources (subnets, backend pools, ...) and has paths of its own. Writing one is
// writing its resource with that one exchanged.

// partsOf is the list of a collection inside a resource, addressable; the zero Value if the resource has none such.
func partsOf(r api.Resource, collection string) reflect.Value {
	properties := reflect.ValueOf(r).Elem().FieldByName("Properties")
	for i := range properties.NumField() {
		name, _, _ := strings.Cut(properties.Type().Field(i).Tag.Get("json"), ",")
		if strings.EqualFold(name, collection) {
			return properties.Field(i)
		}
	}
	return reflect.Value{}
}

func partName(part reflect.Value) string { return part.FieldByName("Name").String() }

// findPart is the index of a part by name in any case, or -1.
func findPart(parts reflect.Value, name string) int {
	for i := range parts.Len() {
		if strings.EqualFold(partName(parts.Index(i)), name) {
			return i
		}
	}
	return -1
}

func (s *Server) getPart(kind api.Kind, collection string) func(*request) (*response, error) {
	return func(r *request) (*response, error) {
		id, err := r.id(kind, collection)
		if err != nil {
			return nil, err
		}
		resource, err := s.options.Controller.Get(r.Context(), r.actor, id.Parent())
		if err != nil {
			return nil, err
		}
		answer, err := partResponse(http.StatusOK, resource, id)
		if err != nil {
			return nil, err
		}
		answer.body, err = s.expanded(r, answer.body)
		return answer, err
	}
}

// partResponse answers with one part of a resource.
func partResponse(status int, resource api.Resource, id api.ID) (*response, error) {
	parts := partsOf(resource, id.ChildType)
	i := -1
	if parts.IsValid() {
		i = findPart(parts, id.Child)
	}
	if i < 0 {
		return nil, api.NotFound(id)
	}
	return &response{status: status, header: etagHeader(resource.Meta().Etag), body: parts.Index(i).Interface()}, nil
}

func (s *Server) listParts(kind api.Kind, collection string) func(*request) (*response, error) {
	return func(r *request) (*response, error) {
		id, err := r.id(kind, "")
		if err != nil {
			return nil, err
		}
		parts, err := s.options.Controller.ListParts(r.Context(), r.actor, id, collection)
		if err != nil {
			return nil, err
		}
		elements := make([]listed, len(parts))
		for i, part := range parts {
			elements[i] = listed{strings.ToLower(partName(reflect.ValueOf(part).Elem())), part}
		}
		return page(r, elements)
	}
}

func (s *Server) putPart(kind api.Kind, collection string) func(*request) (*response, error) {
	return func(r *request) (*response, error) {
		id, err := r.id(kind, collection)
		if err != nil {
			return nil, err
		}
		body, err := readBody(r.writer, r.Request)
		if err != nil {
			return nil, err
		}
		outcome, err := s.options.Controller.PutPart(r.Context(), r.actor, id, body, api.Tolerant, conditionsOf(r))
		if err != nil {
			return nil, err
		}
		status := http.StatusOK
		if findPart(partsOf(outcome.Before, collection), id.Child) < 0 {
			status = http.StatusCreated
		}
		resource, header, err := s.settle(r, id.Parent(), outcome.Resource)
		if err != nil {
			return nil, err
		}
		answer, err := partResponse(status, resource, id)
		if err != nil {
			return nil, err
		}
		maps.Copy(answer.header, header)
		return answer, nil
	}
}

func (s *Server) deletePart(kind api.Kind, collection string) func(*request) (*response, error) {
	return func(r *request) (*response, error) {
		id, err := r.id(kind, collection)
		if err != nil {
			return nil, err
		}
		outcome, err := s.options.Controller.DeletePart(r.Context(), r.actor, id, conditionsOf(r))
		switch {
		case err != nil && !api.IsNotFound(err):
			return nil, err
		case err != nil, !outcome.Changed:
			return &response{status: http.StatusNoContent}, nil
		}
		if _, _, err := s.settle(r, id.Parent(), outcome.Resource); err != nil {
			return nil, err
		}
		return &response{status: http.StatusOK}, nil
	}
}

func etagHeader(etag string) map[string]string {
	header := map[string]string{}
	if etag != "" {
		header["ETag"] = etag
	}
	return header
}
