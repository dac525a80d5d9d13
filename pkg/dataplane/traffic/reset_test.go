package traffic

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/privlink/privlink/pkg/dataplane"
	"github.com/privlink/privlink/pkg/lab"
)

// accepted is a connection at both of its ends.
type accepted struct{ client, server net.Conn }

// connect opens a connection through the endpoint and returns both ends.
func connect(r *rig, consumer int, port string) accepted {
	r.t.Helper()
	l, err := r.backend.Listen("tcp4", backendIP+":"+port)
	if err != nil {
		r.t.Fatal(err)
	}
	defer l.Close()
	client, err := r.consumers[consumer].Dial(r.context(5*time.Second), "tcp4", "", endpointIP+":"+port)
	if err != nil {
		r.t.Fatal(err)
	}
	server, err := l.Accept()
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { client.Close(); server.Close() })
	return accepted{client, server}
}

// wantReset reads until the connection's end, which must be a reset.
func wantReset(t *testing.T, who string, c net.Conn) {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Error(err)
	}
	if _, err := io.Copy(io.Discard, c); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%s: %v, want a reset", who, err)
	}
}

// A download and an upload are busy: data is on its way to one end while the other is told.
func TestReset_LinkRejected_BothEndsOfIdleAndBusyConnections(t *testing.T) {
	eachMode(t, func(t *testing.T, o rigOptions) {
		r := newRig(t, o)
		idle, download, upload := connect(r, 0, "9001"), connect(r, 0, "9002"), connect(r, 0, "9003")
		sending := make(map[string]chan error)
		for name, ends := range map[string]struct{ from, to net.Conn }{
			"downloading server": {download.server, download.client},
			"uploading client":   {upload.client, upload.server},
		} {
			sent := make(chan error, 1)
			sending[name] = sent
			go func() {
				_, err := io.Copy(ends.from, endless{})
				sent <- err
			}()
			if _, err := io.CopyN(io.Discard, ends.to, 1<<20); err != nil {
				t.Fatal(err)
			}
		}
		both := watch(r)
		r.setLink(0, dataplane.LinkRejected)
		var ends sync.WaitGroup
		for name, c := range map[string]net.Conn{
			"downloading client": download.client, "uploaded server": upload.server,
			"idle client": idle.client, "idle server": idle.server,
		} {
			ends.Go(func() { wantReset(t, name, c) })
		}
		ends.Wait()
		// a socket tells its reset once: to who is writing
		for name, sent := range sending {
			if err := <-sent; !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("%s: %v, want a reset", name, err)
			}
		}
		// ends that are over say so, and nobody waits for them
		told := time.Now()
		r.Wait("the pairs to be over", 5*time.Second, func() error {
			if n := r.flows(); n != 0 {
				return fmt.Errorf("%d flows, %v after the last end was reset", n, time.Since(told))
			}
			return nil
		})
		both.stop([]kind{resets, nudges}, []kind{resets, nudges})
	})
}

// endless is data without end.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

func TestReset_PortNobodyServes_RefusesAtOnce(t *testing.T) {
	eachMode(t, func(t *testing.T, o rigOptions) {
		r := newRig(t, o)
		// the backend refuses: its RST comes back through the link
		if _, err := r.consumers[0].Dial(r.context(5*time.Second), "tcp4", "", endpointIP+":9"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("closed port at the backend: %v, want refused", err)
		}
		// nobody may take it: privlink's own RST
		r.state.RuleSets[0].Rules[0].Protocol = dataplane.ProtocolTCP
		r.state.RuleSets[0].Rules[0].Port = 80
		r.apply()
		both := watch(r)
		if _, err := r.consumers[0].Dial(r.context(5*time.Second), "tcp4", "", endpointIP+":9"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("port without rule: %v, want refused", err)
		}
		both.stop([]kind{resets}, nil)
	})
}

func TestReset_NotApproved_Silence(t *testing.T) {
	r := newRig(t, rigOptions{})
	r.setLink(0, dataplane.LinkPending)
	ctx, cancel := context.WithTimeout(context.Background(), 1500*time.Millisecond)
	defer cancel()
	capture := r.consumers[0].Capture("eth0")
	var timeout net.Error
	if _, err := r.consumers[0].Dial(ctx, "tcp4", "", endpointIP+":80"); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("dial: %v, want no answer", err)
	}
	for _, p := range capture.Stop() {
		packet := gopacket.NewPacket(p.Data, layers.LayerTypeEthernet, gopacket.NoCopy)
		if !p.Outgoing && packet.Layer(layers.LayerTypeIPv4) != nil {
			t.Errorf("an answer: %v", packet)
		}
	}
}

func TestIdle_KeepalivesBelowTheTimeout_KeepTheConnection(t *testing.T) {
	const timeout = 12 * time.Second
	r := newRig(t, rigOptions{idle: uint32(timeout / time.Second), wire: lab.VethOptions{A: lab.EndOptions{Off: offloads}}})
	kept, silent := connect(r, 0, "9001"), connect(r, 0, "9002")
	// Go's default keepalive of 15 s is longer than the timeout: without settings both are silent
	if err := kept.client.(*net.TCPConn).SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 5 * time.Second}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []net.Conn{kept.server, silent.client, silent.server} {
		if err := c.(*net.TCPConn).SetKeepAliveConfig(net.KeepAliveConfig{Enable: false}); err != nil {
			t.Fatal(err)
		}
	}
	r.Wait("the silent connection to be forgotten", 30*time.Second, func() error {
		if r.flows() != 1 {
			return errNothing
		}
		return nil
	})
	if err := say(kept, "still there"); err != nil {
		t.Errorf("connection with keepalives: %v", err)
	}
	// both ends are told by what has no flow to go by
	both := watch(r)
	for who, c := range map[string]net.Conn{"silent client": silent.client, "silent server": silent.server} {
		if _, err := io.WriteString(c, "hello?"); err != nil {
			t.Fatal(err)
		}
		wantReset(t, who, c)
	}
	both.stop([]kind{resets}, []kind{resets})
}

// say sends a line from the client and reads it at the server.
func say(a accepted, line string) error {
	if err := a.server.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	if _, err := io.WriteString(a.client, line); err != nil {
		return err
	}
	_, err := io.ReadFull(a.server, make([]byte, len(line)))
	return err
}

func TestIdle_TCPReset_BothEndsAreTold(t *testing.T) {
	r := newRig(t, rigOptions{idle: 10, tcpReset: true})
	a := connect(r, 0, "9001")
	for _, c := range []net.Conn{a.client, a.server} {
		if err := c.(*net.TCPConn).SetKeepAliveConfig(net.KeepAliveConfig{Enable: false}); err != nil {
			t.Fatal(err)
		}
		if err := c.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	for who, c := range map[string]net.Conn{"client": a.client, "server": a.server} {
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s: %v, want a reset", who, err)
		}
	}
}
