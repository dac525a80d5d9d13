package main

import (
	"context"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"time"
)

var peerCases = []namedCase{
	{"Go server (go-proxyproto listener) sees client, endpoint and LinkID", goServer},
	{"nginx logs the consumer's address", nginxLogs},
	{"haproxy logs the consumer's address", haproxyLogs},
	{"TLS 1.3, openssl s_client", openssl},
	{"HTTP/2, curl", http2},
	{"ssh", overSSH},
	{"MariaDB, which speaks first, knows the client by the header", mariaDB},
}

// command runs a program in the first consumer's network.
func (s *suite) command(ctx context.Context, input, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	command := exec.Command(name, args...)
	command.Stdin = strings.NewReader(input)
	return s.consumers[0].RunCommand(ctx, command)
}

func goServer(ctx context.Context, s *suite) (string, error) {
	for _, name := range []string{"azure", "aws", "gcp"} {
		c, err := s.dial(ctx, 0, "", name, portGo)
		if err != nil {
			return "", err
		}
		defer c.Close()
		answer, err := io.ReadAll(c)
		if err != nil {
			return "", err
		}
		if want := fmt.Sprintf("client %v endpoint %v link %d\n", c.LocalAddr(), c.RemoteAddr(), linkID(0, name)); string(answer) != want {
			return "", fmt.Errorf("%s: answer %q, want %q", name, answer, want)
		}
	}
	return "", nil
}

func nginxLogs(ctx context.Context, s *suite) (string, error) {
	out, err := s.command(ctx, "", "curl", "-sS", "--local-port", "42000-42999", fmt.Sprintf("http://%s:%d/nginx", endpoint("azure"), portNginx))
	if err != nil {
		return "", err
	}
	if !strings.HasPrefix(out, "you are "+clientIP+":42") {
		return "", fmt.Errorf("answer %q", out)
	}
	return strings.TrimSpace(out), s.servers.logged(s.servers.nginxLog, clientIP+" 42", `"GET /nginx`)
}

func haproxyLogs(ctx context.Context, s *suite) (string, error) {
	out, err := s.command(ctx, "", "curl", "-sS", "--local-port", "43000-43999", fmt.Sprintf("http://%s:%d/haproxy", endpoint("azure"), portHaproxy))
	if err != nil {
		return "", err
	}
	if want := fmt.Sprintf("asking %s:%d", endpoint("azure"), portHaproxy); !strings.HasPrefix(out, "you are "+clientIP+":43") || !strings.Contains(out, want) {
		return "", fmt.Errorf("answer %q, want %q", out, want)
	}
	return strings.TrimSpace(out), s.servers.logged(s.servers.haproxy.Output, clientIP+":43", "GET /haproxy 200")
}

func openssl(ctx context.Context, s *suite) (string, error) {
	out, err := s.command(ctx, "GET /tls HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "openssl", "s_client", "-connect",
		fmt.Sprintf("%s:%d", endpoint("azure"), portNginxTLS), "-tls1_3", "-quiet", "-ign_eof")
	if err != nil {
		return "", err
	}
	if !strings.Contains(out, "200 OK") || !strings.Contains(out, "you are "+clientIP) {
		return "", fmt.Errorf("answer %q", tail(out))
	}
	return "", nil
}

func http2(ctx context.Context, s *suite) (string, error) {
	out, err := s.command(ctx, "", "curl", "-sSk", "--http2", "-w", "HTTP/%{http_version}", fmt.Sprintf("https://%s:%d/h2", endpoint("azure"), portNginxTLS))
	if err != nil {
		return "", err
	}
	if !strings.HasSuffix(out, "HTTP/2") || !strings.Contains(out, "you are "+clientIP) {
		return "", fmt.Errorf("answer %q", out)
	}
	return "", s.servers.logged(s.servers.nginxLog, clientIP, `"GET /h2 HTTP/2.0" 200`)
}

func overSSH(ctx context.Context, s *suite) (string, error) {
	args := append(s.servers.sshd.ClientArgs(endpoint("azure"), portSSH), "echo", "logged in")
	out, err := s.command(ctx, "", "ssh", args...)
	if err != nil {
		return "", err
	}
	if strings.TrimSpace(out) != "logged in" {
		return "", fmt.Errorf("answer %q", out)
	}
	return "", nil
}

func mariaDB(ctx context.Context, s *suite) (string, error) {
	out, err := s.command(ctx, "", "mariadb", "--no-defaults", "--protocol=TCP", "--host="+endpoint("azure"), fmt.Sprintf("--port=%d", portMariaDB),
		"--user=consumer", "--skip-ssl", "--batch", "--skip-column-names", "--execute=SELECT host FROM information_schema.processlist WHERE id = CONNECTION_ID()")
	if err != nil {
		return "", err
	}
	if !strings.HasPrefix(out, clientIP+":") {
		return "", fmt.Errorf("the server says that the client is %q", out)
	}
	return "client " + strings.TrimSpace(out), nil
}
