package server

import (
	"net/http"
	"net/netip"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/control"
)

// network is the virtual network that the path names.
func (s *Server) network(r *request) (*api.VirtualNetwork, error) {
	id, err := r.id(api.VirtualNetworks, "")
	if err != nil {
		return nil, err
	}
	resource, err := s.options.Controller.Get(r.Context(), r.actor, id)
	if err != nil {
		return nil, err
	}
	network, ok := resource.(*api.VirtualNetwork)
	if !ok {
		return nil, api.NotFound(id)
	}
	return network, nil
}

// addressesIn are the addresses in use in a network, as far as the caller may know: those of interfaces, frontends, NAT IPs and
// endpoints that he may read.
func (s *Server) addressesIn(r *request, network *api.VirtualNetwork) (map[netip.Addr]bool, error) {
	used := map[netip.Addr]bool{}
	key := api.IDOf(network).Key()
	add := func(subnet *api.SubResource, address string) {
		if subnet == nil {
			return
		}
		id, err := api.ParseID(subnet.ID, api.ID{})
		ip, err2 := netip.ParseAddr(address)
		if err == nil && err2 == nil && id.Parent().Key() == key {
			used[ip] = true
		}
	}
	for _, kind := range []api.Kind{api.NetworkInterfaces, api.LoadBalancers, api.PrivateLinkServices} {
		resources, err := s.options.Controller.List(r.Context(), r.actor, kind, control.Scope{Subscription: r.parameters["subscription"]})
		if err != nil {
			return nil, err
		}
		for _, resource := range resources {
			switch resource := resource.(type) {
			case *api.NetworkInterface: // endpoints and services have interfaces too
				for _, ip := range resource.Properties.IPConfigurations {
					add(ip.Properties.Subnet, ip.Properties.PrivateIPAddress)
				}
			case *api.LoadBalancer:
				for _, f := range resource.Properties.FrontendIPConfigurations {
					add(f.Properties.Subnet, f.Properties.PrivateIPAddress)
				}
			case *api.PrivateLinkService:
				for _, ip := range resource.Properties.IPConfigurations {
					add(ip.Properties.Subnet, ip.Properties.PrivateIPAddress)
				}
			}
		}
	}
	return used, nil
}

// networkUsage counts the addresses in use in each subnet.
func (s *Server) networkUsage(r *request) (*response, error) {
	network, err := s.network(r)
	if err != nil {
		return nil, err
	}
	used, err := s.addressesIn(r, network)
	if err != nil {
		return nil, err
	}
	elements := []listed{}
	for i := range network.Properties.Subnets {
		subnet := &network.Properties.Subnets[i]
		prefix, err := netip.ParsePrefix(subnet.Prefix())
		if err != nil {
			continue
		}
		usage := api.NetworkUsage{ID: subnet.ID, Unit: "Count", Limit: float64(uint64(1) << (32 - prefix.Bits())),
			Name: api.NetworkUsageName{Value: "SubnetSpace", LocalizedValue: "Subnet size and usage"}}
		for ip := range used {
			if prefix.Contains(ip) {
				usage.CurrentValue++
			}
		}
		elements = append(elements, listed{position(i), usage})
	}
	return page(r, elements)
}

// availableAddresses is how many free addresses are offered in place of one that is taken.
const availableAddresses = 5

// checkAddress tells whether an address of a network is free.
func (s *Server) checkAddress(r *request) (*response, error) {
	network, err := s.network(r)
	if err != nil {
		return nil, err
	}
	text := queryValue(r.URL.Query(), "ipAddress")
	ip, err := netip.ParseAddr(text)
	if err != nil || !ip.Is4() {
		return nil, api.Invalid("ipAddress", "%q is not an IPv4 address", text)
	}
	used, err := s.addressesIn(r, network)
	if err != nil {
		return nil, err
	}
	answer := api.AddressAvailability{AvailableIPAddresses: []string{}}
	for i := range network.Properties.Subnets {
		prefix, err := netip.ParsePrefix(network.Properties.Subnets[i].Prefix())
		if err != nil || !prefix.Contains(ip) {
			continue
		}
		first := prefix.Addr()
		for range api.FirstDynamic {
			if answer.IsPlatformReserved = answer.IsPlatformReserved || first == ip; !answer.IsPlatformReserved {
				first = first.Next()
			}
		}
		answer.Available = !used[ip] && !answer.IsPlatformReserved
		for free := first; !answer.Available && prefix.Contains(free.Next()) && len(answer.AvailableIPAddresses) < availableAddresses; free = free.Next() {
			if !used[free] {
				answer.AvailableIPAddresses = append(answer.AvailableIPAddresses, free.String())
			}
		}
		return &response{status: http.StatusOK, body: answer}, nil
	}
	return nil, api.Invalid("ipAddress", "%s is in no subnet of %s", ip, network.Name)
}

// nothingToPrepare answers for what clouds have to prepare in a subnet.
func (s *Server) nothingToPrepare(r *request) (*response, error) {
	id, err := r.id(api.VirtualNetworks, api.Subnets)
	if err != nil {
		return nil, err
	}
	if _, err := s.options.Controller.GetPart(r.Context(), r.actor, id); err != nil {
		return nil, err
	}
	return &response{status: http.StatusOK}, nil
}
