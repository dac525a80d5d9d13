package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/client"
	"github.com/privlink/privlink/pkg/lab"
)

func listEndpoints(ctx context.Context, w *world) (sample, error) {
	return w.list(api.PrivateEndpoints, endpoints)
}

func listServices(ctx context.Context, w *world) (sample, error) {
	return w.list(api.PrivateLinkServices, services)
}

// list is from the request to the last byte of the answer, which is one page.
func (w *world) list(kind api.Kind, want int) (sample, error) {
	var text []byte
	took, err := w.timed(func() error {
		answer, err := w.http.Get("http://privlink" + client.Collection(subscription, resourceGroup, kind) + "?api-version=" + api.LatestVersion)
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		text, err = io.ReadAll(answer.Body)
		return err
	})
	var page struct {
		Value    []json.RawMessage `json:"value"`
		NextLink string            `json:"nextLink"`
	}
	if err == nil {
		err = json.Unmarshal(text, &page)
	}
	if err == nil && (len(page.Value) != want || page.NextLink != "") {
		err = fmt.Errorf("%d instead of %d on the page", len(page.Value), want)
	}
	return took, err
}

// timed measures what the running daemon does meanwhile.
func (w *world) timed(do func() error) (sample, error) {
	process := w.daemon.Process().PID()
	before, err := lab.ProcessorTime(process)
	if err != nil {
		return sample{}, err
	}
	began := time.Now()
	err = do()
	passed := time.Since(began)
	after, failed := lab.ProcessorTime(process)
	return sample{passed, after - before}, errors.Join(err, failed)
}

// approve is from the request to the answer, which comes when the kernel agrees: the answer has to say so, and then the daemon
// and the kernel itself are asked, out of the time.
func approve(ctx context.Context, w *world) (sample, error) {
	connection := w.connections[w.turn]
	w.turn++
	var answer *api.PrivateEndpointConnection
	took, err := w.timed(func() (err error) {
		answer, err = w.decide(ctx, connection, api.Approved)
		return err
	})
	if err != nil {
		return took, err
	}
	state, provisioning := answer.Properties.PrivateLinkServiceConnectionState, answer.Properties.ProvisioningState
	if state == nil || state.Status != api.Approved || provisioning != api.Succeeded {
		return took, fmt.Errorf("connection %s was answered with %+v, %s", connection.Child, state, provisioning)
	}
	s, err := w.status(ctx)
	if err == nil && s.AppliedRevision < s.WantedRevision {
		err = fmt.Errorf("connection %s was answered, and the kernel has revision %d of %d", connection.Child, s.AppliedRevision, s.WantedRevision)
	}
	if err != nil || w.turn%probeEvery != 0 {
		return took, err
	}
	return took, w.echoes(ctx, answer.Properties.PrivateEndpoint.ID)
}

// probeEvery is how many approvals there are for one whose endpoint is asked.
const probeEvery = 20

// echoes is nil if a datagram to the endpoint is answered: an answer that was early, before the kernel agreed, shows here.
func (w *world) echoes(ctx context.Context, endpoint string) error {
	id, err := api.ParseID(endpoint, api.ID{})
	if err != nil {
		return err
	}
	e, err := client.Get[api.PrivateEndpoint](ctx, w.api, id)
	if err != nil {
		return err
	}
	socket, err := w.consumer.Dial(ctx, "udp4", "", net.JoinHostPort(e.Properties.IPAddress, port))
	if err != nil {
		return err
	}
	defer socket.Close()
	return lab.Poll(settleWithin, func() error { // the first waits for ARP
		if _, err := socket.Write([]byte("hello")); err != nil {
			return err
		}
		if err := socket.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
			return err
		}
		_, err := socket.Read(make([]byte, 64))
		return err
	})
}

// restart is from the start of the program, after an end in order, until the API answers and the kernel agrees.
func restart(ctx context.Context, w *world) (sample, error) {
	w.daemon.Stop()
	return w.begin(ctx)
}

// adopt is the same after a crash, with everything in the kernel.
func adopt(ctx context.Context, w *world) (sample, error) {
	w.daemon.Kill()
	return w.begin(ctx)
}

func (w *world) begin(ctx context.Context) (sample, error) {
	began := time.Now()
	w.daemon.Start(ctx)
	if err := w.settled(ctx); err != nil {
		return sample{}, err
	}
	return w.since(began)
}

// since is what it took from the start of the daemon's program.
func (w *world) since(began time.Time) (sample, error) {
	passed := time.Since(began)
	processor, err := lab.ProcessorTime(w.daemon.Process().PID())
	return sample{passed, processor}, err
}

// forward is from the start of the program, with nothing in the kernel, until the first answer through an endpoint.
func forward(ctx context.Context, w *world) (took sample, err error) {
	w.daemon.Stop()
	if _, err := w.daemon.CLI(ctx, "down", "--bpffs", w.daemon.BPFFS); err != nil {
		return took, err
	}
	socket, err := w.consumer.Dial(ctx, "udp4", "", w.address)
	if err != nil {
		return took, err
	}
	began, answered := time.Now(), make(chan struct{})
	var asking sync.WaitGroup
	asking.Go(func() {
		defer close(answered)
		for b := make([]byte, 64); ; {
			if _, err := socket.Read(b); err == nil || errors.Is(err, net.ErrClosed) {
				return
			}
		}
	})
	knocking, stop := context.WithTimeout(ctx, settleWithin)
	asking.Go(func() {
		for tick := time.NewTicker(time.Millisecond); knocking.Err() == nil; <-tick.C {
			_, _ = socket.Write([]byte("hello")) // nobody there is an answer too
		}
	})
	defer func() {
		stop()
		err = errors.Join(err, socket.Close())
		asking.Wait()
	}()
	w.daemon.Start(ctx)
	select {
	case <-answered:
	case <-knocking.Done():
		return took, fmt.Errorf("no packet was answered within %v", settleWithin)
	}
	if took, err = w.since(began); err != nil {
		return took, err
	}
	return took, w.settled(ctx)
}
