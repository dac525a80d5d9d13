package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/privlink/privlink/pkg/lab"
)

// Addresses of the three namespaces.
const (
	clientCIDR   = "10.1.0.2/24"
	proxyFront   = "10.1.0.1"
	proxyBack    = "10.2.0.1"
	serverCIDR   = "10.2.0.2/24"
	serverListen = "10.2.0.2:9000"
	firstPort    = 8001
)

const haproxyConfig = `global
	nbthread 1
	maxconn 4000
defaults
	mode tcp
	option splice-auto
	option splice-request
	option splice-response
	timeout connect 5s
	timeout client 1h
	timeout server 1h
listen service
	bind %s
	server backend %s send-proxy-v2
`

// load is the client's side.
type load struct {
	client *lab.Namespace
	server net.Listener
}

// build makes the namespaces, the server and one proxy of each kind.
func build(ctx context.Context, l *lab.Lab) (*load, []*lane, error) {
	client, proxy, server := l.Namespace("client"), l.Namespace("proxy"), l.Namespace("server")
	l.Veth(proxy, "front", client, "eth0", lab.VethOptions{A: lab.EndOptions{Addr: proxyFront + "/24"}, B: lab.EndOptions{Addr: clientCIDR}})
	l.Veth(proxy, "back", server, "eth0", lab.VethOptions{A: lab.EndOptions{Addr: proxyBack + "/24"}, B: lab.EndOptions{Addr: serverCIDR}})
	listener, err := server.Listen("tcp4", serverListen)
	if err != nil {
		return nil, nil, err
	}
	go answer(listener)

	self, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	var lanes []*lane
	for i, name := range []string{"splice", "sockmap", "io.Copy", "haproxy"} {
		target := net.JoinHostPort(proxyFront, strconv.Itoa(firstPort+i))
		way := &lane{name: name, target: target}
		if name == "haproxy" {
			if _, err := exec.LookPath(name); err != nil {
				fmt.Fprintln(os.Stderr, "compare: haproxy is not installed")
				continue
			}
			way.process = proxy.Haproxy(ctx, fmt.Sprintf(haproxyConfig, target, serverListen), target)
		} else {
			command := exec.Command(self, "serve", name)
			command.Env = append(os.Environ(), "COMPARE_LISTEN="+target, "COMPARE_BACKEND="+serverListen, "GOMAXPROCS=1")
			way.process = proxy.StartCommand(ctx, command)
			proxy.WaitListening("tcp", firstPort+i)
		}
		lanes = append(lanes, way)
	}
	return &load{client: client, server: listener}, lanes, nil
}

// What a client asks for with its first byte, after the server's greeting.
const (
	askEcho = 'e' // a byte for a byte, until the client closes
	askSink = 's' // swallow zeros; one byte when another number came

	// lastByte ends the zeros. Not the end of the stream: with sockmap that may overtake data.
	lastByte = 0xff
)

const greeting = 'h'

// patience is how long anything may take.
const patience = 20 * time.Second

func answer(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			_ = talk(c)
		}()
	}
}

func talk(c net.Conn) error {
	head := make([]byte, 16)
	if _, err := io.ReadFull(c, head); err != nil {
		return err
	}
	if _, err := io.CopyN(io.Discard, c, int64(binary.BigEndian.Uint16(head[14:]))); err != nil {
		return err
	}
	b := []byte{greeting}
	if _, err := c.Write(b); err != nil {
		return err
	}
	if _, err := io.ReadFull(c, b); err != nil {
		return err
	}
	if b[0] == askSink {
		if err := swallow(c); err != nil {
			return err
		}
		_, err := c.Write(b)
		return err
	}
	for {
		if _, err := io.ReadFull(c, b); err != nil {
			return err
		}
		if _, err := c.Write(b); err != nil {
			return err
		}
	}
}

// swallow reads up to the last byte, with a buffer that does not hold up the sender.
func swallow(c net.Conn) error {
	buffer := make([]byte, 1<<20)
	for {
		n, err := c.Read(buffer)
		if err != nil {
			return err
		}
		if buffer[n-1] == lastByte {
			return nil
		}
	}
}

