package api

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// The checks of which Validate methods consist. Each adds to the problems what it finds; paths are
// those of the JSON document.

func equalFold(a, b string) bool { return strings.EqualFold(a, b) }

func at(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }

// CheckName tells whether a resource or part of one may have this name: 1..80 characters, letters,
// digits, '_', '.' and '-'; first a letter or digit, last one of these or '_'.
func CheckName(target, name string) error {
	p := problems{}
	p.name(target, name)
	return p.err()
}

// CheckGroupName tells whether a subscription or resource group may have this name.
func CheckGroupName(target, name string) error {
	if why := badName(name, MaxGroupName); why != "" {
		return Invalid(target, "%q %s", name, why)
	}
	return nil
}

func (p *problems) name(path, name string) {
	if why := badName(name, MaxName); why != "" {
		p.invalid(path, "%q %s", name, why)
	}
}

func badName(name string, limit int) string {
	alnum := func(c byte) bool { return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' }
	if name == "" {
		return "is empty"
	}
	if len(name) > limit {
		return fmt.Sprintf("has more than %d characters", limit)
	}
	for i := range len(name) {
		if c := name[i]; !alnum(c) && c != '_' && c != '.' && c != '-' {
			return "may contain letters, digits, '_', '.' and '-' only"
		}
	}
	if last := name[len(name)-1]; !alnum(name[0]) || !alnum(last) && last != '_' {
		return "must begin with a letter or digit and end with one or '_'"
	}
	return ""
}

// meta checks and completes what every resource has.
func (p *problems) meta(m *Envelope, id ID) {
	p.name("name", id.Name)
	if m.Name != "" && !equalFold(m.Name, id.Name) {
		p.invalid("name", "%q is not the name in the resource id, %q", m.Name, id.Name)
	}
	kind := Kind(id.Type)
	if m.Type != "" && !equalFold(m.Type, kind.Type()) {
		p.invalid("type", "%q is not the type in the resource id, %q", m.Type, kind.Type())
	}
	if m.Location = NormalLocation(m.Location); m.Location == "" {
		p.invalid("location", "is required")
	} else if badName(m.Location, MaxName) != "" || strings.ContainsAny(m.Location, "._") {
		p.invalid("location", "%q may contain letters, digits and '-' only", m.Location)
	}
	if len(m.Tags) > MaxTags {
		p.add(OverLimit("tags", "%d tags, at most %d allowed", len(m.Tags), MaxTags))
	}
	for name, value := range m.Tags {
		p.text("tags", name, MaxTagName)
		p.text("tags."+name, value, MaxTagValue)
	}
	m.ID, m.Name, m.Type = id.String(), id.Name, kind.Type()
}

// text checks the length of free text in characters.
func (p *problems) text(path, s string, limit int) {
	if n := utf8.RuneCountInString(s); n > limit {
		p.add(OverLimit(path, "%d characters, at most %d allowed", n, limit))
	}
	if strings.ContainsFunc(s, func(r rune) bool { return r < ' ' && r != '\n' && r != '\t' || r == 0x7f || r == utf8.RuneError }) {
		p.invalid(path, "contains control characters or is not UTF-8")
	}
}

// count checks the length of a list.
func (p *problems) count(path string, n, limit int, what string) {
	if n > limit {
		p.add(OverLimit(path, "%d %s, at most %d allowed", n, what, limit))
	}
}

// addr reads an IPv4 unicast address; the zero Addr if it is none.
func (p *problems) addr(path, s string) netip.Addr {
	a, err := netip.ParseAddr(s)
	switch {
	case err != nil:
		p.invalid(path, "%q is not an IPv4 address", s)
	case !a.Is4():
		p.invalid(path, "%q is an IPv6 address, only IPv4 is supported", s)
	case a.IsUnspecified(), a.IsLoopback(), a.IsMulticast(), a.IsLinkLocalUnicast(), a.As4()[0] >= 240, a.As4()[0] == 0:
		p.invalid(path, "%s cannot be the address of a host", s)
	default:
		return a
	}
	return netip.Addr{}
}

// prefix reads an IPv4 prefix of 1..32 bits whose host bits are zero.
func (p *problems) prefix(path, s string) netip.Prefix {
	x, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		p.invalid(path, "%q is not an address prefix (such as 10.0.0.0/16)", s)
	case !x.Addr().Is4():
		p.invalid(path, "%q is an IPv6 prefix, only IPv4 is supported", s)
	case x.Bits() == 0:
		p.invalid(path, "%q would be every address", s)
	case x != x.Masked():
		p.invalid(path, "%s has host bits set (did you mean %s?)", s, x.Masked())
	case x.Addr().IsLoopback(), x.Addr().IsMulticast(), x.Addr().IsLinkLocalUnicast(), x.Addr().As4()[0] == 0, x.Addr().As4()[0] >= 240:
		p.invalid(path, "%s cannot hold addresses of hosts", s)
	default:
		return x
	}
	return netip.Prefix{}
}

