package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/privlink/privlink/pkg/lab"
)

// The demo's story with a provider known by its client certificate and a consumer known by a token, both over TLS: each does its part,
// and neither sees or touches what is the other's.
func TestRemote_TLSCertificateAndToken_Story(t *testing.T) {
	ctx := t.Context()
	l := lab.New(t)
	binary := l.Build(ctx, "./cmd/privlink")
	gw, web, vm := l.Namespace("gateway"), l.Namespace("web"), l.Namespace("vm")
	l.Veth(gw, "eth1", web, "eth0", lab.VethOptions{B: lab.EndOptions{Addr: "10.0.0.4/16"}})
	l.Veth(gw, "eth2", vm, "eth0", lab.VethOptions{B: lab.EndOptions{Addr: "10.0.1.4/16"}})
	web.Nginx(ctx, lab.NginxOptions{Listen: []string{"80"}, Files: map[string]string{"index.html": "hello"}})
	ca := l.Authority()
	serverCert, serverKey := ca.Issue("server", net.IPv4(127, 0, 0, 1))
	providerCert, providerKey := ca.Issue("provider")
	config := l.WriteFile("config.yaml", fmt.Appendf(nil, "listen:\n- {address: '127.0.0.1:8443', certificate: %s, key: %s, clientCA: %s}\n", serverCert, serverKey, ca.File))
	d := gw.Daemon(ctx, lab.DaemonOptions{Binary: binary, Args: []string{"--config", config}})

	must := func(out string, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	// The operator lets both in and attaches the interfaces.
	for _, line := range []string{
		"subscription create sub-p --tenant one", "subscription create sub-c --tenant two",
		"principal create provider --tenant one --certificate provider", "principal create consumer --tenant two",
		"role create --principal provider --role Contributor --scope /subscriptions/sub-p",
		"role create --principal consumer --role Contributor --scope /subscriptions/sub-c",
		"vnet create datacenter --prefix 10.0.0.0/16 --interface eth1 --subscription sub-p",
		"vnet create home --prefix 10.0.0.0/16 --interface eth2 --subscription sub-c",
	} {
		must(d.CLI(ctx, strings.Fields(line)...))
	}
	var token struct {
		Secret string `json:"token"`
	}
	if err := json.Unmarshal([]byte(must(d.CLI(ctx, "token", "create", "--principal", "consumer", "--life", "1h", "-o", "json"))), &token); err != nil || token.Secret == "" {
		t.Fatalf("token: %v", err)
	}
	tokenFile := l.WriteFile("token", []byte(token.Secret+"\n"))
	// The provider says where and who by flags, the consumer by variables.
	flags := func(subscription string, who ...string) func(line string) (string, error) {
		return func(line string) (string, error) {
			args := append(split(line), "--server", "https://127.0.0.1:8443", "--ca", ca.File, "--subscription", subscription)
			return gw.RunCommand(ctx, exec.Command(binary, append(args, who...)...))
		}
	}
	variables := func(subscription string, who ...string) func(line string) (string, error) {
		return func(line string) (string, error) {
			cmd := exec.Command(binary, split(line)...)
			cmd.Env = append(os.Environ(), "PRIVLINK_SERVER=https://127.0.0.1:8443", "PRIVLINK_CA="+ca.File, "PRIVLINK_SUBSCRIPTION="+subscription)
			cmd.Env = append(cmd.Env, who...)
			return gw.RunCommand(ctx, cmd)
		}
	}
	provider := flags("sub-p", "--cert", providerCert, "--key", providerKey)
	providerToo := variables("sub-p", "PRIVLINK_CERT="+providerCert, "PRIVLINK_KEY="+providerKey)
	consumer := variables("sub-c", "PRIVLINK_TOKEN_FILE="+tokenFile)
	nobody := variables("sub-c")

	must(provider("lb create web --vnet datacenter --rule tcp:80 --backend 10.0.0.4"))
	published := must(provider("service create shop --lb web --nat-ip-count 1 --visibility sub-c"))
	alias := regexp.MustCompile(`(?m)^Alias:\s+(\S+)$`).FindStringSubmatch(published)
	if alias == nil {
		t.Fatalf("no alias:\n%s", published)
	}
	must(consumer("endpoint create to-shop --vnet home --ip 10.0.1.10 --service " + alias[1] + " --request-message 'order 42'"))
	passes := func() bool {
		out, err := vm.Run(ctx, "curl", "-sS", "--connect-timeout", "1", "-m", "3", "http://10.0.1.10/")
		return err == nil && out == "hello"
	}
	if passes() {
		t.Error("packets pass before the approval")
	}
	if inbox := must(providerToo("connection list")); !strings.Contains(inbox, "order 42") || !strings.Contains(inbox, "sub-c") {
		t.Errorf("the provider's inbox:\n%s", inbox)
	}
	must(provider("connection approve --service shop --name to-shop --description welcome"))
	if seen := must(consumer("endpoint wait to-shop --for Approved --timeout 10s")); !strings.Contains(seen, "welcome") {
		t.Errorf("the consumer sees\n%s", seen)
	}
	if !passes() {
		t.Error("packets do not pass after the approval")
	}
	// Nobody sees or touches what is the other's.
	service := "/subscriptions/sub-p/resourceGroups/default/providers/Microsoft.Network/privateLinkServices/shop"
	endpoint := "/subscriptions/sub-c/resourceGroups/default/providers/Microsoft.Network/privateEndpoints/to-shop"
	for _, c := range []struct {
		who  func(string) (string, error)
		line string
		code int
	}{
		{consumer, "service show " + service, exitNotFound},
		{consumer, "service show " + strings.Replace(service, "shop", "none", 1), exitNotFound},
		{consumer, "service delete " + service, exitNotFound},
		{consumer, "service delete " + strings.Replace(service, "shop", "none", 1), exitNotFound},
		{provider, "endpoint show " + endpoint, exitNotFound},
		{provider, "vnet attach datacenter --interface eth2", exitRefused},
		{consumer, "role create --principal consumer --role Owner --scope /subscriptions/sub-c", exitRefused},
		{consumer, "status", exitRefused},
		{nobody, "endpoint list", exitRefused},
	} {
		out, err := c.who(c.line)
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != c.code {
			t.Errorf("%s: %v, want exit code %d\n%s", c.line, err, c.code, out)
		}
	}
	must(provider("service show shop"))
	if flows := must(consumer("flow list")); strings.Contains(flows, "10.0.0.4") {
		t.Errorf("the consumer sees the provider's backend:\n%s", flows)
	}
	must(provider("connection reject --service shop --name to-shop"))
	if passes() {
		t.Error("packets pass after the rejection")
	}
	journal := must(d.CLI(ctx, "event", "list"))
	for _, want := range []string{"provider", "consumer", "root"} {
		if !strings.Contains(journal, want) {
			t.Errorf("the journal does not name %s:\n%s", want, journal)
		}
	}
	// TLS 1.2 and a client without the authority's certificate get nowhere.
	if out, err := gw.Run(ctx, "curl", "-sk", "--tls-max", "1.2", "https://127.0.0.1:8443/privlink/status"); err == nil {
		t.Errorf("TLS 1.2 was answered: %s", out)
	}
	must(d.CLI(ctx, "principal", "delete", "consumer"))
	if out, err := consumer("endpoint list"); err == nil {
		t.Errorf("a deleted principal's token still works: %s", out)
	}
}
