package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/client"
	"github.com/privlink/privlink/pkg/lab"
)

// Approve measures how long it takes from the provider's request to approve a connection until
// the consumer's first packet got its answer: API, store, compile, apply, kernel, network.
func Approve(ctx context.Context, l *lab.Lab, p Progress, r *Report, times int) error {
	const answer = "10.0.1.10:7"
	p.Step("control: starting the daemon")
	gateway := l.Namespace("control-gateway")
	provider := l.VM(gateway, "provider", "10.1.0.4/16", lab.VethOptions{})
	consumer := l.VM(gateway, "consumer", "10.0.0.4/16", lab.VethOptions{})
	daemon := gateway.Daemon(ctx, lab.DaemonOptions{Binary: l.Build(ctx, "./cmd/privlink")})
	defer daemon.Stop()
	var alias string
	for _, command := range []string{
		"vnet create datacenter --prefix 10.1.0.0/16 --interface provider",
		"lb create echo --vnet datacenter --rule udp:7 --backend 10.1.0.4",
		"service create echo --lb echo --nat-ip-count 1 --visibility *",
		"vnet create home --prefix 10.0.0.0/16 --interface consumer",
		"endpoint create to-echo --vnet home --ip 10.0.1.10 --service ALIAS --request-message please",
	} {
		out, err := daemon.CLI(ctx, strings.Fields(strings.ReplaceAll(command, "ALIAS", alias))...)
		if err != nil {
			return err
		}
		for _, word := range strings.Fields(out) {
			if strings.HasSuffix(word, ".privatelinkservice") {
				alias = word
			}
		}
	}
	c, err := client.New(client.Options{Socket: daemon.Socket})
	if err != nil {
		return err
	}
	defer c.Close()
	connection, err := onlyConnection(ctx, c)
	if err != nil {
		return err
	}
	echo, err := provider.ListenPacket("udp4", "10.1.0.4:7")
	if err != nil {
		return err
	}
	defer func() { _ = echo.Close() }()
	go func() {
		b := make([]byte, 64)
		for {
			n, from, err := echo.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = echo.WriteTo(b[:n], from)
		}
	}()
	knocking, err := consumer.Dial(ctx, "udp4", "", answer)
	if err != nil {
		return err
	}
	defer func() { _ = knocking.Close() }()
	answers := make(chan time.Time, 1)
	go func() {
		b := make([]byte, 64)
		for {
			_, err := knocking.Read(b)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				select {
				case answers <- time.Now():
				default:
				}
			}
		}
	}()
	knock, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		for tick := time.NewTicker(200 * time.Microsecond); knock.Err() == nil; <-tick.C {
			_, _ = knocking.Write([]byte("knock"))
		}
	}()
	decide := func(status api.ConnectionStatus) error {
		decision := &api.PrivateEndpointConnection{}
		decision.Name = connection.Child
		decision.Properties.PrivateLinkServiceConnectionState = &api.ConnectionState{Status: status}
		// Not Put, which waits for the kernel's agreement by asking once a second: the packets tell.
		_, err := c.Call(ctx, http.MethodPut, client.Path(connection), nil, nil, decision, nil)
		return err
	}
	var latency Series
	for i := range times {
		p.Step("control: approval %d of %d", i+1, times)
		if err := decide(api.Rejected); err != nil {
			return err
		}
		if err := silence(ctx, answers); err != nil {
			return fmt.Errorf("reject %s: %w", connection, err)
		}
		start := time.Now()
		decided := make(chan error, 1)
		go func() { decided <- decide(api.Approved) }()
		select {
		case at := <-answers:
			latency = append(latency, float64(at.Sub(start).Microseconds())/1000)
		case <-time.After(10 * time.Second):
			return fmt.Errorf("approve %s: no packet came through within 10 s", connection)
		}
		if err := <-decided; err != nil {
			return err
		}
	}
	sorted := slices.Sorted(slices.Values(latency))
	r.costs = append(r.costs, costLine{section: "control plane", name: "approve to first answered packet", times: latency, unit: "ms"})
	r.AddSeries("control.approve_to_packet_p99_ms", sorted[(len(sorted)*99+99)/100-1], "ms", latency)
	r.AddSeries("control.approve_to_packet_p50_ms", latency.Median(), "ms", latency)
	return nil
}

// silence waits until no answer came for 20 ms.
func silence(ctx context.Context, answers <-chan time.Time) error {
	limit := time.After(10 * time.Second)
	for {
		select {
		case <-answers:
		case <-time.After(20 * time.Millisecond):
			return nil
		case <-limit:
			return errors.New("packets still come through after 10 s")
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// subscription is the command line's default.
const subscription = "00000000-0000-0000-0000-000000000001"

// onlyConnection finds the one connection there is.
func onlyConnection(ctx context.Context, c *client.Client) (api.ID, error) {
	services, err := client.List[api.PrivateLinkService](ctx, c, client.Collection(subscription, "", api.PrivateLinkServices), url.Values{})
	if err != nil {
		return api.ID{}, err
	}
	for i := range services {
		for _, connection := range services[i].Properties.PrivateEndpointConnections {
			return api.IDOf(&services[i]).Sub(api.PrivateEndpointConnections, connection.Name), nil
		}
	}
	return api.ID{}, errors.New("find the connection: there is none")
}
