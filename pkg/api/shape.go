package api

import (
	"reflect"
	"strconv"
	"strings"
	"sync"
)

// shape is what the walks through resources need to know of a struct. A load balancer may have thousands of
// backends, and reflection is asked once for each type.
type shape struct {
	fields []field
	// known are the types of the fields by lower-case JSON name, those of embedded structs included; names are the names.
	known map[string]reflect.Type
	names []string
}

// field is an exported field of a struct.
type field struct {
	index    int
	name     string // in JSON
	embedded bool
	shares   bool // it reaches a pointer, slice or map: a copy of the struct would share it
	refers   bool // it reaches a SubResource
	owns     bool // it reaches an Own
	readOnly bool // see ClearReadOnly
	reports  bool // it reaches a field that is readOnly
}

// shapes caches shapeOf by type: what reflection says of a type never changes.
var shapes sync.Map

func shapeOf(t reflect.Type) *shape {
	if s, ok := shapes.Load(t); ok {
		return s.(*shape)
	}
	s := &shape{known: map[string]reflect.Type{}}
	s.names = jsonFields(t, s.known, nil)
	for i := range t.NumField() {
		f := t.Field(i)
		if !f.IsExported() {
			continue
		}
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		s.fields = append(s.fields, field{index: i, name: name, embedded: f.Anonymous,
			shares: reaches(f.Type, isShared), refers: reaches(f.Type, isReference), owns: reaches(f.Type, isOwn), readOnly: isReadOnly(f), reports: reaches(f.Type, hasReadOnly)})
	}
	shapes.Store(t, s)
	return s
}

func isShared(t reflect.Type) bool {
	return t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice || t.Kind() == reflect.Map
}

func isReference(t reflect.Type) bool { return t == reflect.TypeFor[SubResource]() }

func isOwn(t reflect.Type) bool { return reflect.PointerTo(t).Implements(reflect.TypeFor[owner]()) }

func isReadOnly(f reflect.StructField) bool { return f.Tag.Get("arm") == "ro" }

func hasReadOnly(t reflect.Type) bool {
	if t.Kind() != reflect.Struct {
		return false
	}
	for i := range t.NumField() {
		if f := t.Field(i); f.IsExported() && isReadOnly(f) {
			return true
		}
	}
	return false
}

// reaches tells whether t is of a kind, or leads to a type that is. The types of this package lead to no circle.
func reaches(t reflect.Type, kind func(reflect.Type) bool) bool {
	if kind(t) {
		return true
	}
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map:
		return reaches(t.Elem(), kind)
	case reflect.Struct:
		for i := range t.NumField() {
			if f := t.Field(i); f.IsExported() && reaches(f.Type, kind) {
				return true
			}
		}
	}
	return false
}

// where is a place in a document; its text is made when somebody wants to know it.
type where struct {
	up      *where
	name    string // of a property
	element bool   // of a list, with this index
	index   int
}

func (w *where) String() string {
	switch {
	case w == nil:
		return ""
	case w.element:
		return w.up.String() + "[" + strconv.Itoa(w.index) + "]"
	}
	return join(w.up.String(), w.name)
}
