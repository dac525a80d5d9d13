package api

import (
	"regexp"
	"strings"
)

// Validate checks an endpoint: its subnet, its one connection and its address.
func (r *PrivateEndpoint) Validate(id ID) error {
	p := problems{}
	p.completeRefs(r, id)
	p.meta(&r.Envelope, id)
	props := &r.Properties
	p.ref("properties.subnet", props.Subnet, VirtualNetworks, Subnets)
	p.version4("properties.ipVersionType", &props.IPVersionType)
	if props.CustomNetworkInterfaceName != "" {
		p.name("properties.customNetworkInterfaceName", props.CustomNetworkInterfaceName)
	}
	p.endpointConnection(props, id)
	p.endpointAddress(props.IPConfigurations)
	for i, d := range props.CustomDNSConfigs {
		if !isFQDN(d.FQDN) {
			p.invalid(at("properties.customDnsConfigs", i)+".fqdn", "%q is not a domain name", d.FQDN)
		}
	}
	return p.err()
}

func (p *problems) endpointConnection(props *PrivateEndpointProperties, self ID) {
	const automatic, manual = "properties.privateLinkServiceConnections", "properties.manualPrivateLinkServiceConnections"
	n := len(props.PrivateLinkServiceConnections) + len(props.ManualPrivateLinkServiceConnections)
	if n != 1 {
		p.invalid(automatic, "%d connections, exactly 1 required (here or in %s)", n, manual)
	}
	for _, list := range []struct {
		path    string
		entries []ServiceConnection
		manual  bool
	}{{automatic, props.PrivateLinkServiceConnections, false}, {manual, props.ManualPrivateLinkServiceConnections, true}} {
		p.parts(list.path, len(list.entries), func(i int) *string { return &list.entries[i].Name })
		for i := range list.entries {
			here := at(list.path, i) + ".properties"
			c := &list.entries[i].Properties
			p.text(here+".requestMessage", c.RequestMessage, MaxRequestMessage)
			if len(c.GroupIDs) > 0 {
				p.add(NewError(400, CodeUnsupportedProperty, here+".groupIds", "groupIds is not supported: a private link service has no groups"))
			}
			if s := c.PrivateLinkServiceConnectionState; s != nil && s.Status != "" {
				enum(p, here+".privateLinkServiceConnectionState.status", &s.Status, Pending, Approved, Rejected, Disconnected)
			}
			target, err := ParseTarget(c.PrivateLinkServiceID, self)
			switch {
			case c.PrivateLinkServiceID == "":
				p.invalid(here+".privateLinkServiceId", "is required (a service's resource id or alias)")
			case err != nil:
				p.invalid(here+".privateLinkServiceId", "%q is neither the resource id of a private link service nor an alias "+
					"(such as name.guid.region.azure.privatelinkservice)", c.PrivateLinkServiceID)
			case target.Alias != "" && !list.manual:
				p.invalid(here+".privateLinkServiceId", "an alias belongs into %s", manual)
			case target.Alias == "":
				c.PrivateLinkServiceID = target.ID.String()
			}
		}
	}
}

func (p *problems) endpointAddress(list []EndpointIPConfiguration) {
	const path = "properties.ipConfigurations"
	p.count(path, len(list), 1, "IP configurations")
	p.parts(path, len(list), func(i int) *string { return &list[i].Name })
	for i := range list {
		here := at(path, i) + ".properties"
		c := &list[i].Properties
		if a := p.addr(here+".privateIPAddress", c.PrivateIPAddress); a.IsValid() {
			c.PrivateIPAddress = a.String()
		}
		if c.GroupID != "" || c.MemberName != "" {
			p.add(NewError(400, CodeUnsupportedProperty, here+".groupId", "groupId and memberName are not supported: a private link service has no groups"))
		}
	}
}

// Target is what an endpoint asks for: a service by id or by alias.
type Target struct {
	ID    ID
	Alias string
}

var aliasForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*\.[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\.[A-Za-z0-9-]+(\.[A-Za-z0-9-]+){2,}$`)

// IsAlias tells whether s has the form of an alias: prefix.guid.region and two more labels at least.
func IsAlias(s string) bool { return aliasForm.MatchString(s) }

// ParseTarget reads a privateLinkServiceId.
func ParseTarget(s string, base ID) (Target, error) {
	if IsAlias(s) && !strings.Contains(s, "/") {
		return Target{Alias: s}, nil
	}
	id, err := ParseID(s, base)
	if err != nil {
		return Target{}, err
	}
	if id.Type != string(PrivateLinkServices) || id.ChildType != "" {
		return Target{}, BadReference("", "%s is not a private link service", id.Short())
	}
	return Target{ID: id}, nil
}
