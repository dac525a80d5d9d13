package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/privlink/privlink/pkg/api"
)

const samples = "../../testdata/arm/"

// sampleAlias is the alias that the samples have: that of the service as it is made here is another.
const sampleAlias = "pls-shop.6d1f0b7e-4a52-47c9-9d3b-8e21c5f7a064.eastus.azure.privatelinkservice"

// Resources as Azure's users have them, what a GET of theirs says, are put as they stand and read again. What is
// not the same then is listed here and is nothing else: what privlink does not know, which PUT ignores and apply
// refuses by name; and what only the service writes. Without what it does not know, apply has nothing to change.
func TestSamples_PutReadApply_KeepWhatIsTheUsers(t *testing.T) {
	r := newRig(t)
	alias := sampleAlias
	files, err := filepath.Glob(samples + "*.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		file    string
		unknown []string // properties
		service []string // paths of values, etags aside
	}{
		{"virtualNetworks-provider",
			[]string{"properties.dhcpOptions", "properties.enableDdosProtection", "properties.flowTimeoutInMinutes",
				"properties.subnets[0].properties.defaultOutboundAccess", "properties.subnets[0].properties.serviceEndpoints"},
			[]string{"properties.resourceGuid", "properties.subnets[0].properties.ipConfigurations[0].id", "properties.subnets[0].properties.ipConfigurations[1].id"}},
		{"virtualNetworks-consumer", []string{"properties.bgpCommunities"}, nil},
		{"loadBalancers",
			[]string{"properties.loadBalancingRules[0].properties.allowBackendPortConflict", "properties.loadBalancingRules[0].properties.enableDestinationServiceEndpoint"},
			[]string{"properties.backendAddressPools[0].properties.backendIPConfigurations[0].id", "properties.resourceGuid"}},
		{"networkInterfaces",
			[]string{"kind", "properties.allowPort25Out", "properties.auxiliaryMode", "properties.auxiliarySku", "properties.disableTcpStateTracking", "properties.dnsSettings",
				"properties.hostedWorkloads", "properties.nicType", "properties.tapConfigurations", "properties.vnetEncryptionSupported"},
			// Dynamic: the lowest free address; the MAC as Linux writes it
			[]string{"properties.ipConfigurations[0].properties.privateIPAddress", "properties.macAddress", "properties.resourceGuid", "properties.virtualMachine.id"}},
		{"privateLinkServices", nil,
			[]string{"properties.alias", "properties.networkInterfaces[0].id",
				"properties.privateEndpointConnections[0].id", "properties.privateEndpointConnections[0].name", "properties.privateEndpointConnections[0].type",
				"properties.privateEndpointConnections[0].properties.linkIdentifier", "properties.privateEndpointConnections[0].properties.privateEndpoint.id",
				"properties.privateEndpointConnections[0].properties.privateEndpointLocation", "properties.privateEndpointConnections[0].properties.provisioningState",
				"properties.privateEndpointConnections[0].properties.privateLinkServiceConnectionState.description",
				"properties.privateEndpointConnections[0].properties.privateLinkServiceConnectionState.status"}},
		{"privateEndpoints-automatic", []string{"properties.isIPv6EnabledPrivateEndpoint"},
			[]string{"properties.resourceGuid",
				"properties.privateLinkServiceConnections[0].properties.privateLinkServiceConnectionState.actionsRequired",
				"properties.privateLinkServiceConnections[0].properties.privateLinkServiceConnectionState.description"}},
		{"privateEndpoints-manual", []string{"properties.isIPv6EnabledPrivateEndpoint"},
			[]string{"properties.resourceGuid", "properties.customDnsConfigs[0].ipAddresses[0]",
				"properties.manualPrivateLinkServiceConnections[0].properties.privateLinkServiceConnectionState.actionsRequired",
				"properties.manualPrivateLinkServiceConnections[0].properties.privateLinkServiceConnectionState.description",
				"properties.manualPrivateLinkServiceConnections[0].properties.privateLinkServiceConnectionState.status"}},
	} {
		files = slices.DeleteFunc(files, func(path string) bool { return filepath.Base(path) == c.file+".json" })
		t.Run(c.file, func(t *testing.T) {
			text, err := os.ReadFile(samples + c.file + ".json")
			if err != nil {
				t.Fatal(err)
			}
			text = bytes.ReplaceAll(text, []byte(sampleAlias), []byte(alias))
			sample := leaves(t, text)
			if status, answer := r.http("PUT", sample["id"], text); status != http.StatusCreated {
				t.Fatalf("PUT: %d %s", status, answer)
			}
			status, read := r.http("GET", sample["id"], nil)
			if status != http.StatusOK {
				t.Fatalf("GET: %d %s", status, read)
			}
			got := leaves(t, read)
			if got["properties.alias"] != "" {
				alias = got["properties.alias"]
			}
			lost := []string{}
			for path, value := range sample {
				if got[path] != value && !strings.HasSuffix(path, "etag") && !within(path, c.unknown) {
					lost = append(lost, path)
				}
			}
			slices.Sort(lost)
			if want := slices.Sorted(slices.Values(c.service)); !slices.Equal(lost, want) {
				t.Errorf("not as it was put:\n%s\nwant\n%s\nread %s", strings.Join(lost, "\n"), strings.Join(want, "\n"), read)
			}
			r.applySample(t, text, c.unknown)
		})
	}
	if len(files) > 0 {
		t.Errorf("samples that are not put: %v", files)
	}
}

