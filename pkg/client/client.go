package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"

	"github.com/privlink/privlink/pkg/api"
)

// Options say where the daemon is and who asks.
type Options struct {
	// Socket is the path of the daemon's Unix socket. Used if Server is empty.
	Socket string
	// Server is the URL of a daemon elsewhere: https://HOST:PORT, or http:// on loopback.
	Server string
	// CAFile has the certificates (PEM) that the server's is checked against; empty = the system's.
	CAFile string
	// CertFile and KeyFile are the client certificate and its key (PEM).
	CertFile, KeyFile string
	// TokenFile has a bearer token; white space around it is ignored.
	TokenFile string
	// Waiting is called once for each write that takes longer than a second or two; may be nil.
	Waiting func()
}

// Client is safe for use by several goroutines.
type Client struct {
	base  *url.URL
	http  *http.Client
	token string
	where string // of messages: the socket's path or the server's URL

	waiting func()
}

// Unreachable says that no daemon answered.
type Unreachable struct {
	Where string // socket or URL
	Err   error
}

// Error names the place, the cause and what to try.
func (e *Unreachable) Error() string {
	hint := "is the daemon running there?"
	switch {
	case strings.Contains(e.Where, "://"):
		hint = "is a daemon listening there? --server or PRIVLINK_SERVER names another place"
	case errors.Is(e.Err, os.ErrPermission):
		hint = "the socket is open to root and its group only"
	case errors.Is(e.Err, os.ErrNotExist), errors.Is(e.Err, syscall.ECONNREFUSED):
		hint = "is `privlink run` running? --socket or PRIVLINK_SOCKET names another place"
	}
	return fmt.Sprintf("reach the daemon at %s: %v (%s)", e.Where, rootCause(e.Err), hint)
}

// Unwrap is the network's error.
func (e *Unreachable) Unwrap() error { return e.Err }

// rootCause leaves out the URL that net/http puts before what happened.
func rootCause(err error) error {
	var asURL *url.Error
	if errors.As(err, &asURL) {
		err = asURL.Err
	}
	var asOp *net.OpError
	if errors.As(err, &asOp) {
		err = asOp.Err
	}
	var asCall *os.SyscallError
	if errors.As(err, &asCall) {
		err = asCall.Err
	}
	return err
}

// New makes a client; nothing is sent. Errors are about files of the options and the URL.
func New(options Options) (*Client, error) {
	c := &Client{where: options.Socket, waiting: options.Waiting}
	if c.waiting == nil {
		c.waiting = func() {}
	}
	transport := &http.Transport{MaxIdleConnsPerHost: 16, ResponseHeaderTimeout: 0}
	if options.Server == "" {
		c.base = &url.URL{Scheme: "http", Host: "privlink"}
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", options.Socket)
		}
	} else if err := c.remote(options, transport); err != nil {
		return nil, err
	}
	if options.TokenFile != "" {
		token, err := os.ReadFile(options.TokenFile)
		if err != nil {
			return nil, fmt.Errorf("read token: %w", err)
		}
		c.token = strings.TrimSpace(string(token))
	}
	c.http = &http.Client{
		Transport: transport,
		// The daemon never redirects; who does would get the token.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return c, nil
}

