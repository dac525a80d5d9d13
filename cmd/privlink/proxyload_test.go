package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/lab"
	"github.com/privlink/privlink/pkg/splice"
)

// proxied is a daemon with a PROXY service and two consumers with equal addresses.
type proxied struct {
	*testing.T
	lab       *lab.Lab
	daemon    *lab.Daemon
	provider  *lab.Namespace // 10.0.0.5
	consumers [2]*lab.Namespace
}

const proxiedEndpoint = "10.0.1.10"

// newProxied starts the daemon with a configuration and makes a service of one load balancing rule.
func newProxied(t *testing.T, config, rule string) *proxied {
	t.Helper()
	l := lab.New(t)
	p := &proxied{T: t, lab: l}
	gw := l.Namespace("gateway")
	p.provider = l.VM(gw, "web", "10.0.0.5/16", lab.VethOptions{})
	for i, name := range []string{"one", "two"} {
		p.consumers[i] = l.VM(gw, name, "10.0.1.4/16", lab.VethOptions{})
	}
	p.daemon = gw.Daemon(t.Context(), lab.DaemonOptions{
		Binary: l.Build(t.Context(), "./cmd/privlink"), Args: []string{"--config", l.WriteFile("config.yaml", []byte(config))},
	})
	p.must("vnet create datacenter --prefix 10.0.0.0/16 --interface web")
	p.must("lb create web --vnet datacenter --rule " + rule + " --backend 10.0.0.5")
	p.must("service create shop --lb web --proxy-protocol --nat-ip-count 1 --visibility * --auto-approval *")
	var service api.PrivateLinkService
	read(t, p.must("service show shop -o json"), &service)
	for _, name := range []string{"one", "two"} {
		p.must("vnet create " + name + " --prefix 10.0.0.0/16 --interface " + name + " --subscription " + name)
		p.must("endpoint create to-shop --vnet " + name + " --ip " + proxiedEndpoint + " --service " + service.Properties.Alias + " --subscription " + name)
	}
	return p
}

func (p *proxied) must(command string) string {
	p.Helper()
	out, err := p.daemon.CLI(p.Context(), strings.Fields(command)...)
	if err != nil {
		p.Fatalf("privlink %s: %v", command, err)
	}
	return out
}

// serve answers each connection in the provider's network by a function that gets it without its header,
// until the test ends.
func (p *proxied) serve(port int, answer func(c net.Conn)) {
	p.Helper()
	l, err := p.provider.Listen("tcp4", fmt.Sprintf("10.0.0.5:%d", port))
	if err != nil {
		p.Fatal(err)
	}
	var open sync.WaitGroup
	p.Cleanup(func() { l.Close(); open.Wait() })
	open.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			open.Go(func() {
				defer c.Close()
				if c.SetDeadline(time.Now().Add(time.Minute)) == nil && readHeader(c) == nil {
					answer(c)
				}
			})
		}
	})
}

// readHeader reads a PROXY header of version 2 and nothing behind it.
func readHeader(c net.Conn) error {
	head := make([]byte, 16)
	if _, err := io.ReadFull(c, head); err != nil {
		return err
	}
	if !strings.HasPrefix(string(head), "\r\n\r\n\x00\r\nQUIT\n") {
		return fmt.Errorf("no header: %q", head)
	}
	_, err := io.CopyN(io.Discard, c, int64(binary.BigEndian.Uint16(head[14:])))
	return err
}

func echo(c net.Conn) { _, _ = io.Copy(struct{ io.Writer }{c}, c) }

// dial connects a consumer with a port of its endpoint.
func (p *proxied) dial(consumer, port int) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(p.Context(), 5*time.Second)
	defer cancel()
	c, err := p.consumers[consumer].Dial(ctx, "tcp4", "", fmt.Sprintf("%s:%d", proxiedEndpoint, port))
	if err != nil {
		return nil, err
	}
	return c, c.SetDeadline(time.Now().Add(time.Minute))
}

// echoed sends a word and wants it back.
func echoed(c net.Conn, word string) error {
	if _, err := io.WriteString(c, word); err != nil {
		return err
	}
	got := make([]byte, len(word))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != word {
		return fmt.Errorf("sent %q, got %q: %w", word, got, err)
	}
	return nil
}

