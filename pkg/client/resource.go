package client

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/privlink/privlink/pkg/api"
)

// Get reads one resource, or a part of one, by id.
func Get[R any](ctx context.Context, c *Client, id api.ID) (*R, error) {
	into := new(R)
	_, err := c.Call(ctx, http.MethodGet, Path(id), nil, nil, nil, into)
	if err != nil {
		return nil, err
	}
	return into, nil
}

// Path is the id as the path of a request.
func Path(id api.ID) string {
	parts := strings.Split(id.String(), "/")
	for i := range parts {
		parts[i] = url.PathEscape(parts[i])
	}
	return strings.Join(parts, "/")
}

// Collection is the path of all resources of a kind in a resource group, or in the whole
// subscription if the group is empty.
func Collection(subscription, resourceGroup string, kind api.Kind) string {
	path := "/subscriptions/" + url.PathEscape(subscription)
	if resourceGroup != "" {
		path += "/resourceGroups/" + url.PathEscape(resourceGroup)
	}
	return path + "/providers/" + kind.Type()
}

// page is one answer of a list.
type page[R any] struct {
	Value    []R    `json:"value"`
	NextLink string `json:"nextLink"`
}

// List reads a whole collection, page by page.
func List[R any](ctx context.Context, c *Client, path string, query url.Values) ([]R, error) {
	all := []R{}
	for {
		var p page[R]
		if _, err := c.Call(ctx, http.MethodGet, path, query, nil, nil, &p); err != nil {
			return nil, err
		}
		all = append(all, p.Value...)
		if p.NextLink == "" {
			return all, nil
		}
		var err error
		if path, query, err = c.local(p.NextLink); err != nil {
			return nil, err
		}
	}
}

// local is the path and query of an absolute URL that the daemon gave. The host is the
// daemon's own idea of itself; requests go on to where they went.
func (c *Client) local(link string) (string, url.Values, error) {
	u, err := url.Parse(link)
	if err != nil {
		return "", nil, fmt.Errorf("follow %q: %w", link, err)
	}
	path := strings.TrimPrefix(u.EscapedPath(), strings.TrimRight(c.base.EscapedPath(), "/"))
	return path, u.Query(), nil
}

// Conditions make a write depend on what is there.
type Conditions struct {
	IfMatch     string // only if the etag is this one
	IfNoneMatch string // "*": only if there is nothing
}

func (c Conditions) header() http.Header {
	h := http.Header{}
	if c.IfMatch != "" {
		h.Set("If-Match", c.IfMatch)
	}
	if c.IfNoneMatch != "" {
		h.Set("If-None-Match", c.IfNoneMatch)
	}
	return h
}

// Put writes a resource, or a part of one, and waits until the kernel agrees. What comes back is the
// resource as it is then.
func Put[R any](ctx context.Context, c *Client, id api.ID, body any, conditions Conditions) (*R, error) {
	into := new(R)
	answer, err := c.Call(ctx, http.MethodPut, Path(id), nil, conditions.header(), body, into)
	if err != nil {
		return nil, err
	}
	poll := answer.Header.Get("Azure-AsyncOperation")
	if poll == "" {
		return into, nil
	}
	if err := c.wait(ctx, poll); err != nil {
		return nil, err
	}
	return Get[R](ctx, c, id)
}

// Delete removes a resource, or a part of one, and waits until it is gone. Deleting what does not
// exist reports false and no error.
func (c *Client) Delete(ctx context.Context, id api.ID, query url.Values, conditions Conditions) (bool, error) {
	answer, err := c.Call(ctx, http.MethodDelete, Path(id), query, conditions.header(), nil, nil)
	if err != nil {
		return false, err
	}
	if poll := answer.Header.Get("Azure-AsyncOperation"); poll != "" {
		return true, c.wait(ctx, poll)
	}
	return answer.Status != http.StatusNoContent, nil
}

// operation is the state of a long-running operation.
type operation struct {
	Status string     `json:"status"`
	Error  *api.Error `json:"error"`
}

// Polling starts fast, because most operations take milliseconds, and slows down.
const (
	firstPoll = 20 * time.Millisecond
	lastPoll  = time.Second
)

// wait polls a long-running operation until it ends.
func (c *Client) wait(ctx context.Context, link string) error {
	path, query, err := c.local(link)
	if err != nil {
		return err
	}
	for pause := firstPoll; ; pause = min(2*pause, lastPoll) {
		var op operation
		if _, err := c.Call(ctx, http.MethodGet, path, query, nil, nil, &op); err != nil {
			return err
		}
		switch op.Status {
		case "Succeeded":
			return nil
		case "Failed", "Canceled":
			if op.Error != nil {
				op.Error.Status = http.StatusConflict
				return op.Error
			}
			return fmt.Errorf("wait for operation: %s", op.Status)
		}
		if err := c.pause(ctx, pause); err != nil {
			return fmt.Errorf("wait for operation: %w (the daemon goes on with it)", err)
		}
	}
}

// pause waits between two questions. The pause before the last one that is doubled is when a wait becomes a long one.
func (c *Client) pause(ctx context.Context, pause time.Duration) error {
	if pause < lastPoll && 2*pause >= lastPoll {
		c.waiting()
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(pause):
		return nil
	}
}

// Await waits until the kernel agrees with a resource, or until it is gone. A resource that Failed is an error with the reason.
func (c *Client) Await(ctx context.Context, id api.ID, gone bool) error {
	for pause := firstPoll; ; pause = min(2*pause, lastPoll) {
		var state struct {
			Properties struct {
				ProvisioningState api.ProvisioningState `json:"provisioningState"`
				FailureReason     string                `json:"failureReason"`
			} `json:"properties"`
		}
		_, err := c.Call(ctx, http.MethodGet, Path(id), nil, nil, nil, &state)
		switch now := state.Properties.ProvisioningState; {
		case gone && api.IsNotFound(err):
			return nil
		case err != nil:
			return err
		case gone && now != api.Deleting:
			return nil // somebody made another one
		case !gone && now == api.Succeeded:
			return nil
		case now == api.Failed:
			return fmt.Errorf("the kernel did not take it: %s", state.Properties.FailureReason)
		}
		if err := c.pause(ctx, pause); err != nil {
			return fmt.Errorf("wait for the kernel: %w (the daemon goes on)", err)
		}
	}
}
