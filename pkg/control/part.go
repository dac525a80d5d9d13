package control

import (
	"context"
	"reflect"
	"slices"
	"strings"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/auth"
)

// Parts of resources (subnets, peerings, pools, ...) are read and written as what they are: elements of lists
// of their resource. A write of a part is a write of its resource.

// partList is the list of a resource's properties with this JSON name, or the zero Value.
func partList(r api.Resource, collection string) reflect.Value {
	props := reflect.ValueOf(r).Elem().FieldByName("Properties")
	for i := range props.NumField() {
		name, _, _ := strings.Cut(props.Type().Field(i).Tag.Get("json"), ",")
		if strings.EqualFold(name, collection) && props.Field(i).Kind() == reflect.Slice {
			return props.Field(i)
		}
	}
	return reflect.Value{}
}

// findPart is the index of the element with a name, or -1.
func findPart(list reflect.Value, name string) int {
	for i := range list.Len() {
		if strings.EqualFold(list.Index(i).FieldByName("Name").String(), name) {
			return i
		}
	}
	return -1
}

// GetPart reads a part of a resource: a pointer to its type in pkg/api.
func (c *Controller) GetPart(ctx context.Context, who auth.Actor, id api.ID) (any, error) {
	r, err := c.Get(ctx, who, id.Parent())
	if err != nil {
		return nil, err
	}
	list := partList(r, id.ChildType)
	if !list.IsValid() {
		return nil, api.NotFound(id)
	}
	i := findPart(list, id.Child)
	if i < 0 {
		return nil, api.NotFound(id)
	}
	return list.Index(i).Addr().Interface(), nil
}

// ListParts reads all parts of a collection of a resource: pointers to their type in pkg/api.
func (c *Controller) ListParts(ctx context.Context, who auth.Actor, parent api.ID, collection string) ([]any, error) {
	r, err := c.Get(ctx, who, parent)
	if err != nil {
		return nil, err
	}
	list := partList(r, collection)
	parts := []any{}
	if list.IsValid() {
		for i := range list.Len() {
			parts = append(parts, list.Index(i).Addr().Interface())
		}
	}
	return parts, nil
}

// PutPart makes or replaces a part of a resource that exists. body is the part's JSON.
func (c *Controller) PutPart(ctx context.Context, who auth.Actor, id api.ID, body []byte, mode api.Strictness, when Conditions) (Outcome, error) {
	return c.changePart(ctx, who, id, when, func(r api.Resource, list reflect.Value) error {
		part := reflect.New(list.Type().Elem())
		if err := api.DecodeInto(body, part.Interface(), mode); err != nil {
			return err
		}
		name := part.Elem().FieldByName("Name")
		if name.String() != "" && !strings.EqualFold(name.String(), id.Child) {
			return api.Invalid("name", "%q is not the name in the resource id, %q", name.String(), id.Child)
		}
		name.SetString(id.Child)
		if i := findPart(list, id.Child); i >= 0 {
			list.Index(i).Set(part.Elem())
		} else {
			list.Set(reflect.Append(list, part.Elem()))
		}
		return nil
	})
}

// DeletePart takes a part out of its resource. Outcome.Changed is false if it was not there.
func (c *Controller) DeletePart(ctx context.Context, who auth.Actor, id api.ID, when Conditions) (Outcome, error) {
	return c.changePart(ctx, who, id, when, func(r api.Resource, list reflect.Value) error {
		i := findPart(list, id.Child)
		if i < 0 {
			return nil
		}
		list.Set(reflect.AppendSlice(list.Slice(0, i), list.Slice(i+1, list.Len())))
		return nil
	})
}

// changeable are the collections whose parts can be written by themselves.
func changeable(id api.ID) bool {
	return slices.Contains([]string{api.Subnets, api.Peerings, api.BackendAddressPools, api.InboundNATRules}, id.ChildType)
}

// checkPart holds conditions against a part of a resource that exists.
func checkPart(when Conditions, parent *record, id api.ID) error {
	list := partList(parent.resource, id.ChildType)
	if !list.IsValid() || findPart(list, id.Child) < 0 {
		return when.Check(nil, "")
	}
	return when.Check(&id, etag(parent))
}

func (c *Controller) changePart(ctx context.Context, who auth.Actor, id api.ID, when Conditions, change func(api.Resource, reflect.Value) error) (Outcome, error) {
	if err := who.Check(auth.Write, id.Parent()); err != nil {
		return Outcome{}, err
	}
	if !changeable(id) {
		return Outcome{}, api.NewError(405, api.CodeMethodNotAllowed, "", "%s are written with their %s only", id.ChildType, api.Kind(id.Type).Noun())
	}
	step := Step{ID: id.Parent(), When: when, part: id, change: func(r api.Resource) error { return change(r, partList(r, id.ChildType)) }}
	out, err := c.batch(ctx, who, []Step{step}, when.DryRun)
	if err != nil {
		return Outcome{}, err
	}
	return out[0], nil
}
