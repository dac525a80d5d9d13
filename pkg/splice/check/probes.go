package main

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/privlink/privlink/pkg/lab"
	"github.com/privlink/privlink/pkg/probe"
	"github.com/privlink/privlink/pkg/splice/inner"
)

var probeCases = []namedCase{
	{"probe Tcp, LOCAL header, nginx and haproxy", func(ctx context.Context, s *suite) (string, error) {
		return s.probes(true, "connected", probeTo{probe.TCP, portNginx}, probeTo{probe.TCP, portHaproxy})
	}},
	{"probe Http, LOCAL header, nginx and haproxy", func(ctx context.Context, s *suite) (string, error) {
		return s.probes(true, "status 200", probeTo{probe.HTTP, portNginx}, probeTo{probe.HTTP, portHaproxy})
	}},
	{"probe Https, LOCAL header before the TLS hello, nginx", func(ctx context.Context, s *suite) (string, error) {
		return s.probes(true, "status 200", probeTo{probe.HTTPS, portNginxTLS})
	}},
	{"probe Tcp without header", func(ctx context.Context, s *suite) (string, error) {
		return s.probes(false, "connected", probeTo{probe.TCP, portNginxBare}, probeTo{probe.TCP, portHaproxyBare})
	}},
	{"probe Http without header", func(ctx context.Context, s *suite) (string, error) {
		return s.probes(false, "status 200", probeTo{probe.HTTP, portNginxBare}, probeTo{probe.HTTP, portHaproxyBare})
	}},
	{"probe Https without header finds nothing where TLS waits for one", httpsWithout},
	{"probe of a dead port and of a dead backend say why", deadTargets},
}

type probeTo struct {
	kind probe.Kind
	port uint16
}

// asked probes and returns the results when all have one.
func (s *suite) asked(checks []probe.Check) (map[string]probe.Result, error) {
	if err := s.calls.Call("Gateway.Probe", checks, &Empty{}); err != nil {
		return nil, err
	}
	defer func() { _ = s.calls.Call("Gateway.Probe", []probe.Check{}, &Empty{}) }()
	var results map[string]probe.Result
	err := lab.Poll(15*time.Second, func() error {
		results = nil
		if err := s.calls.Call("Gateway.Results", Empty{}, &results); err != nil {
			return err
		}
		if len(results) < len(checks) {
			return fmt.Errorf("%d of %d probes have a result", len(results), len(checks))
		}
		return nil
	})
	return results, err
}

// checkOf is a check of a backend's port, for a service's rule.
func checkOf(name string, kind probe.Kind, backend string, port uint16, header bool) probe.Check {
	return probe.Check{
		Key: fmt.Sprintf("%v %s:%d header %v", kind, backend, port, header), Kind: kind, Path: "/health", Header: header,
		To: inner.Destination{
			RuleSet: name, Rule: fmt.Sprintf("%s-%d", name, portSecond), // a rule with both backends
			Target: netip.AddrPortFrom(mustAddr(backend), port),
		},
		Expects: name != "plain", Interval: 2 * time.Second, Timeout: 2 * time.Second, Threshold: 1,
	}
}

// probes expects all to be healthy, for the reason.
func (s *suite) probes(header bool, reason string, targets ...probeTo) (string, error) {
	var checks []probe.Check
	for _, t := range targets {
		checks = append(checks, checkOf("azure", t.kind, backendIP, t.port, header))
	}
	results, err := s.asked(checks)
	if err != nil {
		return "", err
	}
	for key, r := range results {
		if !r.Healthy || !strings.HasSuffix(r.Reason, reason) {
			return "", fmt.Errorf("%s: healthy %v, %s", key, r.Healthy, r.Reason)
		}
	}
	return "", nil
}

func httpsWithout(_ context.Context, s *suite) (string, error) {
	return s.unhealthy(checkOf("azure", probe.HTTPS, backendIP, portNginxTLS, false), "proxyProbes")
}

func deadTargets(_ context.Context, s *suite) (string, error) {
	if _, err := s.unhealthy(checkOf("azure", probe.TCP, backendIP, portNobody, true), "connection refused"); err != nil {
		return "", err
	}
	gone := checkOf("azure", probe.TCP, backendIP, portNginx, true)
	gone.To.Target = netip.AddrPortFrom(mustAddr("10.0.0.77"), portNginx)
	return s.unhealthy(gone, "no such destination")
}

// unhealthy expects a check to fail, with a part of its reason.
func (s *suite) unhealthy(c probe.Check, reason string) (string, error) {
	results, err := s.asked([]probe.Check{c})
	if err != nil {
		return "", err
	}
	r := results[c.Key]
	if r.Healthy || !strings.Contains(r.Reason, reason) {
		return "", fmt.Errorf("healthy %v, reason %q, want one with %q", r.Healthy, r.Reason, reason)
	}
	return r.Reason, nil
}
