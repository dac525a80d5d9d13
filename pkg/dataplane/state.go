package dataplane

import "net/netip"

// State is everything the kernel has to know, as compiled from the resources by
// pkg/control. It knows nothing of ARM: names are opaque keys, unique and stable
// over restarts, from which the dataplane derives the numbers it uses itself.
//
// A State is a value: Apply compares it with what the kernel has and changes that.
type State struct {
	// Revision of the store the State was compiled from; reported back when the kernel agrees.
	Revision uint64
	Networks []Network
	// Pools are all backend pools, also those that no rule names at present: the flows of a rule
	// that left a pool stay as long as the pool is here with their backend's address.
	Pools    []Pool
	RuleSets []RuleSet
	Links    []Link
}

// Pool is a backend pool's membership.
type Pool struct {
	Key     string
	Members []netip.Addr
}

// Network is one isolated IPv4 address space (a VNet).
type Network struct {
	Key string
	// Attachments are the node's interfaces that belong to it.
	Attachments []Attachment
	// Gateways are addresses ARP is answered for besides endpoints, frontends and NAT IPs
	// (the first address of each subnet, with AnswerGateway).
	Gateways []netip.Addr
	// Reserved are addresses in use by NICs: never probed, never answered.
	Reserved []netip.Addr
	// Prefixes are the subnets. A backend outside of all of them is reached by a NextHop.
	Prefixes []netip.Prefix
}

// Mode is how an interface is attached.
type Mode string

// Modes of an attachment.
const (
	ModeAuto Mode = "auto" // XDP for physical NICs, TC for everything else
	ModeTC   Mode = "tc"
	ModeXDP  Mode = "xdp" // XDP in front of TC
)

// Attachment is a Linux interface (and VLAN) that belongs to a network.
type Attachment struct {
	Interface string
	VLAN      uint16 // 0 = untagged; 1..4094
	Mode      Mode
	// PassOther leaves everything that is not privlink's to the host.
	PassOther bool
	// Exclusive says that the host's own addresses on it may stop working.
	Exclusive bool
	// NextHop is the router for backends outside of the network's prefixes.
	NextHop netip.Addr
}

// RuleSet is what a destination offers: a service reached through links, or a
// frontend as its own network reaches it.
type RuleSet struct {
	Key string
	// Network is the provider's: backends and sources are there.
	Network string
	// Sources are the NAT IPs in the order in which they fill; one that drains takes no new flows.
	Sources []Source
	Rules   []Rule
}

// Source is one NAT IP of a rule set.
type Source struct {
	Addr     netip.Addr
	Draining bool
	// Frontend says that the address is a frontend, announced and answered for as such.
	Frontend bool
}

// Protocol of a rule.
type Protocol uint8

// Protocols: IANA numbers, and all.
const (
	ProtocolAll Protocol = 0
	ProtocolTCP Protocol = 6
	ProtocolUDP Protocol = 17
)

// Distribution is what of a packet chooses the backend; the link always does too.
type Distribution uint8

// Distributions.
const (
	Distribution5Tuple Distribution = iota
	DistributionSourceIP
	DistributionSourceIPProtocol
)

// Rule steers one port (or all) of a rule set to backends.
type Rule struct {
	// Key is unique and stable; a rule that changes its port or pool keeps its flows.
	Key      string
	Protocol Protocol
	// Port is what the client asks for, 1..65535; 0 = every port (then Protocol is ProtocolAll).
	Port uint16
	// BackendPort is where it arrives; 0 = the port asked for.
	BackendPort  uint16
	Distribution Distribution
	// IdleTCP and IdleUDP are seconds, 10..86400.
	IdleTCP, IdleUDP uint32
	// TCPReset sends both ends a RST when a TCP flow becomes idle.
	TCPReset bool
	// Proxy makes the splice path the only backend; Targets then are what it dials.
	Proxy bool
	// ProxyTLV is how the header names the link: azure, aws, gcp or none; "" = azure.
	ProxyTLV string
	// ProxyCRC32C adds the checksum TLV to the header.
	ProxyCRC32C bool
	// Targets are the members of the pool.
	Targets []Target
}

// Target is a pool's member as one rule sees it.
type Target struct {
	Pool string
	Addr netip.Addr
	// Weight is its share of new flows, 1..100.
	Weight uint16
	// Healthy is the probe's last word. A target that is not takes no new flows.
	Healthy bool
	// NoNew is adminState Down: healthy or not, no new flows; TCP stays.
	NoNew bool
	// Probe is the key of what judges it, empty for nothing; for those who show it, not for the dataplane.
	Probe string
}

// LinkState is the state of a connection.
type LinkState uint8

// Link states; the values are those of enum link_state in bpf/types.h.
const (
	LinkPending LinkState = iota + 1
	LinkApproved
	LinkRejected
	LinkDisconnected
)

// Link is a way from one IP of a network to a rule set: a private endpoint, or a
// frontend inside its own network.
type Link struct {
	// Key is unique and stable (the endpoint's or frontend's name).
	Key string
	// ID is the LinkID; 0 for a frontend.
	ID      uint32
	Network string
	Addr    netip.Addr
	// Frontend says that Addr is a frontend of the rule set's own network.
	Frontend bool
	// Peers are networks whose clients reach Addr too; flows from one that goes end.
	Peers   []string
	RuleSet string
	State   LinkState
	// Epoch changes when established flows must end although State is the same after as before
	// (rejected and approved again between two Applies).
	Epoch uint32
	// MaxFlows is a number of pairs, 1..; 0 = a quarter of the table's, and for an endpoint at most half of the ports
	// that the rule set's sources have towards one backend.
	MaxFlows uint32
}
