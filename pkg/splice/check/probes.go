package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/privlink/privlink/pkg/dataplane"
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
	{"probe Https without header, nginx", func(ctx context.Context, s *suite) (string, error) {
		return s.probes(false, "status 200", probeTo{probe.HTTPS, portBareTLS})
	}},
	{"probe Https without header finds nothing where TLS waits for one", httpsWithout},
	{"probe of a dead port and of a dead backend say why", deadTargets},
	{"1,000 backends probed every 5 s cost under 5 % of a core", thousand},
}

type probeTo struct {
	kind probe.Kind
	port uint16
}

// asked probes and returns the results when every backend was probed so many times.
func (s *suite) asked(checks []probe.Check, times uint64) (map[string]probe.Result, error) {
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
		for key, r := range results {
			if r.Succeeded+r.Failed < times {
				return fmt.Errorf("%s was probed %d times, %s", key, r.Succeeded+r.Failed, r.Reason)
			}
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
	often := pick(s, uint64(5), 1)
	var checks []probe.Check
	for _, t := range targets {
		c := checkOf("azure", t.kind, backendIP, t.port, header)
		c.Interval = probe.MinInterval
		checks = append(checks, c)
	}
	results, err := s.asked(checks, often)
	if err != nil {
		return "", err
	}
	for key, r := range results {
		if !r.Healthy || r.Failed != 0 || !strings.HasSuffix(r.Reason, reason) {
			return "", fmt.Errorf("%s: healthy %v, %d of %d failed, %s", key, r.Healthy, r.Failed, r.Failed+r.Succeeded, r.Reason)
		}
	}
	return fmt.Sprintf("%d probes of each, none failed", often), nil
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
	results, err := s.asked([]probe.Check{c}, 1)
	if err != nil {
		return "", err
	}
	r := results[c.Key]
	if r.Healthy || !strings.Contains(r.Reason, reason) {
		return "", fmt.Errorf("healthy %v, reason %q, want one with %q", r.Healthy, r.Reason, reason)
	}
	return r.Reason, nil
}

// manyPort is where the thousand backends listen: all are addresses of one namespace.
const manyPort = 7010

// thousand probes a thousand backends by HTTP and compares the gateway's CPU time with and without.
func thousand(ctx context.Context, s *suite) (string, error) {
	if s.quick {
		return "", leftOut("CPU time is counted over 15 s")
	}
	const count = 1000
	if _, err := s.backend.Run(ctx, "ip", "route", "add", "local", "10.0.8.0/22", "dev", "lo"); err != nil {
		return "", err
	}
	s.backend.Sysctl("net/ipv4/ip_nonlocal_bind", "1")
	listener, err := s.backend.Listen("tcp4", fmt.Sprintf("0.0.0.0:%d", manyPort))
	if err != nil {
		return "", err
	}
	defer listener.Close()
	go accept(listener, healthy)

	set := dataplane.RuleSet{Key: "many", Network: "provider", Sources: []dataplane.Source{{Addr: mustAddr("10.0.0.111")}}}
	rule := dataplane.Rule{Key: "many", Protocol: dataplane.ProtocolTCP, Port: manyPort, IdleTCP: 300, IdleUDP: 300}
	var checks []probe.Check
	address := mustAddr("10.0.8.1")
	for i := range count {
		rule.Targets = append(rule.Targets, dataplane.Target{Pool: "many", Addr: address, Weight: 1, Healthy: true})
		checks = append(checks, probe.Check{
			Key: fmt.Sprint("many ", i), Kind: probe.HTTP, Interval: 5 * time.Second, Threshold: 1,
			To: inner.Destination{RuleSet: "many", Rule: "many", Target: netip.AddrPortFrom(address, manyPort)},
		})
		address = address.Next()
	}
	set.Rules = []dataplane.Rule{rule}
	pool := dataplane.Pool{Key: "many"}
	for _, t := range rule.Targets {
		pool.Members = append(pool.Members, t.Addr)
	}
	err = s.change(func(state *dataplane.State) {
		state.RuleSets = append(state.RuleSets, set)
		state.Pools = append(state.Pools, pool)
	})
	defer func() { _ = s.apply(s.newState()) }()
	if err != nil {
		return "", err
	}

	idle, err := s.cpuShare(ctx, 5*time.Second)
	if err != nil {
		return "", err
	}
	if err := s.calls.Call("Gateway.Probe", checks, &Empty{}); err != nil {
		return "", err
	}
	defer func() { _ = s.calls.Call("Gateway.Probe", []probe.Check{}, &Empty{}) }()
	results := make(map[string]probe.Result)
	err = lab.Poll(30*time.Second, func() error {
		results = make(map[string]probe.Result)
		if err := s.calls.Call("Gateway.Results", Empty{}, &results); err != nil {
			return err
		}
		for _, r := range results {
			if !r.Healthy {
				return fmt.Errorf("%s: %s", r.Key, r.Reason)
			}
		}
		if len(results) < count {
			return fmt.Errorf("%d results", len(results))
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	probing, err := s.cpuShare(ctx, 10*time.Second)
	if err != nil {
		return "", err
	}
	note := fmt.Sprintf("%.1f %% of a core, %.1f %% without probes", probing*100, idle*100)
	if probing-idle > 0.05 {
		return note, errors.New("more than 5 %")
	}
	return note, nil
}

// healthy answers every request with 200.
func healthy(c *net.TCPConn) {
	defer c.Close()
	if _, err := c.Read(make([]byte, 1024)); err == nil {
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
	}
}

// cpuShare is the gateway process's use of a core over a time.
func (s *suite) cpuShare(ctx context.Context, d time.Duration) (float64, error) {
	before, err := cpuTime(s.process.PID())
	if err != nil {
		return 0, err
	}
	start := time.Now()
	if err := pause(ctx, d); err != nil {
		return 0, err
	}
	after, err := cpuTime(s.process.PID())
	return (after - before).Seconds() / time.Since(start).Seconds(), err
}

// cpuTime is what a process's threads have used, by the scheduler's count.
func cpuTime(pid int) (time.Duration, error) {
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return 0, err
	}
	var sum time.Duration
	for _, task := range tasks {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/schedstat", pid, task.Name()))
		if err != nil {
			continue // the thread has ended
		}
		n, err := strconv.ParseInt(strings.Fields(string(text))[0], 10, 64)
		if err != nil {
			return 0, err
		}
		sum += time.Duration(n)
	}
	return sum, nil
}
