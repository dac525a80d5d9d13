package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/privlink/privlink/pkg/lab"
)

// balanced is a daemon with a load balancer "web": TCP and UDP port 7000 to backends at 10.0.0.11 and 10.0.0.12.
type balanced struct {
	*lab.Lab
	t        *testing.T
	daemon   *lab.Daemon
	backends map[string]*lab.Namespace // by address
	serving  map[string]net.Listener
	resets   map[string]*atomic.Int64 // connections that ended with a reset at the backend
	probers  sync.Map                 // by backend: whose connection was the last that asked nothing, which are the TCP probes
	insider  *lab.Namespace           // in the provider's network
	consumer *lab.Namespace
}

const (
	firstBackend  = "10.0.0.11"
	secondBackend = "10.0.0.12"
	frontIP       = "10.0.0.100:7000"
	linkIP        = "10.0.1.10:7000"
)

// newBalanced makes everything but the load balancer's rules, which balance does.
func newBalanced(t *testing.T) *balanced {
	t.Helper()
	l, d := gateway(t)
	b := &balanced{Lab: l, t: t, daemon: d, backends: map[string]*lab.Namespace{}, serving: map[string]net.Listener{}, resets: map[string]*atomic.Int64{}}
	for i, ip := range []string{firstBackend, secondBackend} {
		b.backends[ip] = l.VM(d.Namespace, fmt.Sprint("b", i+1), ip+"/16", lab.VethOptions{})
		b.serve(ip)
		b.echo(ip)
	}
	b.insider = l.VM(d.Namespace, "insider", "10.0.0.50/16", lab.VethOptions{})
	b.consumer = l.VM(d.Namespace, "home", "10.0.1.4/16", lab.VethOptions{})
	b.apply(`
type: Microsoft.Network/virtualNetworks
name: datacenter
location: local
properties:
  addressSpace: {addressPrefixes: [10.0.0.0/16]}
  subnets: [{name: servers, properties: {addressPrefix: 10.0.0.0/24}}]
  attachments: [{interface: b1, mode: tc}, {interface: b2, mode: tc}, {interface: insider, mode: tc}]
---
type: Microsoft.Network/virtualNetworks
name: home
location: local
properties:
  addressSpace: {addressPrefixes: [10.0.0.0/16]}
  subnets: [{name: default, properties: {addressPrefix: 10.0.1.0/24}}]
  attachments: [{interface: home, mode: tc}]
`)
	return b
}

func (b *balanced) must(command string) string {
	b.t.Helper()
	out, err := b.daemon.CLI(b.t.Context(), strings.Fields(command)...)
	if err != nil {
		b.t.Fatalf("privlink %s: %v", command, err)
	}
	return out
}

func (b *balanced) apply(documents string) {
	b.t.Helper()
	if out, err := b.daemon.CLIInput(b.t.Context(), documents, "apply", "-f", "-"); err != nil {
		b.t.Fatalf("apply: %v\n%s", err, out)
	}
}

// publish makes a service of the load balancer, approved for the consumer.
func (b *balanced) publish(flags ...string) {
	b.t.Helper()
	var made struct{ ID string }
	read(b.t, b.must("service create shop --lb web --nat-subnet servers --nat-ip-count 1 --visibility * --auto-approval * -o json "+strings.Join(flags, " ")), &made)
	b.must("endpoint create to-shop --vnet home --subnet default --ip 10.0.1.10 --service " + made.ID)
}

// pool is what balance makes of the pool and its probe.
type pool struct {
	members []string // addresses; with "!" adminState Down, with "^" adminState Up
	drain   int      // seconds
	probed  bool
	probe   string // protocol with what belongs to it, Tcp by default; all but Tcp to port 8000. The threshold is 1 if it says none
	allUp   bool   // noHealthyBackendsBehavior AllProbedUp
	more    string // of the load balancer's properties
}

