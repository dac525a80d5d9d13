package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/lab"
)

// These tests run a load balancer under a real daemon: two backends, a client in the provider's own network and a
// consumer with an endpoint.

var bothBackends = []string{firstBackend, secondBackend}

// Publishing a load balancer and taking that back costs its own clients nothing: no datagram, no connection, no new one; also
// where the service sends PROXY headers, which these backends take for a bad request.
func TestLB_PublishedAndDeleted_OwnClientsLoseNothing(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, probe, flags string
		up, published      string
	}{
		{"plain", "Tcp", "", "connected", "Health: tcp 10.0.0.11 Up: connected"},
		{"PROXY", "Http, requestPath: /", " --proxy-protocol", "Http: status 200",
			"Health: tcp 10.0.0.11 Down: Http: status 400, want 200 (the server may not read PROXY headers: switch them on there, or enableProxyProtocol off); " +
				"without a PROXY header, for its own network, Up: Http: status 200"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := newBalanced(t)
			for ip := range b.backends {
				b.web(ip)
			}
			b.balance(pool{members: bothBackends, probed: true, probe: c.probe})
			b.shows("Health: tcp 10.0.0.11 Up: "+c.up, "Health: tcp 10.0.0.12 Up: "+c.up)
			b.to(b.insider, "tcp4", frontIP, firstBackend)
			kept := b.to(b.insider, "tcp4", frontIP, secondBackend)
			counted := b.count(b.to(b.insider, "udp4", frontIP, firstBackend), firstBackend)
			opened := b.open(b.insider, frontIP)
			if c.flags == "" {
				b.probedFrom(firstBackend, "10.0.0.100")
			}
			b.publish(c.flags)
			if c.flags == "" {
				b.to(b.consumer, "tcp4", linkIP, firstBackend)
				var made api.PrivateLinkService
				read(t, b.must("service show shop -o json"), &made)
				b.probedFrom(firstBackend, made.Properties.IPConfigurations[0].Properties.PrivateIPAddress)
			}
			b.shows(c.published)
			if name, err := who(kept); err != nil || name != secondBackend {
				t.Errorf("after publishing: %q %v", name, err)
			}
			b.must("service delete shop --cascade")
			if c.flags == "" {
				b.probedFrom(firstBackend, "10.0.0.100")
			}
			b.shows("Health: tcp 10.0.0.11 Up: "+c.up, "Health: tcp 10.0.0.12 Up: "+c.up)
			if name, err := who(kept); err != nil || name != secondBackend {
				t.Errorf("after deleting the service: %q %v", name, err)
			}
			if by, failed := opened(); len(failed) > 0 || by[firstBackend] < 5 || by[secondBackend] < 5 {
				t.Errorf("new connections while the service was published and deleted: %v, failed %v", by, failed)
			}
			if sent, missed := counted(); sent < 100 || len(missed) > 0 {
				t.Errorf("of %d datagrams while the service was published and deleted the backend did not answer %v", sent, missed)
			}
		})
	}
}

