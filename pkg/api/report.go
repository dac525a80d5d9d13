package api

import (
	"encoding/json"
	"time"
)

// What privlink's own operations answer (paths under /privlink and natPortUsage of a service).

// Status is how the daemon and its dataplane are.
type Status struct {
	// Degraded says that something needs an operator; Problems are the reasons.
	Degraded bool     `json:"degraded"`
	Problems []string `json:"problems,omitempty"`
	// Warnings are what an operator should know; they do not degrade.
	Warnings []string `json:"warnings,omitempty"`
	Version  string   `json:"version"`
	// Started is when the daemon began to serve.
	Started time.Time `json:"started"`
	// WantedRevision is that of the store, AppliedRevision the one the kernel agrees with.
	WantedRevision  uint64            `json:"wantedRevision"`
	AppliedRevision uint64            `json:"appliedRevision"`
	Interfaces      []InterfaceStatus `json:"interfaces"`
	Maps            []MapStatus       `json:"maps"`
	// LeftOut is what the kernel has no place for, wholly or partly.
	LeftOut []LeftOut `json:"leftOut,omitempty"`
	// Unresolved are backends that take no new flows as nobody knows where they are.
	Unresolved []UnresolvedBackend `json:"unresolvedBackends,omitempty"`
	// Conflicts are addresses of endpoints, frontends and NAT IPs that somebody else on the network has.
	Conflicts []AddressConflict `json:"addressConflicts,omitempty"`
	// Flows is the number of pairs in the table, until swept.
	Flows uint64 `json:"flows"`
	// SweepAgeSeconds is how long ago the last sweep of the flow table ended.
	SweepAgeSeconds float64 `json:"sweepAgeInSeconds"`
	// Proxied are the connections of services with PROXY headers.
	Proxied ProxiedStatus `json:"proxied"`
}

// ProxiedStatus is how many connections the splice path carries and may carry.
type ProxiedStatus struct {
	Connections uint64 `json:"connections"`
	Limit       int    `json:"limit"`
	// LinkLimit is that of one link.
	LinkLimit int `json:"linkLimit,omitempty"`
}

// LeftOut is a resource that is not in the kernel as it should be.
type LeftOut struct {
	ID     string `json:"id"`
	Reason string `json:"reason"`
}

// UnresolvedBackend is a backend that does not answer ARP, or has nobody to be asked.
type UnresolvedBackend struct {
	Network string `json:"network"` // resource id
	Address string `json:"privateIPAddress"`
	Missing string `json:"missing"` // interface, answer, nextHop, nextHopsAnswer
	Why     string `json:"why"`
	// Asking says that it is not known yet: it was asked for just now.
	Asking bool `json:"asking,omitempty"`
}

// AddressConflict names who else has an address.
type AddressConflict struct {
	Network   string `json:"network"` // resource id
	Address   string `json:"privateIPAddress"`
	MAC       string `json:"mac"`
	Interface string `json:"interface"`
}

// InterfaceStatus is one attachment.
type InterfaceStatus struct {
	Network   string `json:"network"` // resource id
	Interface string `json:"interface"`
	VLAN      uint16 `json:"vlan,omitempty"`
	// Down says that somebody set it down: it carries nothing.
	Down bool `json:"down,omitempty"`
	// Hook is tcx or clsact, empty if not attached.
	Hook string `json:"hook,omitempty"`
	// Mode is what was chosen, tc or xdp, and Why the reason. Asked is auto, tc or xdp.
	Mode  string `json:"mode,omitempty"`
	Why   string `json:"why,omitempty"`
	Asked string `json:"modeAskedFor,omitempty"`
	MAC   string `json:"mac,omitempty"`
	MTU   int    `json:"mtu,omitempty"`
	Error string `json:"error,omitempty"`
	// TakesXDP says that XDP on another interface may send packets out here by itself.
	TakesXDP bool `json:"takesXDP,omitempty"`
	// Others are other programs on its hooks.
	Others   []string `json:"otherPrograms,omitempty"`
	Warnings []string `json:"warnings,omitempty"`
}

