package server

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/auth"
)

// Access control: subscriptions, principals, tokens, roles, and the journal of what was changed.

// wholeList answers with all values in their order.
func wholeList[T any](r *request, values []T, err error) (*response, error) {
	if err != nil {
		return nil, err
	}
	elements := make([]listed, len(values))
	for i, value := range values {
		elements[i] = listed{key: position(i), value: value}
	}
	return page(r, elements)
}

// position is a number that sorts as text.
func position(i int) string {
	text := strconv.Itoa(i)
	return strings.Repeat("0", 10-len(text)) + text
}

// deleteAccess answers 204 where there was nothing.
func (s *Server) deleteAccess(remove func(context.Context, auth.Actor, string) error) func(*request) (*response, error) {
	return func(r *request) (*response, error) {
		err := remove(r.Context(), r.actor, r.parameters["name"])
		switch {
		case api.IsNotFound(err):
			return &response{status: http.StatusNoContent}, nil
		case err != nil:
			return nil, err
		}
		return &response{status: http.StatusOK}, nil
	}
}

func (s *Server) listSubscriptions(r *request) (*response, error) {
	list, err := s.options.Controller.Subscriptions(r.Context(), r.actor)
	return wholeList(r, list, err)
}

func (s *Server) putSubscription(r *request) (*response, error) {
	var body api.Subscription
	if err := r.body(&body); err != nil {
		return nil, err
	}
	if err := r.named(&body.Name); err != nil {
		return nil, err
	}
	made, err := s.options.Controller.PutSubscription(r.Context(), r.actor, body)
	return answered(http.StatusOK, made, err)
}

func (s *Server) listPrincipals(r *request) (*response, error) {
	list, err := s.options.Controller.Principals(r.Context(), r.actor)
	return wholeList(r, list, err)
}

func (s *Server) putPrincipal(r *request) (*response, error) {
	var body api.Principal
	if err := r.body(&body); err != nil {
		return nil, err
	}
	if err := r.named(&body.Name); err != nil {
		return nil, err
	}
	made, err := s.options.Controller.PutPrincipal(r.Context(), r.actor, body)
	return answered(http.StatusOK, made, err)
}

func (s *Server) listTokens(r *request) (*response, error) {
	list, err := s.options.Controller.Tokens(r.Context(), r.actor)
	return wholeList(r, list, err)
}

func (s *Server) createToken(r *request) (*response, error) {
	var body api.TokenRequest
	if err := r.body(&body); err != nil {
		return nil, err
	}
	if body.LifeInSeconds > int64(api.MaxTokenLife/time.Second) {
		return nil, api.Invalid("lifeInSeconds", "%d is more than %d", body.LifeInSeconds, int64(api.MaxTokenLife/time.Second))
	}
	made, err := s.options.Controller.CreateToken(r.Context(), r.actor, body.Principal, time.Duration(body.LifeInSeconds)*time.Second)
	return answered(http.StatusCreated, made, err)
}

func (s *Server) listRoles(r *request) (*response, error) {
	list, err := s.options.Controller.Roles(r.Context(), r.actor)
	return wholeList(r, list, err)
}

func (s *Server) createRole(r *request) (*response, error) {
	var body api.RoleAssignment
	if err := r.body(&body); err != nil {
		return nil, err
	}
	made, err := s.options.Controller.PutRole(r.Context(), r.actor, body)
	return answered(http.StatusCreated, made, err)
}

func answered(status int, body any, err error) (*response, error) {
	if err != nil {
		return nil, err
	}
	return &response{status: status, body: body}, nil
}

// named sets a body's name to that of the path, or refuses another one.
func (r *request) named(name *string) error {
	if *name != "" && *name != r.parameters["name"] {
		return api.Invalid("name", "%q is not the name in the path, %q", *name, r.parameters["name"])
	}
	*name = r.parameters["name"]
	return nil
}

// Entries of the journal in one answer, and how long a request for later ones may wait.
const (
	journalPage = 1000
	journalWait = 30 * time.Second
)

// readJournal answers with entries after a number (after=N), and waits for some if there are none (wait=true). nextLink goes on from there.
func (s *Server) readJournal(r *request) (*response, error) {
	query := r.URL.Query()
	after := uint64(0)
	if text := queryValue(query, "after"); text != "" {
		var err error
		if after, err = strconv.ParseUint(text, 10, 64); err != nil {
			return nil, api.Invalid("after", "%q is not the number of an entry", text)
		}
	}
	body := api.Journal{}
	var err error
	body.Value, body.Next, err = s.options.Controller.Journal(r.Context(), r.actor, after, journalPage)
	if err != nil {
		return nil, err
	}
	if len(body.Value) == 0 && flag(r, "wait") {
		ctx, cancel := context.WithTimeout(r.Context(), journalWait)
		defer cancel()
		defer context.AfterFunc(s.ending, cancel)()
		_ = s.options.Controller.WaitJournal(ctx, body.Next) // nothing new is an answer too
		if r.Context().Err() != nil {
			return nil, r.Context().Err()
		}
		if body.Value, body.Next, err = s.options.Controller.Journal(r.Context(), r.actor, body.Next, journalPage); err != nil {
			return nil, err
		}
	}
	if len(body.Value) == journalPage {
		next := *r.URL
		next.RawQuery = url.Values{"after": {strconv.FormatUint(body.Next, 10)}}.Encode()
		body.NextLink = r.absolute(&next)
	}
	return &response{status: http.StatusOK, body: body}, nil
}