// Two frontends of one load balancer share a pool; a service with PROXY publishes the one, a plain service the other. The
// backends serve plain HTTP, so that only who sends a header finds them unhealthy.
func TestLB_ProxyAndPlainService_HeaderAndHealthApart(t *testing.T) {
	t.Parallel()
	b := newBalanced(t)
	for ip := range b.backends {
		b.web(ip)
	}
	const frontend = `- {name: NAME, properties: {subnet: {id: virtualNetworks/datacenter/subnets/servers}}}`
	const rule = `- {name: NAME, properties: {protocol: Tcp, frontendPort: 80, backendPort: 8000, frontendIPConfiguration: {id: loadBalancers/pair/frontendIPConfigurations/NAME}, ` +
		`backendAddressPool: {id: loadBalancers/pair/backendAddressPools/shared}, probe: {id: loadBalancers/pair/probes/page}}}`
	both := func(text string) string {
		return "  " + strings.ReplaceAll(text, "NAME", "plain") + "\n  " + strings.ReplaceAll(text, "NAME", "proxied")
	}
	b.apply(`
type: Microsoft.Network/loadBalancers
name: pair
location: local
sku: {name: Standard}
properties:
  frontendIPConfigurations:
` + both(frontend) + `
  backendAddressPools:
  - {name: shared, properties: {loadBalancerBackendAddresses: [{name: m1, properties: {ipAddress: 10.0.0.11}}, {name: m2, properties: {ipAddress: 10.0.0.12}}]}}
  probes:
  - {name: page, properties: {protocol: Http, port: 8000, requestPath: /, intervalInSeconds: 5, probeThreshold: 1}}
  loadBalancingRules:
` + both(rule) + "\n")
	for name, more := range map[string]string{"plain": "", "proxied": " --proxy-protocol"} {
		var made struct{ ID string }
		read(t, b.must("service create "+name+" --lb pair --frontend "+name+" --nat-subnet servers --nat-ip-count 1 --visibility * --auto-approval * -o json"+more), &made)
		b.must("endpoint create to-" + name + " --vnet home --subnet default --ip " + map[string]string{"plain": "10.0.1.20", "proxied": "10.0.1.21"}[name] + " --service " + made.ID)
	}
	get := func(ip string) (string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		return b.consumer.Run(ctx, "curl", "-sS", "--max-time", "5", "http://"+ip)
	}
	b.Wait("the health of both services", 40*time.Second, func() error {
		out := strings.Join(strings.Fields(b.must("lb show pair")), " ")
		for _, ip := range bothBackends {
			for _, line := range []string{"Health: plain " + ip + " Up: Http: status 200", "Health: proxied " + ip + " Down: Http: status 400"} {
				if !strings.Contains(out, line) {
					return fmt.Errorf("no %q in %s", line, out)
				}
			}
		}
		return nil
	})
	if answer, err := get("10.0.1.20"); err != nil || !strings.HasPrefix(answer, "10.0.0.") {
		t.Errorf("through the plain service: %q %v", answer, err)
	}
	if answer, err := get("10.0.1.21"); err == nil {
		t.Errorf("all backends of the PROXY service are down, and it answers %q", answer)
	}
	// With the header off for probes its backends are up again, and are sent one by the first connection.
	b.apply(`
type: Microsoft.Network/privateLinkServices
name: proxied
location: local
properties:
  loadBalancerFrontendIpConfigurations: [{id: loadBalancers/pair/frontendIPConfigurations/proxied}]
  ipConfigurations: [{name: nat-1, properties: {subnet: {id: virtualNetworks/datacenter/subnets/servers}}}]
  visibility: {subscriptions: ["*"]}
  autoApproval: {subscriptions: ["*"]}
  enableProxyProtocol: true
  proxyProbes: false
`)
	b.Wait("an answer to the header", 40*time.Second, func() error {
		if answer, err := get("10.0.1.21"); err != nil || !strings.Contains(answer, "400 Bad Request") {
			return fmt.Errorf("%q %w", answer, errOr(err))
		}
		return nil
	})
	if answer, err := get("10.0.1.20"); err != nil || !strings.HasPrefix(answer, "10.0.0.") {
		t.Errorf("through the plain service, afterwards: %q %v", answer, err)
	}
}

