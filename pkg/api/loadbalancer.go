package api

// LoadBalancer is a Standard, internal load balancer.
type LoadBalancer struct {
	Envelope
	SKU        *SKU                   `json:"sku,omitempty"`
	Properties LoadBalancerProperties `json:"properties"`
}

// SKU of a load balancer: Standard, Regional.
type SKU struct {
	Name string `json:"name,omitempty"`
	Tier string `json:"tier,omitempty"`
}

// LoadBalancerProperties are ARM's properties of a load balancer.
type LoadBalancerProperties struct {
	FrontendIPConfigurations []FrontendIPConfiguration `json:"frontendIPConfigurations,omitempty"`
	BackendAddressPools      []BackendAddressPool      `json:"backendAddressPools,omitempty"`
	LoadBalancingRules       []LoadBalancingRule       `json:"loadBalancingRules,omitempty"`
	Probes                   []Probe                   `json:"probes,omitempty"`
	InboundNATRules          []InboundNATRule          `json:"inboundNatRules,omitempty"`
	Scope                    string                    `json:"scope,omitempty"` // Private
	ResourceGUID             string                    `json:"resourceGuid,omitempty" arm:"ro"`
	ProvisioningState        ProvisioningState         `json:"provisioningState,omitempty" arm:"ro"`
	LoadBalancerReport       `arm:"ro"`
}

// FrontendIPConfiguration is an address of the load balancer in the provider's network.
type FrontendIPConfiguration struct {
	Part
	Zones      []string                          `json:"zones,omitempty"`
	Properties FrontendIPConfigurationProperties `json:"properties"`
}

// FrontendIPConfigurationProperties are ARM's properties of a frontend.
type FrontendIPConfigurationProperties struct {
	PrivateIPAddress          string            `json:"privateIPAddress,omitempty"`
	PrivateIPAllocationMethod Allocation        `json:"privateIPAllocationMethod,omitempty"`
	PrivateIPAddressVersion   string            `json:"privateIPAddressVersion,omitempty"`
	Subnet                    *SubResource      `json:"subnet,omitempty"`
	LoadBalancingRules        []SubResource     `json:"loadBalancingRules,omitempty" arm:"ro"` // read-only
	InboundNATRules           []SubResource     `json:"inboundNatRules,omitempty" arm:"ro"`    // read-only
	ProvisioningState         ProvisioningState `json:"provisioningState,omitempty" arm:"ro"`
}

// BackendAddressPool is a set of backends.
type BackendAddressPool struct {
	Part
	Properties BackendAddressPoolProperties `json:"properties"`
}

// BackendAddressPoolProperties are ARM's properties of a pool. NICs join by naming the pool.
type BackendAddressPoolProperties struct {
	LoadBalancerBackendAddresses []BackendAddress  `json:"loadBalancerBackendAddresses,omitempty"`
	BackendIPConfigurations      []SubResource     `json:"backendIPConfigurations,omitempty" arm:"ro"` // read-only
	DrainPeriodInSeconds         *int32            `json:"drainPeriodInSeconds,omitempty"`
	Location                     string            `json:"location,omitempty"`
	SyncMode                     string            `json:"syncMode,omitempty"`
	VirtualNetwork               *SubResource      `json:"virtualNetwork,omitempty"`
	LoadBalancingRules           []SubResource     `json:"loadBalancingRules,omitempty" arm:"ro"` // read-only
	InboundNATRules              []SubResource     `json:"inboundNatRules,omitempty" arm:"ro"`    // read-only
	ProvisioningState            ProvisioningState `json:"provisioningState,omitempty" arm:"ro"`
}

// BackendAddress is a member of a pool. One with an ipAddress is a backend by address; one
// with networkInterfaceIPConfiguration shows a NIC's membership, its adminState may be set.
type BackendAddress struct {
	Name       string                   `json:"name,omitempty"`
	Properties BackendAddressProperties `json:"properties"`
}