// Examination is what the kernel has otherwise than the daemon made it (nothing, where nobody touched it), and what becomes scarce.
type Examination struct {
	// Differences are entries of maps.
	Differences []KernelDifference `json:"differences"`
	// Pins are files of the bpffs folder that are missing, lead to another object, or are nobody's.
	Pins []PinTrouble `json:"pins"`
	// Detached are interfaces whose program somebody took away.
	Detached []string `json:"detached"`
	// Before are the programs of others, of each interface that has some, that see packets before privlink does.
	Before map[string][]string `json:"programsBefore"`
	// After are those that see what privlink sends out there.
	After map[string][]string `json:"programsAfter"`
	// Inner is the interface that leads to the splice path and to the probes.
	Inner string `json:"innerInterface"`
	// SocketMode is that of the Unix socket as it was made, permission bits.
	SocketMode uint32 `json:"socketMode"`
	// NetworkNamespace is the daemon's, as /proc/self/ns/net names it; BPFFS and StateDir are its folders.
	NetworkNamespace string `json:"networkNamespace"`
	BPFFS            string `json:"bpffs"`
	StateDir         string `json:"stateDir"`
	// PrivateBPFFS says that the bpffs is among mounts of the daemon's own, and what is pinned there ends with it.
	PrivateBPFFS bool `json:"privateBpffs,omitempty"`
	// Store is what is the matter with the file that the resources are in; empty = nothing.
	Store string `json:"store,omitempty"`
	// Ports are, for each service and frontend with flows, those towards the backend that has the fewest left.
	Ports []ScarcePorts `json:"ports"`
}

// ScarcePorts is how many NAT ports are in use or rest towards one backend, of those that the NAT IPs (of a frontend: its one
// address) have together. NAT IPs that drain do not count.
type ScarcePorts struct {
	ID       string `json:"id"` // of the service or frontend, in lower case
	Protocol string `json:"protocol"`
	Backend  string `json:"backend"` // IP:port
	Used     uint64 `json:"used"`
	Size     uint64 `json:"size"`
}

// KernelDifference is an object that the maps have otherwise than the resources say; an empty side has none.
type KernelDifference struct {
	Object string `json:"object"`
	Have   string `json:"have,omitempty"`
	Want   string `json:"want,omitempty"`
}

// PinTrouble is a pin that is missing, of another object, or left.
type PinTrouble struct {
	Path string `json:"path"`
	Why  string `json:"why"` // missing, other, left
}

// MapStatus is how full a map is.
type MapStatus struct {
	Name string `json:"name"`
	Noun string `json:"noun"` // of what it holds: flows
	Used uint64 `json:"used"`
	Size uint64 `json:"size"`
}

// Flow is one tracked conversation. Addresses and ports are strings and numbers as people write them.
type Flow struct {
	Protocol     string `json:"protocol"` // tcp, udp
	State        string `json:"state"`
	Client       string `json:"client"`   // IP:port in the consumer's network
	Endpoint     string `json:"endpoint"` // IP:port that the client asked for
	NAT          string `json:"nat"`      // IP:port that the backend sees
	Backend      string `json:"backend"`  // IP:port
	LinkID       uint32 `json:"linkIdentifier"`
	EndpointName string `json:"endpointId,omitempty"` // resource id, where the caller may see it
	Service      string `json:"serviceId,omitempty"`  // resource id, where the caller may see it
	IdleSeconds  uint32 `json:"idleInSeconds"`
	// Slot and TwinSlot are the indices of both entries in the flow table (bpftool map lookup).
	Slot     uint32 `json:"slot"`
	TwinSlot uint32 `json:"twinSlot"`
}

// PortUse is how many NAT ports one backend's port domain has taken.
type PortUse struct {
	Address  string `json:"privateIPAddress"` // NAT IP
	Protocol string `json:"protocol"`
	Backend  string `json:"backend"` // IP:port
	Used     uint32 `json:"used"`    // resting ports included
	Size     uint32 `json:"size"`
}

// Audit is what disagrees between the flow table and what is counted from it; nothing, where all is well.
type Audit struct {
	Disagreements []Disagreement `json:"disagreements"`
}

// Disagreement is one of them: of a port, of the count of a NAT IP's ports to a backend, or of a quota.
type Disagreement struct {
	What     string `json:"what"`
	NAT      string `json:"nat,omitempty"` // IP:port; port 0 = the whole domain
	Backend  string `json:"backend,omitempty"`
	Protocol string `json:"protocol,omitempty"`
	Endpoint string `json:"endpoint,omitempty"` // id, in lower case; of a quota
	Have     uint32 `json:"have"`
	Due      uint32 `json:"due"`
}