func TestLB_OneThenAllDown_NewFlowsGoWhereTheyMay(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		allUp  bool
		failed bool // new flows when all are down
	}{{"AllProbedDown", false, true}, {"AllProbedUp", true, false}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := newBalanced(t)
			// Not their service fails, but the page that is probed: whoever gets a flow answers it.
			pages := map[string]*page{}
			for ip := range b.backends {
				pages[ip] = b.web(ip)
			}
			b.balance(pool{members: bothBackends, probed: true, allUp: c.allUp, probe: "Http, requestPath: /"})
			b.publish()
			b.shows("Health: tcp 10.0.0.11 Up: Http: status 200", "Health: tcp 10.0.0.12 Up: Http: status 200")
			kept := b.to(b.consumer, "tcp4", linkIP, firstBackend)
			moving := b.to(b.consumer, "udp4", linkIP, firstBackend)
			pages[firstBackend].status.Store(http.StatusServiceUnavailable)
			b.shows("Health: tcp 10.0.0.11 Down: Http: status 503, want 200", "Health: tcp 10.0.0.12 Up: Http: status 200")
			b.Wait("the UDP flow to move", 5*time.Second, func() error {
				if name, err := who(moving); err != nil || name != secondBackend {
					return fmt.Errorf("it is with %q (%w)", name, errOr(err))
				}
				return nil
			})
			if by, failed := b.served(b.consumer, linkIP); failed > 0 || by[firstBackend] > 0 {
				t.Errorf("one down: %v, %d failed", by, failed)
			}
			if name, err := who(kept); err != nil || name != firstBackend {
				t.Errorf("the connection to the backend that is down: %q %v", name, err)
			}
			other := b.to(b.consumer, "tcp4", linkIP, secondBackend)
			pages[secondBackend].status.Store(http.StatusServiceUnavailable)
			b.shows("Health: tcp 10.0.0.12 Down: Http: status 503")
			for _, network := range []string{"udp4", "tcp4"} {
				b.Wait("new flows to be decided", 10*time.Second, func() error {
					if _, name, err := b.dial(b.consumer, network, linkIP); (err != nil) != c.failed {
						return fmt.Errorf("%q answers a new flow by %s (%w)", name, network, errOr(err))
					}
					return nil
				})
			}
			for _, conn := range []net.Conn{kept, other} {
				if _, err := who(conn); err != nil {
					t.Errorf("a connection that was there: %v", err)
				}
			}
		})
	}
}

// numberOfProbes results in a row change the verdict, which the log tells.
func TestLB_HTTPSProbe_SecondFailureDecides(t *testing.T) {
	t.Parallel()
	b := newBalanced(t)
	first := b.web(firstBackend, true)
	b.web(secondBackend, true)
	b.balance(pool{members: bothBackends, probed: true, probe: "Https, requestPath: /, numberOfProbes: 2"})
	b.shows("Health: tcp 10.0.0.11 Up: Https: status 200", "Health: tcp 10.0.0.12 Up: Https: status 200")
	first.status.Store(http.StatusInternalServerError)
	b.shows("Health: tcp 10.0.0.11 Up: Https: status 500, want 200")
	b.to(b.insider, "tcp4", frontIP, firstBackend)
	if n := first.asked.Load(); n != 1 {
		t.Errorf("still up after %d failures, which shows nothing", n)
	}
	b.shows("Health: tcp 10.0.0.11 Down: Https: status 500, want 200")
	if n := first.asked.Load(); n != 2 {
		t.Errorf("down after %d failures", n)
	}
	if by, failed := b.served(b.insider, frontIP); failed > 0 || by[firstBackend] > 0 {
		t.Errorf("down: %v, %d failed", by, failed)
	}
	told := false
	for line := range strings.Lines(b.daemon.Process().Output()) {
		told = told || strings.Contains(line, "backend health") && strings.Contains(line, "healthy=false") &&
			strings.Contains(line, "|10.0.0.11") && strings.Contains(line, "Https: status 500, want 200")
	}
	if !told {
		t.Errorf("the log does not tell:\n%s", b.daemon.Process().Output())
	}
}

// A service offers the rules of several frontends at one address. Its backends are in the pool by what their network
// interfaces say.
func TestLB_TwoFrontendsBackendsByNIC_OneServiceOffersBoth(t *testing.T) {
	t.Parallel()
	b := newBalanced(t)
	nic := func(name, ip, pools string) {
		b.apply(`
type: Microsoft.Network/networkInterfaces
name: ` + name + `
location: local
properties:
  ipConfigurations: [{name: ipconfig, properties: {privateIPAddress: ` + ip + `, privateIPAllocationMethod: Static, subnet: {id: virtualNetworks/datacenter/subnets/servers},
    loadBalancerBackendAddressPools: [` + pools + `]}}]
`)
	}
	const joined = "{id: loadBalancers/two/backendAddressPools/backends}"
	b.must("lb create two --vnet datacenter --subnet servers --frontend a --frontend b --rule a/tcp:7000 --rule b/tcp:7001:7000")
	nic("first", firstBackend, joined)
	var made struct{ ID string }
	read(t, b.must("service create shop --lb two --frontend a --frontend b --nat-subnet servers --nat-ip-count 1 --visibility * --auto-approval * -o json"), &made)
	b.must("endpoint create to-shop --vnet home --subnet default --ip 10.0.1.10 --service " + made.ID)
	serve := func(want ...string) {
		t.Helper()
		for _, at := range []string{"10.0.1.10:7000", "10.0.1.10:7001"} {
			b.Wait("those who serve "+at, 20*time.Second, func() error {
				by, failed := b.served(b.consumer, at)
				if got := names(by); failed > 0 || !slices.Equal(got, want) {
					return fmt.Errorf("%v, %d failed", by, failed)
				}
				return nil
			})
		}
	}
	serve(firstBackend)
	nic("second", secondBackend, joined)
	serve(firstBackend, secondBackend)
	nic("first", firstBackend, "")
	serve(secondBackend)
	if _, _, err := b.dial(b.consumer, "tcp4", "10.0.1.10:7002"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a port without a rule: %v", err)
	}
}