// open connects, takes the greeting and asks.
func (l *load) open(ctx context.Context, target string, ask byte) (*net.TCPConn, error) {
	conn, err := l.client.Dial(ctx, "tcp4", "", target)
	if err != nil {
		return nil, err
	}
	c := conn.(*net.TCPConn)
	b := make([]byte, 1)
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	if _, err := io.ReadFull(c, b); err != nil {
		return nil, errors.Join(fmt.Errorf("greeting: %w", err), c.Close())
	}
	b[0] = ask
	if _, err := c.Write(b); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// measure takes one round; what fails is noted, as it says something about the way.
func (l *load) measure(ctx context.Context, way *lane, each time.Duration) {
	for _, m := range []struct {
		name string
		call func(context.Context, *lane, time.Duration) error
	}{{"bulk", l.bulk}, {"connections", l.connections}, {"request", l.latency}} {
		if err := m.call(ctx, way, each); err != nil {
			way.failed = append(way.failed, fmt.Errorf("%s: %w", m.name, err))
		}
	}
}

func (l *load) bulk(ctx context.Context, way *lane, each time.Duration) error {
	c, err := l.open(ctx, way.target, askSink)
	if err != nil {
		return err
	}
	defer c.Close()
	before, err := cpuTime(way.process.PID())
	if err != nil {
		return err
	}
	buffer := make([]byte, 1<<20)
	start, sent := time.Now(), 0
	for time.Since(start) < each {
		n, err := c.Write(buffer)
		if err != nil {
			return err
		}
		sent += n
	}
	if _, err := c.Write([]byte{lastByte}); err != nil {
		return err
	}
	if _, err := io.ReadFull(c, buffer[:1]); err != nil {
		return fmt.Errorf("end of bulk: %w", err)
	}
	took := time.Since(start)
	after, err := cpuTime(way.process.PID())
	if err != nil {
		return err
	}
	way.bulk = append(way.bulk, float64(sent)/took.Seconds())
	way.cpu = append(way.cpu, (after-before).Seconds()/float64(sent))
	return nil
}

func (l *load) connections(ctx context.Context, way *lane, each time.Duration) error {
	// Sockets are made inside once; the thread stays for all of them.
	return l.client.Do(func() error {
		before, err := cpuTime(way.process.PID())
		if err != nil {
			return err
		}
		start, count := time.Now(), 0
		for time.Since(start) < each && ctx.Err() == nil {
			conn, err := net.Dial("tcp4", way.target)
			if err != nil {
				return err
			}
			b := []byte{0}
			if _, err := io.ReadFull(conn, b); err != nil {
				return errors.Join(err, conn.Close())
			}
			if err := conn.Close(); err != nil {
				return err
			}
			count++
		}
		way.rate = append(way.rate, float64(count)/time.Since(start).Seconds())
		after, err := cpuTime(way.process.PID())
		if err != nil {
			return err
		}
		way.perConn = append(way.perConn, (after-before).Seconds()/float64(count))
		return ctx.Err()
	})
}

func (l *load) latency(ctx context.Context, way *lane, each time.Duration) error {
	c, err := l.open(ctx, way.target, askEcho)
	if err != nil {
		return err
	}
	defer c.Close()
	var times []time.Duration
	b := []byte{1}
	for start := time.Now(); time.Since(start) < each; {
		asked := time.Now()
		if _, err := c.Write(b); err != nil {
			return err
		}
		if _, err := io.ReadFull(c, b); err != nil {
			return err
		}
		times = append(times, time.Since(asked))
	}
	slices.Sort(times)
	way.latency = append(way.latency, times[len(times)/2].Seconds())
	return nil
}

// cpuTime is what a process has used, user and system.
func cpuTime(pid int) (time.Duration, error) {
	// The scheduler's count of each thread, in nanoseconds: /proc/PID/stat has ticks only.
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
		fields := strings.Fields(string(text))
		n, err := strconv.ParseInt(fields[0], 10, 64)
		if err != nil {
			return 0, err
		}
		sum += time.Duration(n)
	}
	return sum, nil
}
