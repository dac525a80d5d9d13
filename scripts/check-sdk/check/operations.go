package check

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
)

// Areas are what the API has of the SDK: clients by the beginning of their names.
var Areas = []string{
	"PrivateLinkServices", "PrivateEndpoints", "AvailablePrivateEndpointTypes", "LoadBalancers", "LoadBalancerBackendAddressPools",
	"LoadBalancerFrontendIPConfigurations", "LoadBalancerLoadBalancingRules", "LoadBalancerNetworkInterfaces", "LoadBalancerOutboundRules",
	"LoadBalancerProbes", "InboundNatRules", "Interfaces", "InterfaceIPConfigurations", "InterfaceLoadBalancers", "VirtualNetworks", "Subnets",
	"VirtualNetworkPeerings",
}

// Absent are operations of the areas about things that there are none of here, with what it is.
var Absent = map[string]string{
	"InterfacesClient.GetCloudServiceNetworkInterface":                       "cloud services",
	"InterfacesClient.NewListCloudServiceNetworkInterfacesPager":             "cloud services",
	"InterfacesClient.NewListCloudServiceRoleInstanceNetworkInterfacesPager": "cloud services",
	"InterfacesClient.GetVirtualMachineScaleSetIPConfiguration":              "scale sets",
	"InterfacesClient.GetVirtualMachineScaleSetNetworkInterface":             "scale sets",
	"InterfacesClient.NewListVirtualMachineScaleSetIPConfigurationsPager":    "scale sets",
	"InterfacesClient.NewListVirtualMachineScaleSetNetworkInterfacesPager":   "scale sets",
	"InterfacesClient.NewListVirtualMachineScaleSetVMNetworkInterfacesPager": "scale sets",
	"InterfacesClient.BeginGetEffectiveRouteTable":                           "route tables",
	"InterfacesClient.BeginListEffectiveNetworkSecurityGroups":               "security groups",
	"LoadBalancersClient.MigrateToIPBased":                                   "load balancers of the Basic kind",
	"LoadBalancersClient.BeginSwapPublicIPAddresses":                         "public addresses",
	"LoadBalancerOutboundRulesClient.Get":                                    "outbound rules; their list is empty",
	"VirtualNetworksClient.BeginListDdosProtectionStatus":                    "public addresses",
}

// Operations are all operations of the areas, "PrivateEndpointsClient.Get", as the fake servers of the SDK's module in this
// folder have them. They are read as text: to compile them all takes minutes.
func Operations(module string) ([]string, error) {
	var all []string
	for _, area := range Areas {
		name := filepath.Join(module, "fake", strings.ToLower(area)+"_server.go")
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			return nil, fmt.Errorf("read the operations of %s: %w", area, err)
		}
		before := len(all)
		ast.Inspect(file, func(n ast.Node) bool {
			declared, ok := n.(*ast.TypeSpec)
			if !ok || declared.Name.Name != area+"Server" {
				return true
			}
			for _, field := range declared.Type.(*ast.StructType).Fields.List {
				for _, operation := range field.Names {
					all = append(all, area+"Client."+operation.Name)
				}
			}
			return false
		})
		if len(all) == before {
			return nil, fmt.Errorf("read the operations of %s: none in %s", area, name)
		}
	}
	slices.Sort(all)
	return all, nil
}

// Called notes which operations of the SDK were called.
type Called struct {
	mu         sync.Mutex
	operations map[string]bool
}

// Do notes the operation that a request belongs to, which the newest majors say in its context, and passes it on.
func (c *Called) Do(request *policy.Request) (*http.Response, error) {
	if operation, ok := request.Raw().Context().Value(runtime.CtxAPINameKey{}).(string); ok {
		c.mu.Lock()
		if c.operations == nil {
			c.operations = map[string]bool{}
		}
		c.operations[operation] = true
		c.mu.Unlock()
	}
	return request.Next()
}

// Missing are those of all operations that were not called and are not Absent, and those that are Absent and were called.
func (c *Called) Missing(all []string) (missing []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, operation := range all {
		if (Absent[operation] != "") == c.operations[operation] {
			missing = append(missing, operation)
		}
	}
	for operation := range Absent {
		if !slices.Contains(all, operation) {
			missing = append(missing, operation+" (which is no operation)")
		}
	}
	return missing
}