func names(by map[string]int) (list []string) {
	for name := range by {
		list = append(list, name)
	}
	slices.Sort(list)
	return list
}

func TestLB_AdminStateDown_TCPStaysThenIsReset(t *testing.T) {
	t.Parallel()
	b := newBalanced(t)
	const drain = 6
	b.balance(pool{members: bothBackends, drain: drain})
	b.publish()
	kept := b.to(b.consumer, "tcp4", linkIP, firstBackend)
	began := time.Now()
	b.balance(pool{members: []string{firstBackend + "!", secondBackend}, drain: drain})
	b.shows("Health: tcp 10.0.0.11 Down: adminState Down")
	if by, failed := b.served(b.consumer, linkIP); failed > 0 || by[firstBackend] > 0 {
		t.Errorf("new flows while draining: %v, %d failed", by, failed)
	}
	b.Wait("the reset of what is left", (drain+20)*time.Second, func() error {
		name, err := who(kept)
		if err == nil && name != firstBackend {
			t.Fatalf("the connection is with %s", name)
		}
		if err == nil {
			return errors.New("it goes on")
		}
		if errors.Is(err, os.ErrDeadlineExceeded) || !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
			t.Fatalf("it ended with %v, not with a reset", err)
		}
		return nil
	})
	if after := time.Since(began); after < drain*time.Second {
		t.Errorf("reset after %v, the drain period is %d s", after, drain)
	}
	b.wantReset(firstBackend)
}

func TestLB_AdminStateUp_OverridesTheProbe(t *testing.T) {
	t.Parallel()
	b := newBalanced(t)
	b.refuse(firstBackend)
	b.balance(pool{members: []string{firstBackend + "^", secondBackend}, probed: true})
	b.shows("Health: tcp 10.0.0.11 Down: ", "Health: tcp 10.0.0.12 Up: connected")
	b.to(b.insider, "udp4", frontIP, firstBackend)
}

func TestLB_BackendRemoved_TCPResetUDPElsewhere(t *testing.T) {
	t.Parallel()
	b := newBalanced(t)
	b.balance(pool{members: append([]string{"10.0.0.99"}, bothBackends...)})
	b.publish()
	b.shows("Health: tcp 10.0.0.99 Unresolved: nobody answers ARP for its address", "Health: tcp 10.0.0.11 Up: no probe")
	if by, failed := b.served(b.consumer, linkIP); failed > 0 {
		t.Errorf("with a member that is not there: %v, %d failed", by, failed)
	}
	b.balance(pool{members: bothBackends})
	ended := b.to(b.consumer, "tcp4", linkIP, firstBackend)
	moving := b.to(b.consumer, "udp4", linkIP, firstBackend)
	kept := b.to(b.consumer, "tcp4", linkIP, secondBackend)
	b.balance(pool{members: bothBackends[1:]})
	if err := ended.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := ended.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a connection to it: %v, want a reset", err)
	}
	b.wantReset(firstBackend)
	if name, err := who(moving); err != nil || name != secondBackend {
		t.Errorf("a UDP flow is with %q: %v", name, err)
	}
	if name, err := who(kept); err != nil || name != secondBackend {
		t.Errorf("a connection to the other: %q %v", name, err)
	}
}

