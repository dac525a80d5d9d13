package auth

import (
	"fmt"
	"strings"
	"time"

	"github.com/privlink/privlink/pkg/api"
)

// Role is a set of actions.
type Role string

// Roles. Contributor is everything but access control.
const (
	Owner       Role = "Owner"
	Contributor Role = "Contributor"
	Reader      Role = "Reader"
)

// ParseRole reads a role in any case.
func ParseRole(s string) (Role, error) {
	for _, r := range []Role{Owner, Contributor, Reader} {
		if strings.EqualFold(s, string(r)) {
			return r, nil
		}
	}
	return "", api.Invalid("role", "%q is not one of Owner, Contributor, Reader", s)
}

// Action is what a request wants to do.
type Action uint8

// Actions.
const (
	Read    Action = iota // see resources
	Write                 // create, change and delete them, approve and reject connections
	Control               // subscriptions, principals, tokens and role assignments
)

// String is the action as errors name it.
func (a Action) String() string { return [...]string{"read", "write", "control access to"}[a] }

func (r Role) allows(a Action) bool {
	switch r {
	case Owner:
		return true
	case Contributor:
		return a <= Write
	case Reader:
		return a == Read
	}
	return false
}

// Everything is the scope that holds all others.
const Everything = "/"

// Grant is a role on a scope: Everything, a subscription, a resource group or a resource, as the
// beginning of an id.
type Grant struct {
	Role  Role   `json:"role"`
	Scope string `json:"scope"`
}

// covers tells whether scope holds what is at path; both compared by whole segments, in any case.
func covers(scope, path string) bool {
	scope = strings.ToLower(strings.TrimRight(scope, "/"))
	path = strings.ToLower(strings.TrimRight(path, "/"))
	return strings.HasPrefix(path, scope) && (len(path) == len(scope) || path[len(scope)] == '/')
}

// SubscriptionScope is the scope of a subscription.
func SubscriptionScope(subscription string) string { return "/subscriptions/" + subscription }

// GroupScope is the scope of a resource group; with an empty group that of the subscription.
func GroupScope(subscription, group string) string {
	if group == "" {
		return SubscriptionScope(subscription)
	}
	return SubscriptionScope(subscription) + "/resourceGroups/" + group
}

// CheckScope refuses what is not the beginning of an id, and gives the rest its usual spelling.
func CheckScope(scope string) (string, error) {
	if scope == Everything {
		return scope, nil
	}
	parts := strings.Split(strings.Trim(scope, "/"), "/")
	bad := api.Invalid("scope", "%q is not a scope (want /, /subscriptions/S, /subscriptions/S/resourceGroups/G or a resource id)", scope)
	if !strings.HasPrefix(scope, "/") || !strings.EqualFold(parts[0], "subscriptions") {
		return "", bad
	}
	switch {
	case len(parts) == 2 && parts[1] != "":
		return SubscriptionScope(parts[1]), nil
	case len(parts) == 4 && parts[1] != "" && strings.EqualFold(parts[2], "resourceGroups") && parts[3] != "":
		return GroupScope(parts[1], parts[3]), nil
	}
	id, err := api.ParseID(scope, api.ID{})
	if err != nil || id.ChildType != "" {
		return "", bad
	}
	return id.String(), nil
}

// Actor is who makes a request. It is a value, made anew for each request.
type Actor struct {
	Principal string // name of the principal
	Tenant    string
	From      string // where the request came from, for the audit log
	Grants    []Grant
	// Token is the id of the token that the actor showed, if any; Expires is when that becomes worthless (zero: never).
	Token   string
	Expires time.Time
}

// Root is the actor that may do everything, as root on the socket at first start.
func Root() Actor {
	return Actor{Principal: "root", Tenant: "root", From: "local", Grants: []Grant{{Owner, Everything}}}
}

// System is the daemon itself, when time or the network ask for a change.
func System() Actor {
	return Actor{Principal: "privlink", Tenant: "privlink", From: "daemon", Grants: []Grant{{Owner, Everything}}}
}

// May tells whether the actor may do this at path: an id, or the scope of a collection.
func (a Actor) May(action Action, path string) bool {
	for _, g := range a.Grants {
		if g.Role.allows(action) && covers(g.Scope, path) {
			return true
		}
	}
	return false
}

// MayBelow tells whether the actor may do this to something at path or below it: whether a list of
// path can have entries for it.
func (a Actor) MayBelow(action Action, path string) bool {
	for _, g := range a.Grants {
		if g.Role.allows(action) && (covers(g.Scope, path) || covers(path, g.Scope)) {
			return true
		}
	}
	return false
}

// Check is nil if the actor may do this to the resource. Who may not even read it learns that it was not
// found (404), whether it exists or not; who may read it learns that he may not do this (403).
func (a Actor) Check(action Action, id api.ID) error {
	if a.May(action, id.String()) {
		return nil
	}
	if !a.May(Read, id.String()) {
		return api.NotFound(id)
	}
	return a.Forbidden(action, id.String())
}

// Forbidden is the refusal of an action at a scope.
func (a Actor) Forbidden(action Action, scope string) error {
	return api.NewError(403, api.CodeForbidden, "", "%s may not %s %s", a, action, scope)
}

// String is the actor as errors and the audit log name it.
func (a Actor) String() string { return fmt.Sprintf("principal %q", a.Principal) }
