package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/auth"
	"github.com/privlink/privlink/pkg/control"
)

func (s *Server) status(r *request) (*response, error) {
	status, err := s.options.Observer.Status(r.Context())
	if err != nil {
		return nil, err
	}
	return &response{status: http.StatusOK, body: status}, nil
}

func (s *Server) audit(r *request) (*response, error) {
	audit, err := s.options.Observer.Audit(r.Context())
	if err != nil {
		return nil, err
	}
	return &response{status: http.StatusOK, body: audit}, nil
}

func (s *Server) examination(r *request) (*response, error) {
	check, err := s.options.Observer.Examine(r.Context())
	if err != nil {
		return nil, err
	}
	return &response{status: http.StatusOK, body: check}, nil
}

// repair lets the kernel agree with the resources again, and answers with what is left.
func (s *Server) repair(r *request) (*response, error) {
	if err := s.options.Observer.Repair(r.Context()); err != nil {
		return nil, err
	}
	return s.examination(r)
}

func (s *Server) metrics(r *request) (*response, error) {
	if s.options.Metrics == nil {
		return nil, api.NewError(http.StatusNotFound, api.CodeNotFound, "", "there are no metrics")
	}
	s.options.Metrics.ServeHTTP(r.writer, r.Request)
	return nil, nil
}

// listFlows lists flows: of those the caller may see, as the side sees them that he may see.
func (s *Server) listFlows(r *request) (*response, error) {
	query := r.URL.Query()
	wanted := map[string]string{}
	for _, filter := range []struct {
		name string
		kind api.Kind
	}{{"service", api.PrivateLinkServices}, {"endpoint", api.PrivateEndpoints}} {
		text := queryValue(query, filter.name)
		if text == "" {
			continue
		}
		id, err := api.ParseID(text, api.ID{})
		if err != nil || id.Type != string(filter.kind) {
			return nil, api.Invalid(filter.name, "%q is not the id of a %s", text, filter.kind.Noun())
		}
		if _, err := s.options.Controller.Get(r.Context(), r.actor, id); err != nil {
			return nil, err
		}
		wanted[filter.name] = id.Key()
	}
	client := queryValue(query, "client")
	sight := newSight(r.actor)
	elements := []listed{}
	err := s.options.Observer.Flows(r.Context(), func(f Flow) bool {
		if wanted["service"] != "" && f.RuleSet != wanted["service"] || wanted["endpoint"] != "" && f.Link != wanted["endpoint"] {
			return true
		}
		seen, ok := sight.flow(f)
		if !ok || client != "" && !strings.HasPrefix(seen.Client, client+":") {
			return true
		}
		// Slots are the order of the table, which does not change while a flow lives.
		key := strconv.FormatUint(uint64(f.Slot), 10)
		elements = append(elements, listed{strings.Repeat("0", 10-len(key)) + key, seen})
		return true
	})
	if err != nil {
		return nil, err
	}
	return page(r, elements)
}

// sight remembers what an actor may see while many flows are looked at.
type sight struct {
	actor auth.Actor
	known map[string]bool
}

func newSight(actor auth.Actor) *sight { return &sight{actor, map[string]bool{}} }

func (s *sight) may(key string) bool {
	may, known := s.known[key]
	if !known {
		// The key of a frontend is that of a part: who may read the load balancer may read it.
		may = key != "" && s.actor.May(auth.Read, key)
		s.known[key] = may
	}
	return may
}

// flow is a flow as the actor may see it: the consumer's side without the provider's addresses and the other way round.
func (s *sight) flow(f Flow) (api.Flow, bool) {
	consumer, provider := s.may(f.Link), s.may(f.RuleSet)
	if !consumer && !provider {
		return api.Flow{}, false
	}
	if !consumer {
		f.Client, f.Endpoint = "", ""
	}
	if !provider {
		f.NAT, f.Backend, f.Service = "", "", ""
	}
	return f.Flow, true
}

