package model

import "fmt"

// IP is an IPv4 address in host order: 10.0.0.1 is 0x0a000001.
type IP uint32

// String writes the address in dotted form.
func (a IP) String() string {
	return fmt.Sprintf("%d.%d.%d.%d", a>>24, a>>16&255, a>>8&255, a&255)
}

// MAC is an Ethernet address.
type MAC [6]byte

// Protocol numbers (IANA).
const (
	ICMP = 1
	TCP  = 6
	UDP  = 17
)

// TCP flags, byte 13 of the header (RFC 9293 section 3.1).
const (
	FIN = 0x01
	SYN = 0x02
	RST = 0x04
	PSH = 0x08
	ACK = 0x10
)

// Action is what becomes of a packet. The numbers are those of enum action.
type Action uint32

// Actions.
const (
	ActionNone     Action = iota
	ActionPass            // to the host, untouched
	ActionUp              // XDP only: TC finishes it; the model never says so
	ActionDrop            //
	ActionRedirect        // leaves by an output
	ActionAnswer          // a packet that privlink built leaves by the interface it came from
)

// Reason is why a packet did not simply go through. The numbers are those of enum reason.
type Reason uint32

// Reasons, in the order of bpf/reasons.h; a test compares names and numbers.
const (
	None Reason = iota
	NoAttachment
	OtherMAC
	OtherIPv6
	OtherARP
	OtherEthertype
	OtherIPv4
	Multicast
	Short
	BadHeader
	BadL4
	Martian
	SCTP
	GRE
	ESP
	AH
	IGMP
	Protocol
	ICMPOther
	ICMPNoFlow
	ICMPShort
	NotApproved
	Ended
	NoRule
	NoBackend
	Quota
	Ports
	PortsResting
	Domains
	TableFull
	WindowFull
	TableBusy
	NoFlow
	NATNoFlow
	NoDial
	TTL
	TooBig
	TooBigMayFragment
	NoOutput
	FragmentOrphan
	FragmentBad
	FragmentIDs
	Helper
	ARPReply
	EchoReply
	RSTLimited
	ICMPLimited
	RSTSent
	ICMPSent
	ReasonCount
)

// reasonNames are the labels of bpf/reasons.h.
var reasonNames = [ReasonCount]string{
	"none", "no_attachment", "other_mac", "other_ipv6", "other_arp", "other_ethertype", "other_ipv4",
	"multicast", "short", "bad_header", "bad_l4", "martian", "sctp", "gre", "esp", "ah", "igmp", "protocol",
	"icmp_other", "icmp_no_flow", "icmp_short", "not_approved", "ended", "no_rule", "no_backend", "quota", "ports", "ports_resting",
	"domains", "table_full", "window_full", "table_busy", "no_flow", "nat_no_flow", "no_dial", "ttl",
	"too_big", "too_big_may_fragment", "no_output", "fragment_orphan", "fragment_bad", "fragment_ids",
	"helper", "arp_reply", "echo_reply", "rst_limited", "icmp_limited", "rst_sent", "icmp_sent",
}

// String is the reason's label.
func (r Reason) String() string {
	if r < ReasonCount {
		return reasonNames[r]
	}
	return fmt.Sprintf("reason %d", uint32(r))
}

var actionNames = [...]string{"none", "pass", "up", "drop", "redirect", "answer"}

// String is the action's name.
func (a Action) String() string {
	if int(a) < len(actionNames) {
		return actionNames[a]
	}
	return fmt.Sprintf("action %d", uint32(a))
}

// Phase of a pair. The numbers are those of enum flow_phase.
type Phase uint16

// Phases.
const (
	PhaseSYN     Phase = iota // half-open
	PhaseOpen                 // established TCP, and UDP
	PhaseClosing              // FIN seen both ways
	PhaseReset                // RST seen; any other segment takes it back
	PhaseEnded                // revoked: every segment gets a RST until both ends are over

	phaseMask = 7
)

// Flags of a half, beside its phase. The numbers are those of enum flow_flags.
const (
	FlagReverse     = 1 << 3 // the half that replies match
	FlagFINClient   = 1 << 4
	FlagFINBackend  = 1 << 5
	FlagAnswered    = 1 << 6 // the backend sent SYN
	FlagRSTClient   = 1 << 7 // ended: the client got a RST, or sent one
	FlagRSTBackend  = 1 << 8
	FlagInner       = 1 << 9  // second leg of a proxied connection, or a probe
	FlagHA          = 1 << 10 // its port domain has backend port 0
	FlagTCP         = 1 << 11
	FlagOverClient  = 1 << 12 // ended: the client sent a RST, its socket is gone
	FlagOverBackend = 1 << 13

	flagRSTBoth  = FlagRSTClient | FlagRSTBackend
	flagOverBoth = FlagOverClient | FlagOverBackend
)

// Timeouts and ages in seconds (DESIGN: idle means gone).
const (
	IdleMin      = 10 // no timeout is shorter: a younger stamp needs no further question
	IdleDefault  = 300
	IdleSYN      = 20
	IdleClosing  = 15
	IdleReset    = 10
	IdleFragment = 30
	PortRest     = 15
	OrphanAge    = 5
)

// Limits.
const (
	FirstPort    = 1024
	PortCount    = 64512 // 1024..65535
	PortWords    = 1008
	MaxNATIPs    = 8
	MaxFragments = 4096 // incomplete datagrams a link may hold

	RSTPerSecond  = 1000 // per interface, for segments without a flow
	ICMPPerSecond = 100
)

// Kinds of table entries.
const (
	KindFlow     = 0
	KindFragment = 1 // a datagram as it arrives: addresses and IP id
	KindIPID     = 2 // the id it was given on the outgoing side
)
