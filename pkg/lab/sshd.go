package lab

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
)

// Sshd is a running SSH server into which root may log in with a key made for it.
type Sshd struct {
	*Process

	clientKey, knownHosts string
}

// Sshd starts sshd inside the namespace at the address ("10.0.0.5:22") and waits until it listens. Host key
// and client key are made for it and live as long as the lab.
func (n *Namespace) Sshd(ctx context.Context, address string) *Sshd {
	n.lab.tb.Helper()
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		n.fatal("start", "sshd", err)
	}
	dir := n.serverDir("sshd")
	key := func(name string) string {
		path := filepath.Join(dir, name)
		if _, err := n.Run(ctx, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", path); err != nil {
			n.fatal("make key", name, err)
		}
		return path
	}
	hostKey, clientKey := key("host_key"), key("client_key")
	public, err := os.ReadFile(hostKey + ".pub")
	if err != nil {
		n.fatal("read key", hostKey, err)
	}
	// Whatever address a client uses, this is the one host there is.
	known := n.lab.WriteFile(n.relative(dir, "known_hosts"), append([]byte("* "), public...))
	// The folder is compiled into sshd; on Debian the service makes it, which may never have run.
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
		n.fatal("start", "sshd", err)
	}
	config := fmt.Sprintf(`ListenAddress %s
Port %s
HostKey %s
AuthorizedKeysFile %s.pub
PidFile none
UsePAM no
UseDNS no
StrictModes no
PermitRootLogin prohibit-password
PasswordAuthentication no
PrintMotd no
PrintLastLog no
`, host, port, hostKey, clientKey)
	path := n.lab.WriteFile(n.relative(dir, "sshd_config"), []byte(config))
	// sshd executes itself for each connection and wants its full name for that.
	p := n.Start(ctx, "/usr/sbin/sshd", "-D", "-e", "-f", path)
	n.waitServed(p, "tcp", address)
	return &Sshd{Process: p, clientKey: clientKey, knownHosts: known}
}

// ClientArgs are the arguments of ssh for a login at the address, before the command.
func (s *Sshd) ClientArgs(host string, port int) []string {
	return []string{
		"-F", "none", "-i", s.clientKey, "-p", fmt.Sprint(port),
		"-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", "StrictHostKeyChecking=yes",
		"-o", "UserKnownHostsFile=" + s.knownHosts, "-o", "GlobalKnownHostsFile=none", "-o", "LogLevel=ERROR",
		"root@" + host,
	}
}