// BackendAddressProperties are ARM's properties of a member of a pool.
type BackendAddressProperties struct {
	IPAddress                       string               `json:"ipAddress,omitempty"`
	AdminState                      AdminState           `json:"adminState,omitempty"`
	Subnet                          *SubResource         `json:"subnet,omitempty"`
	VirtualNetwork                  *SubResource         `json:"virtualNetwork,omitempty"`
	NetworkInterfaceIPConfiguration *SubResource         `json:"networkInterfaceIPConfiguration,omitempty" arm:"ro"` // read-only
	InboundNATRulesPortMapping      []NATRulePortMapping `json:"inboundNatRulesPortMapping,omitempty" arm:"ro"`      // read-only
	BackendOwn
}

// NATRulePortMapping shows which frontend port a pool member has in an inbound NAT rule.
type NATRulePortMapping struct {
	InboundNATRuleName string `json:"inboundNatRuleName,omitempty"`
	FrontendPort       int32  `json:"frontendPort,omitempty"`
	BackendPort        int32  `json:"backendPort,omitempty"`
}

// AdminState overrides the probe.
type AdminState string

// Admin states: None follows the probe, Up takes new flows always, Down never.
const (
	AdminNone  AdminState = "None"
	AdminUp    AdminState = "Up"
	AdminDown  AdminState = "Down"
	AdminDrain AdminState = "Drain" // older api-versions' word for Down
)

// TransportProtocol of a rule.
type TransportProtocol string

// Protocols of rules.
const (
	TransportTCP TransportProtocol = "Tcp"
	TransportUDP TransportProtocol = "Udp"
	TransportAll TransportProtocol = "All"
)

// LoadDistribution is what of a packet chooses the backend.
type LoadDistribution string

// Distributions: 5-tuple, source and destination address, and these with the protocol.
const (
	DistributeDefault          LoadDistribution = "Default"
	DistributeSourceIP         LoadDistribution = "SourceIP"
	DistributeSourceIPProtocol LoadDistribution = "SourceIPProtocol"
)

// LoadBalancingRule steers a frontend's port to a pool.
type LoadBalancingRule struct {
	Part
	Properties LoadBalancingRuleProperties `json:"properties"`
}

// LoadBalancingRuleProperties are ARM's properties of a rule.
type LoadBalancingRuleProperties struct {
	FrontendIPConfiguration  *SubResource      `json:"frontendIPConfiguration,omitempty"`
	BackendAddressPool       *SubResource      `json:"backendAddressPool,omitempty"`
	BackendAddressPools      []SubResource     `json:"backendAddressPools,omitempty"` // one at most
	Probe                    *SubResource      `json:"probe,omitempty"`
	Protocol                 TransportProtocol `json:"protocol,omitempty"`
	FrontendPort             int32             `json:"frontendPort"`          // 0..65534; 0 = all, with protocol All
	BackendPort              int32             `json:"backendPort,omitempty"` // 0..65535; 0 = the frontend port
	LoadDistribution         LoadDistribution  `json:"loadDistribution,omitempty"`
	IdleTimeoutInMinutes     *int32            `json:"idleTimeoutInMinutes,omitempty"` // 4..30, TCP
	EnableTCPReset           bool              `json:"enableTcpReset,omitempty"`
	DisableOutboundSNAT      bool              `json:"disableOutboundSnat,omitempty"`
	EnableConnectionTracking bool              `json:"enableConnectionTracking,omitempty"`
	ProvisioningState        ProvisioningState `json:"provisioningState,omitempty" arm:"ro"`
}

// ProbeProtocol is how a backend is probed.
type ProbeProtocol string

// Probe protocols.
const (
	ProbeTCP   ProbeProtocol = "Tcp"
	ProbeHTTP  ProbeProtocol = "Http"
	ProbeHTTPS ProbeProtocol = "Https"
)

// Probe decides which backends of a rule are healthy.
type Probe struct {
	Part
	Properties ProbeProperties `json:"properties"`
}