// applySample applies a sample, which is there already, with and without the properties nobody knows.
func (r *rig) applySample(t *testing.T, text []byte, unknown []string) {
	t.Helper()
	id, err := api.ParseID(leaves(t, text)["id"], api.ID{})
	if err != nil {
		t.Fatal(err)
	}
	apply := "apply -f - --subscription " + id.Subscription + " --resource-group " + id.ResourceGroup
	r.stdin = string(text)
	if refused := r.run(apply); len(unknown) > 0 {
		for _, path := range unknown {
			if !strings.Contains(refused.stderr, path+": unknown property") {
				t.Errorf("apply does not name %s: (%d) %s", path, refused.code, refused.stderr)
			}
		}
		if refused.code != exitRefused || strings.Count(refused.stderr, "unknown property") != len(unknown) {
			t.Errorf("apply of %d unknown properties: (%d) %s", len(unknown), refused.code, refused.stderr)
		}
	}
	var document any
	if err := json.Unmarshal(text, &document); err != nil {
		t.Fatal(err)
	}
	known, err := json.Marshal(without(document, "", unknown))
	if err != nil {
		t.Fatal(err)
	}
	r.stdin = string(known)
	if got, want := r.run(apply), "nothing "+id.Short()+"\n"; got.code != exitOK || got.stdout != want {
		t.Errorf("apply of what is known: (%d) %s%s, want %s", got.code, got.stdout, got.stderr, want)
	}
}

// within says whether a path is one of the properties, or leads into one.
func within(path string, properties []string) bool {
	return slices.ContainsFunc(properties, func(p string) bool {
		rest, ok := strings.CutPrefix(path, p)
		return ok && (rest == "" || rest[0] == '.' || rest[0] == '[')
	})
}

// without is a document without some of its properties.
func without(v any, path string, properties []string) any {
	switch v := v.(type) {
	case map[string]any:
		for name, value := range v {
			if below := strings.TrimPrefix(path+"."+name, "."); within(below, properties) {
				delete(v, name)
			} else {
				v[name] = without(value, below, properties)
			}
		}
	case []any:
		for i, value := range v {
			v[i] = without(value, fmt.Sprintf("%s[%d]", path, i), properties)
		}
	}
	return v
}

// leaves are the values of a document by their paths, but for those that say nothing: null, false and "".
func leaves(t *testing.T, text []byte) map[string]string {
	t.Helper()
	var document any
	if err := json.Unmarshal(text, &document); err != nil {
		t.Fatal(err)
	}
	all := make(map[string]string)
	var walk func(path string, v any)
	walk = func(path string, v any) {
		switch v := v.(type) {
		case map[string]any:
			for name, value := range v {
				walk(strings.TrimPrefix(path+"."+name, "."), value)
			}
		case []any:
			for i, value := range v {
				walk(fmt.Sprintf("%s[%d]", path, i), value)
			}
		case nil:
		default:
			if text := fmt.Sprint(v); text != "" && text != "false" {
				all[path] = text
			}
		}
	}
	walk("", document)
	return all
}

// http asks the daemon as an ARM client would.
func (r *rig) http(method, path string, body []byte) (status int, answer []byte) {
	r.t.Helper()
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", r.socket)
	}}}
	defer client.CloseIdleConnections()
	request, err := http.NewRequestWithContext(r.t.Context(), method, "http://socket"+path+"?api-version="+api.LatestVersion, bytes.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := client.Do(request)
	if err != nil {
		r.t.Fatal(err)
	}
	defer response.Body.Close()
	if answer, err = io.ReadAll(response.Body); err != nil {
		r.t.Fatal(err)
	}
	return response.StatusCode, answer
}
