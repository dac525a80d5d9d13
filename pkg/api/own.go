package api

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"time"
)

// Everything that privlink adds to ARM's schema stands in this file.
//
// ARM's PUT replaces a resource and the SDK drops what it does not know. A property of privlink's
// that is absent in a PUT therefore means unchanged, and null means default.

// Own is the value of one of privlink's own properties: absent, null or set.
// In a stored resource it is absent (the default holds) or set.
type Own[T any] struct {
	value T
	state ownState
}

type ownState uint8

const (
	ownAbsent ownState = iota
	ownNull
	ownSet
)

// Set is an own property with a value.
func Set[T any](v T) Own[T] { return Own[T]{value: v, state: ownSet} }

// Null is an own property that asks for its default.
func Null[T any]() Own[T] { return Own[T]{state: ownNull} }

// Get is the value and whether there is one.
func (o Own[T]) Get() (T, bool) { return o.value, o.state == ownSet }

// Or is the value, or def if none is set.
func (o Own[T]) Or(def T) T {
	if o.state == ownSet {
		return o.value
	}
	return def
}

// IsSet reports whether there is a value.
func (o Own[T]) IsSet() bool { return o.state == ownSet }

// IsNull reports whether the default was asked for.
func (o Own[T]) IsNull() bool { return o.state == ownNull }

// IsZero reports whether the property is absent; encoding/json leaves it out then (omitzero).
func (o Own[T]) IsZero() bool { return o.state == ownAbsent }

// MarshalJSON writes the value, or null.
func (o Own[T]) MarshalJSON() ([]byte, error) {
	if o.state != ownSet {
		return []byte("null"), nil
	}
	return json.Marshal(o.value)
}

// UnmarshalJSON reads a value or null.
func (o *Own[T]) UnmarshalJSON(data []byte) error {
	*o = Own[T]{state: ownNull}
	if bytes.Equal(bytes.TrimSpace(data), []byte("null")) {
		return nil
	}
	if err := json.Unmarshal(data, &o.value); err != nil {
		return err
	}
	o.state = ownSet
	return nil
}

func (o *Own[T]) inherit(old any) {
	switch o.state {
	case ownAbsent:
		if old, ok := old.(*Own[T]); ok && old.state == ownSet {
			*o = *old
		}
	case ownNull:
		*o = Own[T]{}
	}
}

func (o *Own[T]) nullIfAbsent() {
	if o.state == ownAbsent {
		o.state = ownNull
	}
}

func (o *Own[T]) elem() reflect.Type { return reflect.TypeFor[T]() }

type owner interface {
	inherit(old any)
	nullIfAbsent()
	elem() reflect.Type
}

// ServiceOwn are the own properties of a private link service.
type ServiceOwn struct {
	// IdleTimeoutInSeconds, 10..86400, ends idle TCP and UDP flows. Absent: the rule's
	// idleTimeoutInMinutes if the request had it (TCP), else 300 s.
	IdleTimeoutInSeconds Own[int32] `json:"idleTimeoutInSeconds,omitzero"`
	// EnableTCPReset sends both ends a RST at idle expiry. Default false.
	EnableTCPReset Own[bool] `json:"enableTcpReset,omitzero"`
	// MaxFlowsPerEndpoint is a number of pairs, 1... Default: a quarter of the table's, at most half of the ports that
	// the NAT IPs have towards one backend (32,256 each).
	MaxFlowsPerEndpoint Own[int64] `json:"maxFlowsPerEndpoint,omitzero"`
	// ProxyTLV is the style of the identity in PROXY headers. Default azure.
	ProxyTLV Own[ProxyTLV] `json:"proxyTlv,omitzero"`
	// ProxyCRC32C adds the CRC32C TLV. Default false.
	ProxyCRC32C Own[bool] `json:"proxyCrc32c,omitzero"`
	// ProxyProbes puts a LOCAL header on the probes of a PROXY service. Default true.
	ProxyProbes Own[bool] `json:"proxyProbes,omitzero"`
	// NATDrainPeriodInSeconds, 0..86400, is what flows on a NAT IP taken out have left. Default 300.
	NATDrainPeriodInSeconds Own[int32] `json:"natDrainPeriodInSeconds,omitzero"`
	// Approvals are declarative decisions. Default none.
	Approvals Own[[]Approval] `json:"approvals,omitzero"`
}

