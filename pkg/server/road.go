package server

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"runtime/debug"
	"strings"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/auth"
	"github.com/privlink/privlink/pkg/control"
	"github.com/privlink/privlink/pkg/store"
)

// request is a request on its way to a handler.
type request struct {
	*http.Request
	server     *Server
	writer     http.ResponseWriter
	actor      auth.Actor
	parameters map[string]string
}

// response is what a handler answers.
type response struct {
	status int
	header map[string]string
	body   any // nil: none
}

// ServeHTTP is the one road of every request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id := requestID()
	w.Header().Set("x-ms-request-id", id)
	w.Header().Set("x-ms-correlation-request-id", id)
	w.Header().Set("X-Content-Type-Options", "nosniff")
	log := s.options.Log.WithFields(logrus.Fields{"request": id, "method": r.Method, "path": r.URL.Path})
	defer func() {
		cause := recover()
		if cause == http.ErrAbortHandler {
			panic(cause) // the handler wants the connection cut
		}
		if cause != nil {
			log.WithFields(logrus.Fields{"cause": cause, "stack": string(debug.Stack())}).Error("request ended in a panic")
			writeError(w, api.NewError(http.StatusInternalServerError, api.CodeInternal, "", "internal error (request %s)", id))
		}
	}()
	answer, err := s.answer(w, r)
	if err != nil {
		s.refuse(w, r, log, id, err)
		return
	}
	if answer == nil {
		return // the handler wrote itself
	}
	for name, value := range answer.header {
		w.Header().Set(name, value)
	}
	writeJSON(w, answer.status, answer.body)
}

func (s *Server) answer(w http.ResponseWriter, r *http.Request) (*response, error) {
	actor, err := s.options.Identifier.Identify(r.Context(), peerOf(r))
	if err != nil {
		return nil, err
	}
	found, parameters, err := s.routes.find(r.Method, r.URL)
	if err != nil {
		return nil, err
	}
	if strings.HasPrefix(found.path, "/subscriptions") {
		if err := api.CheckVersion(queryValue(r.URL.Query(), "api-version")); err != nil {
			return nil, err
		}
	}
	asked := &request{Request: r, server: s, writer: w, actor: actor, parameters: parameters}
	if err := found.on(asked, found.needs); err != nil {
		return nil, err
	}
	return found.handle(asked)
}

// refuse answers an error. What is not the caller's fault is logged with its cause and told without.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, log *logrus.Entry, id string, err error) {
	if r.Context().Err() != nil && errors.Is(err, context.Canceled) {
		return // nobody is there to read it
	}
	refused := api.AsError(err)
	if refused.Status >= http.StatusInternalServerError {
		log.WithError(err).Error("request failed")
		var known *api.Error
		if !errors.As(err, &known) {
			refused = api.NewError(http.StatusInternalServerError, api.CodeInternal, "", "internal error (request %s; the daemon's log has the cause)", id)
		}
		for _, cause := range storeCauses() {
			if errors.Is(err, cause.is) {
				refused = api.NewError(http.StatusInsufficientStorage, api.CodeUnavailable, "",
					"the resources were not stored: %s (request %s; nothing was changed)", cause.text, id)
			}
		}
	} else {
		log.WithError(err).WithField("status", refused.Status).Debug("request refused")
	}
	if refused.Status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", "Bearer")
	}
	writeError(w, refused)
}

type storeCause struct {
	is   error
	text string
}

// storeCauses are those that an operator can mend without the log, and that give nothing away.
func storeCauses() []storeCause {
	return []storeCause{
		{unix.ENOSPC, "no space left in the state folder"},
		{unix.EROFS, "the state folder's file system is read-only"},
		{store.ErrGone, "the file in the state folder was removed or replaced, `privlink doctor` says what to do"},
	}
}

func writeError(w http.ResponseWriter, e *api.Error) {
	if e.Status < 400 {
		e = api.NewError(http.StatusInternalServerError, e.Code, e.Target, "%s", e.Message)
	}
	writeJSON(w, e.Status, api.ErrorBody{Error: e})
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	if body == nil {
		w.WriteHeader(status)
		return
	}
	text, err := json.Marshal(body)
	if err != nil {
		http.Error(w, "write answer: "+err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(append(text, '\n')) // a caller that went away needs no answer
}

// requestID is 16 random bytes in hexadecimal.
func requestID() string {
	var id [16]byte
	_, _ = rand.Read(id[:]) // cannot fail
	return hex.EncodeToString(id[:])
}

// absolute is the URL of a path on the host that the request was sent to.
func (r *request) absolute(u *url.URL) string {
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	return fmt.Sprintf("%s://%s%s", scheme, r.Host, u.RequestURI())
}

// body reads and checks the request's body as a value of pkg/api.
func (r *request) body(into any) error {
	text, err := readBody(r.writer, r.Request)
	if err != nil {
		return err
	}
	return api.DecodeInto(text, into, api.Tolerant)
}

// id is the resource that the path names: the kind, and of the parameters subscription, group, name and child.
func (r *request) id(kind api.Kind, childType string) (api.ID, error) {
	id := api.ID{
		Subscription:  r.parameters["subscription"],
		ResourceGroup: r.parameters["group"],
		Type:          string(kind),
		Name:          r.parameters["name"],
		ChildType:     childType,
		Child:         r.parameters["child"],
	}
	for _, check := range []error{
		api.CheckGroupName("subscription", id.Subscription),
		api.CheckGroupName("resource group", id.ResourceGroup),
		api.CheckName("name", id.Name),
	} {
		if check != nil {
			return id, check
		}
	}
	if childType != "" {
		return id, api.CheckName("name", id.Child)
	}
	return id, nil
}

// scope is the resource group or subscription that the path names.
func (r *request) scope() control.Scope {
	return control.Scope{Subscription: r.parameters["subscription"], ResourceGroup: r.parameters["group"]}
}
