package api

import (
	"net/http"
	"strings"
)

// Kind is the collection of a resource type, as it stands in ids.
type Kind string

// The resource types.
const (
	VirtualNetworks     Kind = "virtualNetworks"
	NetworkInterfaces   Kind = "networkInterfaces"
	LoadBalancers       Kind = "loadBalancers"
	PrivateLinkServices Kind = "privateLinkServices"
	PrivateEndpoints    Kind = "privateEndpoints"
)

// Collections inside resources.
const (
	Subnets                    = "subnets"
	Peerings                   = "virtualNetworkPeerings"
	IPConfigurations           = "ipConfigurations"
	FrontendIPConfigurations   = "frontendIPConfigurations"
	BackendAddressPools        = "backendAddressPools"
	LoadBalancingRules         = "loadBalancingRules"
	Probes                     = "probes"
	InboundNATRules            = "inboundNatRules"
	OutboundRules              = "outboundRules"
	PrivateEndpointConnections = "privateEndpointConnections"
	EndpointConnections        = "privateLinkServiceConnections"
	ManualConnections          = "manualPrivateLinkServiceConnections"
)

// Kinds are all resource types, in the order in which references between them point backwards.
func Kinds() []Kind {
	return []Kind{VirtualNetworks, LoadBalancers, NetworkInterfaces, PrivateLinkServices, PrivateEndpoints}
}

// KindOf finds a type by the name of its collection or by its full type, in any case:
// "privateEndpoints" or "Microsoft.Network/privateEndpoints".
func KindOf(name string) (Kind, error) {
	short := name
	if len(name) > len(Namespace) && strings.EqualFold(name[:len(Namespace)+1], Namespace+"/") {
		short = name[len(Namespace)+1:]
	}
	names := make([]string, 0, len(Kinds()))
	for _, k := range Kinds() {
		if strings.EqualFold(short, string(k)) {
			return k, nil
		}
		names = append(names, string(k))
	}
	return "", NewError(http.StatusBadRequest, CodeInvalidType, "type", "%q is not a resource type%s", name,
		suggest(short, names))
}

// Type is the full type, "Microsoft.Network/virtualNetworks".
func (k Kind) Type() string { return Namespace + "/" + string(k) }

// Noun is the type in plain words, for messages.
func (k Kind) Noun() string {
	switch k {
	case VirtualNetworks:
		return "virtual network"
	case NetworkInterfaces:
		return "network interface"
	case LoadBalancers:
		return "load balancer"
	case PrivateLinkServices:
		return "private link service"
	case PrivateEndpoints:
		return "private endpoint"
	}
	return string(k)
}

// Children are the collections inside a resource of this type.
func (k Kind) Children() []string {
	switch k {
	case VirtualNetworks:
		return []string{Subnets, Peerings}
	case NetworkInterfaces:
		return []string{IPConfigurations}
	case LoadBalancers:
		return []string{FrontendIPConfigurations, BackendAddressPools, LoadBalancingRules, Probes, InboundNATRules, OutboundRules}
	case PrivateLinkServices:
		return []string{IPConfigurations, PrivateEndpointConnections}
	case PrivateEndpoints:
		return []string{IPConfigurations, EndpointConnections, ManualConnections}
	}
	return nil
}

// New is an empty resource of this type; nil for a Kind that is none of Kinds.
func (k Kind) New() Resource {
	var r Resource
	switch k {
	case VirtualNetworks:
		r = &VirtualNetwork{}
	case NetworkInterfaces:
		r = &NetworkInterface{}
	case LoadBalancers:
		r = &LoadBalancer{}
	case PrivateLinkServices:
		r = &PrivateLinkService{}
	case PrivateEndpoints:
		r = &PrivateEndpoint{}
	default:
		return nil
	}
	r.Meta().Type = k.Type()
	return r
}

// Resource is one of the types of Kinds.
type Resource interface {
	Kind() Kind
	Meta() *Envelope
	// State is where provisioningState is kept.
	State() *ProvisioningState
	// Validate checks what can be checked without other resources. id is the resource's own;
	// references are completed with its subscription and resource group.
	Validate(id ID) error
}

// Envelope is what every resource has.
type Envelope struct {
	ID       string            `json:"id,omitempty"`
	Name     string            `json:"name,omitempty"`
	Type     string            `json:"type,omitempty"`
	Location string            `json:"location,omitempty"`
	Tags     map[string]string `json:"tags,omitempty"`
	Etag     string            `json:"etag,omitempty" arm:"ro"`
}

// Meta is the envelope; types get the method by embedding.
func (m *Envelope) Meta() *Envelope { return m }

// IDOf is the id of a stored resource.
func IDOf(r Resource) ID {
	id, err := ParseID(r.Meta().ID, ID{})
	if err != nil {
		return ID{}
	}
	return id
}

// SubResource refers to a resource or a part of one.
type SubResource struct {
	ID string `json:"id,omitempty"`
}

// Part is what every part of a resource has. Its id and type follow from its name.
type Part struct {
	ID   string `json:"id,omitempty" arm:"ro"`
	Name string `json:"name,omitempty"`
	Type string `json:"type,omitempty" arm:"ro"`
	Etag string `json:"etag,omitempty" arm:"ro"`
}

// ProvisioningState is how far the kernel is.
type ProvisioningState string

// Provisioning states.
const (
	Succeeded ProvisioningState = "Succeeded" // the kernel agrees with this revision
	Creating  ProvisioningState = "Creating"
	Updating  ProvisioningState = "Updating" // the kernel does not agree yet, or flows on a NAT IP taken out drain
	Deleting  ProvisioningState = "Deleting" // drain or cascade
	Failed    ProvisioningState = "Failed"
)

// Allocation is how an address is chosen.
type Allocation string

// Allocation methods.
const (
	Static  Allocation = "Static"
	Dynamic Allocation = "Dynamic"
)

// IPVersion4 is the only version of addresses that is supported.
const IPVersion4 = "IPv4"
