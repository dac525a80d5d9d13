package newest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/arm"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/network/armnetwork/v9"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/scripts/check-sdk/check"
)

// own are all of privlink's own properties of a service, each with a value that is not its default.
const own = `{"idleTimeoutInSeconds":60,"enableTcpReset":true,"maxFlowsPerEndpoint":100,"proxyTlv":"aws","proxyCrc32c":true,
"proxyProbes":false,"natDrainPeriodInSeconds":0,"approvals":[{"subscription":"s1","status":"Rejected","description":"no"}]}`

// Extra tells what only the newest major knows, and what needs properties that no SDK knows.
func Extra(ctx context.Context, s *check.Story) error {
	t := &teller{Story: s}
	var err error
	if t.provider, err = newClients(s, s.Provider); err != nil {
		return err
	}
	if t.consumer, err = newClients(s, s.Consumer); err != nil {
		return err
	}
	t.makeNetworks(ctx)
	t.makeBackends(ctx)
	t.Do("loadBalancingRules Health", func() error {
		poller, err := t.provider.rules.BeginHealth(ctx, t.Group, "web", "http", nil)
		got, err := check.Done(ctx, poller, err)
		if err != nil {
			return err
		}
		if *got.Up+*got.Down != 1 {
			return fmt.Errorf("%d up and %d down, want one backend", *got.Up, *got.Down)
		}
		return check.Same("ipAddress", got.LoadBalancerBackendAddresses[0].IPAddress, check.BackendIP)
	})
	t.Do("backendAddressPools queryInboundNatRulePortMapping", func() error {
		poller, err := t.provider.lbs.BeginListInboundNatRulePortMappings(ctx, t.Group, "web", "vms", armnetwork.QueryInboundNatRulePortMappingRequest{IPAddress: to.Ptr(check.BackendIP)}, nil)
		_, err = check.Done(ctx, poller, err)
		return err
	})
	t.Do("own properties survive get, change and put", func() error { return t.ownProperties(ctx) })
	t.Do("a property that is not supported is refused by name", func() error {
		service := t.service(nil, nil)
		service.Properties.DestinationIPAddress = to.Ptr("10.0.0.9")
		poller, err := t.provider.services.BeginCreateOrUpdate(ctx, t.Group, "shop", service, nil)
		_, err = check.Done(ctx, poller, err)
		return check.Refused(err, http.StatusBadRequest, "UnsupportedProperty")
	})
	t.Do("lists are paged", func() error { return t.paged(ctx) })
	t.longOperations(ctx)
	t.tearDown(ctx)
	return nil
}

// pipeline sends requests that the SDK's clients cannot: with properties of privlink's own.
func (t *teller) pipeline() (runtime.Pipeline, error) {
	client, err := arm.NewClient("privlink/check", "v1.0.0", t.Credential(t.Provider), t.Options)
	if err != nil {
		return runtime.Pipeline{}, err
	}
	return client.Pipeline(), nil
}

// properties reads a service's properties as they are, own ones included.
func (t *teller) properties(ctx context.Context, method string, body map[string]any) (map[string]any, error) {
	pipeline, err := t.pipeline()
	if err != nil {
		return nil, err
	}
	request, err := runtime.NewRequest(ctx, method, "http://privlink"+*t.id("privateLinkServices/shop")+"?api-version=2025-05-01")
	if err != nil {
		return nil, err
	}
	if body != nil {
		if err := runtime.MarshalAsJSON(request, body); err != nil {
			return nil, err
		}
	}
	response, err := pipeline.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if !runtime.HasStatusCode(response, http.StatusOK, http.StatusCreated) {
		return nil, runtime.NewResponseError(response)
	}
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	var resource map[string]any
	if err := json.Unmarshal(text, &resource); err != nil {
		return nil, err
	}
	return resource, nil
}

// ownNames are the own properties of a service.
func ownNames() (names []string) {
	for _, field := range reflect.VisibleFields(reflect.TypeFor[api.PrivateLinkServiceProperties]()) {
		if name, _, _ := strings.Cut(field.Tag.Get("json"), ","); strings.HasPrefix(field.Type.Name(), "Own[") {
			names = append(names, name)
		}
	}
	return names
}

// ownProperties sets every own property on a service, then lets the SDK, which knows none of them, read it, change it and
// write it back: they must be what they were.
func (t *teller) ownProperties(ctx context.Context) error {
	poller, err := t.provider.services.BeginCreateOrUpdate(ctx, t.Group, "shop", t.service(nil, nil), nil)
	if _, err := check.Done(ctx, poller, err); err != nil {
		return err
	}
	resource, err := t.properties(ctx, http.MethodGet, nil)
	if err != nil {
		return err
	}
	var wanted map[string]any
	if err := json.Unmarshal([]byte(own), &wanted); err != nil {
		return err
	}
	for _, name := range ownNames() {
		if _, ok := wanted[name]; !ok {
			return fmt.Errorf("%s is an own property and not tried", name)
		}
	}
	properties, ok := resource["properties"].(map[string]any)
	if !ok {
		return errors.New("the service has no properties")
	}
	for name, value := range wanted {
		properties[name] = value
	}
	if _, err := t.properties(ctx, http.MethodPut, resource); err != nil {
		return err
	}
	got, err := t.provider.services.Get(ctx, t.Group, "shop", nil)
	if err != nil {
		return err
	}
	service := got.PrivateLinkService
	service.Properties.EnableProxyProtocol = to.Ptr(true)
	service.Tags = map[string]*string{"changed": to.Ptr("yes")}
	poller, err = t.provider.services.BeginCreateOrUpdate(ctx, t.Group, "shop", service, nil)
	if _, err := check.Done(ctx, poller, err); err != nil {
		return err
	}
	resource, err = t.properties(ctx, http.MethodGet, nil)
	if err != nil {
		return err
	}
	after, _ := resource["properties"].(map[string]any)
	if after["enableProxyProtocol"] != true {
		return errors.New("the change did not arrive")
	}
	for name, value := range wanted {
		have, err := json.Marshal(after[name])
		if err != nil {
			return err
		}
		want, err := json.Marshal(value)
		if err != nil {
			return err
		}
		if string(have) != string(want) {
			return fmt.Errorf("%s is %s after the SDK's put, want %s", name, have, want)
		}
	}
	return nil
}

// everyOne adds $top=1 to requests, as no option of the SDK does.
type everyOne struct{}

func (everyOne) Do(request *policy.Request) (*http.Response, error) {
	query := request.Raw().URL.Query()
	if query.Get("$skipToken") == "" {
		query.Set("$top", "1")
	}
	request.Raw().URL.RawQuery = query.Encode()
	return request.Next()
}

// paged reads a list whose pages have one element.
func (t *teller) paged(ctx context.Context) error {
	options := *t.Options
	options.PerCallPolicies = []policy.Policy{everyOne{}}
	subnets, err := armnetwork.NewSubnetsClient(t.Provider, t.Credential(t.Provider), &options)
	if err != nil {
		return err
	}
	pager := subnets.NewListPager(t.Group, "datacenter", nil)
	pages, elements := 0, 0
	for pager.More() {
		page, err := pager.NextPage(ctx)
		if err != nil {
			return err
		}
		pages++
		elements += len(page.Value)
	}
	if pages != 2 || elements != 2 {
		return fmt.Errorf("%d pages with %d subnets, want 2 and 2", pages, elements)
	}
	return nil
}
