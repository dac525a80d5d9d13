package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"sort"
	"strings"

	"github.com/privlink/privlink/pkg/api"
)

// change is one property that a write would change.
type change struct {
	Property string `json:"property"`
	From     any    `json:"from"`
	To       any    `json:"to"`
}

// differences are the properties in which a resource after a write is not what it was before. Both are reduced to what
// a writer decides: no ids, etags and states.
func differences(kind api.Kind, before, after json.RawMessage) ([]change, error) {
	from, err := decided(kind, before)
	if err != nil {
		return nil, err
	}
	to, err := decided(kind, after)
	if err != nil {
		return nil, err
	}
	var changes []change
	compare("", from, to, &changes)
	return changes, nil
}

// decided is a resource as a JSON tree of what its writer decides.
func decided(kind api.Kind, text json.RawMessage) (any, error) {
	resource, err := api.Decode(text, kind, api.Tolerant)
	if err != nil {
		return nil, fmt.Errorf("compare resources: %w", err)
	}
	api.ClearReadOnly(resource)
	if text, err = json.Marshal(resource); err != nil {
		return nil, fmt.Errorf("compare resources: %w", err)
	}
	var tree any
	if err := json.Unmarshal(text, &tree); err != nil {
		return nil, fmt.Errorf("compare resources: %w", err)
	}
	return strip(tree, true), nil
}

// strip removes what names and stamps a resource or a part of one and what is empty. A reference, an object that has an id and
// nothing else, keeps it.
func strip(tree any, root bool) any {
	switch v := tree.(type) {
	case map[string]any:
		_, named := v["name"]
		if root || named {
			for _, key := range []string{"id", "type", "etag"} {
				delete(v, key)
			}
		}
		if root {
			delete(v, "name")
		}
		for key, child := range v {
			if child = strip(child, false); child == nil {
				delete(v, key)
			} else {
				v[key] = child
			}
		}
		if len(v) == 0 {
			return nil
		}
	case []any:
		for i := range v {
			v[i] = strip(v[i], false)
		}
		if len(v) == 0 {
			return nil
		}
	}
	return tree
}

// compare adds the differences below path. Lists of named parts are compared part by part.
func compare(path string, from, to any, changes *[]change) {
	if fromMap, toMap := asMap(from), asMap(to); fromMap != nil && toMap != nil {
		for _, key := range keysOf(fromMap, toMap) {
			compare(join(path, key), fromMap[key], toMap[key], changes)
		}
		return
	}
	fromParts, toParts := byName(from), byName(to)
	if fromParts != nil && toParts != nil {
		for _, key := range keysOf(fromParts, toParts) {
			compare(path+"["+key+"]", fromParts[key], toParts[key], changes)
		}
		return
	}
	if !same(from, to) {
		*changes = append(*changes, change{path, from, to})
	}
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func asMap(v any) map[string]any {
	m, _ := v.(map[string]any)
	return m
}

// byName is a list of named parts by name in lower case, or nil if v is none.
func byName(v any) map[string]any {
	list, ok := v.([]any)
	if !ok {
		return nil
	}
	parts := map[string]any{}
	for _, element := range list {
		name, ok := asMap(element)["name"].(string)
		if !ok {
			return nil
		}
		parts[strings.ToLower(name)] = element
	}
	return parts
}

func keysOf(a, b map[string]any) []string {
	var keys []string
	for key := range a {
		keys = append(keys, key)
	}
	for key := range b {
		if !slices.Contains(keys, key) {
			keys = append(keys, key)
		}
	}
	sort.Strings(keys)
	return keys
}

// same compares values; text, ids and names most of all, without case.
func same(a, b any) bool { return strings.EqualFold(show(a), show(b)) }

// show is a value for people.
func show(v any) string {
	switch v := v.(type) {
	case nil:
		return "(none)"
	case string:
		return v
	case map[string]any:
		if id, ok := v["id"].(string); ok && len(v) == 1 {
			return id
		}
	}
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(text)
}
