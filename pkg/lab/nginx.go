package lab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Nginx is a running web server.
type Nginx struct {
	*Process
	Root string // of its documents

	accessLog string
}

// NginxOptions describe a web server.
type NginxOptions struct {
	Listen []string // as of the listen directive: "10.0.0.4:80", "10.0.0.4:81 proxy_protocol"
	Files  map[string]string
	// Sparse files have a size (bytes) and only zeros: downloads of any length for no disk space.
	Sparse map[string]int64
	Server string // further directives of the server block
	HTTP   string // further directives of the http block: more servers, log formats
}

// Nginx starts nginx inside the namespace and waits until it listens. The lines of its access log
// are: client address, client port, address and port told by a PROXY header ("-" without), request,
// status, bytes of the body.
func (n *Namespace) Nginx(ctx context.Context, o NginxOptions) *Nginx {
	n.lab.tb.Helper()
	dir := n.serverDir("nginx")
	root := filepath.Join(dir, "root")
	if err := os.MkdirAll(root, 0o755); err != nil {
		n.fatal("start", "nginx", err)
	}
	for name, content := range o.Files {
		n.lab.WriteFile(n.relative(root, name), []byte(content))
	}
	for name, size := range o.Sparse {
		path := n.lab.WriteFile(n.relative(root, name), nil)
		if err := os.Truncate(path, size); err != nil {
			n.fatal("start", "nginx", err)
		}
	}
	var listen strings.Builder
	for _, l := range o.Listen {
		fmt.Fprintf(&listen, "    listen %s;\n", l)
	}
	access := filepath.Join(dir, "access.log")
	config := fmt.Sprintf(`# Root stays root: the folder is ours and the namespace is all there is to reach.
user root;
daemon off;
worker_processes 1;
pid %[1]s/pid;
error_log stderr notice;
events { worker_connections 20000; }
http {
  log_format lab '$remote_addr $remote_port $proxy_protocol_addr $proxy_protocol_port "$request" $status $body_bytes_sent';
  access_log %[2]s lab;
  client_body_temp_path %[1]s/body;
  proxy_temp_path %[1]s/proxy;
  fastcgi_temp_path %[1]s/fastcgi;
  uwsgi_temp_path %[1]s/uwsgi;
  scgi_temp_path %[1]s/scgi;
  client_max_body_size 0;
  sendfile on;
  server {
%[3]s    root %[4]s;
    %[5]s
  }
  %[6]s
}
`, dir, access, listen.String(), root, o.Server, o.HTTP)
	path := n.lab.WriteFile(n.relative(dir, "nginx.conf"), []byte(config))
	p := n.Start(ctx, "nginx", "-p", dir, "-c", path)
	for _, l := range o.Listen {
		n.waitServed(p, "tcp", strings.Fields(l)[0])
	}
	return &Nginx{Process: p, Root: root, accessLog: access}
}

// AccessLog returns the lines written so far.
func (s *Nginx) AccessLog() []string {
	data, err := os.ReadFile(s.accessLog)
	if err != nil || len(data) == 0 {
		return nil
	}
	return strings.Split(strings.TrimRight(string(data), "\n"), "\n")
}
