package server

import (
	"bytes"
	"encoding/json"
	"reflect"
	"slices"
	"sort"
	"strings"

	"github.com/privlink/privlink/pkg/api"
)

// $expand puts what a resource refers to in place of the references, as far as the caller may read it: names of properties
// below "properties", those of parts behind a slash ("networkInterfaces", "subnets/ipConfigurations"), several with commas.

// expandable are the names that $expand takes for a type, in order, and whether what is there are references; parts are there in full
// already.
func expandable(t reflect.Type) (names []string, references map[string]bool) {
	references = map[string]bool{}
	collectExpandable(t, "", references)
	for name := range references {
		names = append(names, name)
	}
	sort.Strings(names)
	return names, references
}

func collectExpandable(t reflect.Type, prefix string, into map[string]bool) {
	properties, ok := t.FieldByName("Properties")
	if !ok {
		return
	}
	for i := range properties.Type.NumField() {
		f := properties.Type.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		element := f.Type
		if element.Kind() == reflect.Slice || element.Kind() == reflect.Pointer {
			element = element.Elem()
		}
		switch {
		case element == reflect.TypeFor[api.SubResource]():
			into[prefix+name] = true
		case f.Type.Kind() == reflect.Slice && element.Kind() == reflect.Struct && hasProperties(element):
			into[prefix+name] = false
			collectExpandable(element, prefix+name+"/", into)
		}
	}
}

func hasProperties(t reflect.Type) bool {
	_, ok := t.FieldByName("Properties")
	return ok
}

// expanded is a body with what the request's $expand names in place of the references.
func (s *Server) expanded(r *request, body any) (any, error) {
	text := queryValue(r.URL.Query(), "$expand")
	if text == "" {
		return body, nil
	}
	names, references := expandable(reflect.Indirect(reflect.ValueOf(body)).Type())
	var wanted [][]string
	for _, path := range strings.Split(text, ",") {
		path = strings.Trim(strings.TrimSpace(path), "/")
		i := slices.IndexFunc(names, func(name string) bool { return strings.EqualFold(name, path) })
		if i < 0 {
			return nil, api.Invalid("$expand", "%q cannot be expanded here (%s can)", path, strings.Join(names, ", "))
		}
		if references[names[i]] {
			wanted = append(wanted, strings.Split(names[i], "/"))
		}
	}
	tree, err := treeOf(body)
	if err != nil {
		return nil, err
	}
	for _, path := range wanted {
		if err := s.expand(r, tree, path); err != nil {
			return nil, err
		}
	}
	return tree, nil
}

// treeOf is a value as its JSON reads.
func treeOf(value any) (tree map[string]any, err error) {
	text, err := json.Marshal(value)
	if err != nil {
		return nil, err
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	return tree, decoder.Decode(&tree)
}

// expand exchanges the references at a path below the properties of one object.
func (s *Server) expand(r *request, object map[string]any, path []string) error {
	properties, _ := object["properties"].(map[string]any)
	each := func(value any) (any, error) {
		inner, ok := value.(map[string]any)
		switch {
		case !ok:
			return value, nil
		case len(path) > 1:
			return value, s.expand(r, inner, path[1:])
		}
		return s.referred(r, inner)
	}
	switch value := properties[path[0]].(type) {
	case nil:
	case []any:
		for i := range value {
			var err error
			if value[i], err = each(value[i]); err != nil {
				return err
			}
		}
	default:
		var err error
		if properties[path[0]], err = each(value); err != nil {
			return err
		}
	}
	return nil
}

// referred is what a reference names as the caller reads it, or the reference where he may not read it.
func (s *Server) referred(r *request, reference map[string]any) (any, error) {
	text, _ := reference["id"].(string)
	id, err := api.ParseID(text, api.ID{})
	if err != nil {
		return reference, nil //nolint:nilerr // of no kind known here: a virtual machine
	}
	var found any
	if id.ChildType == "" {
		found, err = s.options.Controller.Get(r.Context(), r.actor, id)
	} else {
		found, err = s.options.Controller.GetPart(r.Context(), r.actor, id)
	}
	switch {
	case api.IsNotFound(err):
		return reference, nil
	case err != nil:
		return nil, err
	}
	return treeOf(found)
}
