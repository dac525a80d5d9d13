package api

import (
	"reflect"
	"strings"
)

// Fields that only the service writes carry the tag `arm:"ro"`. A caller's values for them are ignored,
// so that what was read can be sent back.

// ClearReadOnly empties every read-only field of r.
func ClearReadOnly(r Resource) { clearReadOnly(reflect.ValueOf(r).Elem()) }

func clearReadOnly(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			clearReadOnly(v.Elem())
		}
	case reflect.Slice:
		for i := range v.Len() {
			clearReadOnly(v.Index(i))
		}
	case reflect.Struct:
		for _, f := range shapeOf(v.Type()).fields {
			switch {
			case f.readOnly:
				v.Field(f.index).SetZero()
			case f.reports:
				clearReadOnly(v.Field(f.index))
			}
		}
	}
}

// FillParts sets id, type and etag of r's parts, and their provisioningState to r's.
func FillParts(r Resource) {
	id, meta, state := IDOf(r), r.Meta(), *r.State()
	props := reflect.ValueOf(r).Elem().FieldByName("Properties")
	for i := range props.NumField() {
		list, field := props.Field(i), props.Type().Field(i)
		if list.Kind() != reflect.Slice || list.Type().Elem().Kind() != reflect.Struct {
			continue
		}
		collection, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		for j := range list.Len() {
			part, ok := list.Index(j).Addr().Interface().(interface{ part() *Part })
			if !ok {
				continue
			}
			p := part.part()
			p.ID, p.Etag = id.Sub(collection, p.Name).String(), meta.Etag
			p.Type = Namespace + "/" + id.Type + "/" + collection
			s := list.Index(j).FieldByName("Properties").FieldByName("ProvisioningState")
			if s.IsValid() && s.String() == "" {
				s.SetString(string(state))
			}
		}
	}
}

func (p *Part) part() *Part { return p }
