package bench

import (
	"context"
	"fmt"
	"os/exec"
	"strconv"

	"github.com/privlink/privlink/pkg/lab"
)

// Proxy is a userspace proxy in the gateway that sends PROXY protocol headers: what a
// provider runs today to learn who its consumers are.
type Proxy struct {
	program string // haproxy or nginx
	cpu     int
	process *lab.Process
}

// NewHaproxy makes haproxy with one thread, splicing, and version 2 of the header.
func NewHaproxy(cpu int) *Proxy { return &Proxy{program: "haproxy", cpu: cpu} }

// NewNginx makes nginx's stream module with one worker. It can send version 1 of the header only.
func NewNginx(cpu int) *Proxy { return &Proxy{program: "nginx", cpu: cpu} }

// Name implements Forwarder.
func (p *Proxy) Name() string { return p.program }

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
	bind %s:%d
	server backend %s:%d send-proxy-v2 source %s
`

const nginxConfig = `worker_processes 1;
worker_cpu_affinity %s;
worker_rlimit_nofile 20000;
pid %s;
error_log %s;
daemon off;
load_module /usr/lib/nginx/modules/ngx_stream_module.so;
events { worker_connections 20000; }
stream {
	server {
		listen %s:%d;
		proxy_pass %s:%d;
		proxy_protocol on;
		proxy_timeout 1h;
	}
}
`

// Up implements Forwarder.
func (p *Proxy) Up(t *Topology) error {
	if err := routes(t); err != nil {
		return err
	}
	gateway := t.Gateway()
	gateway.Addr("lo", endpoint.Addr().String()+"/32")
	l := gateway.Lab()
	var cmd *exec.Cmd
	if p.program == "haproxy" {
		path := l.WriteFile(gateway.String()+".cfg", fmt.Appendf(nil, haproxyConfig,
			endpoint.Addr(), endpoint.Port(), firstServer, backendPort, "169.254.2.1"))
		cmd = exec.Command("nice", "-n", "-20", "taskset", "-c", strconv.Itoa(p.cpu), "haproxy", "-db", "-f", path)
	} else {
		mask := make([]byte, p.cpu+1)
		for i := range mask {
			mask[i] = '0'
		}
		mask[0] = '1'
		path := l.WriteFile(gateway.String()+".cfg", fmt.Appendf(nil, nginxConfig, mask,
			l.Path(gateway.String()+".pid"), l.Path(gateway.String()+".log"),
			endpoint.Addr(), endpoint.Port(), firstServer, backendPort))
		cmd = exec.Command("nice", "-n", "-20", "nginx", "-p", l.Dir(), "-c", path)
	}
	p.process = gateway.StartCommand(context.Background(), cmd)
	gateway.WaitListening("tcp", int(endpoint.Port()))
	return nil
}

// Translation implements Forwarder: the client connects to the endpoint.
func (*Proxy) Translation() *Translation { return &Translation{} }

// TTL implements Forwarder.
func (*Proxy) TTL() uint8 { return 0 }

// Forget implements Forwarder.
func (*Proxy) Forget() error { return nil }

// Drops implements Forwarder.
func (*Proxy) Drops() (uint64, error) { return 0, nil }

// Close implements Forwarder.
func (p *Proxy) Close() error {
	if p.process != nil {
		p.process.Stop()
	}
	return nil
}
