package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/lab"
)

// nginx and haproxy with the files of testdata/peers, as they stand, read who the client is from the header.
// Every other case, sshd behind haproxy included, is in make check-proxy.
func TestRun_ProxyService_NginxAndHaproxyKnowTheClient(t *testing.T) {
	l, d := gateway(t)
	provider := l.VM(d.Namespace, "web", "10.0.0.4/16", lab.VethOptions{})
	consumer := l.VM(d.Namespace, "home", "10.0.1.4/16", lab.VethOptions{})
	startPeers(t, l, provider)
	must := func(command string) string {
		t.Helper()
		out, err := d.CLI(t.Context(), strings.Fields(command)...)
		if err != nil {
			t.Fatalf("privlink %s: %v", command, err)
		}
		return out
	}
	// The NAT IP is one of those that nginx.conf believes.
	must("vnet create datacenter --prefix 10.0.0.0/16 --interface web")
	must("lb create web --vnet datacenter --rule tcp:8080 --rule tcp:8081 --backend 10.0.0.4")
	must("service create shop --lb web --proxy-protocol --nat-ip 10.0.0.97 --visibility *")
	var service api.PrivateLinkService
	read(t, must("service show shop -o json"), &service)
	must("vnet create home --prefix 10.0.0.0/16 --interface home --subscription consumer")
	must("endpoint create to-shop --vnet home --ip 10.0.1.10 --service " + service.Properties.Alias + " --subscription consumer")
	must("connection approve --service shop --name to-shop")
	for _, c := range []struct{ port, want string }{
		{"8080", "you are 10.0.1.4:%s"},
		{"8081", "you are 10.0.1.4:%s, asking 10.0.1.10:8081"},
	} {
		l.Wait("an answer on port "+c.port, 20*time.Second, func() error {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			out, err := consumer.Run(ctx, "curl", "-s", "--max-time", "3", "-w", "%{local_port}", "http://10.0.1.10:"+c.port+"/")
			if err != nil {
				return err
			}
			answer, port, _ := strings.Cut(out, "\n")
			if want := fmt.Sprintf(c.want, port); answer != want {
				return fmt.Errorf("answer %q, want %q", answer, want)
			}
			return nil
		})
	}
}

// startPeers starts nginx and haproxy with the files of testdata/peers.
func startPeers(t *testing.T, l *lab.Lab, provider *lab.Namespace) {
	t.Helper()
	site, err := os.ReadFile("../../testdata/peers/nginx.conf")
	if err != nil {
		t.Fatal(err)
	}
	haproxy, err := os.ReadFile("../../testdata/peers/haproxy.cfg")
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Dir(l.WriteFile("peers/site.conf", site))
	if _, err := provider.Run(t.Context(), "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1",
		"-subj", "/CN=backend", "-keyout", filepath.Join(dir, "server.key"), "-out", filepath.Join(dir, "server.pem")); err != nil {
		t.Fatal(err)
	}
	main := l.WriteFile("peers/nginx.conf", []byte("user root;\ndaemon off;\nworker_processes 1;\npid nginx.pid;\nerror_log stderr info;\nevents {}\n"+
		"http {\n  client_body_temp_path body;\n  proxy_temp_path proxy;\n  fastcgi_temp_path fastcgi;\n  uwsgi_temp_path uwsgi;\n  scgi_temp_path scgi;\n  include site.conf;\n}\n"))
	provider.Start(t.Context(), "nginx", "-p", dir, "-c", main)
	provider.WaitListening("tcp", 8080)
	provider.Haproxy(t.Context(), string(haproxy), "10.0.0.4:8091")
}