// served waits until a consumer gets an echo.
func (p *proxied) served(consumer, port int) net.Conn {
	p.Helper()
	var open net.Conn
	p.lab.Wait("an echo", 20*time.Second, func() error {
		c, err := p.dial(consumer, port)
		if err != nil {
			return err
		}
		if err := echoed(c, "hello"); err != nil {
			c.Close()
			return err
		}
		open = c
		return nil
	})
	p.Cleanup(func() { open.Close() })
	return open
}

func TestRun_ProxyRuleForAllPorts_TCPHasHeaderUDPPassesPlain(t *testing.T) {
	p := newProxied(t, "{}", "all:0")
	for _, port := range []int{7009, 7010} {
		p.serve(port, echo) // only behind a header
		p.served(0, port)
		p.served(1, port)
	}
	// The two legs have segments of different sizes, and neither end may notice.
	for ns, mtu := range map[*lab.Namespace]string{p.provider: "1300", p.consumers[0]: "1000"} {
		if _, err := ns.Run(t.Context(), "ip", "link", "set", "eth0", "mtu", mtu); err != nil {
			t.Fatal(err)
		}
	}
	random := make([]byte, 4<<20)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(random)
	c := p.served(0, 7009)
	sent := make(chan error, 1)
	go func() {
		_, err := c.Write(random)
		sent <- err
	}()
	got := make([]byte, len(random))
	_, err := io.ReadFull(c, got)
	if err := errors.Join(err, <-sent); err != nil || !bytes.Equal(got, random) {
		t.Errorf("4 MiB there and back over MTUs of 1000 and 1300: %v", err)
	}
	p.provider.EchoServer("10.0.0.5:9000")
	p.lab.Wait("an echo by UDP", 10*time.Second, func() error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		c, err := p.consumers[0].Dial(ctx, "udp4", "", proxiedEndpoint+":9000")
		if err != nil {
			return err
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(time.Second)); err != nil {
			return err
		}
		return echoed(c, "plain")
	})
}

// TestRun_ProxySilentClients_LimitsHoldAndOthersAreServed lets one consumer open as many connections as a link
// may have and say nothing, or one byte.
func TestRun_ProxySilentClients_LimitsHoldAndOthersAreServed(t *testing.T) {
	if _, err := splice.RaiseDescriptors(0); err != nil {
		t.Fatal(err)
	}
	const perLink = 400
	p := newProxied(t, fmt.Sprintf("proxyConnections: 600\nproxyConnectionsPerLink: %d\n", perLink), "tcp:443:7009")
	p.serve(7009, echo)
	silent := []net.Conn{p.served(0, 443)}
	for len(silent) < perLink {
		c, err := p.dial(0, 443)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if len(silent)%2 == 0 {
			if _, err := c.Write([]byte{'x'}); err != nil {
				t.Fatal(err)
			}
		}
		silent = append(silent, c)
	}
	status := func(want string) {
		t.Helper()
		p.lab.Wait("status to say "+want, 10*time.Second, func() error {
			if out := p.must("status"); !strings.Contains(out, want) {
				return errors.New(out)
			}
			return nil
		})
	}
	status("400 of 600 connections, 400 a link")

	c, err := p.dial(0, 443)
	if err == nil {
		defer c.Close()
		_, err = c.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("one more connection of that link: %v, want a reset", err)
	}
	other := p.served(1, 443)
	status("401 of 600 connections, 400 a link")
	if page, err := p.daemon.Namespace.Run(t.Context(), "curl", "-sS", "--unix-socket", p.daemon.Socket, "http://privlink/metrics"); err != nil ||
		!strings.Contains(page, `privlink_proxy_connections_refused_total{why="link_limit"} 1`+"\n") {
		t.Errorf("the metrics do not count one refused connection: %v\n%s", err, page)
	}

	// Who was silent is served when he speaks; what he gives back may be used again.
	if err := errors.Join(echoed(silent[0], "still there"), echoed(other, "still here")); err != nil {
		t.Error(err)
	}
	for _, c := range silent {
		c.Close()
	}
	status("1 of 600 connections")
	p.served(0, 443)
}

