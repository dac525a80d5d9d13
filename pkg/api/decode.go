package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"unicode/utf8"
)

// Strictness is what a document may contain.
type Strictness bool

const (
	// Tolerant ignores properties that nobody knows: newer clients send them.
	Tolerant Strictness = false
	// Strict refuses them and suggests the nearest known one: a person wrote the document.
	Strict Strictness = true
)

// Decode reads a resource of the kind. Properties of ARM's that would change the meaning and are
// not supported are refused by name in both modes, unless they say nothing (null, false, "", [] or {});
// so are a property given twice, nesting deeper than MaxDepth and anything behind the document.
func Decode(data []byte, kind Kind, mode Strictness) (Resource, error) {
	r := kind.New()
	if r == nil {
		_, err := KindOf(string(kind))
		return nil, err
	}
	if err := DecodeInto(data, r, mode); err != nil {
		return nil, err
	}
	return r, nil
}

// DecodeInto is Decode for any type of this package; into is a pointer.
func DecodeInto(data []byte, into any, mode Strictness) error {
	if len(data) > MaxBody {
		return NewError(http.StatusRequestEntityTooLarge, CodeTooLarge, "", "%d bytes, at most %d allowed", len(data), MaxBody)
	}
	if !utf8.Valid(data) {
		return badJSON("is not UTF-8")
	}
	tree, err := parse(data)
	if err != nil {
		return err
	}
	p := problems{}
	p.fields(tree, reflect.TypeOf(into).Elem(), nil, mode)
	if err := p.err(); err != nil {
		return err
	}
	if err := json.Unmarshal(data, into); err != nil {
		return typeError(err)
	}
	return nil
}

func badJSON(format string, args ...any) *Error {
	return NewError(http.StatusBadRequest, CodeInvalidRequest, "", "the document "+format, args...)
}

// typeError names the property of a value with a wrong type.
func typeError(err error) error {
	var t *json.UnmarshalTypeError
	if errors.As(err, &t) {
		return NewError(http.StatusBadRequest, CodeInvalidRequest, t.Field, "%s found where %s is expected", t.Value, jsonName(t.Type))
	}
	return badJSON("cannot be read: %v", err)
}

func jsonName(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.String:
		return "a string"
	case reflect.Slice:
		return "a list"
	case reflect.Struct, reflect.Map:
		return "an object"
	case reflect.Int32, reflect.Int64:
		return "a whole number"
	}
	return t.String()
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// fields compares the names in n with those of t.
func (p *problems) fields(n *node, t reflect.Type, path *where, mode Strictness) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if isOwn(t) {
		t = reflect.New(t).Interface().(owner).elem()
	}
	switch {
	case n.kind == nullNode:
		// null: the zero value
	case !n.fits(t):
		p.add(NewError(http.StatusBadRequest, CodeInvalidRequest, path.String(), "%s found where %s is expected", n, jsonName(t)))
	case n.kind == arrayNode && t.Kind() == reflect.Slice:
		for i := range n.values {
			p.fields(&n.values[i], t.Elem(), &where{up: path, element: true, index: i}, mode)
		}
	case n.kind == objectNode && t.Kind() == reflect.Struct:
		s := shapeOf(t)
		for i, name := range n.names {
			here := &where{up: path, name: name}
			if ft, ok := s.known[strings.ToLower(name)]; ok {
				p.fields(&n.values[i], ft, here, mode)
				continue
			}
			if why, ok := unsupported(t, name); ok {
				if !n.values[i].empty() {
					p.add(NewError(http.StatusBadRequest, CodeUnsupportedProperty, here.String(), "%s", why))
				}
				continue
			}
			if mode == Strict && len(s.known) > 0 && !ignored(name) {
				p.add(NewError(http.StatusBadRequest, CodeUnknownProperty, here.String(), "unknown property%s", suggest(name, s.names)))
			}
		}
	}
}

