package server

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/net/netutil"
	"golang.org/x/sys/unix"
)

// ErrAnswered says that a daemon already answers on a socket.
var ErrAnswered = errors.New("another daemon answers there")

// ListenUnix makes the Unix socket, with its folder (mode 0755) if there is none. What a daemon that was killed
// left is replaced; a socket on which somebody answers is refused with ErrAnswered. mode is who may connect: who
// connects is known by the kernel's word, so that a mode of 0666 lets nobody do what his principal may not.
func ListenUnix(path string, mode fs.FileMode) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("make folder of socket %s: %w", path, err)
	}
	if info, err := os.Lstat(path); err == nil {
		if info.Mode().Type() != fs.ModeSocket {
			return nil, fmt.Errorf("listen on %s: there is something that is not a socket", path)
		}
		if conn, err := net.DialTimeout("unix", path, time.Second); err == nil {
			conn.Close()
			return nil, fmt.Errorf("listen on %s: %w", path, ErrAnswered)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("listen on %s: %w", path, err)
		}
	}
	// Made under another name and moved into place, so that nobody finds it with a wider mode.
	fresh := path + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	if room := len(unix.RawSockaddrUnix{}.Path) - 1; len(fresh) > room { // the kernel says no more than EINVAL
		return nil, fmt.Errorf("listen on %s: the path has %d bytes, at most %d are possible", path, len(path), room-len(".new"))
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: fresh, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	listener.SetUnlinkOnClose(false)
	if err := errors.Join(os.Chmod(fresh, mode), os.Rename(fresh, path)); err != nil {
		listener.Close()
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return &unixListener{listener, path}, nil
}

// unixListener removes its socket when it closes.
type unixListener struct {
	*net.UnixListener
	path string
}

func (l *unixListener) Close() error {
	return errors.Join(l.UnixListener.Close(), os.Remove(l.path))
}

// TCPOptions describe a TCP listener.
type TCPOptions struct {
	// Address is HOST:PORT.
	Address string
	// CertFile and KeyFile are the server's certificate and key (PEM). Without them it is plain HTTP, on loopback only.
	CertFile, KeyFile string
	// ClientCAFile has the certificates (PEM) that client certificates are checked against. A client may come without one.
	ClientCAFile string
}

// maxConnections of one TCP listener. Of who comes more nobody knows yet who that is, and the rest waits: proxied connections and
// probes need descriptors, too.
const maxConnections = 256

// ListenTCP listens with TLS 1.3, or in plain on loopback. It takes maxConnections at once.
func ListenTCP(options TCPOptions) (net.Listener, error) {
	if options.CertFile == "" && options.KeyFile == "" {
		host, _, err := net.SplitHostPort(options.Address)
		if err != nil {
			return nil, fmt.Errorf("listen on %s: %w", options.Address, err)
		}
		if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			return nil, fmt.Errorf("listen on %s: plain HTTP is for loopback only (set certificate and key)", options.Address)
		}
		return listenLimited(options.Address)
	}
	pair, err := tls.LoadX509KeyPair(options.CertFile, options.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: read certificate: %w", options.Address, err)
	}
	config := &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}, NextProtos: []string{"h2", "http/1.1"}}
	if options.ClientCAFile != "" {
		pem, err := os.ReadFile(options.ClientCAFile)
		if err != nil {
			return nil, fmt.Errorf("listen on %s: read client CA certificates: %w", options.Address, err)
		}
		config.ClientCAs = x509.NewCertPool()
		if !config.ClientCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("listen on %s: no PEM certificate in %s", options.Address, options.ClientCAFile)
		}
		config.ClientAuth = tls.VerifyClientCertIfGiven
	}
	plain, err := listenLimited(options.Address)
	if err != nil {
		return nil, err
	}
	return tls.NewListener(plain, config), nil // outermost: the HTTP server has to see that it is TLS
}

func listenLimited(address string) (net.Listener, error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	return netutil.LimitListener(listener, maxConnections), nil
}
