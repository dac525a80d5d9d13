package server

import (
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// sdkClients are the clients of the SDK whose every operation has a route.
var sdkClients = []string{"privatelinkservices", "privateendpoints", "availableprivateendpointtypes", "loadbalancers", "loadbalancerbackendaddresspools",
	"loadbalancerfrontendipconfigurations", "loadbalancerloadbalancingrules", "loadbalancernetworkinterfaces", "loadbalanceroutboundrules",
	"loadbalancerprobes", "inboundnatrules", "interfaces", "interfaceipconfigurations", "interfaceloadbalancers", "interfacetapconfigurations",
	"virtualnetworks", "subnets", "virtualnetworkpeerings"}

// elsewhere are operations of these clients that ask another resource provider.
var elsewhere = regexp.MustCompile(`(?i)/providers/microsoft\.compute/`)

// Every request that the SDK's clients of these kinds can make, in both majors, has a route with its method: what is not supported
// is refused by name there, and not as a path that nobody knows. The clients' sources say what they ask.
func TestRoutes_EveryOperationOfTheSDK_HasOne(t *testing.T) {
	table := newRoutes((&Server{options: newWorld(t).options}).operations())
	request := regexp.MustCompile(`(?s)urlPath := "([^"]+)".*?runtime\.NewRequest\(ctx, http\.Method(\w+),`)
	parameter := regexp.MustCompile(`\{\w+\}`)
	for _, module := range []struct {
		path       string
		operations int
	}{{"armnetwork/v9", 80}, {"armnetwork", 75}} {
		out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/network/"+module.path).Output()
		if err != nil {
			t.Fatal(err)
		}
		found := 0
		for _, name := range sdkClients {
			files, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(out)), "*"+name+"_client.go"))
			if err != nil || len(files) == 0 {
				t.Fatalf("%s has no client %s: %v", module.path, name, err)
			}
			for _, file := range files {
				base := strings.TrimPrefix(filepath.Base(file), "zz_generated_")
				if base != name+"_client.go" {
					continue
				}
				source, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				asked := request.FindAllStringSubmatch(string(source), -1)
				if len(asked) == 0 {
					t.Errorf("%s: no request found", base)
				}
				for _, m := range asked {
					path, method := parameter.ReplaceAllString(m[1], "x"), strings.ToUpper(m[2])
					if elsewhere.MatchString(path) {
						continue
					}
					found++
					if _, _, err := table.find(method, &url.URL{Path: path}); err != nil {
						t.Errorf("%s %s: %s %s: %v", module.path, name, method, m[1], err)
					}
				}
			}
		}
		t.Logf("%s: %d operations", module.path, found)
		if found < module.operations {
			t.Errorf("%s: only %d operations found", module.path, found)
		}
	}
}