// ProbeProperties are ARM's properties of a probe.
type ProbeProperties struct {
	Protocol                  ProbeProtocol     `json:"protocol,omitempty"`
	Port                      int32             `json:"port"`
	RequestPath               string            `json:"requestPath,omitempty"`
	IntervalInSeconds         *int32            `json:"intervalInSeconds,omitempty"` // default 15, at least 5
	NumberOfProbes            *int32            `json:"numberOfProbes,omitempty"`    // failures that take a backend out
	ProbeThreshold            *int32            `json:"probeThreshold,omitempty"`    // successes or failures that change its state
	NoHealthyBackendsBehavior string            `json:"noHealthyBackendsBehavior,omitempty"`
	LoadBalancingRules        []SubResource     `json:"loadBalancingRules,omitempty" arm:"ro"` // read-only
	ProvisioningState         ProvisioningState `json:"provisioningState,omitempty" arm:"ro"`
}

// Behaviours when all backends are down.
const (
	AllProbedDown = "AllProbedDown"
	AllProbedUp   = "AllProbedUp"
)

// InboundNATRule steers a frontend's port to one NIC, or a range of ports to the members of a pool.
type InboundNATRule struct {
	Part
	Properties InboundNATRuleProperties `json:"properties"`
}

// InboundNATRuleProperties are ARM's properties of an inbound NAT rule.
type InboundNATRuleProperties struct {
	FrontendIPConfiguration *SubResource      `json:"frontendIPConfiguration,omitempty"`
	BackendIPConfiguration  *SubResource      `json:"backendIPConfiguration,omitempty" arm:"ro"` // read-only: the NIC names the rule
	BackendAddressPool      *SubResource      `json:"backendAddressPool,omitempty"`              // with a range of ports
	Protocol                TransportProtocol `json:"protocol,omitempty"`
	FrontendPort            int32             `json:"frontendPort,omitempty"`
	FrontendPortRangeStart  int32             `json:"frontendPortRangeStart,omitempty"`
	FrontendPortRangeEnd    int32             `json:"frontendPortRangeEnd,omitempty"`
	BackendPort             int32             `json:"backendPort,omitempty"`
	IdleTimeoutInMinutes    *int32            `json:"idleTimeoutInMinutes,omitempty"`
	EnableTCPReset          bool              `json:"enableTcpReset,omitempty"`
	ProvisioningState       ProvisioningState `json:"provisioningState,omitempty" arm:"ro"`
}

// Kind is LoadBalancers.
func (*LoadBalancer) Kind() Kind { return LoadBalancers }

// State is where provisioningState is kept.
func (r *LoadBalancer) State() *ProvisioningState { return &r.Properties.ProvisioningState }

// Frontend finds a frontend by name in any case, or nil.
func (r *LoadBalancer) Frontend(name string) *FrontendIPConfiguration {
	for i := range r.Properties.FrontendIPConfigurations {
		if equalFold(r.Properties.FrontendIPConfigurations[i].Name, name) {
			return &r.Properties.FrontendIPConfigurations[i]
		}
	}
	return nil
}

// Pool finds a backend pool by name in any case, or nil.
func (r *LoadBalancer) Pool(name string) *BackendAddressPool {
	for i := range r.Properties.BackendAddressPools {
		if equalFold(r.Properties.BackendAddressPools[i].Name, name) {
			return &r.Properties.BackendAddressPools[i]
		}
	}
	return nil
}

// Probe finds a probe by name in any case, or nil.
func (r *LoadBalancer) Probe(name string) *Probe {
	for i := range r.Properties.Probes {
		if equalFold(r.Properties.Probes[i].Name, name) {
			return &r.Properties.Probes[i]
		}
	}
	return nil
}

// Pool is the rule's backend pool in either spelling, or nil.
func (r *LoadBalancingRule) Pool() *SubResource {
	if r.Properties.BackendAddressPool == nil && len(r.Properties.BackendAddressPools) > 0 {
		return &r.Properties.BackendAddressPools[0]
	}
	return r.Properties.BackendAddressPool
}