func (s *Server) natPortUsage(r *request) (*response, error) {
	id, err := r.id(api.PrivateLinkServices, "")
	if err != nil {
		return nil, err
	}
	resource, err := s.options.Controller.Get(r.Context(), r.actor, id)
	if err != nil {
		return nil, err
	}
	service, ok := resource.(*api.PrivateLinkService)
	if !ok {
		return nil, api.NotFound(id)
	}
	network := ""
	wanted := map[string]bool{}
	for _, ip := range service.Properties.IPConfigurations {
		wanted[ip.Properties.PrivateIPAddress] = true
		if subnet, err := api.ParseID(ip.Properties.Subnet.ID, id); err == nil {
			network = subnet.Parent().Key()
		}
	}
	for _, ip := range service.Properties.DrainingIPs {
		wanted[ip.Address] = true
	}
	all, err := s.options.Observer.Ports(r.Context())
	if err != nil {
		return nil, err
	}
	usage := api.NATPortUsage{Value: []api.PortUse{}}
	for _, ports := range all {
		if ports.Network == network && wanted[ports.Address] {
			usage.Value = append(usage.Value, ports.PortUse)
		}
	}
	return &response{status: http.StatusOK, body: usage}, nil
}

// batch does several writes, all or none, in one step.
func (s *Server) batch(r *request) (*response, error) {
	text, err := readBody(r.writer, r.Request)
	if err != nil {
		return nil, err
	}
	var body api.Batch
	// The documents inside are checked one by one, by readStep.
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&body); err != nil {
		return nil, api.NewError(http.StatusBadRequest, api.CodeInvalidRequest, "", "the batch cannot be read: %v", err)
	}
	steps := make([]control.Step, len(body.Steps))
	for i, step := range body.Steps {
		if steps[i], err = readStep(step); err != nil {
			return nil, stepRefusal(step.ID, err)
		}
	}
	outcomes, err := s.options.Controller.Batch(r.Context(), r.actor, steps, body.DryRun)
	var failed *control.BatchError
	if errors.As(err, &failed) {
		return nil, stepRefusal(failed.ID.Short(), failed.Err)
	}
	if err != nil && len(steps) == 1 {
		return nil, stepRefusal(steps[0].ID.Short(), err)
	}
	if err != nil {
		return nil, err
	}
	if !body.DryRun && slices.ContainsFunc(outcomes, func(o control.Outcome) bool { return o.Before != nil && o.Resource == nil }) {
		// What is gone cannot be asked whether the kernel agrees, as what was put can: as of a DELETE, the answer waits.
		if err := s.agree(r); err != nil {
			return nil, err
		}
	}
	answer := api.BatchResult{Outcomes: make([]api.BatchOutcome, len(outcomes))}
	for i, outcome := range outcomes {
		answer.Outcomes[i] = api.BatchOutcome{ID: steps[i].ID.String(), Before: outcome.Before, After: outcome.Resource, Changed: outcome.Changed}
	}
	return &response{status: http.StatusOK, body: answer}, nil
}

func readStep(step api.BatchStep) (control.Step, error) {
	id, err := api.ParseID(step.ID, api.ID{})
	if err != nil {
		return control.Step{}, err
	}
	for _, check := range []error{
		api.CheckGroupName("subscription", id.Subscription),
		api.CheckGroupName("resource group", id.ResourceGroup),
		api.CheckName("name", id.Name),
	} {
		if check != nil {
			return control.Step{}, check
		}
	}
	if id.ChildType != "" {
		return control.Step{}, api.Invalid("id", "%s is a part of a resource", id.Short())
	}
	if len(step.Put) == 0 || string(step.Put) == "null" {
		return control.Step{ID: id, Delete: control.DeleteOptions{Cascade: step.Cascade}}, nil
	}
	resource, err := api.Decode(json.RawMessage(step.Put), api.Kind(id.Type), api.Tolerant)
	if err != nil {
		return control.Step{}, err
	}
	return control.Step{ID: id, Put: resource}, nil
}

// stepRefusal is the error of one step with the resource it is about in front of its targets.
func stepRefusal(name string, err error) error {
	cause := api.AsError(err)
	if cause.Status >= http.StatusInternalServerError {
		return err
	}
	named := func(e *api.Error) *api.Error {
		copied := *e
		copied.Target = name
		if e.Target != "" {
			copied.Target += ": " + e.Target
		}
		copied.Details = nil
		return &copied
	}
	refused := named(cause)
	for _, detail := range cause.Details {
		refused.Details = append(refused.Details, named(detail))
	}
	return refused
}
