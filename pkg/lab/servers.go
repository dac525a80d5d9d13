package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// serverDir makes a folder for one server's configuration.
func (n *Namespace) serverDir(name string) string {
	n.lab.tb.Helper()
	dir, err := os.MkdirTemp(n.lab.dir, n.short+"-"+name+"-")
	if err == nil {
		err = os.Chmod(dir, 0o755) // for servers that change their user
	}
	if err != nil {
		n.fatal("make folder for", name, err)
	}
	return dir
}

// relative is a name below the folder as WriteFile wants it.
func (n *Namespace) relative(dir, name string) string {
	path, err := filepath.Rel(n.lab.dir, filepath.Join(dir, name))
	if err != nil {
		n.fatal("name", name, err)
	}
	return path
}

// waitServed waits until the address ("10.0.0.4:80", ":80", "80") is served, or fails when the process
// has ended instead.
func (n *Namespace) waitServed(p *Process, network, address string) {
	n.lab.tb.Helper()
	port := address
	if _, after, err := net.SplitHostPort(address); err == nil {
		port = after
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		n.fatal("wait for", address, err)
	}
	n.lab.Wait(fmt.Sprintf("%s of %s at %s", p.Name, n.short, address), 10*time.Second, func() error {
		select {
		case <-p.Exited():
			n.lab.tb.Fatalf("%s: %s ended at its start (%s): %s", n.short, p.Name, p.state(), p.Output())
		default:
		}
		served, err := n.serves(network, number)
		if err == nil && !served {
			err = errors.New("nobody listens")
		}
		return err
	})
}

// Dnsmasq starts a DNS server at the address ("10.0.0.4:53") that knows the given names and nothing
// else, and waits until it serves. More options of its command line may follow.
func (n *Namespace) Dnsmasq(ctx context.Context, address string, names map[string]string, options ...string) *Process {
	n.lab.tb.Helper()
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		n.fatal("start", "dnsmasq", err)
	}
	args := []string{
		"--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--log-facility=-", "--log-queries",
		"--user=root", "--group=root", "--pid-file=", "--bind-interfaces", "--listen-address=" + host, "--port=" + port,
	}
	for name, ip := range names {
		args = append(args, fmt.Sprintf("--address=/%s/%s", name, ip))
	}
	p := n.Start(ctx, "dnsmasq", append(args, options...)...)
	n.waitServed(p, "udp", address)
	return p
}

// Iperf3 starts an iperf3 server at the address and waits until it serves.
func (n *Namespace) Iperf3(ctx context.Context, address string) *Process {
	n.lab.tb.Helper()
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		n.fatal("start", "iperf3", err)
	}
	p := n.Start(ctx, "iperf3", "--server", "--bind", host, "--port", port, "--forceflush")
	n.waitServed(p, "tcp", address)
	return p
}

// Haproxy starts haproxy with the configuration and waits until all the addresses are served.
func (n *Namespace) Haproxy(ctx context.Context, config string, addresses ...string) *Process {
	n.lab.tb.Helper()
	path := n.lab.WriteFile(n.relative(n.serverDir("haproxy"), "haproxy.cfg"), []byte(config))
	p := n.Start(ctx, "haproxy", "-db", "-f", path)
	for _, address := range addresses {
		n.waitServed(p, "tcp", address)
	}
	return p
}
