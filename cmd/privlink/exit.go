package main

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/privlink/privlink/pkg/api"
)

// Exit codes; scripts rely on them.
const (
	exitOK       = 0
	exitFailed   = 1 // something did not work, or status is degraded
	exitUsage    = 2 // the command line is wrong; nothing was tried
	exitNotFound = 3 // the thing named does not exist, or may not be seen
	exitRefused  = 4 // the request was understood and refused; nothing has changed
)

// codedError is an error that knows its exit code.
type codedError struct {
	code int
	err  error
}

func (e *codedError) Error() string { return e.err.Error() }
func (e *codedError) Unwrap() error { return e.err }

// silentError has said all there is to say already; only its code is left.
type silentError struct{ code int }

func (e silentError) Error() string { return fmt.Sprintf("exit code %d", e.code) }

func usageErrorf(format string, args ...any) error {
	return &codedError{exitUsage, fmt.Errorf(format, args...)}
}

func notFoundErrorf(format string, args ...any) error {
	return &codedError{exitNotFound, fmt.Errorf(format, args...)}
}

func refusedErrorf(format string, args ...any) error {
	return &codedError{exitRefused, fmt.Errorf(format, args...)}
}

// whatThereIs says how to learn which resources there are, where one was not found.
func whatThereIs(err error) string {
	var answer *api.Error
	if !errors.As(err, &answer) || answer.Status != http.StatusNotFound {
		return ""
	}
	kind, _, _ := strings.Cut(answer.Message, "/")
	noun := map[api.Kind]string{
		api.VirtualNetworks: "vnet", api.NetworkInterfaces: "nic", api.LoadBalancers: "lb",
		api.PrivateLinkServices: "service", api.PrivateEndpoints: "endpoint",
	}[api.Kind(kind)]
	if noun == "" {
		return ""
	}
	return " (privlink " + noun + " list; --subscription and --resource-group say whose)"
}

// exitCode is what the process ends with after err. Answers of the daemon count by their
// HTTP status: 404 not found, other 4xx refused, everything else failed.
func exitCode(err error) int {
	var coded *codedError
	var silent silentError
	var answer *api.Error
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &coded):
		return coded.code
	case errors.As(err, &silent):
		return silent.code
	case errors.As(err, &answer):
		switch {
		case answer.Status == http.StatusNotFound:
			return exitNotFound
		case answer.Status >= 400 && answer.Status < 500 && answer.Status != http.StatusTooManyRequests:
			return exitRefused
		}
	}
	return exitFailed
}
