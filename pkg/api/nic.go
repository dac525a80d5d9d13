package api

// NetworkInterface is a VM's place in a virtual network.
type NetworkInterface struct {
	Envelope
	Properties NetworkInterfaceProperties `json:"properties"`
}

// NetworkInterfaceProperties are ARM's properties of a network interface.
type NetworkInterfaceProperties struct {
	IPConfigurations            []NICIPConfiguration `json:"ipConfigurations,omitempty"`
	MACAddress                  string               `json:"macAddress,omitempty"`
	Primary                     *bool                `json:"primary,omitempty"`
	EnableIPForwarding          *bool                `json:"enableIPForwarding,omitempty"`
	EnableAcceleratedNetworking *bool                `json:"enableAcceleratedNetworking,omitempty"`
	VirtualMachine              *SubResource         `json:"virtualMachine,omitempty" arm:"ro"`     // read-only
	PrivateEndpoint             *SubResource         `json:"privateEndpoint,omitempty" arm:"ro"`    // read-only: its owner
	PrivateLinkService          *SubResource         `json:"privateLinkService,omitempty" arm:"ro"` // read-only: its owner
	ResourceGUID                string               `json:"resourceGuid,omitempty" arm:"ro"`
	ProvisioningState           ProvisioningState    `json:"provisioningState,omitempty" arm:"ro"`
}

// NICIPConfiguration is one address of a network interface.
type NICIPConfiguration struct {
	Part
	Properties NICIPConfigurationProperties `json:"properties"`
}

// NICIPConfigurationProperties are ARM's properties of an address of a network interface.
type NICIPConfigurationProperties struct {
	PrivateIPAddress                string                 `json:"privateIPAddress,omitempty"`
	PrivateIPAllocationMethod       Allocation             `json:"privateIPAllocationMethod,omitempty"`
	PrivateIPAddressVersion         string                 `json:"privateIPAddressVersion,omitempty"`
	Subnet                          *SubResource           `json:"subnet,omitempty"`
	Primary                         *bool                  `json:"primary,omitempty"`
	LoadBalancerBackendAddressPools []SubResource          `json:"loadBalancerBackendAddressPools,omitempty"`
	LoadBalancerInboundNATRules     []SubResource          `json:"loadBalancerInboundNatRules,omitempty"`
	PrivateLinkConnectionProperties *PrivateLinkConnection `json:"privateLinkConnectionProperties,omitempty" arm:"ro"` // read-only
	ProvisioningState               ProvisioningState      `json:"provisioningState,omitempty" arm:"ro"`
}

// PrivateLinkConnection says what an endpoint's address stands for.
type PrivateLinkConnection struct {
	FQDNs              []string `json:"fqdns,omitempty"`
	GroupID            string   `json:"groupId,omitempty"`
	RequiredMemberName string   `json:"requiredMemberName,omitempty"`
}

// Kind is NetworkInterfaces.
func (*NetworkInterface) Kind() Kind { return NetworkInterfaces }

// State is where provisioningState is kept.
func (r *NetworkInterface) State() *ProvisioningState { return &r.Properties.ProvisioningState }

// Owner is the service or endpoint the interface belongs to, "" for a VM's. An owned interface is read-only.
func (r *NetworkInterface) Owner() string {
	switch p := &r.Properties; {
	case p.PrivateEndpoint != nil:
		return p.PrivateEndpoint.ID
	case p.PrivateLinkService != nil:
		return p.PrivateLinkService.ID
	}
	return ""
}
