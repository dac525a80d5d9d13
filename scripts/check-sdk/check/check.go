// Package check counts what a story checks and prints one line for each operation.
//
// It imports the standard library and azcore. Tests: it is what runs in go test ./scripts/check-sdk.
package check

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/arm"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
)

// Story is what a story needs of the world around it.
type Story struct {
	*Count
	// Provider and Consumer are subscriptions; Group is a resource group's name in both.
	Provider, Consumer, Group string
	// Credential is who works in a subscription.
	Credential func(subscription string) azcore.TokenCredential
	Options    *arm.ClientOptions
	// Attach makes interfaces part of the networks "datacenter" and "home", which the SDK has no words for.
	Attach func(ctx context.Context) error
	// Passes tells whether a request to the endpoint's address is answered.
	Passes func(ctx context.Context) bool
	// Open opens a connection to the endpoint's address; Silence cuts the client off the wire, or puts it back.
	Open    func(ctx context.Context) (net.Conn, error)
	Silence func(ctx context.Context, silent bool) error
}

// Addresses of the story's networks: those of the topology it runs in.
const (
	BackendIP  = "10.0.0.4"
	EndpointIP = "10.0.1.10"
	NATIP      = "10.0.2.4"
	OtherNATIP = "10.0.2.5"
	FrontIP    = "10.0.0.100"
)

// Count prints and counts.
type Count struct {
	Out            io.Writer
	Passed, Failed int
}

// Do runs one check and prints its line.
func (c *Count) Do(name string, check func() error) {
	err := check()
	if err == nil {
		c.Passed++
		fmt.Fprintf(c.Out, "ok    %s\n", name)
		return
	}
	c.Failed++
	fmt.Fprintf(c.Out, "FAIL  %s: %v\n", name, err)
}

// Done waits for a long-running operation.
func Done[T any](ctx context.Context, poller *runtime.Poller[T], err error) (T, error) {
	var none T
	if err != nil {
		return none, err
	}
	return poller.PollUntilDone(ctx, &runtime.PollUntilDoneOptions{Frequency: pollEvery})
}

// pollEvery is the shortest that the SDK allows.
const pollEvery = 1e9 // nanoseconds

// All reads every page of a list.
func All[P, E any](ctx context.Context, pager *runtime.Pager[P], elements func(P) []E) ([]E, error) {
	var all []E
	for pager.More() {
		page, err := pager.NextPage(ctx)
		if err != nil {
			return nil, err
		}
		all = append(all, elements(page)...)
	}
	return all, nil
}

// Some is an error if there are no elements.
func Some[E any](elements []E, err error) error {
	if err == nil && len(elements) == 0 {
		return errors.New("the list is empty")
	}
	return err
}

// Same is an error if two values differ; got may be a pointer that is nil.
func Same[T comparable](what string, got *T, want T) error {
	switch {
	case got == nil:
		return fmt.Errorf("%s is absent, want %v", what, want)
	case *got != want:
		return fmt.Errorf("%s is %v, want %v", what, *got, want)
	}
	return nil
}

// Refused is nil if err is the daemon's refusal with this status and code.
func Refused(err error, status int, code string) error {
	var answer *azcore.ResponseError
	if !errors.As(err, &answer) {
		return fmt.Errorf("got %v, want a refusal with status %d", err, status)
	}
	if answer.StatusCode != status || answer.ErrorCode != code {
		return fmt.Errorf("got status %d code %s, want %d %s", answer.StatusCode, answer.ErrorCode, status, code)
	}
	return nil
}
