package model

// Config is what the dataplane was told: the tables that its owner writes. All numbers are in host
// order. Slots are names for rows; slot 0 is no row.
type Config struct {
	Interfaces map[InterfaceKey]*Interface
	Outputs    map[uint16]*Output
	Addresses  map[AddressKey]Address
	Links      map[uint32]*Link
	RuleIndex  map[RuleKey]uint32 // to the slot of a Rule
	Rules      map[uint32]*Rule
	Places     map[uint32][]uint32 // rule slot -> Maglev table: a backend slot in each place
	NATSets    map[uint32]*NATSet
	Backends   map[uint32]*Backend
	Dials      map[DialKey]Dial

	FlowSeed    [5]uint64 // of the flow table's hash
	BalanceSeed [2]uint64 // of the choice of a backend
	Homes       uint32    // of the flow table
	MaxPairs    uint32
	MaxDomains  int
	PortStep    uint32 // coprime with 2, 3 and 7
	PortOffset  uint32 // 0..PortCount-1
}

// InterfaceKey is where a frame came in.
type InterfaceKey struct {
	Index uint32
	VLAN  uint16 // 0 = untagged
}

// Interface is an attachment as packets arrive.
type Interface struct {
	VNet      uint16
	Out       uint16 // its own slot among the outputs
	MAC       MAC
	PassOther bool
	Inner     bool
}

// Output is an attachment as packets leave.
type Output struct {
	Index uint32 // of the Linux interface, 0 = gone
	VLAN  uint16
	MTU   uint16 // bytes of an IP packet
	MAC   MAC
	VNet  uint16
	XDP   bool // takes XDP frames
}

// AddressKey is an address in a VNet.
type AddressKey struct {
	Addr IP
	VNet uint16
}

// AddressKind is what an address of ours is.
type AddressKind uint8

// Kinds of addresses.
const (
	AddressNone     AddressKind = iota
	AddressEndpoint             // of this VNet
	AddressPeered               // an endpoint of a peered VNet: no ARP
	AddressFrontend             //
	AddressNAT                  //
	AddressGateway              // ARP only
)

// Address is an address of ours.
type Address struct {
	Kind AddressKind
	Link uint32 // slot
	ARP  bool   // answer for it
}

// LinkState is the state of a connection.
type LinkState uint8

// Link states.
const (
	LinkNone LinkState = iota
	LinkPending
	LinkApproved
	LinkRejected
	LinkDisconnected
)

// Link is a connection, or a frontend as its own VNet reaches it (ID 0).
type Link struct {
	ID       uint32
	Gen      uint16
	State    LinkState
	Service  uint32
	MaxFlows uint32
	Addr     IP
	VNet     uint16
}

// RuleKey finds a rule; port 0 is the rule for all ports, of one protocol or with protocol 0 of both.
type RuleKey struct {
	Service uint32
	Port    uint16
	Proto   uint8
}

// Distribution is what of a packet chooses the backend, besides the link.
type Distribution uint8

// Distributions.
const (
	Dist5Tuple Distribution = iota
	DistSourceIP
	DistSourceIPProtocol
)

// Rule is a load balancing rule.
type Rule struct {
	NAT          uint32 // slot
	BackendPort  uint16 // 0 = the port asked for
	Distribution Distribution
}

// NATSet is a list of source addresses, in the order in which they fill.
type NATSet struct {
	VNet  uint16
	Addrs []IP // 1..8
}

// BackendState is whether a backend takes flows.
type BackendState uint8

// Backend states.
const (
	BackendNone       BackendState = iota
	BackendUp                      //
	BackendDown                    // TCP stays, UDP is chosen anew
	BackendUnresolved              // nobody answered for its address
)

// Backend is one member of a pool, as one rule sees it.
type Backend struct {
	Addr     IP
	Port     uint16
	VNet     uint16
	Gen      uint16
	State    BackendState
	TCPReset bool
	HA       bool // some rule reaches it on every port: one port domain for all of them
	MAC      MAC
	Out      uint16 // slot, 0 = never resolved
	IdleTCP  uint32 // seconds
	IdleUDP  uint32
}

// DialKey is a socket of the inner VNet.
type DialKey struct {
	Addr  IP
	Port  uint16
	Proto uint8
}

// Dial admits that socket's packets.
type Dial struct {
	Link       uint32
	LinkGen    uint16
	Backend    uint32
	BackendGen uint16
	NAT        uint32
	Port       uint16 // at the backend
}