// ProxyTLV is a style of identity in a PROXY v2 header.
type ProxyTLV string

// Styles: 0xEE (Azure), 0xEA (AWS), 0xE0 (GCP), no TLV.
const (
	ProxyTLVAzure ProxyTLV = "azure"
	ProxyTLVAWS   ProxyTLV = "aws"
	ProxyTLVGCP   ProxyTLV = "gcp"
	ProxyTLVNone  ProxyTLV = "none"
)

// Approval decides the requests of one subscription or of one endpoint. Exactly one of
// Subscription and PrivateEndpoint is set.
type Approval struct {
	Subscription    string           `json:"subscription,omitempty"`
	PrivateEndpoint string           `json:"privateEndpoint,omitempty"` // resource id
	Status          ConnectionStatus `json:"status"`                    // Approved or Rejected
	Description     string           `json:"description,omitempty"`
}

// ServiceReport is what privlink adds to a service when it is read; ignored when written.
type ServiceReport struct {
	Warnings []string `json:"warnings,omitempty"`
	// FailureReason says why provisioningState is Failed.
	FailureReason string `json:"failureReason,omitempty"`
	// DrainingIPs are NAT IPs taken out that still carry flows.
	DrainingIPs []DrainingIP `json:"drainingIPs,omitempty"`
}

// DrainingIP is a NAT IP taken out of its service.
type DrainingIP struct {
	Address string    `json:"privateIPAddress"`
	Until   time.Time `json:"until"` // flows that are left then get RST
}

// NetworkOwn are the own properties of a virtual network.
type NetworkOwn struct {
	// Attachments are the node's interfaces that belong to the network. Default none.
	Attachments Own[[]Attachment] `json:"attachments,omitzero"`
}

// AttachmentMode is the hook of an attachment.
type AttachmentMode string

// Modes: auto is XDP for physical NICs and TC otherwise; xdp is XDP in front of TC.
const (
	AttachAuto AttachmentMode = "auto"
	AttachTC   AttachmentMode = "tc"
	AttachXDP  AttachmentMode = "xdp"
)

// Attachment is a Linux interface, or one VLAN of it, that belongs to a virtual network.
type Attachment struct {
	Interface string         `json:"interface"`
	VLAN      int32          `json:"vlan,omitempty"` // 1..4094; 0 = untagged
	Mode      AttachmentMode `json:"mode,omitempty"` // default auto
	// PassOther leaves everything that is not privlink's to the host.
	PassOther bool `json:"passOther,omitempty"`
	// Exclusive allows an interface on which the host has an address.
	Exclusive bool `json:"exclusive,omitempty"`
	// NextHop is the router for backends outside of the network's subnets, IPv4.
	NextHop string `json:"nextHop,omitempty"`
	// AnswerGateway answers ARP for the first address of each subnet.
	AnswerGateway bool `json:"answerGateway,omitempty"`
}

// NetworkReport is what privlink adds to a virtual network when it is read.
type NetworkReport struct {
	Warnings      []string `json:"warnings,omitempty"`
	FailureReason string   `json:"failureReason,omitempty"`
}

// ConnectionOwn are the own properties of a private endpoint connection.
type ConnectionOwn struct {
	// MaxFlows overrides the service's maxFlowsPerEndpoint. Default absent.
	MaxFlows Own[int64] `json:"maxFlows,omitzero"`
}

