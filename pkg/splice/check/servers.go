package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pires/go-proxyproto"

	"github.com/privlink/privlink/pkg/lab"
)

// Ports of the provider's servers.
const (
	portPair        = 7001 // connections are handed to the case that waits for them
	portEcho        = 7002 // reads a header, then echoes
	portSecond      = 7003 // the same, but only the second backend listens
	portNobody      = 7004 // nobody listens
	portIdleShort   = 7005 // handed over; idle timeout 10 s
	portIdleLong    = 7006 // echo; idle timeout 900 s
	portPlainEcho   = 7007 // echoes without reading a header
	portIdleDefault = 7008 // echo
	portGo          = 7009 // testdata/peers/goserver
	portLate        = 7011 // handed over by the second backend; the first drops SYNs
	portDeaf        = 7012 // the only backend drops SYNs
	portMariaDB     = 3306
	portSSH         = 8022 // haproxy in front of sshd
	portNginx       = 8080
	portHaproxy     = 8081
	portNginxTLS    = 8443
	portNginxBare   = 8090 // reads no header
	portBareTLS     = 8444
	portHaproxyBare = 8091
	portUDP         = 5353
)

// ports all have a TCP rule.
var ports = []uint16{
	portPair, portEcho, portSecond, portNobody, portIdleShort, portIdleLong, portPlainEcho, portIdleDefault, portGo,
	portLate, portDeaf, portMariaDB, portSSH, portNginx, portHaproxy, portNginxTLS, portNginxBare, portBareTLS, portHaproxyBare,
}

// arrival is a connection at a backend whose header was read.
type arrival struct {
	*net.TCPConn
	header *proxyproto.Header
	first  int // bytes that the first read brought, header included
	err    error
}

// servers are the provider's.
type servers struct {
	listeners []net.Listener
	pair      chan arrival
	second    chan arrival
	idle      chan arrival
	sshd      *lab.Sshd
	nginx     *lab.Process
	haproxy   *lab.Process
	goserver  *lab.Process
	mariadb   *lab.Process
	log       string // nginx's access log
}

func startServers(ctx context.Context, w *world) (*servers, error) {
	s := &servers{pair: make(chan arrival, 16), second: make(chan arrival, 16), idle: make(chan arrival, 16)}
	for _, l := range []struct {
		at    *lab.Namespace
		ip    string
		port  uint16
		serve func(*net.TCPConn)
	}{
		{w.backend, backendIP, portPair, handOver(s.pair)},
		{w.backend, backendIP, portIdleShort, handOver(s.idle)},
		{w.second, secondIP, portSecond, handOver(s.second)},
		{w.second, secondIP, portLate, handOver(s.second)},
		{w.backend, backendIP, portEcho, echoAfterHeader},
		{w.backend, backendIP, portIdleLong, echoAfterHeader},
		{w.backend, backendIP, portIdleDefault, echoAfterHeader},
		{w.backend, backendIP, portPlainEcho, echo},
	} {
		listener, err := l.at.Listen("tcp4", fmt.Sprintf("%s:%d", l.ip, l.port))
		if err != nil {
			return nil, err
		}
		s.listeners = append(s.listeners, listener)
		go accept(listener, l.serve)
	}
	w.backend.EchoServer(fmt.Sprintf("%s:%d", backendIP, portUDP))
	s.sshd = w.backend.Sshd(ctx, backendIP+":22")
	var err error
	if s.mariadb, err = startMariaDB(ctx, w); err != nil {
		return nil, err
	}
	for _, rule := range []string{
		"add table ip deaf",
		"add chain ip deaf in { type filter hook input priority 0 ; }",
		fmt.Sprintf("add rule ip deaf in tcp dport { %d, %d } drop", portLate, portDeaf),
	} {
		if _, err := w.backend.Run(ctx, "nft", rule); err != nil {
			return nil, err
		}
	}
	if err := s.startPeers(ctx, w); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *servers) close() {
	for _, l := range s.listeners {
		l.Close()
	}
}

// startPeers starts the servers of testdata/peers with their files as they stand.
func (s *servers) startPeers(ctx context.Context, w *world) error {
	dir := w.lab.Path("peers", "x")
	dir = filepath.Dir(dir)
	certificate, key, err := selfSigned()
	if err != nil {
		return err
	}
	site, err := os.ReadFile("testdata/peers/nginx.conf")
	if err != nil {
		return fmt.Errorf("%w (run it from the repository's root)", err)
	}
	w.lab.WriteFile("peers/server.pem", certificate)
	w.lab.WriteFile("peers/server.key", key)
	w.lab.WriteFile("peers/site.conf", site)
	main := w.lab.WriteFile("peers/nginx.conf", fmt.Appendf(nil,
		"user root;\ndaemon off;\nworker_processes 1;\npid nginx.pid;\nerror_log stderr info;\nevents { worker_connections 4096; }\n"+
			"http {\n  client_body_temp_path body;\n  proxy_temp_path proxy;\n  fastcgi_temp_path fastcgi;\n  uwsgi_temp_path uwsgi;\n  scgi_temp_path scgi;\n  include site.conf;\n}\n"))
	s.log = filepath.Join(dir, "link.log")
	s.nginx = w.backend.Start(ctx, "nginx", "-p", dir, "-c", main)
	haproxy, err := os.ReadFile("testdata/peers/haproxy.cfg")
	if err != nil {
		return err
	}
	for _, port := range []int{portNginx, portNginxTLS, portNginxBare, portBareTLS} {
		w.backend.WaitListening("tcp", port)
	}
	s.haproxy = w.backend.Haproxy(ctx, string(haproxy), fmt.Sprintf("%s:%d", backendIP, portHaproxyBare))
	s.goserver = w.backend.Start(ctx, w.lab.Build(ctx, "./testdata/peers/goserver"), fmt.Sprintf("%s:%d", backendIP, portGo))
	w.backend.WaitListening("tcp", portGo)
	return nil
}

