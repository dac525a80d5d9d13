package dataplane

import (
	"net"
	"net/netip"
)

// Result says how far the kernel agrees with the State that was applied last.
// It is a value: Dataplane.Result gives the present one, Options.Notify tells of changes.
type Result struct {
	// Revision is that of the State whose writes are all done; 0 before the first.
	Revision uint64
	// Pending are addresses that are still being probed (RFC 5227): not answered for yet.
	Pending []Address
	// Conflicts are addresses that somebody else on the network has. They are not answered
	// for; the probe is repeated, and a conflict that went away leaves this list by itself.
	Conflicts []Conflict
	// Attachments are all of the State, in its order.
	Attachments []AttachmentStatus
	// Unresolved are targets of which it is not known where they are; they take no new flows.
	Unresolved []Unresolved
	// Failed are the networks, pools, rule sets and links that the kernel does not have, or not all of: what in them
	// has no place in its tables was left out.
	Failed []Failure
}

// Failure is why something of the State is not in the kernel as it should be.
type Failure struct {
	Key    string // of the network, pool, rule set or link
	Reason string
}

// Address is an IPv4 address in a network.
type Address struct {
	Network string // key
	Addr    netip.Addr
}

// Unresolved is a target that cannot be reached.
type Unresolved struct {
	Address
	Missing Missing
	Why     string // one line: who does not answer, or what is missing
	Asking  bool   // it was not looked for long enough to say so
}

// Missing is what a target lacks to be reached.
type Missing string

// What can be missing.
const (
	MissingInterface Missing = "interface"      // its network has no interface that is attached
	MissingAnswer    Missing = "answer"         // it answers no ARP
	MissingNextHop   Missing = "nextHop"        // it is in no subnet of its network, and no attachment has a next hop
	MissingHopAnswer Missing = "nextHopsAnswer" // no next hop answers ARP
)

// Conflict names who else has an address.
type Conflict struct {
	Address
	MAC net.HardwareAddr
	// Interface and VLAN are where the other was heard.
	Interface string
	VLAN      uint16
}

// AttachmentStatus is what became of one attachment.
type AttachmentStatus struct {
	Network    string // key
	Attachment Attachment
	// Err is why it carries no traffic: the interface does not exist, or has a host address; nil if it does.
	Err error
	// Down says that somebody set the interface down: it is attached, and carries nothing.
	Down bool
	// Hook is "tcx" or "clsact", or empty when not attached.
	Hook string
	// Mode is what was chosen (ModeTC or ModeXDP), and Why the reason.
	Mode Mode
	Why  string
	// TakesXDP says that frames redirected by XDP may leave here.
	TakesXDP bool
	// Others are other programs on the interface's hooks, "hook name#id".
	Others []string
	// Warnings are what an operator should know, one sentence each.
	Warnings []string
	Ifindex  int
	MTU      int
	MAC      net.HardwareAddr
}

// Settled says that nothing is under way: every address is probed. Unresolved targets
// do not count, as nobody may ever answer for them.
func (r Result) Settled() bool { return len(r.Pending) == 0 }