// ConnectionReport is what privlink adds to a private endpoint connection when it is read.
type ConnectionReport struct {
	RequestMessage string    `json:"requestMessage,omitempty"`
	Subscription   string    `json:"subscription,omitempty"` // the consumer's
	Tenant         string    `json:"tenant,omitempty"`       // the consumer's
	RequestTime    time.Time `json:"requestTime,omitzero"`
	DecisionTime   time.Time `json:"decisionTime,omitzero"`
	DecidedBy      string    `json:"decidedBy,omitempty"` // principal, "autoApproval" or "approvals"
	Alias          string    `json:"alias,omitempty"`     // if the endpoint asked by alias
}

// EndpointReport is what privlink adds to a private endpoint when it is read.
type EndpointReport struct {
	// LinkIdentifier is the LinkID as the provider sees it, decimal; of a disconnected endpoint absent.
	LinkIdentifier string `json:"linkIdentifier,omitempty"`
	// IPAddress is the endpoint's address, static or given.
	IPAddress string `json:"privateIPAddress,omitempty"`
	// ResourceGUID is what Azure returns and its schema does not mention.
	ResourceGUID  string   `json:"resourceGuid,omitempty" arm:"ro"`
	Warnings      []string `json:"warnings,omitempty"`
	FailureReason string   `json:"failureReason,omitempty"`
}

// LoadBalancerReport is what privlink adds to a load balancer when it is read.
type LoadBalancerReport struct {
	Warnings      []string `json:"warnings,omitempty"`
	FailureReason string   `json:"failureReason,omitempty"`
}

// BackendOwn are the own properties of a member of a backend pool.
type BackendOwn struct {
	// Weight is the member's share of new flows, 1..100. Default 1.
	Weight Own[int32] `json:"weight,omitzero"`
}

// Inherit fills the own properties that next leaves out from old (nil: nothing to inherit) and
// turns null into absent. Members of lists are matched by name.
func Inherit(next, old Resource) {
	var prev reflect.Value
	if old != nil {
		prev = reflect.ValueOf(old)
	}
	walkOwn(reflect.ValueOf(next), prev, func(o owner, old any) { o.inherit(old) })
}

// Complete sets null for every own property that r leaves out, so that r says everything.
func Complete(r Resource) {
	walkOwn(reflect.ValueOf(r), reflect.Value{}, func(o owner, _ any) { o.nullIfAbsent() })
}

// walkOwn calls f for every own property below v with its counterpart below old, or nil.
func walkOwn(v, old reflect.Value, f func(o owner, old any)) {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			return
		}
		if old.IsValid() {
			if old.IsNil() {
				old = reflect.Value{}
			} else {
				old = old.Elem()
			}
		}
		walkOwn(v.Elem(), old, f)
	case reflect.Slice:
		named := byName(old)
		for i := range v.Len() {
			walkOwn(v.Index(i), named[nameOf(v.Index(i))], f)
		}
	case reflect.Struct:
		if v.CanAddr() {
			if o, ok := v.Addr().Interface().(owner); ok {
				var prev any
				if old.IsValid() {
					prev = old.Addr().Interface()
				}
				f(o, prev)
				return
			}
		}
		for _, field := range shapeOf(v.Type()).fields {
			if !field.owns {
				continue
			}
			var prev reflect.Value
			if old.IsValid() {
				prev = old.Field(field.index)
			}
			walkOwn(v.Field(field.index), prev, f)
		}
	}
}

// byName are the elements of a list by nameOf; of several with one name the first.
func byName(list reflect.Value) map[string]reflect.Value {
	if !list.IsValid() {
		return nil
	}
	all := make(map[string]reflect.Value, list.Len())
	for i := range list.Len() {
		if name := nameOf(list.Index(i)); name != "" && !all[name].IsValid() {
			all[name] = list.Index(i)
		}
	}
	return all
}

// nameOf is the Name of a part in the form in which names are compared, or "".
func nameOf(part reflect.Value) string {
	if part.Kind() != reflect.Struct {
		return ""
	}
	if p, ok := part.Addr().Interface().(*BackendAddress); ok {
		return strings.ToLower(p.Name) // there may be thousands
	}
	name := part.FieldByName("Name")
	if !name.IsValid() || name.Kind() != reflect.String {
		return ""
	}
	return strings.ToLower(name.String())
}
