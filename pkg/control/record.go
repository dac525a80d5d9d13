package control

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/privlink/privlink/pkg/api"
)

// Keys of the store. What is under prefixLive is read into memory; ids are in lower case and begin with '/'.
const (
	prefixLive       = "live/"
	prefixResource   = prefixLive + "resource"      // + id
	prefixConnection = prefixLive + "connection"    // + id
	prefixSubscr     = prefixLive + "subscription/" // + name in lower case
	prefixPrincipal  = prefixLive + "principal/"    // + name in lower case
	prefixToken      = prefixLive + "token/"        // + id
	prefixRole       = prefixLive + "role/"         // + id
	keyLinkIDs       = prefixLive + "linkids"       // 8 bytes, big endian: how many LinkIDs were given
	keyJournal       = prefixLive + "journal"       // 8 bytes, big endian: number of the last entry
	prefixJournal    = "journal/"                   // + number, 16 hexadecimal digits
)

// record is a resource as it is kept. It is never changed, only replaced.
type record struct {
	resource api.Resource // without what is computed when it is read
	kept     kept
	revision uint64 // of the store's Commit that wrote it; set once, under Controller.mu

	// Derived by newRecord.
	id    api.ID
	key   string
	raw   json.RawMessage // the resource
	json  []byte          // of a stored
	holds []hold
	// backends are the addresses that a load balancer's pools name, in the network of its frontends.
	backends []place
	refs     []string // keys of what the resource refers to, and of the resources these are parts of
}

// kept is what is kept of a resource besides what ARM's schema has.
type kept struct {
	Created time.Time `json:"created"`
	GUID    string    `json:"guid,omitempty"`  // of an endpoint
	Alias   string    `json:"alias,omitempty"` // of a service
	// LastLinkID is the LinkID that an endpoint without a connection had.
	LastLinkID uint32 `json:"lastLinkId,omitempty"`
	// Draining are NAT IPs taken out of a service that still carry flows.
	Draining []draining `json:"draining,omitempty"`
	// Deleting marks a service that is being deleted.
	Deleting *deleting `json:"deleting,omitempty"`
	// Leaving and NATPorts are what is remembered of the members of a load balancer's pools.
	Leaving  []leaving `json:"leaving,omitempty"`
	NATPorts []natPort `json:"natPorts,omitempty"`
	// Disconnected is what an endpoint without a connection shows.
	Disconnected *api.ConnectionState `json:"disconnected,omitempty"`
}

// draining is a NAT IP taken out.
type draining struct {
	Address netip.Addr `json:"address"`
	Subnet  string     `json:"subnet"` // id
	Until   time.Time  `json:"until"`
}

// hold is an address that a resource has in a virtual network.
type hold struct {
	network string // key
	subnet  string // key
	addr    netip.Addr
	part    string // name of the IP configuration
	dynamic bool
}

// stored is the JSON of a record in the store.
type stored struct {
	Resource json.RawMessage `json:"resource"`
	Kept     kept            `json:"kept"`
}

// marshalStored is json.Marshal of a stored whose resource was marshalled before: that may be large, and is not looked through
// again.
func marshalStored(resource json.RawMessage, k kept) ([]byte, error) {
	rest, err := json.Marshal(k)
	if err != nil {
		return nil, err
	}
	text := make([]byte, 0, len(resource)+len(rest)+32)
	text = append(append(text, `{"resource":`...), resource...)
	text = append(append(text, `,"kept":`...), rest...)
	return append(text, '}'), nil
}

func newRecord(r api.Resource, k kept) (*record, error) {
	id := api.IDOf(r)
	if id.IsZero() {
		return nil, fmt.Errorf("keep %q: not a resource id", r.Meta().ID)
	}
	rec := &record{resource: r, kept: k, id: id, key: id.Key()}
	var err error
	if rec.raw, err = json.Marshal(r); err != nil {
		return nil, fmt.Errorf("keep %s: %w", id.Short(), err)
	}
	if rec.json, err = marshalStored(rec.raw, k); err != nil {
		return nil, fmt.Errorf("keep %s: %w", id.Short(), err)
	}
	rec.holds = holdsOf(r, k)
	if lb, ok := r.(*api.LoadBalancer); ok && len(rec.holds) > 0 {
		rec.backends = backendsOf(lb, rec.holds[0].network)
	}
	seen, noted := map[string]bool{}, map[string]bool{} // as written, by key
	for _, ref := range api.References(r) {
		if seen[ref] {
			continue
		}
		seen[ref] = true
		to, err := api.ParseID(ref, api.ID{})
		if err != nil {
			continue // read-only references to what privlink does not manage
		}
		for _, key := range []string{to.Key(), to.Parent().Key()} {
			if key != rec.key && !noted[key] && !strings.HasPrefix(key, rec.key+"/") {
				noted[key] = true
				rec.refs = append(rec.refs, key)
			}
		}
	}
	return rec, nil
}