// ignored are properties that ARM answers and that say nothing here, so that exported documents apply.
func ignored(name string) bool {
	switch strings.ToLower(name) {
	case "systemdata", "apiversion", "comments", "dependson":
		return true
	}
	return false
}

// jsonFields adds the fields of t by lower-case JSON name to known and returns the names.
func jsonFields(t reflect.Type, known map[string]reflect.Type, names []string) []string {
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous && name == "":
			names = jsonFields(f.Type, known, names)
		case f.IsExported() && name != "" && name != "-":
			known[strings.ToLower(name)] = f.Type
			names = append(names, name)
		}
	}
	return names
}

// unsupported tells why a property of ARM's is refused, if it is one of those.
func unsupported(t reflect.Type, name string) (string, bool) {
	for _, u := range unsupportedProperties() {
		if u.on == t && equalFold(u.name, name) {
			return fmt.Sprintf("%s is not supported: %s", u.name, u.why), true
		}
	}
	return "", false
}

type unsupportedProperty struct {
	on        reflect.Type
	name, why string
}

// unsupportedProperties are ARM's properties that would change what happens to packets.
func unsupportedProperties() []unsupportedProperty {
	return []unsupportedProperty{
		{reflect.TypeFor[PrivateLinkServiceProperties](), "destinationIPAddress", "a service stands on load balancer frontends"},
		{reflect.TypeFor[PrivateEndpointProperties](), "applicationSecurityGroups", "there are no security groups"},
		{reflect.TypeFor[LoadBalancerProperties](), "outboundRules", "backends have no way out through a load balancer"},
		{reflect.TypeFor[LoadBalancerProperties](), "inboundNatPools", "use inboundNatRules with a range of frontend ports"},
		{reflect.TypeFor[FrontendIPConfigurationProperties](), "publicIPAddress", "frontends are private"},
		{reflect.TypeFor[FrontendIPConfigurationProperties](), "publicIPPrefix", "frontends are private"},
		{reflect.TypeFor[FrontendIPConfigurationProperties](), "gatewayLoadBalancer", "only the Standard load balancer exists"},
		{reflect.TypeFor[BackendAddressPoolProperties](), "tunnelInterfaces", "only the Standard load balancer exists"},
		{reflect.TypeFor[BackendAddressProperties](), "loadBalancerFrontendIPConfiguration", "only regional load balancers exist"},
		{reflect.TypeFor[LoadBalancingRuleProperties](), "enableFloatingIP", "backends are reached by their own address"},
		{reflect.TypeFor[InboundNATRuleProperties](), "enableFloatingIP", "backends are reached by their own address"},
		{reflect.TypeFor[NetworkInterfaceProperties](), "networkSecurityGroup", "there are no security groups"},
		{reflect.TypeFor[NICIPConfigurationProperties](), "publicIPAddress", "addresses are private"},
		{reflect.TypeFor[NICIPConfigurationProperties](), "applicationSecurityGroups", "there are no security groups"},
		{reflect.TypeFor[NICIPConfigurationProperties](), "gatewayLoadBalancer", "only the Standard load balancer exists"},
		{reflect.TypeFor[NICIPConfigurationProperties](), "applicationGatewayBackendAddressPools", "there are no application gateways"},
		{reflect.TypeFor[SubnetProperties](), "networkSecurityGroup", "there are no security groups"},
		{reflect.TypeFor[SubnetProperties](), "routeTable", "use an attachment's nextHop"},
		{reflect.TypeFor[SubnetProperties](), "natGateway", "backends have no way out through privlink"},
		{reflect.TypeFor[SubnetProperties](), "delegations", "subnets are not delegated"},
		{reflect.TypeFor[VirtualNetworkProperties](), "encryption", "traffic is not encrypted"},
		{reflect.TypeFor[PeeringProperties](), "enableOnlyIPv6Peering", "only IPv4 is supported"},
	}
}
