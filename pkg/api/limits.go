package api

// Limits of resources. Those of Azure have Azure's values.
const (
	MaxNATIPs                  = 8     // ipConfigurations of a service
	MaxServicesPerLoadBalancer = 8     // services on one load balancer
	MaxServices                = 800   // services of a subscription
	MaxEndpointsPerService     = 1000  // connections of a service
	MaxEndpointsPerNetwork     = 1000  // endpoints of a virtual network
	MaxEndpoints               = 64000 // endpoints of a subscription
	MaxVisibility              = 100   // subscriptions in visibility
	MaxAutoApproval            = 100   // subscriptions in autoApproval
	MaxApprovals               = 1000  // entries of approvals
	MaxRequestMessage          = 140   // characters of requestMessage
	MaxDescription             = 4096  // characters of a decision's description
	MaxFrontends               = 600   // frontend IP configurations of a load balancer
	MaxRules                   = 1500  // rules of a load balancer, inbound NAT rules included
	MaxPoolMembers             = 5000  // members of a backend pool
	MaxPools                   = 600   // backend pools of a load balancer
	MaxProbes                  = 600   // probes of a load balancer
	MaxSubnets                 = 3000  // subnets of a virtual network
	MaxPeerings                = 500   // peerings of a virtual network
	MaxPrefixes                = 64    // address prefixes of a virtual network
	MaxAttachments             = 64    // attachments of a virtual network
	MaxIPConfigurations        = 256   // IP configurations of a network interface
	MaxTags                    = 50    // tags of a resource
	MaxTagName                 = 512   // characters of a tag's name
	MaxTagValue                = 256   // characters of a tag's value
	MaxName                    = 80    // characters of a resource's name
	MaxGroupName               = 90    // characters of a resource group's or subscription's name
	MaxFQDNs                   = 100   // fqdns of a service
	MaxFQDN                    = 253   // characters of a domain name
)

// Ranges of numbers. Ports are 1..65535 unless said otherwise.
const (
	MinIdleSeconds     = 10
	MaxIdleSeconds     = 86400
	DefaultIdleSeconds = 300
	MinIdleMinutes     = 4
	MaxIdleMinutes     = 30
	MaxFrontendPort    = 65534
	MaxPort            = 65535
	MaxDrainSeconds    = 86400 // natDrainPeriodInSeconds and drainPeriodInSeconds
	DefaultDrain       = 300   // natDrainPeriodInSeconds
	MinProbeInterval   = 5     // seconds
	DefaultInterval    = 15    // seconds
	MaxProbeInterval   = 2147483
	MaxProbeCount      = 100
	MaxFlows           = 1 << 30 // pairs of flows in any table; that of the table there is is checked where it is known
	MaxVLAN            = 4094
	MaxWeight          = 100
)

// Limits of a request body, for those who read it.
const (
	MaxBody  = 4 << 20 // bytes
	MaxDepth = 32      // nested objects and arrays
)

// Dynamic allocation of addresses.
const (
	// FirstDynamic is the offset in its subnet of the first address given out, as on Azure.
	FirstDynamic = 4
	// MaxDynamicBits is the longest prefix that gives out addresses; a longer one takes static addresses only.
	MaxDynamicBits = 29
	// FewAddresses is the number of free addresses in a NAT subnet below which a warning is due.
	FewAddresses = 8
)
