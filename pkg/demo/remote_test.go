package demo

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/lab"
)

// The whole demo with every party remote: the provider with a client certificate, both consumers with tokens, over TLS, each with
// a role on its own subscription only.
func TestRun_OverTLS_CertificateAndTokens_EveryStepIsAsItShouldBe(t *testing.T) {
	ctx, l := t.Context(), lab.New(t)
	ca := l.Authority()
	cert, key := ca.Issue("server", net.IPv4(127, 0, 0, 1))
	config := l.WriteFile("config.yaml", fmt.Appendf(nil, "listen: [{address: '127.0.0.1:8443', certificate: %s, key: %s, clientCA: %s}]\n", cert, key, ca.File))
	s := &show{
		Options: Options{Binary: l.Build(ctx, "./cmd/privlink"), Mode: "tc", Out: output(t)},
		lab:     l, begin: time.Now(), flags: []string{"--config", config},
	}
	s.build(ctx)
	enrol := func(a *account, name string, more ...string) {
		t.Helper()
		for _, line := range [][]string{
			{"subscription", "create", a.subscription, "--tenant", name},
			append([]string{"principal", "create", name, "--tenant", name}, more...),
			{"role", "create", "--principal", name, "--role", "Contributor", "--scope", "/subscriptions/" + a.subscription},
		} {
			if _, err := s.daemon.CLI(ctx, line...); err != nil {
				t.Fatal(err)
			}
		}
		a.remote = []string{"--server", "https://127.0.0.1:8443", "--ca", ca.File}
	}
	enrol(&s.provider, "provider", "--certificate", "provider.example")
	cert, key = ca.Issue("provider.example")
	s.provider.remote = append(s.provider.remote, "--cert", cert, "--key", key)
	for i, c := range s.consumers {
		name := fmt.Sprint("consumer", i)
		enrol(&c.account, name)
		var token api.Token
		if out, err := s.daemon.CLI(ctx, "token", "create", "--principal", name, "--life", "1h", "-o", "json"); err != nil {
			t.Fatal(err)
		} else if err := json.Unmarshal([]byte(out), &token); err != nil {
			t.Fatal(err)
		}
		c.remote = append(c.remote, "--token-file", l.WriteFile(name, []byte(token.Secret)))
	}
	if err := s.tell(ctx); err != nil {
		t.Fatal(err)
	}
	// They were these principals, and each sees its own only.
	for _, c := range s.consumers {
		flows, err := c.cli(ctx, "flow", "list")
		if err != nil || !strings.Contains(flows, endpointIP+":80") || strings.Contains(flows, webIP) || strings.Contains(flows, sshIP) {
			t.Errorf("%s sees not just its own side, %v:\n%s", c.name, err, flows)
		}
		other := s.consumers[0]
		if c == other {
			other = s.consumers[1]
		}
		_, err = c.cli(ctx, "endpoint", "show", "/subscriptions/"+other.subscription+"/resourceGroups/"+resourceGroup+"/providers/Microsoft.Network/privateEndpoints/to-shop")
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 3 {
			t.Errorf("%s asks for the other's endpoint: %v, want exit code 3", c.name, err)
		}
	}
	journal, err := s.daemon.CLI(ctx, "event", "list", "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	var entries []api.JournalEntry
	if err := json.Unmarshal([]byte(journal), &entries); err != nil {
		t.Fatal(err)
	}
	did := map[string]string{}
	for _, e := range entries {
		if id, err := api.ParseID(e.Target, api.ID{}); err == nil && e.Action == "create" {
			did[id.Type] += e.Principal + " "
		}
	}
	if got := did[string(api.PrivateEndpoints)]; got != "consumer0 consumer1 " {
		t.Errorf("endpoints were made by %q", got)
	}
	if got := did[string(api.LoadBalancers)]; got != "provider " {
		t.Errorf("the load balancer was made by %q", got)
	}
}