func loadRecord(key string, data []byte) (*record, error) {
	var s stored
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, fmt.Errorf("load %s: %w", key, err)
	}
	id, err := api.ParseID(strings.TrimPrefix(key, prefixResource), api.ID{})
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", key, err)
	}
	r := api.Kind(id.Type).New()
	if err := json.Unmarshal(s.Resource, r); err != nil {
		return nil, fmt.Errorf("load %s: %w", key, err)
	}
	return newRecord(r, s.Kept)
}

// backendsOf are the addresses that the pools of a load balancer in a network name.
func backendsOf(lb *api.LoadBalancer, network string) []place {
	var list []place
	for i := range lb.Properties.BackendAddressPools {
		members := lb.Properties.BackendAddressPools[i].Properties.LoadBalancerBackendAddresses
		for j := range members {
			if a, err := netip.ParseAddr(members[j].Properties.IPAddress); err == nil {
				list = append(list, place{network, a})
			}
		}
	}
	return list
}

// holdsOf are the addresses that a resource has.
func holdsOf(r api.Resource, k kept) []hold {
	var list []hold
	add := func(subnet *api.SubResource, address, part string, dynamic bool) {
		a, err := netip.ParseAddr(address)
		if subnet == nil || err != nil {
			return
		}
		id, err := api.ParseID(subnet.ID, api.ID{})
		if err != nil {
			return
		}
		list = append(list, hold{network: id.Parent().Key(), subnet: id.Key(), addr: a, part: part, dynamic: dynamic})
	}
	switch r := r.(type) {
	case *api.NetworkInterface:
		for i := range r.Properties.IPConfigurations {
			c := &r.Properties.IPConfigurations[i]
			add(c.Properties.Subnet, c.Properties.PrivateIPAddress, c.Name, c.Properties.PrivateIPAllocationMethod == api.Dynamic)
		}
	case *api.LoadBalancer:
		for i := range r.Properties.FrontendIPConfigurations {
			c := &r.Properties.FrontendIPConfigurations[i]
			add(c.Properties.Subnet, c.Properties.PrivateIPAddress, c.Name, c.Properties.PrivateIPAllocationMethod == api.Dynamic)
		}
	case *api.PrivateLinkService:
		for i := range r.Properties.IPConfigurations {
			c := &r.Properties.IPConfigurations[i]
			add(c.Properties.Subnet, c.Properties.PrivateIPAddress, c.Name, c.Properties.PrivateIPAllocationMethod == api.Dynamic)
		}
		for _, d := range k.Draining {
			add(&api.SubResource{ID: d.Subnet}, d.Address.String(), "", false)
		}
	case *api.PrivateEndpoint:
		add(r.Properties.Subnet, r.Properties.IPAddress, "", len(r.Properties.IPConfigurations) == 0)
	}
	return list
}

// connection is a private endpoint connection as it is kept. It is never changed, only replaced.
type connection struct {
	Service  string `json:"service"` // id
	Name     string `json:"name"`
	Endpoint string `json:"endpoint"` // id
	Alias    string `json:"alias,omitempty"`
	LinkID   uint32 `json:"linkId"`

	State          api.ConnectionState `json:"state"`
	RequestMessage string              `json:"requestMessage,omitempty"`
	Subscription   string              `json:"subscription"` // the consumer's
	Tenant         string              `json:"tenant,omitempty"`
	Location       string              `json:"location,omitempty"` // the endpoint's
	Requested      time.Time           `json:"requested"`
	Decided        time.Time           `json:"decided,omitzero"`
	DecidedBy      string              `json:"decidedBy,omitempty"`
	// Entry is the entry of approvals in force when the last decision was made.
	Entry *api.Approval `json:"entry,omitempty"`
	// Epoch counts how often the connection stopped being approved.
	Epoch    uint32         `json:"epoch,omitempty"`
	MaxFlows api.Own[int64] `json:"maxFlows,omitzero"`

	revision uint64 // of the store's Commit; set once, under Controller.mu

	// Derived by derive.
	key, serviceKey, endpointKey string
}

// id is the connection's resource id.
func (c *connection) id() api.ID {
	service, _ := api.ParseID(c.Service, api.ID{})
	return service.Sub(api.PrivateEndpointConnections, c.Name)
}

func (c *connection) derive() {
	c.key = c.id().Key()
	c.serviceKey, c.endpointKey = strings.ToLower(c.Service), strings.ToLower(c.Endpoint)
}

func loadConnection(key string, data []byte) (*connection, error) {
	c := &connection{}
	if err := json.Unmarshal(data, c); err != nil {
		return nil, fmt.Errorf("load %s: %w", key, err)
	}
	c.derive()
	return c, nil
}
