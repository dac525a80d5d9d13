package main

import (
	"context"
	"fmt"
	"maps"
	"strconv"
	"strings"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/client"
)

// reading is what the daemon has.
type reading struct {
	values    map[string]string // as writers expect them
	endpoints map[string]endpoint
	aliases   map[string]string // of services by name
}

// read lists everything that writers write.
func (w *world) read(ctx context.Context) (reading, error) {
	r := reading{values: map[string]string{}, endpoints: map[string]endpoint{}, aliases: map[string]string{}}
	endpoints, err := client.List[api.PrivateEndpoint](ctx, w.api, client.Collection(subscription, resourceGroup, api.PrivateEndpoints), nil)
	if err != nil {
		return r, err
	}
	for i := range endpoints {
		p := &endpoints[i]
		c, _ := p.Connection()
		state := c.Properties.PrivateLinkServiceConnectionState
		serial, err := strconv.Atoi(p.Tags["serial"])
		if err != nil || state == nil {
			return r, fmt.Errorf("endpoint %s has no serial or no state", p.Name)
		}
		e := endpoint{guid: p.Properties.ResourceGUID, serial: serial, status: string(state.Status), text: state.Description}
		r.endpoints[p.Name] = e
		r.values[resource(api.PrivateEndpoints, p.Name)] = e.String()
	}
	balancers, err := client.List[api.LoadBalancer](ctx, w.api, client.Collection(subscription, resourceGroup, api.LoadBalancers), nil)
	if err != nil {
		return r, err
	}
	for i := range balancers {
		b := &balancers[i]
		r.values[resource(api.LoadBalancers, b.Name)] = balancerText(b.Tags["serial"], len(b.Properties.BackendAddressPools[0].Properties.LoadBalancerBackendAddresses))
	}
	services, err := client.List[api.PrivateLinkService](ctx, w.api, client.Collection(subscription, resourceGroup, api.PrivateLinkServices), nil)
	if err != nil {
		return r, err
	}
	for i := range services {
		s := &services[i]
		r.aliases[s.Name] = s.Properties.Alias
		r.values[resource(api.PrivateLinkServices, s.Name)] = serviceText(s.Tags["serial"], s.Properties.MaxFlowsPerEndpoint.Or(0))
	}
	return r, nil
}

// mine tells whether a resource is the writer's.
func (w *writer) mine(name string) bool {
	return name == resource(api.LoadBalancers, w.lb) || name == resource(api.PrivateLinkServices, w.service) ||
		strings.HasPrefix(name, resource(api.PrivateEndpoints, w.home+"-"))
}

// check compares what there is with what was acknowledged. The write in doubt may be there or not, as a whole; kept is 1
// if it is.
func (w *writer) check(have reading) (lost []string, kept int) {
	with := map[string]string{}
	maps.Copy(with, w.expect)
	for name, value := range w.doubt {
		if with[name] = value; value == "" {
			delete(with, name)
		}
	}
	without := w.differ(w.expect, have.values)
	if len(without) == 0 {
		return nil, 0
	}
	if w.doubt != nil {
		if len(w.differ(with, have.values)) == 0 {
			return nil, 1
		}
	}
	return without, 0
}

// differ says in lines where what there is is not what is expected.
func (w *writer) differ(expect, have map[string]string) (lines []string) {
	for name, want := range expect {
		if is, ok := have[name]; is != want {
			if !ok {
				is = "not there"
			}
			lines = append(lines, fmt.Sprintf("%s is %s, acknowledged was %s", name, is, want))
		}
	}
	for name, is := range have {
		if _, ok := expect[name]; !ok && w.mine(name) {
			lines = append(lines, fmt.Sprintf("%s is %s, acknowledged was its end, or it was never asked for", name, is))
		}
	}
	return lines
}

// adopt goes on from what there is.
func (w *writer) adopt(have reading) {
	w.expect, w.endpoints, w.doubt = map[string]string{}, map[string]endpoint{}, nil
	for name, value := range have.values {
		if w.mine(name) {
			w.expect[name] = value
		}
	}
	for name, e := range have.endpoints {
		if strings.HasPrefix(name, w.home+"-") {
			w.endpoints[name] = e
		}
	}
	w.alias = have.aliases[w.service]
}
