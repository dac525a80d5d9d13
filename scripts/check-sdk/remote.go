package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/arm"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/lab"
)

// remote is where the daemon answers with TLS, in its own namespace.
const remote = "127.0.0.1:8443"

// listening is a configuration with which it does.
func listening(l *lab.Lab, ca *lab.Authority) string {
	cert, key := ca.Issue("server", net.IPv4(127, 0, 0, 1))
	return l.WriteFile("config.yaml", fmt.Appendf(nil, "listen: [{address: '%s', certificate: %s, key: %s}]\n", remote, cert, key))
}

// bearer is a token of a principal's.
type bearer string

// GetToken implements azcore.TokenCredential.
func (b bearer) GetToken(context.Context, policy.TokenRequestOptions) (azcore.AccessToken, error) {
	return azcore.AccessToken{Token: string(b), ExpiresOn: time.Now().Add(time.Hour)}, nil
}

// enrol makes a principal for each subscription who may write there and nowhere else, and returns their tokens.
func enrol(ctx context.Context, daemon *lab.Daemon, subscriptions ...string) (func(string) azcore.TokenCredential, error) {
	tokens := map[string]bearer{}
	for _, name := range subscriptions {
		var token api.Token
		for _, line := range [][]string{
			{"subscription", "create", name, "--tenant", name}, {"principal", "create", name, "--tenant", name},
			{"role", "create", "--principal", name, "--role", "Contributor", "--scope", "/subscriptions/" + name},
			{"token", "create", "--principal", name, "--life", "1h"},
		} {
			out, err := daemon.CLI(ctx, append(line, "-o", "json")...)
			if err != nil {
				return nil, err
			}
			if err := json.Unmarshal([]byte(out), &token); line[0] == "token" && err != nil {
				return nil, fmt.Errorf("read the token of %s: %w", name, err)
			}
		}
		tokens[name] = bearer(token.Secret)
	}
	return func(subscription string) azcore.TokenCredential { return tokens[subscription] }, nil
}

// overTLS lets the SDK talk to the daemon from its namespace, as to any cloud.
func overTLS(gateway *lab.Namespace, ca *lab.Authority) (*arm.ClientOptions, error) {
	pem, err := os.ReadFile(ca.File)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, errors.New("read the authority's certificate: there is none")
	}
	options := clientOptions("https://"+remote, &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return gateway.Dial(ctx, network, "", address)
		},
		TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13},
	})
	options.InsecureAllowCredentialWithHTTP = false
	return options, nil
}