func (b *balanced) balance(p pool) {
	b.t.Helper()
	var members []string
	for _, word := range p.members {
		ip, state := strings.TrimRight(word, "!^"), "None"
		switch word[len(word)-1] {
		case '!':
			state = "Down"
		case '^':
			state = "Up"
		}
		members = append(members, fmt.Sprintf("{name: m%s, properties: {ipAddress: %s, adminState: %s, virtualNetwork: {id: virtualNetworks/datacenter}}}",
			strings.ReplaceAll(ip, ".", "-"), ip, state))
	}
	probe, behavior := "", "AllProbedDown"
	alive := "Tcp, port: 7000"
	if p.probe != "" && p.probe != "Tcp" {
		alive = p.probe + ", port: 8000"
	}
	if !strings.Contains(alive, "numberOfProbes") {
		alive += ", probeThreshold: 1"
	}
	if p.probed {
		probe = ", probe: {id: loadBalancers/web/probes/alive}"
	}
	if p.allUp {
		behavior = "AllProbedUp"
	}
	b.apply(strings.NewReplacer("MEMBERS", strings.Join(members, ", "), "DRAIN", fmt.Sprint(p.drain), "BEHAVIOR", behavior, "PROBE", probe, "ALIVE", alive, "MORE", p.more).Replace(`
type: Microsoft.Network/loadBalancers
name: web
location: local
sku: {name: Standard}
properties:
  frontendIPConfigurations:
  - {name: front, properties: {privateIPAddress: 10.0.0.100, privateIPAllocationMethod: Static, subnet: {id: virtualNetworks/datacenter/subnets/servers}}}
  backendAddressPools:
  - {name: pool, properties: {drainPeriodInSeconds: DRAIN, loadBalancerBackendAddresses: [MEMBERS]}}
  - {name: other, properties: {loadBalancerBackendAddresses: []}}
  probes:
  - {name: alive, properties: {protocol: ALIVE, intervalInSeconds: 5, noHealthyBackendsBehavior: BEHAVIOR}}
  loadBalancingRules:
  - {name: tcp, properties: {protocol: Tcp, frontendPort: 7000, backendPort: 7000, frontendIPConfiguration: {id: loadBalancers/web/frontendIPConfigurations/front}, backendAddressPool: {id: loadBalancers/web/backendAddressPools/pool}PROBE}}
  - {name: udp, properties: {protocol: Udp, frontendPort: 7000, backendPort: 7000, frontendIPConfiguration: {id: loadBalancers/web/frontendIPConfigurations/front}, backendAddressPool: {id: loadBalancers/web/backendAddressPools/pool}PROBE}}
MORE`))
}

// serve answers every line over TCP with the backend's address.
func (b *balanced) serve(ip string) {
	b.t.Helper()
	l, err := b.backends[ip].Listen("tcp4", ip+":7000")
	if err != nil {
		b.t.Fatal(err)
	}
	b.serving[ip] = l
	resets := &atomic.Int64{}
	b.resets[ip] = resets
	b.OnClose(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				asked := false
				for lines := bufio.NewReader(c); ; {
					if _, err := lines.ReadString('\n'); err != nil {
						if errors.Is(err, syscall.ECONNRESET) {
							resets.Add(1)
						} else if !asked {
							b.probers.Store(ip, c.RemoteAddr().(*net.TCPAddr).IP.String())
						}
						return
					}
					asked = true
					if _, err := io.WriteString(c, ip+"\n"); err != nil {
						return
					}
				}
			}()
		}
	}()
}

// page is what a backend serves on port 8000: its address.
type page struct {
	status atomic.Int32 // 200
	asked  atomic.Int32 // since it is another
}

// web serves HTTP, or HTTPS, on a backend's port 8000.
func (b *balanced) web(ip string, secure ...bool) *page {
	b.t.Helper()
	l, err := b.backends[ip].Listen("tcp4", ip+":8000")
	if err != nil {
		b.t.Fatal(err)
	}
	p := &page{}
	p.status.Store(http.StatusOK)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if status := int(p.status.Load()); status != http.StatusOK {
			p.asked.Add(1)
			w.WriteHeader(status)
		}
		_, _ = io.WriteString(w, ip)
	}))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.Listener.Close()
	server.Listener = l
	if slices.Contains(secure, true) {
		server.StartTLS()
	} else {
		server.Start()
	}
	b.OnClose(server.Close)
	return p
}

// wantReset waits until a backend has seen the reset of the one connection to it.
func (b *balanced) wantReset(ip string) {
	b.t.Helper()
	b.Wait("the backend's end of the connection to be reset", 10*time.Second, func() error {
		if n := b.resets[ip].Load(); n != 1 {
			return fmt.Errorf("%d resets at %s", n, ip)
		}
		return nil
	})
}

// refuse ends the TCP listener alone: connections and UDP stay, the probe fails.
func (b *balanced) refuse(ip string) { b.serving[ip].Close() }

// echo answers every datagram with the backend's address, and one that is no question with what it says, too.
func (b *balanced) echo(ip string) {
	b.t.Helper()
	c, err := b.backends[ip].ListenPacket("udp4", ip+":7000")
	if err != nil {
		b.t.Fatal(err)
	}
	b.OnClose(func() { c.Close() })
	go func() {
		for buffer := make([]byte, 64); ; {
			n, from, err := c.ReadFrom(buffer)
			if err != nil {
				return
			}
			answer := ip + "\n"
			if text := string(buffer[:n]); text != question {
				answer = ip + " " + text
			}
			_, _ = c.WriteTo([]byte(answer), from) // a lost answer is asked for again, or missed
		}
	}()
}

