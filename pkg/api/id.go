package api

import (
	"net/http"
	"strings"
)

// Namespace is the resource provider of every type.
const Namespace = "Microsoft.Network"

// ID names a resource or a part of one:
// /subscriptions/S/resourceGroups/G/providers/Microsoft.Network/T/N[/CT/C].
// Two ids are the same resource when their Keys are equal.
type ID struct {
	Subscription  string
	ResourceGroup string
	Type          string // collection, "virtualNetworks"
	Name          string
	ChildType     string // collection inside the resource, "subnets"; "" = the resource itself
	Child         string
}

// ParseID reads an id. What follows providers/Microsoft.Network/ is enough: subscription and
// resource group are base's then. Names of types get their usual spelling.
func ParseID(s string, base ID) (ID, error) {
	bad := func(why string) (ID, error) {
		return ID{}, NewError(http.StatusBadRequest, CodeInvalidID, "", "%q is not a resource id: %s "+
			"(want /subscriptions/S/resourceGroups/G/providers/%s/TYPE/NAME or TYPE/NAME)", s, why, Namespace)
	}
	id := ID{Subscription: base.Subscription, ResourceGroup: base.ResourceGroup}
	parts := strings.Split(strings.Trim(s, "/"), "/")
	for _, p := range parts {
		if p == "" {
			return bad("empty part")
		}
	}
	if strings.HasPrefix(s, "/") {
		if len(parts) < 6 || !strings.EqualFold(parts[0], "subscriptions") ||
			!strings.EqualFold(parts[2], "resourceGroups") || !strings.EqualFold(parts[4], "providers") {
			return bad("incomplete")
		}
		id.Subscription, id.ResourceGroup = parts[1], parts[3]
		parts = parts[4:]
	}
	if len(parts) > 2 && strings.EqualFold(parts[0], "providers") {
		parts = parts[1:]
	}
	if strings.EqualFold(parts[0], Namespace) {
		parts = parts[1:]
	}
	switch len(parts) {
	case 4:
		id.ChildType, id.Child = parts[2], parts[3]
		fallthrough
	case 2:
		id.Type, id.Name = parts[0], parts[1]
	default:
		return bad("want pairs of type and name")
	}
	kind, err := KindOf(id.Type)
	if err != nil {
		return ID{}, err
	}
	id.Type = string(kind)
	if id.ChildType != "" {
		known := false
		for _, c := range kind.Children() {
			if strings.EqualFold(c, id.ChildType) {
				id.ChildType, known = c, true
			}
		}
		if !known {
			return bad(id.Type + " have no " + id.ChildType)
		}
	}
	return id, nil
}

// String is the full id with the spelling it was made with.
func (id ID) String() string {
	s := "/subscriptions/" + id.Subscription + "/resourceGroups/" + id.ResourceGroup + "/providers/" + Namespace +
		"/" + id.Type + "/" + id.Name
	if id.ChildType != "" {
		s += "/" + id.ChildType + "/" + id.Child
	}
	return s
}

// Short is the part after providers/Microsoft.Network/, for messages.
func (id ID) Short() string {
	s := id.Type + "/" + id.Name
	if id.ChildType != "" {
		s += "/" + id.ChildType + "/" + id.Child
	}
	return s
}

// Key is the id in the form in which ids are compared and stored: lower case.
func (id ID) Key() string { return strings.ToLower(id.String()) }

// Equal compares as ARM does, without regard to case.
func (id ID) Equal(other ID) bool { return id.Key() == other.Key() }

// IsZero says that the id names nothing.
func (id ID) IsZero() bool { return id == ID{} }

// Parent is the resource that a part belongs to; of a resource itself the id unchanged.
func (id ID) Parent() ID {
	id.ChildType, id.Child = "", ""
	return id
}

// Sub is a part of the resource.
func (id ID) Sub(childType, child string) ID {
	id.ChildType, id.Child = childType, child
	return id
}

// Sibling is another resource of the same subscription and resource group.
func (id ID) Sibling(kind Kind, name string) ID {
	return ID{Subscription: id.Subscription, ResourceGroup: id.ResourceGroup, Type: string(kind), Name: name}
}

// SameID compares two ids as written.
func SameID(a, b string) bool {
	return strings.EqualFold(strings.TrimRight(a, "/"), strings.TrimRight(b, "/"))
}

// NormalLocation is a location without spaces and in lower case ("East US" is "eastus").
func NormalLocation(s string) string { return strings.ToLower(strings.ReplaceAll(s, " ", "")) }