func (p *problems) within(path string, v, low, high int64) {
	if v < low || v > high {
		p.invalid(path, "%d is not within %d..%d", v, low, high)
	}
}

// enum gives v the spelling of the allowed value it equals. "" becomes the first one.
func enum[T ~string](p *problems, path string, v *T, allowed ...T) {
	if *v == "" {
		*v = allowed[0]
		return
	}
	names := make([]string, len(allowed))
	for i, a := range allowed {
		if equalFold(string(*v), string(a)) {
			*v = a
			return
		}
		names[i] = string(a)
	}
	p.invalid(path, "%q is not one of %s", string(*v), strings.Join(names, ", "))
}

// version4 refuses IPv6 by name.
func (p *problems) version4(path string, v *string) {
	if equalFold(*v, "IPv6") || equalFold(*v, "DualStack") {
		p.add(NewError(400, CodeUnsupportedProperty, path, "%s is not supported, only IPv4", *v))
		return
	}
	enum(p, path, v, IPVersion4)
}

// ref checks a required reference and returns what it names.
func (p *problems) ref(path string, r *SubResource, kind Kind, child string) ID {
	if r == nil || r.ID == "" {
		p.invalid(path+".id", "is required")
		return ID{}
	}
	id, err := ParseID(r.ID, ID{})
	if err != nil {
		return ID{} // completeRefs has said so
	}
	want := string(kind)
	if child != "" {
		want += "/" + child
	}
	if id.Type != string(kind) || id.ChildType != child {
		p.add(BadReference(path+".id", "%s does not name one of %s", id.Short(), want))
		return ID{}
	}
	return id
}

// own checks a reference that must stay inside the resource, and that its target exists.
func (p *problems) own(path string, r *SubResource, self ID, child string, names []string) {
	id := p.ref(path, r, Kind(self.Type), child)
	if id.IsZero() {
		return
	}
	if !id.Parent().Equal(self) {
		p.add(BadReference(path+".id", "%s belongs to another %s", id.Short(), Kind(self.Type).Noun()))
	} else if !slices.ContainsFunc(names, func(n string) bool { return equalFold(n, id.Child) }) {
		p.add(BadReference(path+".id", "%s does not exist", id.Short()))
	}
}

// parts checks the names of a list of parts and that no two are equal.
func (p *problems) parts(path string, n int, name func(int) *string) []string {
	names := make([]string, n)
	seen := make(map[string]bool, n)
	for i := range n {
		names[i] = *name(i)
		p.name(at(path, i)+".name", names[i])
		if key := strings.ToLower(names[i]); seen[key] {
			p.invalid(at(path, i)+".name", "%q appears twice", names[i])
		} else {
			seen[key] = true
		}
	}
	return names
}

// address checks a private address with its allocation method: absent is Static with an address and
// Dynamic without. A dynamic address in the document is what an earlier answer showed; it is ignored.
func (p *problems) address(path string, method *Allocation, address *string, version *string) {
	p.version4(path+".privateIPAddressVersion", version)
	if *method == "" && *address != "" {
		*method = Static
	}
	enum(p, path+".privateIPAllocationMethod", method, Dynamic, Static)
	switch {
	case *method == Static && *address == "":
		p.invalid(path+".privateIPAddress", "is required with privateIPAllocationMethod Static")
	case *method == Static:
		if a := p.addr(path+".privateIPAddress", *address); a.IsValid() {
			*address = a.String()
		}
	case *method == Dynamic:
		*address = ""
	}
}

// completeRefs writes every reference in full, with the subscription and resource group of self.
func (p *problems) completeRefs(r Resource, self ID) {
	p.walkRefs(reflect.ValueOf(r).Elem().FieldByName("Properties"), &where{name: "properties"}, self)
}

func (p *problems) walkRefs(v reflect.Value, path *where, self ID) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			p.walkRefs(v.Elem(), path, self)
		}
	case reflect.Slice:
		for i := range v.Len() {
			p.walkRefs(v.Index(i), &where{up: path, element: true, index: i}, self)
		}
	case reflect.Struct:
		if ref, ok := v.Addr().Interface().(*SubResource); ok {
			if ref.ID == "" {
				return
			}
			id, err := ParseID(ref.ID, self)
			if err != nil {
				e := *AsError(err)
				e.Target = path.String() + ".id"
				p.add(&e)
				return
			}
			ref.ID = id.String()
			return
		}
		for _, f := range shapeOf(v.Type()).fields {
			switch {
			case !f.refers:
			case f.embedded:
				p.walkRefs(v.Field(f.index), path, self)
			default:
				p.walkRefs(v.Field(f.index), &where{up: path, name: f.name}, self)
			}
		}
	}
}
