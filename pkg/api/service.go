package api

// PrivateLinkService publishes frontends of one load balancer.
type PrivateLinkService struct {
	Envelope
	ExtendedLocation *ExtendedLocation            `json:"extendedLocation,omitempty"`
	Properties       PrivateLinkServiceProperties `json:"properties"`
}

// ExtendedLocation is accepted and kept.
type ExtendedLocation struct {
	Name string `json:"name,omitempty"`
	Type string `json:"type,omitempty"`
}

// PrivateLinkServiceProperties are ARM's properties of a service.
type PrivateLinkServiceProperties struct {
	LoadBalancerFrontendIPConfigurations []SubResource               `json:"loadBalancerFrontendIpConfigurations,omitempty"`
	IPConfigurations                     []NATIPConfiguration        `json:"ipConfigurations,omitempty"` // 1..8 NAT IPs
	Visibility                           *SubscriptionList           `json:"visibility,omitempty"`
	AutoApproval                         *SubscriptionList           `json:"autoApproval,omitempty"`
	AccessMode                           string                      `json:"accessMode,omitempty"` // Default, Restricted
	EnableProxyProtocol                  bool                        `json:"enableProxyProtocol,omitempty"`
	FQDNs                                []string                    `json:"fqdns,omitempty"`
	Alias                                string                      `json:"alias,omitempty" arm:"ro"`                      // read-only
	NetworkInterfaces                    []SubResource               `json:"networkInterfaces,omitempty" arm:"ro"`          // read-only
	PrivateEndpointConnections           []PrivateEndpointConnection `json:"privateEndpointConnections,omitempty" arm:"ro"` // read-only
	ProvisioningState                    ProvisioningState           `json:"provisioningState,omitempty" arm:"ro"`
	ServiceOwn
	ServiceReport `arm:"ro"`
}

// Access modes.
const (
	AccessDefault    = "Default"
	AccessRestricted = "Restricted"
)

// NATIPConfiguration is one NAT IP.
type NATIPConfiguration struct {
	Part
	Properties NATIPConfigurationProperties `json:"properties"`
}

// NATIPConfigurationProperties are ARM's properties of a NAT IP.
type NATIPConfigurationProperties struct {
	Primary                   *bool             `json:"primary,omitempty"`
	PrivateIPAddress          string            `json:"privateIPAddress,omitempty"`
	PrivateIPAddressVersion   string            `json:"privateIPAddressVersion,omitempty"`
	PrivateIPAllocationMethod Allocation        `json:"privateIPAllocationMethod,omitempty"`
	Subnet                    *SubResource      `json:"subnet,omitempty"`
	ProvisioningState         ProvisioningState `json:"provisioningState,omitempty" arm:"ro"`
}

// SubscriptionList is a list of subscriptions; "*" is anyone.
type SubscriptionList struct {
	Subscriptions []string `json:"subscriptions,omitempty"`
}

// Anyone in a SubscriptionList is every subscription.
const Anyone = "*"

// Has reports whether the list names the subscription or is open to anyone.
func (l *SubscriptionList) Has(subscription string) bool {
	if l == nil {
		return false
	}
	for _, s := range l.Subscriptions {
		if s == Anyone || equalFold(s, subscription) {
			return true
		}
	}
	return false
}

// ConnectionStatus is the state of a connection.
type ConnectionStatus string

// Connection states. Only Approved passes traffic.
const (
	Pending      ConnectionStatus = "Pending"
	Approved     ConnectionStatus = "Approved"
	Rejected     ConnectionStatus = "Rejected"
	Disconnected ConnectionStatus = "Disconnected"
)

// ConnectionState is the state of a connection with the words of who decided it.
type ConnectionState struct {
	Status          ConnectionStatus `json:"status,omitempty"`
	Description     string           `json:"description,omitempty"`
	ActionsRequired string           `json:"actionsRequired,omitempty"`
}

// PrivateEndpointConnection is the provider's view of one endpoint.
type PrivateEndpointConnection struct {
	Part
	Properties ConnectionProperties `json:"properties"`
}

// ConnectionProperties are ARM's properties of a connection.
type ConnectionProperties struct {
	PrivateLinkServiceConnectionState *ConnectionState  `json:"privateLinkServiceConnectionState,omitempty"`
	LinkIdentifier                    string            `json:"linkIdentifier,omitempty" arm:"ro"`          // read-only, decimal
	PrivateEndpoint                   *SubResource      `json:"privateEndpoint,omitempty" arm:"ro"`         // read-only
	PrivateEndpointLocation           string            `json:"privateEndpointLocation,omitempty" arm:"ro"` // read-only
	ProvisioningState                 ProvisioningState `json:"provisioningState,omitempty" arm:"ro"`
	ConnectionOwn
	ConnectionReport `arm:"ro"`
}

// VisibilityRequest is the body of checkPrivateLinkServiceVisibility.
type VisibilityRequest struct {
	Alias string `json:"privateLinkServiceAlias,omitempty"`
}

// Visibility is its answer.
type Visibility struct {
	Visible bool `json:"visible"`
}

// AutoApprovedService is one entry of autoApprovedPrivateLinkServices: the service's id.
type AutoApprovedService struct {
	PrivateLinkService string `json:"privateLinkService"`
}

// Kind is PrivateLinkServices.
func (*PrivateLinkService) Kind() Kind { return PrivateLinkServices }

// State is where provisioningState is kept.
func (r *PrivateLinkService) State() *ProvisioningState { return &r.Properties.ProvisioningState }
