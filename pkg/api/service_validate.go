package api

import (
	"strings"
)

// Validate checks a service: frontends, NAT IPs, subscription lists and privlink's own properties.
func (r *PrivateLinkService) Validate(id ID) error {
	p := problems{}
	p.completeRefs(r, id)
	p.meta(&r.Envelope, id)
	props := &r.Properties
	p.serviceFrontends(props.LoadBalancerFrontendIPConfigurations)
	p.natIPs(props.IPConfigurations)
	enum(&p, "properties.accessMode", &props.AccessMode, AccessDefault, AccessRestricted)
	p.subscriptions("properties.visibility.subscriptions", props.Visibility, MaxVisibility)
	p.subscriptions("properties.autoApproval.subscriptions", props.AutoApproval, MaxAutoApproval)
	if props.AutoApproval != nil {
		for i, s := range props.AutoApproval.Subscriptions {
			if !props.Visibility.Has(s) {
				p.invalid(at("properties.autoApproval.subscriptions", i), "%q is not in properties.visibility.subscriptions", s)
			}
		}
	}
	if props.AccessMode == AccessRestricted && props.Visibility.Has(Anyone) {
		p.invalid("properties.accessMode", "Restricted and a visibility of %q contradict each other", Anyone)
	}
	p.fqdns("properties.fqdns", props.FQDNs)
	p.serviceOwn("properties", &props.ServiceOwn)
	return p.err()
}

func (p *problems) serviceFrontends(list []SubResource) {
	const path = "properties.loadBalancerFrontendIpConfigurations"
	if len(list) == 0 {
		p.invalid(path, "at least one is required")
	}
	var first ID
	seen := map[string]bool{}
	for i := range list {
		f := p.ref(at(path, i), &list[i], LoadBalancers, FrontendIPConfigurations)
		switch {
		case f.IsZero():
			continue
		case first.IsZero():
			first = f
		case !f.Parent().Equal(first.Parent()):
			p.add(BadReference(at(path, i)+".id", "%s is on another load balancer than %s; a service has one", f.Short(), first.Short()))
		}
		if seen[f.Key()] {
			p.add(BadReference(at(path, i)+".id", "%s appears twice", f.Short()))
		}
		seen[f.Key()] = true
	}
}

func (p *problems) natIPs(list []NATIPConfiguration) {
	const path = "properties.ipConfigurations"
	if len(list) == 0 {
		p.invalid(path, "0 NAT IPs, at least 1 required")
	}
	p.count(path, len(list), MaxNATIPs, "NAT IPs")
	p.parts(path, len(list), func(i int) *string { return &list[i].Name })
	p.primary(path, len(list), func(i int) **bool { return &list[i].Properties.Primary })
	seen := map[string]string{}
	for i := range list {
		here := at(path, i) + ".properties"
		c := &list[i].Properties
		p.address(here, &c.PrivateIPAllocationMethod, &c.PrivateIPAddress, &c.PrivateIPAddressVersion)
		p.ref(here+".subnet", c.Subnet, VirtualNetworks, Subnets)
		if a := c.PrivateIPAddress; a != "" {
			if other, ok := seen[a]; ok {
				p.invalid(here+".privateIPAddress", "%s is the address of %s already", a, other)
			}
			seen[a] = list[i].Name
		}
	}
}

func (p *problems) subscriptions(path string, list *SubscriptionList, limit int) {
	if list == nil {
		return
	}
	p.count(path, len(list.Subscriptions), limit, "subscriptions")
	seen := map[string]bool{}
	for i, s := range list.Subscriptions {
		if s != Anyone {
			if err := CheckGroupName(at(path, i), s); err != nil {
				p.add(AsError(err))
			}
		}
		if key := strings.ToLower(s); seen[key] {
			p.invalid(at(path, i), "%q appears twice", s)
		} else {
			seen[key] = true
		}
	}
}

func (p *problems) fqdns(path string, list []string) {
	p.count(path, len(list), MaxFQDNs, "names")
	for i, name := range list {
		if !isFQDN(name) {
			p.invalid(at(path, i), "%q is not a domain name", name)
		}
	}
}

// isFQDN is RFC 1123's host name; a leading "*." is allowed.
func isFQDN(name string) bool {
	name = strings.TrimSuffix(strings.TrimPrefix(name, "*."), ".")
	if name == "" || len(name) > MaxFQDN {
		return false
	}
	for _, label := range strings.Split(name, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, c := range []byte(label) {
			if c != '-' && c != '_' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
				return false
			}
		}
	}
	return true
}

func (p *problems) serviceOwn(path string, o *ServiceOwn) {
	if v, ok := o.IdleTimeoutInSeconds.Get(); ok {
		p.within(path+".idleTimeoutInSeconds", int64(v), MinIdleSeconds, MaxIdleSeconds)
	}
	if v, ok := o.MaxFlowsPerEndpoint.Get(); ok {
		p.within(path+".maxFlowsPerEndpoint", v, 1, MaxFlows)
	}
	if v, ok := o.ProxyTLV.Get(); ok {
		enum(p, path+".proxyTlv", &v, ProxyTLVAzure, ProxyTLVAWS, ProxyTLVGCP, ProxyTLVNone)
		o.ProxyTLV = Set(v)
	}
	if v, ok := o.NATDrainPeriodInSeconds.Get(); ok {
		p.within(path+".natDrainPeriodInSeconds", int64(v), 0, MaxDrainSeconds)
	}
	list, ok := o.Approvals.Get()
	if !ok {
		return
	}
	p.count(path+".approvals", len(list), MaxApprovals, "approvals")
	seen := map[string]bool{}
	for i := range list {
		here, a := at(path+".approvals", i), &list[i]
		switch {
		case (a.Subscription == "") == (a.PrivateEndpoint == ""):
			p.invalid(here, "exactly one of subscription and privateEndpoint is required")
		case a.Subscription != "":
			if err := CheckGroupName(here+".subscription", a.Subscription); err != nil {
				p.add(AsError(err))
			}
		default:
			id, err := ParseID(a.PrivateEndpoint, ID{})
			if err != nil || id.Type != string(PrivateEndpoints) || id.ChildType != "" || id.Subscription == "" {
				p.invalid(here+".privateEndpoint", "%q is not the full resource id of a private endpoint", a.PrivateEndpoint)
			} else {
				a.PrivateEndpoint = id.String()
			}
		}
		if a.Status == "" {
			p.invalid(here+".status", "is required")
		} else {
			enum(p, here+".status", &a.Status, Approved, Rejected)
		}
		p.text(here+".description", a.Description, MaxDescription)
		key := strings.ToLower(a.Subscription + " " + a.PrivateEndpoint)
		if seen[key] {
			p.invalid(here, "%s appears twice", strings.TrimSpace(a.Subscription+" "+a.PrivateEndpoint))
		}
		seen[key] = true
	}
}

// Validate checks a decision on a connection: status and description.
func (c *PrivateEndpointConnection) Validate() error {
	p := problems{}
	const path = "properties.privateLinkServiceConnectionState"
	if s := c.Properties.PrivateLinkServiceConnectionState; s != nil {
		if s.Status == "" {
			p.invalid(path+".status", "is required")
		} else {
			enum(&p, path+".status", &s.Status, Approved, Rejected, Pending, Disconnected)
		}
		p.text(path+".description", s.Description, MaxDescription)
		p.text(path+".actionsRequired", s.ActionsRequired, MaxDescription)
	}
	if v, ok := c.Properties.MaxFlows.Get(); ok {
		p.within("properties.maxFlows", v, 1, MaxFlows)
	}
	return p.err()
}