// dial connects and says which backend answers.
func (b *balanced) dial(from *lab.Namespace, network, to string) (net.Conn, string, error) {
	ctx, cancel := context.WithTimeout(b.t.Context(), 10*time.Second)
	defer cancel()
	c, err := from.Dial(ctx, network, "", to)
	if err != nil {
		return nil, "", err
	}
	name, err := who(c)
	if err != nil {
		c.Close()
		return nil, "", err
	}
	b.OnClose(func() { c.Close() })
	return c, name, nil
}

const question = "who?\n"

// who asks a connection, or a UDP flow, for the backend it is with. A datagram that is lost is not sent again, so that
// nobody waits long for its answer.
func who(c net.Conn) (string, error) {
	patience := 10 * time.Second
	if c.LocalAddr().Network() == "udp" {
		patience = 2 * time.Second
	}
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(c, question); err != nil {
		return "", err
	}
	buffer := make([]byte, 64)
	n, err := c.Read(buffer)
	return strings.TrimSpace(string(buffer[:n])), err
}

// to dials until it is with a backend: the source port chooses.
func (b *balanced) to(from *lab.Namespace, network, address, backend string) net.Conn {
	b.t.Helper()
	var conn net.Conn
	b.Wait("a flow to "+backend, 20*time.Second, func() error {
		c, name, err := b.dial(from, network, address)
		if err != nil {
			return err
		}
		if name != backend {
			c.Close()
			return fmt.Errorf("%s answers", name)
		}
		conn = c
		return nil
	})
	return conn
}

// shows waits until lb show says all of the parts, each in one line that begins with the field's name.
func (b *balanced) shows(lines ...string) {
	b.t.Helper()
	b.Wait("lb show to say "+strings.Join(lines, "; "), 40*time.Second, func() error {
		out, err := b.daemon.CLI(b.t.Context(), "lb", "show", "web")
		if err != nil {
			return err
		}
		text := strings.Join(strings.Fields(out), " ")
		for _, line := range lines {
			if !strings.Contains(text, line) {
				return fmt.Errorf("it says\n%s", out)
			}
		}
		return nil
	})
}

// served dials many times and returns who answered how often, and how many failed.
func (b *balanced) served(from *lab.Namespace, to string) (by map[string]int, failed int) {
	by = map[string]int{}
	for range 24 {
		c, name, err := b.dial(from, "tcp4", to)
		if err != nil {
			failed++
			continue
		}
		c.Close()
		by[name]++
	}
	return by, failed
}

// probedFrom waits until a backend's last TCP probe came from an address.
func (b *balanced) probedFrom(backend, want string) {
	b.t.Helper()
	b.Wait("a probe from "+want, 20*time.Second, func() error {
		if from, _ := b.probers.Load(backend); from != want {
			return fmt.Errorf("the last came from %v", from)
		}
		return nil
	})
}

// open dials fifty times a second until the returned function is called, which says who answered how often, and what failed.
func (b *balanced) open(from *lab.Namespace, to string) func() (by map[string]int, failed []error) {
	by := map[string]int{}
	var failed []error
	ended, stop := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			c, name, err := b.dial(from, "tcp4", to)
			if err != nil {
				failed = append(failed, err)
				continue
			}
			c.Close()
			by[name]++
		}
	}()
	return func() (map[string]int, []error) {
		close(stop)
		<-ended
		return by, failed
	}
}

// count sends numbered datagrams on a flow to a backend until the returned function is called, which says how many were
// sent and which of them that backend did not answer.
func (b *balanced) count(flow net.Conn, backend string) func() (sent int, missed []int) {
	b.t.Helper()
	answered := map[int]bool{}
	reading, stop := make(chan struct{}), make(chan struct{})
	if err := flow.SetDeadline(time.Time{}); err != nil {
		b.t.Fatal(err)
	}
	go func() {
		defer close(reading)
		for buffer := make([]byte, 64); ; {
			n, err := flow.Read(buffer)
			if err != nil {
				return // the deadline, or an ICMP error, which is a loss
			}
			var name string
			var number int
			if _, err := fmt.Sscan(string(buffer[:n]), &name, &number); err == nil && name == backend {
				answered[number] = true
			}
		}
	}()
	sent, sending := 0, make(chan struct{})
	go func() {
		defer close(sending)
		for tick := time.NewTicker(5 * time.Millisecond); ; {
			select {
			case <-stop:
				tick.Stop()
				return
			case <-tick.C:
			}
			sent++
			if _, err := fmt.Fprintf(flow, "%d\n", sent); err != nil {
				return
			}
		}
	}()
	return func() (int, []int) {
		close(stop)
		<-sending
		_ = flow.SetReadDeadline(time.Now().Add(time.Second)) // the last answers are on their way; the flow is open
		<-reading
		var missed []int
		for number := 1; number <= sent; number++ {
			if !answered[number] {
				missed = append(missed, number)
			}
		}
		return sent, missed
	}
}

func errOr(err error) error {
	if err == nil {
		return errors.New("no error")
	}
	return err
}
