package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/client"
)

func listEndpoints(ctx context.Context, w *world) (time.Duration, error) {
	return list[api.PrivateEndpoint](ctx, w, api.PrivateEndpoints, endpoints)
}

func listServices(ctx context.Context, w *world) (time.Duration, error) {
	return list[api.PrivateLinkService](ctx, w, api.PrivateLinkServices, services)
}

// list is from the request to the last resource read, in one page.
func list[R any](ctx context.Context, w *world, kind api.Kind, want int) (time.Duration, error) {
	began := time.Now()
	all, err := client.List[R](ctx, w.api, client.Collection(subscription, resourceGroup, kind), nil)
	if err == nil && len(all) != want {
		err = fmt.Errorf("%d instead of %d", len(all), want)
	}
	return time.Since(began), err
}

// approve is from the request to the answer, which comes when the kernel agrees.
func approve(ctx context.Context, w *world) (time.Duration, error) {
	connection := w.connections[w.turn%len(w.connections)]
	w.turn++
	began := time.Now()
	if err := w.decide(ctx, connection, api.Approved); err != nil {
		return 0, err
	}
	return time.Since(began), nil
}

// restart is from the start of the program, after an end in order, until the API answers and the kernel agrees.
func restart(ctx context.Context, w *world) (time.Duration, error) {
	w.daemon.Stop()
	return w.begin(ctx)
}

// adopt is the same after a crash, with everything in the kernel.
func adopt(ctx context.Context, w *world) (time.Duration, error) {
	w.daemon.Kill()
	return w.begin(ctx)
}

func (w *world) begin(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	w.daemon.Start(ctx)
	if err := w.settled(ctx); err != nil {
		return 0, err
	}
	return time.Since(began), nil
}

// forward is from the start of the program, with nothing in the kernel, until the first answer through an endpoint.
func forward(ctx context.Context, w *world) (took time.Duration, err error) {
	w.daemon.Stop()
	if _, err := w.daemon.CLI(ctx, "down", "--bpffs", w.daemon.BPFFS); err != nil {
		return 0, err
	}
	socket, err := w.consumer.Dial(ctx, "udp4", "", w.address)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, socket.Close()) }()
	began := time.Now()
	answered := make(chan time.Duration, 1)
	go func() {
		for b := make([]byte, 64); ; {
			_, err := socket.Read(b)
			if err == nil {
				answered <- time.Since(began)
				return
			}
			if errors.Is(err, net.ErrClosed) {
				return
			}
		}
	}()
	go w.daemon.Start(ctx)
	for tick := time.NewTicker(time.Millisecond); ; <-tick.C {
		_, _ = socket.Write([]byte("hello")) // nobody there is an answer too
		select {
		case took = <-answered:
			return took, w.settled(ctx)
		default:
		}
		if time.Since(began) > settleWithin {
			return 0, fmt.Errorf("no packet was answered within %v", settleWithin)
		}
	}
}
