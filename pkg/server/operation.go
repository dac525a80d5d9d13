package server

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"

	"github.com/privlink/privlink/pkg/api"
)

// A long-running operation is told by what it does to which resource; how far it is, the resource says. So nothing is
// kept of it, and its URL works after a restart too.
type operation struct {
	ID     string `json:"i"`
	Delete bool   `json:"d,omitempty"`
	// GUID of the resource when the operation began would tell a new resource of the same name from the old
	// one; the etag does that for deletes.
	Etag string `json:"e,omitempty"`
}

// operationBody is what Azure-AsyncOperation URLs answer.
type operationBody struct {
	ID     string     `json:"id,omitempty"`
	Name   string     `json:"name,omitempty"`
	Status string     `json:"status"`
	Error  *api.Error `json:"error,omitempty"`
}

// States of an operation.
const (
	inProgress = "InProgress"
	succeeded  = "Succeeded"
	failed     = "Failed"
)

const retryAfter = "1" // seconds; the smallest that clients heed

// path is the operation's URL; results chooses the one of the Location header.
func (o operation) link(r *request, location string, results bool) string {
	id, err := api.ParseID(o.ID, api.ID{})
	text, failed := json.Marshal(o)
	if err != nil || failed != nil {
		return "" // made of an id that was parsed before
	}
	last := "operations"
	if results {
		last = "operationResults"
	}
	if location == "" {
		location = "local"
	}
	u := url.URL{
		Path: "/subscriptions/" + id.Subscription + "/providers/" + api.Namespace + "/locations/" + location + "/" + last + "/" +
			base64.RawURLEncoding.EncodeToString(text),
		RawQuery: url.Values{"api-version": {queryValue(r.URL.Query(), "api-version")}}.Encode(),
	}
	if queryValue(r.URL.Query(), "api-version") == "" {
		u.RawQuery = url.Values{"api-version": {api.LatestVersion}}.Encode()
	}
	return r.absolute(&u)
}

// begin is the header that makes an answer a long-running operation.
func (o operation) begin(r *request, location string) map[string]string {
	header := map[string]string{
		"Azure-AsyncOperation": o.link(r, location, false),
		"Retry-After":          retryAfter,
	}
	if o.Delete {
		header["Location"] = o.link(r, location, true)
	}
	return header
}

// readOperation is the operation that the path names, and the resource it changes.
func readOperation(r *request) (operation, api.ID, error) {
	var o operation
	text, err := base64.RawURLEncoding.DecodeString(r.parameters["operation"])
	if err == nil {
		err = json.Unmarshal(text, &o)
	}
	if err != nil {
		return o, api.ID{}, noOperation()
	}
	id, err := api.ParseID(o.ID, api.ID{})
	if err != nil {
		return o, id, noOperation()
	}
	return o, id, nil
}

func noOperation() error {
	return api.NewError(http.StatusNotFound, api.CodeNotFound, "", "there is no such operation")
}

// state is how far the operation is.
func (s *Server) state(r *request) (operationBody, error) {
	body := operationBody{Name: r.parameters["operation"], ID: r.URL.Path, Status: inProgress}
	o, id, err := readOperation(r)
	if err != nil {
		return body, err
	}
	resource, err := s.options.Controller.Get(r.Context(), r.actor, id)
	switch {
	case api.IsNotFound(err) && o.Delete:
		body.Status = succeeded
		return body, nil
	case api.IsNotFound(err):
		body.Status, body.Error = failed, api.AsError(err)
		return body, nil
	case err != nil:
		return body, err
	}
	switch state := *resource.State(); {
	case state == api.Failed:
		body.Status, body.Error = failed, api.NewError(http.StatusConflict, api.CodeDataplane, "", "%s", failureReason(resource))
	case o.Delete && state != api.Deleting:
		body.Status = succeeded // it was deleted, and somebody made another
	case !o.Delete && state == api.Succeeded:
		body.Status = succeeded
	}
	return body, nil
}

func failureReason(r api.Resource) string {
	reason := ""
	switch r := r.(type) {
	case *api.VirtualNetwork:
		reason = r.Properties.FailureReason
	case *api.LoadBalancer:
		reason = r.Properties.FailureReason
	case *api.PrivateLinkService:
		reason = r.Properties.FailureReason
	case *api.PrivateEndpoint:
		reason = r.Properties.FailureReason
	}
	if reason == "" {
		reason = "the kernel did not take it; the daemon's log has the cause"
	}
	return reason
}

func (s *Server) getOperation(r *request) (*response, error) {
	body, err := s.state(r)
	if err != nil {
		return nil, err
	}
	header := map[string]string{}
	if body.Status == inProgress {
		header["Retry-After"] = retryAfter
	}
	return &response{status: http.StatusOK, header: header, body: body}, nil
}

func (s *Server) getOperationResult(r *request) (*response, error) {
	body, err := s.state(r)
	switch {
	case err != nil:
		return nil, err
	case body.Status == inProgress:
		return &response{status: http.StatusAccepted, header: map[string]string{"Location": r.absolute(r.URL), "Retry-After": retryAfter}}, nil
	case body.Status == failed:
		return nil, body.Error
	}
	return &response{status: http.StatusNoContent}, nil
}

// settle waits for the kernel to agree with a resource that was written, Options.Quick at most. It returns the
// resource as it is then and, if the kernel needs longer or did not take it, the header of a long-running operation.
func (s *Server) settle(r *request, id api.ID, written api.Resource) (api.Resource, map[string]string, error) {
	ctx, cancel := context.WithTimeout(r.Context(), s.options.Quick)
	defer cancel()
	// Whether it agreed, failed or was too slow is the resource's to say.
	_ = s.options.Controller.Wait(ctx, id)
	if err := r.Context().Err(); err != nil {
		return nil, nil, err
	}
	resource, err := s.options.Controller.Get(r.Context(), r.actor, id)
	switch {
	case api.IsNotFound(err):
		resource = written // somebody deleted it already
	case err != nil:
		return nil, nil, err
	}
	if resource == nil || *resource.State() == api.Succeeded {
		return resource, nil, nil
	}
	return resource, operation{ID: id.String()}.begin(r, resource.Meta().Location), nil
}

// agree waits until the kernel agrees with everything written so far, Options.Quick at most.
func (s *Server) agree(r *request) error {
	ctx, cancel := context.WithTimeout(r.Context(), s.options.Quick)
	defer cancel()
	err := s.options.Controller.WaitRevision(ctx, s.options.Controller.Revision())
	if ctx.Err() != nil {
		return r.Context().Err() // slow is no failure: what was written stands
	}
	return err
}
