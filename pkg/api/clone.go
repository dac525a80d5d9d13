package api

import "reflect"

// Clone is a deep copy of r.
func Clone[R Resource](r R) R {
	return deep(reflect.ValueOf(r)).Interface().(R)
}

// deep copies pointers, slices and maps; everything else is a value already.
func deep(v reflect.Value) reflect.Value {
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return v
		}
		c := reflect.New(v.Type().Elem())
		c.Elem().Set(v.Elem())
		deepen(c.Elem())
		return c
	case reflect.Slice:
		if v.IsNil() {
			return v
		}
		c := reflect.MakeSlice(v.Type(), v.Len(), v.Len())
		reflect.Copy(c, v)
		if reaches(v.Type().Elem(), isShared) {
			for i := range c.Len() {
				deepen(c.Index(i))
			}
		}
		return c
	case reflect.Map:
		if v.IsNil() {
			return v
		}
		c := reflect.MakeMapWithSize(v.Type(), v.Len())
		for iter := v.MapRange(); iter.Next(); {
			c.SetMapIndex(iter.Key(), deep(iter.Value()))
		}
		return c
	case reflect.Struct:
		c := reflect.New(v.Type()).Elem()
		c.Set(v)
		deepen(c)
		return c
	}
	return v
}

// deepen replaces what a copy shares with its original by copies.
func deepen(c reflect.Value) {
	if c.Kind() != reflect.Struct {
		c.Set(deep(c))
		return
	}
	// What is not exported (an Own's value) is never changed in place.
	for _, f := range shapeOf(c.Type()).fields {
		if f.shares {
			deepen(c.Field(f.index))
		}
	}
}

// References are the ids of everything that r refers to, in the order of its fields.
func References(r Resource) []string {
	var list []string
	collectRefs(reflect.ValueOf(r).Elem().FieldByName("Properties"), &list)
	return list
}

func collectRefs(v reflect.Value, list *[]string) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			collectRefs(v.Elem(), list)
		}
	case reflect.Slice:
		for i := range v.Len() {
			collectRefs(v.Index(i), list)
		}
	case reflect.Struct:
		if ref, ok := v.Interface().(SubResource); ok {
			if ref.ID != "" {
				*list = append(*list, ref.ID)
			}
			return
		}
		for _, f := range shapeOf(v.Type()).fields {
			if f.refers {
				collectRefs(v.Field(f.index), list)
			}
		}
	}
}