func TestLB_ProbeMetric_FollowsTheBackend(t *testing.T) {
	t.Parallel()
	b := newBalanced(t)
	b.balance(pool{members: bothBackends, probed: true})
	value := func(want string) {
		t.Helper()
		b.Wait("the metric to be "+want, 40*time.Second, func() error {
			out, err := b.daemon.Namespace.Run(t.Context(), "curl", "-sS", "--unix-socket", b.daemon.Socket, "http://privlink/metrics")
			if err != nil {
				return err
			}
			for line := range strings.Lines(out) {
				if strings.HasPrefix(line, "privlink_probe_healthy{") && strings.Contains(line, `backend="10.0.0.11:7000"`) &&
					strings.HasSuffix(strings.TrimSpace(line), "} "+want) {
					return nil
				}
			}
			return errors.New("no such line")
		})
	}
	value("1")
	b.refuse(firstBackend)
	value("0")
}

func TestLB_InboundNAT_NICAndPool_InactiveThroughTheLinkWithoutARule(t *testing.T) {
	t.Parallel()
	b := newBalanced(t)
	rule := func(pool string) string {
		return `  inboundNatRules:
  - {name: ssh, properties: {protocol: Tcp, frontendPortRangeStart: 2200, frontendPortRangeEnd: 2210, backendPort: 7000, frontendIPConfiguration: {id: loadBalancers/web/frontendIPConfigurations/front}, backendAddressPool: {id: loadBalancers/web/backendAddressPools/` + pool + `}}}
  - {name: console, properties: {protocol: Tcp, frontendPort: 2300, backendPort: 7000, frontendIPConfiguration: {id: loadBalancers/web/frontendIPConfigurations/front}}}
`
	}
	b.balance(pool{members: bothBackends, more: rule("pool")})
	b.apply(`
type: Microsoft.Network/networkInterfaces
name: second
location: local
properties:
  ipConfigurations: [{name: ipconfig, properties: {privateIPAddress: 10.0.0.12, privateIPAllocationMethod: Static, subnet: {id: virtualNetworks/datacenter/subnets/servers},
    loadBalancerInboundNatRules: [{id: loadBalancers/web/inboundNatRules/console}], loadBalancerBackendAddressPools: [{id: loadBalancers/web/backendAddressPools/other}]}}]
`)
	b.publish()
	b.to(b.consumer, "tcp4", "10.0.1.10:2300", secondBackend)
	b.to(b.insider, "tcp4", "10.0.0.100:2300", secondBackend)
	reached := func(from *lab.Namespace, ip string) string {
		var all []string
		for port := 2200; port < 2203; port++ {
			if c, name, err := b.dial(from, "tcp4", fmt.Sprintf("%s:%d", ip, port)); err == nil {
				all = append(all, fmt.Sprintf("%d %s", port, name))
				c.Close()
			}
		}
		return strings.Join(all, ", ")
	}
	expect := func(insider, link string) {
		t.Helper()
		b.Wait("who reaches whom by the rule for a pool", 20*time.Second, func() error {
			if got, through := reached(b.insider, "10.0.0.100"), reached(b.consumer, "10.0.1.10"); got != insider || through != link {
				return fmt.Errorf("insiders %q, through the link %q", got, through)
			}
			return nil
		})
	}
	expect("2200 10.0.0.11, 2201 10.0.0.12", "2200 10.0.0.11, 2201 10.0.0.12")
	b.shows("Inbound NAT rule: ssh front tcp:2200-2210 to port 7000 of pool", "Inbound NAT rule: console front tcp:2300 to port 7000 of second",
		"Backend: pool 10.0.0.11, port 2200 by ssh", "Backend: pool 10.0.0.12, port 2201 by ssh")
	// The pool "other" has a member, and no rule joins it with the frontend.
	b.balance(pool{members: bothBackends, more: rule("other")})
	expect("2201 10.0.0.12", "") // it keeps its port
	const why = "inbound NAT rule ssh is inactive through private links: no load-balancing rule joins its frontend and pool other"
	b.shows("Inbound NAT rule: ssh front tcp:2200-2210 to port 7000 of other", "Backend: other interface second, port 2201 by ssh", why)
	if out := b.must("service show shop"); !strings.Contains(out, why) {
		t.Errorf("service show does not say why:\n%s", out)
	}
}
