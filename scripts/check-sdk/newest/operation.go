package newest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"syscall"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/network/armnetwork/v9"

	"github.com/privlink/privlink/scripts/check-sdk/check"
)

// drainSeconds is the service's natDrainPeriodInSeconds.
const drainSeconds = 3

// longOperations has the SDK wait for what takes time: a NAT IP whose flows drain, and a deletion whose flows end.
func (t *teller) longOperations(ctx context.Context) {
	t.Do("long operations: a service with an approved endpoint", func() error { return t.connect(ctx) })
	t.Do("privateLinkServices CreateOrUpdate: a NAT IP drains", func() error { return t.drain(ctx) })
	t.Do("packets pass from the other NAT IP", func() error { return t.passes(ctx, true) })
	t.Do("privateLinkServices Delete: flows end first", func() error { return t.cascade(ctx) })
}

// connect publishes the service anew, with a short drain, and connects an endpoint to it.
func (t *teller) connect(ctx context.Context) error {
	everybody := []*string{to.Ptr(t.Consumer)}
	poller, err := t.provider.services.BeginCreateOrUpdate(ctx, t.Group, "shop", t.service(everybody, everybody), nil)
	made, err := check.Done(ctx, poller, err)
	if err != nil {
		return err
	}
	t.alias = *made.Properties.Alias
	resource, err := t.properties(ctx, http.MethodGet, nil)
	if err != nil {
		return err
	}
	properties, ok := resource["properties"].(map[string]any)
	if !ok {
		return errors.New("the service has no properties")
	}
	properties["natDrainPeriodInSeconds"] = drainSeconds
	if _, err := t.properties(ctx, http.MethodPut, resource); err != nil {
		return err
	}
	asked, err := t.consumer.endpoints.BeginCreateOrUpdate(ctx, t.Group, "to-shop", t.endpoint(), nil)
	if _, err := check.Done(ctx, asked, err); err != nil {
		return err
	}
	return t.passes(ctx, true)
}

// drain exchanges the NAT IP while a connection is open: the operation lasts as long as that may.
func (t *teller) drain(ctx context.Context) error {
	open, err := t.Open(ctx)
	if err != nil {
		return err
	}
	defer open.Close()
	service := t.service([]*string{to.Ptr(t.Consumer)}, []*string{to.Ptr(t.Consumer)})
	service.Properties.IPConfigurations[0].Name = to.Ptr("other")
	service.Properties.IPConfigurations[0].Properties.PrivateIPAddress = to.Ptr(check.OtherNATIP)
	began := time.Now()
	var answer *http.Response
	poller, err := t.provider.services.BeginCreateOrUpdate(policy.WithCaptureResponse(ctx, &answer), t.Group, "shop", service, nil)
	if err != nil {
		return err
	}
	if poller.Done() {
		return errors.New("the operation was over at once")
	}
	if err := absolute(answer, "Azure-AsyncOperation"); err != nil {
		return err
	}
	got, err := t.provider.services.Get(ctx, t.Group, "shop", nil)
	if err != nil {
		return err
	}
	if err := check.Same("provisioningState under way", got.Properties.ProvisioningState, armnetwork.ProvisioningStateUpdating); err != nil {
		return err
	}
	done, err := check.Done(ctx, poller, nil)
	if err != nil {
		return err
	}
	if took := time.Since(began); took < drainSeconds*time.Second {
		return fmt.Errorf("the operation took %s with a connection open", took)
	}
	if _, err := open.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		return fmt.Errorf("the connection got %w, want a RST", err)
	}
	return check.Same("provisioningState", done.Properties.ProvisioningState, armnetwork.ProvisioningStateSucceeded)
}

// cascading lets the SDK, which has no word for it, delete a service with its connections.
type cascading struct{}

func (cascading) Do(request *policy.Request) (*http.Response, error) {
	if request.Raw().Method == http.MethodDelete {
		query := request.Raw().URL.Query()
		query.Set("cascade", "true")
		request.Raw().URL.RawQuery = query.Encode()
	}
	return request.Next()
}

// cascade deletes the service while a client is silent: the operation waits for its end, for a while.
func (t *teller) cascade(ctx context.Context) (err error) {
	options := *t.Options
	options.PerCallPolicies = []policy.Policy{cascading{}}
	services, err := armnetwork.NewPrivateLinkServicesClient(t.Provider, t.Credential(t.Provider), &options)
	if err != nil {
		return err
	}
	open, err := t.Open(ctx)
	if err != nil {
		return err
	}
	defer open.Close()
	if err := t.Silence(ctx, true); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.Silence(ctx, false)) }()
	var answer *http.Response
	poller, err := services.BeginDelete(policy.WithCaptureResponse(ctx, &answer), t.Group, "shop", nil)
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusAccepted || poller.Done() {
		return fmt.Errorf("status %d, over %v: want an operation under way", answer.StatusCode, poller.Done())
	}
	if err := errors.Join(absolute(answer, "Azure-AsyncOperation"), absolute(answer, "Location")); err != nil {
		return err
	}
	got, err := t.provider.services.Get(ctx, t.Group, "shop", nil)
	if err != nil {
		return err
	}
	if err := check.Same("provisioningState under way", got.Properties.ProvisioningState, armnetwork.ProvisioningStateDeleting); err != nil {
		return err
	}
	if _, err := check.Done(ctx, poller, nil); err != nil {
		return err
	}
	_, err = t.provider.services.Get(ctx, t.Group, "shop", nil)
	return check.Refused(err, http.StatusNotFound, "ResourceNotFound")
}

// absolute is an error unless a header is an URL with a host.
func absolute(answer *http.Response, header string) error {
	if url := answer.Header.Get(header); !strings.HasPrefix(url, "http://privlink/") {
		return fmt.Errorf("%s is %q, want an absolute URL of the host that was asked", header, url)
	}
	return nil
}
