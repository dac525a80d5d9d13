package faults

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/privlink/privlink/pkg/lab"
)

// What the first byte of a loris' connection says of the rest.
const (
	silent   = 's' // nothing more comes
	dribbles = 'd' // a byte now and then
	greedy   = 'g' // asks for without end, and reads nothing of it
)

// Of so many connections one is greedy, and the others are silent and dribble by turns. The greedy ones are more than the
// splice path has pipes.
const greedyOf = 6

// dribble is the time between two bytes, over all connections.
const dribble = time.Millisecond

const (
	leastDribbled = 100 // frames in a round
	leastOfBefore = 0.5 // of the control's throughput, which varies with what else the machine does
)

// beLoris opens connections and keeps them, for as little as that takes. It is ready when it has tried so many times.
func beLoris(address, attempts string) error {
	n, err := strconv.Atoi(attempts)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	var dribbling, kept []net.Conn
	var group sync.WaitGroup
	next := make(chan int)
	for range 64 {
		group.Go(func() {
			for i := range next {
				kind := []byte{silent, dribbles}[i%2]
				if i%greedyOf == 0 {
					kind = greedy
				}
				c, err := hold(address, kind)
				if err != nil {
					continue // refused
				}
				mu.Lock()
				kept = append(kept, c)
				if kind == dribbles {
					dribbling = append(dribbling, c)
				}
				mu.Unlock()
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	group.Wait()
	if len(dribbling) == 0 {
		return errors.New("no connection stays")
	}
	fmt.Println("ready")
	for {
		for _, c := range dribbling {
			_, _ = c.Write([]byte{'.'}) // whatever became of it
			time.Sleep(dribble)
		}
	}
}

// hold opens a connection of a kind and waits until the server has it.
func hold(address string, kind byte) (net.Conn, error) {
	c, err := net.DialTimeout("tcp4", address, patience)
	if err != nil {
		return nil, err
	}
	if err = c.SetDeadline(time.Now().Add(patience)); err == nil {
		_, err = c.Write([]byte{kind})
	}
	if err == nil {
		_, err = io.ReadFull(c, make([]byte, 1))
	}
	if err == nil {
		err = c.SetDeadline(time.Time{})
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// beHolder is the loris' own server.
func beHolder(ip string, header bool) error {
	l, err := net.Listen("tcp4", address(ip, portHolder))
	if err != nil {
		return err
	}
	serve := func(c net.Conn) {
		kind := make([]byte, 1)
		if _, err := io.ReadFull(c, kind); err != nil {
			return
		}
		piece := []byte{'k'}
		for {
			if _, err := c.Write(piece); err != nil {
				return
			}
			if kind[0] != greedy {
				_, _ = io.Copy(io.Discard, c)
				return
			}
			piece = plenty
		}
	}
	if header {
		serve = behindHeader(serve)
	}
	fmt.Println("ready")
	accept(l, serve)
	return nil
}

// plenty is what a greedy connection gets again and again; all share it.
var plenty = make([]byte, 256<<10)

// gateway is a machine with a daemon, on which one consumer has an endpoint of a proxied service of its own, and another one
// an endpoint of a plain and one of a proxied service of others.
type gateway struct {
	*lab.Lab
	t         *testing.T
	gw        *lab.Namespace
	consumers [2]*lab.Namespace
	daemon    *lab.Daemon
	sockets   map[string]string // of the clients, by service
}

// Addresses of the second consumer's endpoint of the proxied service, and of the first one's server.
const (
	proxiedEndpointIP = "10.0.1.12"
	holderIP          = "10.0.0.5"
)

func newGateway(t *testing.T) *gateway {
	l := lab.New(t)
	g := &gateway{Lab: l, t: t, gw: l.Namespace("gw"), sockets: make(map[string]string)}
	web := l.VM(g.gw, "web", backendIP+"/16", lab.VethOptions{})
	sink := l.VM(g.gw, "sink", holderIP+"/16", lab.VethOptions{})
	for i := range g.consumers {
		g.consumers[i] = l.VM(g.gw, fmt.Sprint("c", i+1), clientIP+"/16", lab.VethOptions{})
	}
	modest(g.consumers[0])
	modest(sink)
	g.daemon = g.gw.Daemon(t.Context(), lab.DaemonOptions{Binary: l.Build(t.Context(), "./cmd/privlink")})
	for _, command := range []string{
		"vnet create web --prefix 10.0.0.0/16 --interface web", "vnet create sink --prefix 10.0.0.0/16 --interface sink",
		"vnet create c1 --prefix 10.0.0.0/16 --interface c1", "vnet create c2 --prefix 10.0.0.0/16 --interface c2",
		fmt.Sprintf("lb create plain --vnet web --rule tcp:%d --rule tcp:%d --backend %s", portSink, portOne, backendIP),
		fmt.Sprintf("lb create proxied --vnet web --rule tcp:%d --rule tcp:%d --backend %s", portSinkProxied, portOneProxied, backendIP),
		fmt.Sprintf("lb create own --vnet sink --rule tcp:%d --backend %s", portHolder, holderIP),
		"service create plain --lb plain --nat-ip-count 1 --visibility * --auto-approval *",
		"service create proxied --lb proxied --proxy-protocol --nat-ip-count 1 --visibility * --auto-approval *",
		"service create own --lb own --proxy-protocol --nat-ip-count 1 --visibility * --auto-approval *",
	} {
		g.must(command)
	}
	for _, e := range []struct{ service, network, ip string }{
		{"own", "c1", endpointIP}, {"plain", "c2", endpointIP}, {"proxied", "c2", proxiedEndpointIP},
	} {
		var made struct{ ID string }
		if err := json.Unmarshal([]byte(g.must("service show "+e.service+" -o json")), &made); err != nil {
			t.Fatal(err)
		}
		g.must(fmt.Sprintf("endpoint create %s --vnet %s --ip %s --service %s", e.service, e.network, e.ip, made.ID))
	}
	t.Cleanup(neighbour(t, web, victimCPU, "server", backendIP).Kill)
	t.Cleanup(neighbour(t, sink, attackerCPU, "holder", holderIP, "header").Kill)
	for service, at := range map[string][2]string{
		"plain":   {address(endpointIP, portSink), address(endpointIP, portOne)},
		"proxied": {address(proxiedEndpointIP, portSinkProxied), address(proxiedEndpointIP, portOneProxied)},
	} {
		g.sockets[service] = l.Path(service)
		t.Cleanup(neighbour(t, g.consumers[1], victimCPU, "client", g.sockets[service], at[0], at[1]).Kill)
	}
	return g
}

// modest keeps the buffers of the loris and its server small: all machines of the lab share the memory for TCP that one
// kernel has, and it is the gateway's that is looked at.
func modest(n *lab.Namespace) {
	n.Sysctl("net.ipv4.tcp_wmem", "4096 16384 65536")
	n.Sysctl("net.ipv4.tcp_rmem", "4096 65536 65536")
}

func (g *gateway) must(command string) string {
	g.t.Helper()
	out, err := g.daemon.CLI(g.t.Context(), strings.Fields(command)...)
	if err != nil {
		g.t.Fatalf("privlink %s: %v", command, err)
	}
	return out
}

// carried is how many proxied connections there are, and how many one link may have.
func (g *gateway) carried() (connections, limit int) {
	g.t.Helper()
	var status struct {
		Proxied struct{ Connections, LinkLimit int }
	}
	if err := json.Unmarshal([]byte(g.must("status -o json")), &status); err != nil {
		g.t.Fatal(err)
	}
	return status.Proxied.Connections, status.Proxied.LinkLimit
}

// A hostile consumer has all the proxied connections that it may have, sends next to nothing on them and reads nothing of
// what it asks for; another consumer keeps its throughput and its new connections, plain and proxied ones. It is compared
// with a gateway on which nothing of that happens, while as many connections are held on a wire past it; and that gateway
// with itself before, as both are one kernel's, whose memory for TCP would be exhausted for both.
func TestHostile_FullRateSlowLoris_OthersKeepTheirShare(t *testing.T) {
	if os.Getenv("FAULTS_ALONE") == "" {
		t.Skip("needs two processors to itself: make check-hostile")
	}
	attacked, calm := newGateway(t), newGateway(t)
	bind(t, attackerCPU)
	_, limit := attacked.carried()
	services := []string{"plain", "proxied"}
	before := make(map[string]float64)
	for _, service := range services {
		var s tally
		for range fewRounds {
			s.during(t, side{calm.sockets[service], nil})
		}
		before[service] = median(s.rates)
	}
	attacker := flood(t, attacked.consumers[0], attacked.gw, "c1", "loris", address(endpointIP, portHolder), strconv.Itoa(limit+200))
	if n, _ := attacked.carried(); n != limit {
		t.Errorf("the attacker has %d proxied connections, %d may be", n, limit)
	}
	elsewhere := calm.Namespace("elsewhere")
	beside := calm.VM(elsewhere, "beside", clientIP+"/16", lab.VethOptions{A: lab.EndOptions{Addr: holderIP + "/16"}})
	modest(elsewhere)
	modest(beside)
	t.Cleanup(neighbour(t, elsewhere, attackerCPU, "holder", holderIP).Kill)
	control := flood(t, beside, elsewhere, "beside", "loris", address(holderIP, portHolder), strconv.Itoa(limit))
	for _, service := range services {
		t.Run(service, func(t *testing.T) {
			rate := shares(t, side{attacked.sockets[service], attacker}, side{calm.sockets[service], control}, leastDribbled)
			if rate < leastOfBefore*before[service] {
				t.Errorf("the gateway without an attacker carries %.0f MB/s, before the attack %.0f", rate/1e6, before[service]/1e6)
			}
		})
	}
	if n, _ := attacked.carried(); n < limit { // the other consumer may have some open still
		t.Errorf("in the end the attacker has %d proxied connections, %d may be", n, limit)
	}
}