// startMariaDB starts a database. Servers of this protocol speak first; this one reads a header from the services' NAT
// IPs, if there is one, and has an account for the clients' address only.
func startMariaDB(ctx context.Context, w *world) (*lab.Process, error) {
	dir := filepath.Dir(w.lab.Path("mariadb", "x"))
	common := []string{"--no-defaults", "--user=root", "--datadir=" + filepath.Join(dir, "data"), "--innodb=OFF", "--default-storage-engine=Aria"}
	if _, err := w.backend.Run(ctx, "mariadb-install-db", append(common, "--skip-test-db", "--auth-root-authentication-method=normal")...); err != nil {
		return nil, err
	}
	accounts := w.lab.WriteFile("mariadb/accounts.sql", []byte("CREATE USER consumer@'"+clientIP+"';\n"))
	p := w.backend.Start(ctx, "mariadbd", append(common, "--socket="+filepath.Join(dir, "socket"), "--pid-file="+filepath.Join(dir, "pid"), "--init-file="+accounts,
		"--bind-address="+backendIP, fmt.Sprintf("--port=%d", portMariaDB), "--skip-name-resolve", "--proxy-protocol-networks=10.0.0.96/28")...)
	w.backend.WaitListening("tcp", portMariaDB)
	return p, nil
}

// selfSigned makes a certificate for TLS cases.
func selfSigned() (certificate, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "backend"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		return nil, nil, err
	}
	encoded, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: encoded}), nil
}

func accept(l net.Listener, serve func(*net.TCPConn)) {
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // reset before it was accepted
		}
		go serve(c.(*net.TCPConn))
	}
}

// handOver reads the header and gives the connection to whoever waits.
func handOver(to chan<- arrival) func(*net.TCPConn) {
	return func(c *net.TCPConn) {
		a := arrival{TCPConn: c}
		// Keepalives are net's default; a case that wants them switches them on.
		_ = c.SetKeepAlive(false)
		_ = c.SetDeadline(time.Now().Add(60 * time.Second))
		a.header, a.first, a.err = readHeader(c)
		to <- a
	}
}

func echoAfterHeader(c *net.TCPConn) {
	if _, _, err := readHeader(c); err != nil {
		c.Close()
		return
	}
	echo(c)
}

func echo(c *net.TCPConn) {
	defer c.Close()
	_ = c.SetKeepAlive(false)
	_, _ = io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c}) // no pipes: there are thousands
}

// readHeader reads the header and nothing behind it, by go-proxyproto.
func readHeader(c net.Conn) (h *proxyproto.Header, first int, err error) {
	head := make([]byte, 16, 256)
	first, err = c.Read(head)
	if err != nil {
		return nil, first, fmt.Errorf("read header: %w", err)
	}
	if _, err := io.ReadFull(c, head[first:]); err != nil {
		return nil, first, fmt.Errorf("read header: %w", err)
	}
	whole := head[:16+int(binary.BigEndian.Uint16(head[14:]))]
	n, err := c.Read(whole[16:])
	if err != nil {
		return nil, first, fmt.Errorf("read header: %w", err)
	}
	first += n
	if _, err := io.ReadFull(c, whole[16+n:]); err != nil {
		return nil, first, fmt.Errorf("read header: %w", err)
	}
	h, err = proxyproto.Read(bufio.NewReader(bytes.NewReader(whole)))
	return h, first, err
}

// take waits for a connection at a backend.
func take(ctx context.Context, from <-chan arrival) (arrival, error) {
	select {
	case a := <-from:
		if a.err != nil {
			return a, a.err
		}
		return a, nil
	case <-time.After(15 * time.Second):
		return arrival{}, errors.New("no connection reached the backend")
	case <-ctx.Done():
		return arrival{}, ctx.Err()
	}
}

// logged waits for a line with all parts in nginx's log or haproxy's output.
func (s *servers) logged(read func() string, parts ...string) error {
	return lab.Poll(5*time.Second, func() error {
		for line := range strings.Lines(read()) {
			found := true
			for _, part := range parts {
				found = found && strings.Contains(line, part)
			}
			if found {
				return nil
			}
		}
		return fmt.Errorf("no line with %q in the server's log:\n%s", parts, tail(read()))
	})
}

func (s *servers) nginxLog() string {
	text, _ := os.ReadFile(s.log) // not there yet: nothing logged
	return string(text)
}

// tail is the end of a long text.
func tail(text string) string {
	if len(text) > 500 {
		return text[len(text)-500:]
	}
	return text
}