// NATPortUsage is the use of a service's NAT ports.
type NATPortUsage struct {
	Value []PortUse `json:"value"`
}

// Of are the port domains of a NAT IP that have ports in use, and how many these are together.
func (u NATPortUsage) Of(address string) (domains []PortUse, total uint64) {
	for _, use := range u.Value {
		if use.Address == address && use.Used > 0 {
			domains = append(domains, use)
			total += uint64(use.Used)
		}
	}
	return domains, total
}

// BackendState is what keeps a backend from taking new flows, or that nothing does.
type BackendState string

// Backend states.
const (
	BackendUp         BackendState = "Up"
	BackendDown       BackendState = "Down"       // its probe says so, or adminState
	BackendUnresolved BackendState = "Unresolved" // it, or the router before it, answers no ARP
)

// BackendHealth is one backend of one rule.
type BackendHealth struct {
	Rule    string       `json:"rule"` // name
	Pool    string       `json:"pool"` // name
	Address string       `json:"ipAddress"`
	State   BackendState `json:"state"`
	Reason  string       `json:"reason,omitempty"`
}

// RuleHealth is the health of the backends of a rule.
type RuleHealth struct {
	Up       int32           `json:"up"`
	Down     int32           `json:"down"`
	Backends []BackendHealth `json:"loadBalancerBackendAddresses"`
}

// Batch is several writes that are done all or not at all.
type Batch struct {
	DryRun bool        `json:"dryRun,omitempty"` // check everything, change nothing
	Steps  []BatchStep `json:"steps"`
}

// BatchStep is one write: Put, or where it is null a delete.
type BatchStep struct {
	ID      string          `json:"id"`
	Put     json.RawMessage `json:"put,omitempty"`
	Cascade bool            `json:"cascade,omitempty"` // of a delete
}

// BatchResult tells what each step did, or would do.
type BatchResult struct {
	Outcomes []BatchOutcome `json:"outcomes"`
}

// BatchOutcome is a resource before and after its step; nil where there was none or is none.
type BatchOutcome struct {
	ID      string   `json:"id"`
	Before  Resource `json:"before"`
	After   Resource `json:"after"`
	Changed bool     `json:"changed"`
}

// TokenRequest is the body that asks for a token.
type TokenRequest struct {
	Principal     string `json:"principal"`
	LifeInSeconds int64  `json:"lifeInSeconds,omitempty"` // 0: for ever, or asked with a token until that ends
}

// Journal is a part of the journal. Next is the number to go on from.
type Journal struct {
	Value    []JournalEntry `json:"value"`
	Next     uint64         `json:"next"`
	NextLink string         `json:"nextLink,omitempty"`
}

// PortMappingRequest asks for the frontend ports of one member of a pool.
type PortMappingRequest struct {
	IPConfiguration *SubResource `json:"ipConfiguration,omitempty"`
	IPAddress       string       `json:"ipAddress,omitempty"`
}

// PortMappings are ARM's answer to it.
type PortMappings struct {
	Value []PortMapping `json:"inboundNatRulePortMappings"`
}

// PortMapping is one port of an inbound NAT rule.
type PortMapping struct {
	InboundNATRuleName string            `json:"inboundNatRuleName"`
	Protocol           TransportProtocol `json:"protocol"`
	FrontendPort       int32             `json:"frontendPort"`
	BackendPort        int32             `json:"backendPort"`
}

// AddressAvailability is ARM's answer to the question whether an address is free.
type AddressAvailability struct {
	Available            bool     `json:"available"`
	AvailableIPAddresses []string `json:"availableIPAddresses"`
	IsPlatformReserved   bool     `json:"isPlatformReserved"`
}

// NetworkUsage is how many addresses of a subnet are in use.
type NetworkUsage struct {
	ID           string           `json:"id"` // the subnet
	CurrentValue float64          `json:"currentValue"`
	Limit        float64          `json:"limit"`
	Name         NetworkUsageName `json:"name"`
	Unit         string           `json:"unit"` // Count
}

// NetworkUsageName is ARM's name of what is counted.
type NetworkUsageName struct {
	Value          string `json:"value"`
	LocalizedValue string `json:"localizedValue"`
}