func (c *Client) remote(options Options, transport *http.Transport) error {
	base, err := url.Parse(strings.TrimRight(options.Server, "/"))
	if err != nil || base.Host == "" || base.Scheme != "https" && base.Scheme != "http" {
		return fmt.Errorf("read server URL %q: not a URL of the form https://HOST:PORT", options.Server)
	}
	if base.Scheme == "http" && !loopback(base.Hostname()) {
		return fmt.Errorf("read server URL %q: plain http is for loopback only (use https)", options.Server)
	}
	c.base, c.where = base, base.String()
	config := &tls.Config{MinVersion: tls.VersionTLS13}
	if options.CAFile != "" {
		pem, err := os.ReadFile(options.CAFile)
		if err != nil {
			return fmt.Errorf("read CA certificates: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return fmt.Errorf("read CA certificates %s: no PEM certificate in it", options.CAFile)
		}
	}
	if options.CertFile != "" || options.KeyFile != "" {
		pair, err := tls.LoadX509KeyPair(options.CertFile, options.KeyFile)
		if err != nil {
			return fmt.Errorf("read client certificate: %w (a certificate and its key are needed)", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	transport.TLSClientConfig = config
	transport.Proxy = http.ProxyFromEnvironment
	transport.ForceAttemptHTTP2 = true
	return nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// Close gives back idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Answer is what came back besides the body.
type Answer struct {
	Status int
	Header http.Header
}

// Call makes one request: body (nil: none) as JSON, and the answer's JSON into into (nil:
// ignored). api-version is added where the path is ARM's.
func (c *Client) Call(ctx context.Context, method, path string, query url.Values, header http.Header, body, into any) (Answer, error) {
	answer, text, err := c.send(ctx, method, path, query, header, body)
	if err != nil {
		return answer, err
	}
	if into != nil && len(text) > 0 {
		if err := json.Unmarshal(text, into); err != nil {
			return answer, fmt.Errorf("read answer of %s %s: %w", method, path, err)
		}
	}
	return answer, nil
}

func (c *Client) send(ctx context.Context, method, path string, query url.Values, header http.Header, body any) (Answer, []byte, error) {
	response, err := c.open(ctx, method, path, query, header, body)
	if err != nil {
		return Answer{}, nil, err
	}
	defer response.Body.Close()
	answer := Answer{Status: response.StatusCode, Header: response.Header}
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return answer, nil, &Unreachable{c.where, err}
	}
	if response.StatusCode >= 300 {
		return answer, nil, refusal(response, text)
	}
	return answer, text, nil
}

// Stream sends a request whose body (nil: none) and answer are not JSON. The caller closes the answer's body.
func (c *Client) Stream(ctx context.Context, method, path string, body io.Reader) (io.ReadCloser, error) {
	var sent any
	if body != nil {
		sent = body
	}
	response, err := c.open(ctx, method, path, nil, http.Header{"Content-Type": {"application/octet-stream"}}, sent)
	if err != nil {
		return nil, err
	}
	if response.StatusCode >= 300 {
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		if err != nil {
			return nil, &Unreachable{c.where, err}
		}
		return nil, refusal(response, text)
	}
	return response.Body, nil
}

// open sends a request and returns the response whatever its status; the caller closes its body.
func (c *Client) open(ctx context.Context, method, path string, query url.Values, header http.Header, body any) (*http.Response, error) {
	target := *c.base
	escaped := strings.TrimRight(target.EscapedPath(), "/") + path
	var err error
	if target.Path, err = url.PathUnescape(escaped); err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	target.RawPath = escaped
	if query == nil {
		query = url.Values{}
	}
	if strings.HasPrefix(strings.ToLower(path), "/subscriptions") && query.Get("api-version") == "" {
		query.Set("api-version", api.LatestVersion)
	}
	target.RawQuery = query.Encode()
	var reader io.Reader
	switch body := body.(type) {
	case nil:
	case io.Reader:
		reader = body
	case json.RawMessage:
		reader = bytes.NewReader(body)
	default:
		text, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("%s %s: %w", method, path, err)
		}
		reader = bytes.NewReader(text)
	}
	request, err := http.NewRequestWithContext(ctx, method, target.String(), reader)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	for name, values := range header {
		request.Header[name] = values
	}
	if reader != nil && request.Header.Get("Content-Type") == "" {
		request.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		request.Header.Set("Authorization", "Bearer "+c.token)
	}
	response, err := c.http.Do(request)
	if err != nil {
		if ctx.Err() != nil {
			return nil, fmt.Errorf("%s %s: %w", method, path, ctx.Err())
		}
		return nil, &Unreachable{c.where, err}
	}
	return response, nil
}

// refusal is the daemon's error of an answer, or one made of its status line.
func refusal(response *http.Response, text []byte) error {
	var body api.ErrorBody
	if json.Unmarshal(text, &body) == nil && body.Error != nil {
		body.Error.Status = response.StatusCode
		return body.Error
	}
	return &api.Error{Status: response.StatusCode, Code: api.CodeInternal, Message: "the daemon answered " + response.Status}
}
