package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/dataplane"
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

// TestRun_ProxyMismatch_RequestFailsLBShowSaysWhy has nginx and haproxy read a header that does not come, and not read
// one that does. A request fails within the servers' own timeouts of 5 s, and nothing of it is left.
func TestRun_ProxyMismatch_RequestFailsLBShowSaysWhy(t *testing.T) {
	l, d := gateway(t)
	provider := l.VM(d.Namespace, "web", "10.0.0.4/16", lab.VethOptions{})
	consumer := l.VM(d.Namespace, "home", "10.0.1.4/16", lab.VethOptions{})
	startPeers(t, l, provider)
	p := &proxied{T: t, lab: l, daemon: d}
	p.must("vnet create datacenter --prefix 10.0.0.0/16 --interface web")
	p.must("vnet create home --prefix 10.0.0.0/16 --interface home --subscription consumer")
	const unread, awaited = "may not read PROXY headers", "may wait for a PROXY header"
	cases := []struct{ name, port, proxy, hint, ip string }{
		{"nginx-unread", "8090", " --proxy-protocol", unread, "10.0.1.10"},
		{"haproxy-unread", "8091", " --proxy-protocol", unread, "10.0.1.10"},
		{"nginx-awaited", "8080", "", awaited, "10.0.1.11"},
		{"haproxy-awaited", "8081", "", awaited, "10.0.1.11"},
	}
	// Requests go where no probe keeps them away.
	for _, s := range []struct{ name, rules, proxy, ip string }{
		{"unread", " --rule tcp:8090 --rule tcp:8091", " --proxy-protocol", "10.0.1.10"},
		{"awaited", " --rule tcp:8080 --rule tcp:8081", "", "10.0.1.11"},
	} {
		p.must("lb create " + s.name + " --vnet datacenter --backend 10.0.0.4" + s.rules)
		p.must("service create " + s.name + " --lb " + s.name + s.proxy + " --nat-ip-count 1 --visibility * --auto-approval *")
		var service api.PrivateLinkService
		read(t, p.must("service show "+s.name+" -o json"), &service)
		p.must("endpoint create to-" + s.name + " --vnet home --ip " + s.ip + " --service " + service.Properties.Alias + " --subscription consumer")
	}
	for _, c := range cases {
		p.must("lb create " + c.name + " --vnet datacenter --rule tcp:" + c.port + " --backend 10.0.0.4 --probe http:" + c.port + "/health")
		p.must("service create " + c.name + " --lb " + c.name + c.proxy + " --nat-ip-count 1 --visibility *")
	}
	for _, c := range cases {
		l.Wait("lb show "+c.name+" to say why", 40*time.Second, func() error {
			if out := p.must("lb show " + c.name); !strings.Contains(out, c.hint) {
				return errors.New(out)
			}
			return nil
		})
	}
	before := p.descriptors()
	for _, c := range cases {
		start := time.Now()
		out, err := consumer.Run(t.Context(), "curl", "-sS", "--fail", "--max-time", "8", "http://"+c.ip+":"+c.port+"/")
		// 22: an answer that is an error; 52, 56: none, or a reset. Not 7 or 28: refused or without any answer.
		var exit *exec.ExitError
		if !errors.As(err, &exit) || !slices.Contains([]int{22, 52, 56}, exit.ExitCode()) {
			t.Errorf("%s: a request got %q, %v", c.name, out, err)
		}
		if took := time.Since(start); took > 6*time.Second {
			t.Errorf("%s: the request hung for %v", c.name, took)
		}
	}
	l.Wait("nothing to be left", 20*time.Second, func() error {
		var flows []api.Flow
		read(t, p.must("flow list -o json --client 10.0.1.4"), &flows)
		for _, f := range flows {
			if f.State == string(dataplane.PhaseOpen) || f.State == string(dataplane.PhaseSYN) {
				return fmt.Errorf("a flow is left: %+v", f)
			}
		}
		if open := p.metric("privlink_proxy_connections "); open != 0 {
			return fmt.Errorf("%v proxied connections are left", open)
		}
		if after := p.descriptors(); after > before {
			return fmt.Errorf("%d descriptors, %d before", after, before)
		}
		return nil
	})
	if audit := p.must("flow audit"); audit != "every port and every quota has its flows\n" {
		t.Errorf("audit: %s", audit)
	}
}

// descriptors are the daemon's, without those of pipes and of sockets that are kept ready.
func (p *proxied) descriptors() int {
	p.Helper()
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.daemon.Process().PID()))
	if err != nil {
		p.Fatal(err)
	}
	return len(list) - 2*int(p.metric("privlink_proxy_pipes ")) - int(p.metric("privlink_proxy_sockets_ready "))
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
