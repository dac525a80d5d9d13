package server

import (
	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/auth"
)

// scope is what a route is about, as its path names it: it refuses who may not do there what the route needs. It is asked
// before the handler, and before anybody has looked whether there is such a thing, so that its answer cannot tell.
type scope func(r *request, needs auth.Action) error

// named is the resource of a kind that the path names, or the resource of the part that it names.
func named(kind api.Kind, childType string) scope {
	return func(r *request, needs auth.Action) error {
		id, err := r.id(kind, childType)
		if err != nil {
			return err
		}
		return r.actor.Check(needs, id.Parent())
	}
}

// within is the resource group or subscription that the path names, for who may do this to something in it.
func within(r *request, needs auth.Action) error {
	path := auth.GroupScope(r.parameters["subscription"], r.parameters["group"])
	if r.actor.MayBelow(needs, path) {
		return nil
	}
	return r.actor.Forbidden(needs, path)
}

// everything is the node with all that it has.
func everything(r *request, needs auth.Action) error {
	if r.actor.May(needs, auth.Everything) {
		return nil
	}
	return r.actor.Forbidden(needs, auth.Everything)
}

// ofOperation is the resource that a long-running operation changes.
func ofOperation(r *request, needs auth.Action) error {
	_, id, err := readOperation(r)
	if err != nil {
		return err
	}
	if r.actor.May(needs, id.Parent().String()) {
		return nil
	}
	return noOperation()
}

// eachByItself is no scope of the path's: the path is everybody's, the body or the answer has many things, and the Controller
// decides for each of them whether it is this caller's to see or change.
func eachByItself(*request, auth.Action) error { return nil }
