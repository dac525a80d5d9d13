package api

// VirtualNetwork is an isolated IPv4 address space.
type VirtualNetwork struct {
	Envelope
	Properties VirtualNetworkProperties `json:"properties"`
}

// VirtualNetworkProperties are ARM's properties of a virtual network.
type VirtualNetworkProperties struct {
	AddressSpace           AddressSpace            `json:"addressSpace"`
	Subnets                []Subnet                `json:"subnets,omitempty"`
	VirtualNetworkPeerings []VirtualNetworkPeering `json:"virtualNetworkPeerings,omitempty"`
	EndpointVNetPolicies   string                  `json:"privateEndpointVNetPolicies,omitempty"` // Disabled, Basic
	ResourceGUID           string                  `json:"resourceGuid,omitempty" arm:"ro"`
	ProvisioningState      ProvisioningState       `json:"provisioningState,omitempty" arm:"ro"`
	NetworkOwn
	NetworkReport `arm:"ro"`
}

// AddressSpace is a list of IPv4 prefixes.
type AddressSpace struct {
	AddressPrefixes []string `json:"addressPrefixes,omitempty"`
}

// Subnet is a part of a virtual network's addresses.
type Subnet struct {
	Part
	Properties SubnetProperties `json:"properties"`
}

// SubnetProperties are ARM's properties of a subnet. It has one prefix, in either spelling.
type SubnetProperties struct {
	AddressPrefix           string            `json:"addressPrefix,omitempty"`
	AddressPrefixes         []string          `json:"addressPrefixes,omitempty"`
	EndpointNetworkPolicies string            `json:"privateEndpointNetworkPolicies,omitempty"`
	ServiceNetworkPolicies  string            `json:"privateLinkServiceNetworkPolicies,omitempty"`
	PrivateEndpoints        []SubResource     `json:"privateEndpoints,omitempty" arm:"ro"` // read-only
	IPConfigurations        []SubResource     `json:"ipConfigurations,omitempty" arm:"ro"` // read-only
	ProvisioningState       ProvisioningState `json:"provisioningState,omitempty" arm:"ro"`
}

// VirtualNetworkPeering lets another network's clients in, once both sides have one.
type VirtualNetworkPeering struct {
	Part
	Properties PeeringProperties `json:"properties"`
}

// PeeringProperties are ARM's properties of a peering.
type PeeringProperties struct {
	RemoteVirtualNetwork      *SubResource      `json:"remoteVirtualNetwork,omitempty"`
	AllowVirtualNetworkAccess *bool             `json:"allowVirtualNetworkAccess,omitempty"` // default true
	AllowForwardedTraffic     bool              `json:"allowForwardedTraffic,omitempty"`
	AllowGatewayTransit       bool              `json:"allowGatewayTransit,omitempty"`
	UseRemoteGateways         bool              `json:"useRemoteGateways,omitempty"`
	PeeringState              PeeringState      `json:"peeringState,omitempty" arm:"ro"`       // read-only
	PeeringSyncLevel          string            `json:"peeringSyncLevel,omitempty" arm:"ro"`   // read-only
	RemoteAddressSpace        *AddressSpace     `json:"remoteAddressSpace,omitempty" arm:"ro"` // read-only
	ProvisioningState         ProvisioningState `json:"provisioningState,omitempty" arm:"ro"`
}

// PeeringState is Connected when each network has a peering with the other.
type PeeringState string

// Peering states.
const (
	PeeringInitiated    PeeringState = "Initiated"
	PeeringConnected    PeeringState = "Connected"
	PeeringDisconnected PeeringState = "Disconnected"
)

// Kind is VirtualNetworks.
func (*VirtualNetwork) Kind() Kind { return VirtualNetworks }

// State is where provisioningState is kept.
func (r *VirtualNetwork) State() *ProvisioningState { return &r.Properties.ProvisioningState }

// Subnet finds a subnet by name in any case, or nil.
func (r *VirtualNetwork) Subnet(name string) *Subnet {
	for i := range r.Properties.Subnets {
		if equalFold(r.Properties.Subnets[i].Name, name) {
			return &r.Properties.Subnets[i]
		}
	}
	return nil
}

// Prefix is the subnet's prefix as written.
func (s *Subnet) Prefix() string {
	if s.Properties.AddressPrefix == "" && len(s.Properties.AddressPrefixes) > 0 {
		return s.Properties.AddressPrefixes[0]
	}
	return s.Properties.AddressPrefix
}
