package probe

import (
	"bufio"
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"

	"github.com/privlink/privlink/pkg/splice/inner"
)

// direct connects to the target itself.
func direct(ctx context.Context, to inner.Destination) (Conn, error) {
	var dialer net.Dialer
	c, err := dialer.DialContext(ctx, "tcp4", to.Target.String())
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

func listen(t *testing.T) *net.TCPListener {
	t.Helper()
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// behave serves each connection with fn, one after the other.
func behave(t *testing.T, fn func(*net.TCPConn)) netip.AddrPort {
	l := listen(t)
	go func() {
		for {
			c, err := l.AcceptTCP()
			if err != nil {
				return
			}
			fn(c)
			c.Close()
		}
	}()
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// web serves status by path, over a listener that may be wrapped.
func web(t *testing.T, secure bool, wrap func(net.Listener) net.Listener) netip.AddrPort {
	t.Helper()
	l := listen(t)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/health" {
			w.WriteHeader(http.StatusNotFound)
		}
		_, _ = io.WriteString(w, strings.Repeat("body ", 1000))
	}))
	server.Config.ErrorLog = log.New(t.Output(), "", 0)
	server.Listener.Close()
	server.Listener = l
	if wrap != nil {
		server.Listener = wrap(l)
	}
	server.Config.ReadHeaderTimeout = 2 * time.Second
	if secure {
		server.StartTLS()
	} else {
		server.Start()
	}
	t.Cleanup(server.Close)
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// demanding reads a PROXY header or fails, like nginx and haproxy.
func demanding(l net.Listener) net.Listener {
	return &proxyproto.Listener{
		Listener: l, ReadHeaderTimeout: time.Second,
		ConnPolicy: func(proxyproto.ConnPolicyOptions) (proxyproto.Policy, error) { return proxyproto.REQUIRE, nil },
	}
}

func closed(t *testing.T) netip.AddrPort {
	l := listen(t)
	l.Close()
	return l.Addr().(*net.TCPAddr).AddrPort()
}

func TestAsk_EveryKindAndServer_VerdictAndReason(t *testing.T) {
	plain, secure := web(t, false, nil), web(t, true, nil)
	proxied, proxiedSecure := web(t, false, demanding), web(t, true, demanding)
	badRequest := behave(t, func(c *net.TCPConn) {
		if _, err := bufio.NewReader(c).ReadString('\n'); err == nil {
			_, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
		}
	})
	resets := behave(t, func(c *net.TCPConn) {
		_, _ = c.Read(make([]byte, 1))
		_ = c.SetLinger(0)
	})
	alerts := behave(t, func(c *net.TCPConn) {
		_, _ = c.Read(make([]byte, 16))
		_, _ = c.Write([]byte{0x15, 3, 1, 0, 2, 2, 70})
	})
	mute := listen(t).Addr().(*net.TCPAddr).AddrPort()

	for _, c := range []struct {
		name    string
		check   Check
		to      netip.AddrPort
		healthy bool
		reasons []string
	}{
		{"TCP", Check{Kind: TCP}, plain, true, []string{"connected"}},
		{"TCP, nobody listens", Check{Kind: TCP}, closed(t), false, []string{"connect: connection refused"}},
		{"TCP, header read", Check{Kind: TCP, Header: true}, proxied, true, []string{"connected"}},
		{"TCP, header taken for a request", Check{Kind: TCP, Header: true}, badRequest, true, []string{"connected", "HTTP 400", hintNotRead}},
		{"TCP, header taken for a hello", Check{Kind: TCP, Header: true}, alerts, true, []string{"connected", "a TLS alert", hintNotRead}},
		{"HTTP", Check{Kind: HTTP, Path: "/health"}, plain, true, []string{"status 200"}},
		{"HTTP, other status", Check{Kind: HTTP, Path: "/"}, plain, false, []string{"status 404, want 200"}},
		{"HTTP, header", Check{Kind: HTTP, Path: "/health", Header: true}, proxied, true, []string{"status 200"}},
		{"HTTP, header not read", Check{Kind: HTTP, Path: "/health", Header: true}, plain, false, []string{hintNotRead}},
		{"HTTP, header expected", Check{Kind: HTTP, Path: "/health"}, proxied, false, []string{hintExpected}},
		{"HTTP, header expected, service has it", Check{Kind: HTTP, Path: "/health", Expects: true}, proxied, false, []string{hintNoProbes}},
		{"HTTP, reset", Check{Kind: HTTP, Path: "/health"}, resets, false, []string{"connection reset", hintExpected}},
		{"HTTP, no answer", Check{Kind: HTTP, Path: "/health"}, mute, false, []string{"read answer: no answer in time", hintExpected}},
		{"HTTPS", Check{Kind: HTTPS, Path: "/health"}, secure, true, []string{"status 200"}},
		{"HTTPS, header", Check{Kind: HTTPS, Path: "/health", Header: true}, proxiedSecure, true, []string{"status 200"}},
		{"HTTPS, header not read", Check{Kind: HTTPS, Path: "/health", Header: true}, secure, false, []string{"TLS handshake", hintNotRead}},
		{"HTTPS, header expected", Check{Kind: HTTPS, Path: "/health"}, proxiedSecure, false, []string{"TLS handshake", hintExpected}},
		{"HTTPS, server without TLS", Check{Kind: HTTPS, Path: "/health"}, plain, false, []string{"TLS handshake"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.check.To.Target = c.to
			c.check.Timeout = 2 * time.Second
			check := c.check.withDefaults()
			v, why := ask(t.Context(), direct, &check)
			if (v == well) != c.healthy {
				t.Errorf("healthy %v (%s), want %v", v == well, why, c.healthy)
			}
			for _, part := range c.reasons {
				if !strings.Contains(why, part) {
					t.Errorf("reason %q lacks %q", why, part)
				}
			}
			if strings.ContainsRune(why, '\n') {
				t.Errorf("reason of several lines: %q", why)
			}
		})
	}
}

// TestAsk_Healthy_ConnectionEndsInOrder: servers log resets, and count them.
func TestAsk_Healthy_ConnectionEndsInOrder(t *testing.T) {
	for _, header := range []bool{false, true} {
		end := make(chan error, 1)
		to := behave(t, func(c *net.TCPConn) {
			_, err := io.Copy(io.Discard, c)
			end <- err
		})
		check := Check{Kind: TCP, Header: header, To: inner.Destination{Target: to}, Interval: time.Second}.withDefaults()
		if v, why := ask(t.Context(), direct, &check); v != well {
			t.Fatal(why)
		}
		if err := <-end; err != nil {
			t.Errorf("header %v: the server sees %v, want the end of the stream", header, err)
		}
	}
}
