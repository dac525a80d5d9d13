// Check-sdk drives a real daemon with the Azure SDK for Go: the whole story of a private link with the newest
// major as root on the Unix socket, with the oldest one that is supported over TLS with a token for each side, every
// operation at least once, real packets before and after each decision. It prints one line per operation and ends with "N passed, M failed". It needs root.
package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/arm"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"github.com/privlink/privlink/pkg/lab"
	"github.com/privlink/privlink/scripts/check-sdk/check"
	"github.com/privlink/privlink/scripts/check-sdk/newest"
	"github.com/privlink/privlink/scripts/check-sdk/oldest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	count := &check.Count{Out: os.Stdout}
	err := lab.Run(ctx, lab.Options{Name: "check-sdk", Log: os.Stderr}, func(ctx context.Context, l *lab.Lab) error {
		return tell(ctx, l, count)
	})
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "check-sdk: %v\n", err)
		count.Failed++
	}
	fmt.Printf("%d passed, %d failed\n", count.Passed, count.Failed)
	if count.Failed > 0 {
		os.Exit(1)
	}
}

// page is what the provider's web server says.
const page = "hello from the provider"

// tell builds the topology, starts the daemon and tells the story with both majors.
func tell(ctx context.Context, l *lab.Lab, count *check.Count) error {
	gateway, web, client := l.Namespace("gateway"), l.Namespace("web"), l.Namespace("client")
	l.Veth(gateway, "eth1", web, "eth0", lab.VethOptions{B: lab.EndOptions{Addr: check.BackendIP + "/16"}})
	l.Veth(gateway, "eth2", client, "eth0", lab.VethOptions{B: lab.EndOptions{Addr: "10.0.1.4/16"}})
	web.Nginx(ctx, lab.NginxOptions{Listen: []string{"80"}, Files: map[string]string{"index.html": page}})
	ca := l.Authority()
	daemon := gateway.Daemon(ctx, lab.DaemonOptions{Binary: l.Build(ctx, "./cmd/privlink"), Args: []string{"--config", listening(l, ca)}})

	called := &check.Called{}
	story := &check.Story{
		Count: count, Provider: "provider", Consumer: "consumer", Group: "rg", Options: overSocket(daemon.Socket),
		Credential: func(string) azcore.TokenCredential { return bearer("none") }, // on the Unix socket the kernel says who asks
		Attach: func(ctx context.Context) error {
			for _, line := range [][]string{
				{"vnet", "attach", "datacenter", "--interface", "eth1", "--subscription", "provider"},
				{"vnet", "attach", "home", "--interface", "eth2", "--subscription", "consumer"},
			} {
				if _, err := daemon.CLI(ctx, append(line, "--resource-group", "rg")...); err != nil {
					return err
				}
			}
			return nil
		},
		Passes: func(ctx context.Context) bool {
			out, err := client.Run(ctx, "curl", "-sS", "--connect-timeout", "1", "-m", "3", "http://"+check.EndpointIP+"/")
			return err == nil && out == page
		},
		Open: func(ctx context.Context) (net.Conn, error) {
			return client.Dial(ctx, "tcp", "", check.EndpointIP+":80")
		},
		Silence: func(ctx context.Context, silent bool) error {
			_, err := client.Run(ctx, "ip", "link", "set", "eth0", map[bool]string{true: "down", false: "up"}[silent])
			return err
		},
	}
	story.Options.PerCallPolicies = []policy.Policy{called}
	// The oldest major from elsewhere, each side with a token that is good for its own subscription only.
	afar := *story
	var err error
	if afar.Options, err = overTLS(gateway, ca); err != nil {
		return err
	}
	if afar.Credential, err = enrol(ctx, daemon, story.Provider, story.Consumer); err != nil {
		return err
	}
	for _, major := range []struct {
		name  string
		tell  func(context.Context, *check.Story) error
		story *check.Story
	}{
		{"newest major, api-version 2025-05-01, as root on the socket", newest.Tell, story},
		{"oldest major, api-version 2022-01-01, over TLS with a token for each side", oldest.Tell, &afar},
		{"newest major alone", newest.Extra, story},
	} {
		fmt.Fprintf(count.Out, "-- %s\n", major.name)
		began := time.Now()
		if err := major.tell(ctx, major.story); err != nil {
			return fmt.Errorf("%s: %w", major.name, err)
		}
		fmt.Fprintf(count.Out, "-- took %s\n", time.Since(began).Round(time.Millisecond))
	}
	count.Do("every operation of the newest major was called", func() error { return everyOperation(ctx, called) })
	return nil
}

// everyOperation is an error for operations of the SDK that the stories did not call.
func everyOperation(ctx context.Context, called *check.Called) error {
	find := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/network/armnetwork/v9")
	module, err := find.Output()
	if err != nil {
		return fmt.Errorf("find the SDK: %w", err)
	}
	all, err := check.Operations(strings.TrimSpace(string(module)))
	if err != nil {
		return err
	}
	if missing := called.Missing(all); len(missing) > 0 {
		return fmt.Errorf("not so %s", strings.Join(missing, ", "))
	}
	return nil
}

// overSocket lets the SDK talk to a daemon's Unix socket.
func overSocket(path string) *arm.ClientOptions {
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}}
	return clientOptions("http://privlink", transport)
}

func clientOptions(endpoint string, transport *http.Transport) *arm.ClientOptions {
	return &arm.ClientOptions{ClientOptions: policy.ClientOptions{
		Cloud: cloud.Configuration{Services: map[cloud.ServiceName]cloud.ServiceConfiguration{
			cloud.ResourceManager: {Endpoint: endpoint, Audience: "privlink"},
		}},
		InsecureAllowCredentialWithHTTP: true,
		Transport:                       &http.Client{Transport: transport},
		Retry:                           policy.RetryOptions{MaxRetries: -1}, // a refusal is what is to be seen
	}}
}
