package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/privlink/privlink/pkg/splice"
	"github.com/privlink/privlink/pkg/splice/header"
	"github.com/privlink/privlink/pkg/splice/inner"
)

// splicedLine is the last line of the splice: bytes that were never copied to user space, and all.
const splicedLine = "spliced %d of %d bytes\n"

// serve is the proxy's process: one of the ways, until it is killed.
func serve(name string) error {
	listen, err := netip.ParseAddrPort(os.Getenv("COMPARE_LISTEN"))
	if err != nil {
		return fmt.Errorf("COMPARE_LISTEN: %w", err)
	}
	backend, err := netip.ParseAddrPort(os.Getenv("COMPARE_BACKEND"))
	if err != nil {
		return fmt.Errorf("COMPARE_BACKEND: %w", err)
	}
	switch name {
	case "splice":
		server, err := splice.New(nil, splice.Config{Listen: listen, Loops: 1, Direct: true}, logrus.StandardLogger())
		if err != nil {
			return err
		}
		ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
		defer stop()
		err = server.Run(ctx, gateway{backend})
		s := server.Stats()
		fmt.Printf(splicedLine, s.Spliced, s.BytesIn+s.BytesOut)
		return err
	case "sockmap":
		relay, err := newSockmap()
		if err != nil {
			return err
		}
		return forward(listen, backend, relay.join)
	case "io.Copy":
		return forward(listen, backend, copyBoth)
	}
	return fmt.Errorf("serve %q: unknown", name)
}

// gateway knows one backend, and consumers by their addresses.
type gateway struct{ backend netip.AddrPort }

func (gateway) Identify(local, peer netip.AddrPort) (splice.Identity, error) {
	return splice.Identity{Client: peer, Endpoint: local, LinkID: 0x20000001, IdleTimeout: time.Hour}, nil
}
func (g gateway) Targets(*splice.Identity, int) []netip.AddrPort { return []netip.AddrPort{g.backend} }
func (gateway) Ready() <-chan struct{} {
	ready := make(chan struct{})
	close(ready)
	return ready
}
func (gateway) Stands(*splice.Identity) bool                    { return true }
func (gateway) Heard(_, _ netip.AddrPort) (time.Duration, bool) { return 0, false }
func (gateway) Admit(netip.AddrPort, inner.Destination) error   { return nil }
func (gateway) Withdraw(netip.AddrPort)                         {}

// forward is a proxy written the ordinary way; join writes the header to the
// second connection and moves the bytes.
func forward(listen, backend netip.AddrPort, join func(a, b *net.TCPConn, head []byte) error) error {
	listener, err := net.Listen("tcp4", listen.String())
	if err != nil {
		return err
	}
	for {
		accepted, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			client := accepted.(*net.TCPConn)
			defer client.Close()
			dialled, err := net.Dial("tcp4", backend.String())
			if err != nil {
				return
			}
			server := dialled.(*net.TCPConn)
			defer server.Close()
			h := header.Header{Source: client.RemoteAddr().(*net.TCPAddr).AddrPort(), Destination: listen, LinkID: 0x20000001}
			if err := join(client, server, h.Append(nil)); err != nil && !errors.Is(err, net.ErrClosed) {
				logrus.WithError(err).Debug("connection ended")
			}
		}()
	}
}

// copyBoth is io.Copy each way: splice(2) by Go's runtime.
func copyBoth(a, b *net.TCPConn, head []byte) error {
	if _, err := b.Write(head); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() {
		_, err := io.Copy(a, b)
		done <- errors.Join(err, a.CloseWrite())
	}()
	_, err := io.Copy(b, a)
	return errors.Join(err, b.CloseWrite(), <-done)
}
