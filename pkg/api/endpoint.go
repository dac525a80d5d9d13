package api

// PrivateEndpoint is a consumer's address for a service.
type PrivateEndpoint struct {
	Envelope
	ExtendedLocation *ExtendedLocation         `json:"extendedLocation,omitempty"`
	Properties       PrivateEndpointProperties `json:"properties"`
}

// PrivateEndpointProperties are ARM's properties of an endpoint. It has exactly one connection, in
// one of the two lists.
type PrivateEndpointProperties struct {
	Subnet                              *SubResource              `json:"subnet,omitempty"`
	PrivateLinkServiceConnections       []ServiceConnection       `json:"privateLinkServiceConnections,omitempty"`
	ManualPrivateLinkServiceConnections []ServiceConnection       `json:"manualPrivateLinkServiceConnections,omitempty"`
	IPConfigurations                    []EndpointIPConfiguration `json:"ipConfigurations,omitempty"` // one at most: a static address
	CustomNetworkInterfaceName          string                    `json:"customNetworkInterfaceName,omitempty"`
	CustomDNSConfigs                    []DNSConfig               `json:"customDnsConfigs,omitempty"`
	IPVersionType                       string                    `json:"ipVersionType,omitempty"`
	NetworkInterfaces                   []SubResource             `json:"networkInterfaces,omitempty" arm:"ro"` // read-only
	ProvisioningState                   ProvisioningState         `json:"provisioningState,omitempty" arm:"ro"`
	EndpointReport                      `arm:"ro"`
}

// ServiceConnection asks for a service, by id or alias.
type ServiceConnection struct {
	Part
	Properties ServiceConnectionProperties `json:"properties"`
}

// ServiceConnectionProperties are ARM's properties of the consumer's side of a connection.
type ServiceConnectionProperties struct {
	PrivateLinkServiceID              string            `json:"privateLinkServiceId,omitempty"` // resource id or alias
	GroupIDs                          []string          `json:"groupIds,omitempty"`
	RequestMessage                    string            `json:"requestMessage,omitempty"` // 140 characters at most
	PrivateLinkServiceConnectionState *ConnectionState  `json:"privateLinkServiceConnectionState,omitempty"`
	ProvisioningState                 ProvisioningState `json:"provisioningState,omitempty" arm:"ro"`
}

// EndpointIPConfiguration asks for a static address.
type EndpointIPConfiguration struct {
	Part
	Properties EndpointIPConfigurationProperties `json:"properties"`
}

// EndpointIPConfigurationProperties are ARM's properties of a static address.
type EndpointIPConfigurationProperties struct {
	GroupID          string `json:"groupId,omitempty"`
	MemberName       string `json:"memberName,omitempty"`
	PrivateIPAddress string `json:"privateIPAddress,omitempty"`
}

// DNSConfig is a name with the addresses it should have.
type DNSConfig struct {
	FQDN        string   `json:"fqdn,omitempty"`
	IPAddresses []string `json:"ipAddresses,omitempty"`
}

// Kind is PrivateEndpoints.
func (*PrivateEndpoint) Kind() Kind { return PrivateEndpoints }

// State is where provisioningState is kept.
func (r *PrivateEndpoint) State() *ProvisioningState { return &r.Properties.ProvisioningState }

// Connection is the endpoint's one connection and whether it stands in the manual list; nil before validation.
func (r *PrivateEndpoint) Connection() (c *ServiceConnection, manual bool) {
	p := &r.Properties
	switch {
	case len(p.PrivateLinkServiceConnections) > 0:
		return &p.PrivateLinkServiceConnections[0], false
	case len(p.ManualPrivateLinkServiceConnections) > 0:
		return &p.ManualPrivateLinkServiceConnections[0], true
	}
	return nil, false
}