// TestRun_ProxyDataInFlight_KeptCapabilitiesSuffice holds data in more pipes than the kernel lets a process without
// CAP_SYS_RESOURCE have at full size. The daemon has only the capabilities that it keeps.
func TestRun_ProxyDataInFlight_KeptCapabilitiesSuffice(t *testing.T) {
	if _, err := splice.RaiseDescriptors(0); err != nil {
		t.Fatal(err)
	}
	const count, size = 1200, 192 << 10
	p := newProxied(t, "proxyConnections: 3000\n", "tcp:443:7009")
	p.provider.Sysctl("net.ipv4.tcp_rmem", "4096 4096 4096") // so that little fits beside the pipe
	release := make(chan struct{})
	p.serve(7009, func(c net.Conn) {
		select {
		case <-release:
		case <-t.Context().Done():
			return
		}
		sum, err := io.Copy(io.Discard, c)
		if err == nil {
			fmt.Fprintln(c, sum)
		}
	})
	block := make([]byte, size)
	conns := make([]net.Conn, count)
	var sending sync.WaitGroup
	defer sending.Wait()
	for i := range conns {
		c, err := p.dial(0, 443)
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		defer c.Close()
		conns[i] = c
		sending.Go(func() {
			if _, err := c.Write(block); err != nil {
				t.Errorf("connection %d: send: %v", i, err)
			}
			if err := c.(*net.TCPConn).CloseWrite(); err != nil {
				t.Errorf("connection %d: end: %v", i, err)
			}
		})
	}
	p.lab.Wait("more than 1,024 pipes with data", 30*time.Second, func() error {
		page, err := p.daemon.Namespace.Run(t.Context(), "curl", "-sS", "--unix-socket", p.daemon.Socket, "http://privlink/metrics")
		if err != nil {
			return err
		}
		_, after, _ := strings.Cut(page, "\nprivlink_proxy_pipes ")
		var pipes int
		if _, err := fmt.Sscan(after, &pipes); err != nil || pipes <= 1024 {
			return fmt.Errorf("%d pipes: %w", pipes, err)
		}
		return nil
	})
	close(release)
	for i, c := range conns {
		answer, err := io.ReadAll(c)
		if want := fmt.Sprintln(size); err != nil || string(answer) != want {
			t.Fatalf("connection %d: the backend got %q bytes, want %q: %v", i, answer, want, err)
		}
	}
}

// TestRun_ProxyRestart_NewConnectionIsServed kills the daemon: proxied connections are reset, plain flows go on, and
// who connects as soon as somebody listens again is served, however long the daemon still takes.
func TestRun_ProxyRestart_NewConnectionIsServed(t *testing.T) {
	p := newProxied(t, "{}", "all:0")
	p.serve(7009, echo)
	p.provider.EchoServer("10.0.0.5:9000")
	old := p.served(0, 7009)
	plain, err := p.consumers[0].Dial(t.Context(), "udp4", "", proxiedEndpoint+":9000")
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	if err := errors.Join(plain.SetDeadline(time.Now().Add(time.Minute)), echoed(plain, "before")); err != nil {
		t.Fatal(err)
	}
	p.daemon.Kill()
	if _, err := old.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a connection of the killed daemon: %v, want a reset", err)
	}
	if err := echoed(plain, "during"); err != nil {
		t.Errorf("a plain flow without daemon: %v", err)
	}
	start := time.Now()
	took := make(chan time.Duration, 1)
	failed := make(chan error, 1)
	go func() {
		for time.Since(start) < 20*time.Second {
			c, err := p.dial(1, 7009)
			if err != nil {
				continue // nobody listens: refused at once
			}
			defer c.Close()
			if err := echoed(c, "new"); err != nil {
				failed <- err
				return
			}
			took <- time.Since(start)
			return
		}
		failed <- errors.New("nobody listens")
	}()
	p.daemon.Start(t.Context())
	select {
	case d := <-took:
		t.Logf("served %v after the start of the process", d.Round(time.Millisecond))
	case err := <-failed:
		t.Errorf("the first connection that was accepted: %v", err)
	}
	if err := echoed(plain, "after"); err != nil {
		t.Errorf("a plain flow after the restart: %v", err)
	}
}
