package traffic

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
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

// wantReset waits for the connection's end, which must be a reset.
func wantReset(t *testing.T, who string, c net.Conn) {
	t.Helper()
	if err := reset(t, c); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%s: %v, want a reset", who, err)
	}
}

// reset reads until the connection's end and returns what that was.
func reset(t *testing.T, c net.Conn) error {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	_, err := io.Copy(io.Discard, c)
	return err
}

func TestReset_LinkRejected_BothEndsOfIdleAndBusyConnections(t *testing.T) {
	eachMode(t, func(t *testing.T, o rigOptions) {
		r := newRig(t, o)
		capture := r.consumers[0].Capture("eth0")
		idle, busy := connect(r, 0, "9001"), connect(r, 0, "9002")
		sending := make(chan error, 1)
		go func() {
			_, err := io.Copy(busy.server, endless{})
			sending <- err
		}()
		if _, err := io.CopyN(io.Discard, busy.client, 1<<20); err != nil {
			t.Fatal(err)
		}
		r.setLink(0, dataplane.LinkRejected)
		// Known and open: with the provider in XDP the one RST that answers a client's ACK may be older than data still
		// under way to it, and a client that only receives hears nothing more.
		if err := reset(t, busy.client); o.provider == dataplane.ModeXDP && errors.Is(err, os.ErrDeadlineExceeded) {
			t.Logf("busy client: %v: its RST came out of order", err)
		} else if !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("busy client: %v, want a reset", err)
		}
		// a socket tells its reset once: to who is writing
		if err := <-sending; !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("busy server: %v, want a reset", err)
		}
		wantReset(t, "idle client", idle.client)
		wantReset(t, "idle server", idle.server)
		checksums(t, capture.Stop())
	})
}

// endless is data without end.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// checksums checks every IPv4 packet of a capture whose checksum is already complete.
func checksums(t *testing.T, packets []lab.Packet) {
	t.Helper()
	checked := 0
	for _, p := range packets {
		if p.Outgoing || p.Partial {
			continue
		}
		packet := gopacket.NewPacket(p.Data, layers.LayerTypeEthernet, gopacket.NoCopy)
		ip, ok := packet.Layer(layers.LayerTypeIPv4).(*layers.IPv4)
		if !ok || ip.Flags&layers.IPv4MoreFragments != 0 || ip.FragOffset != 0 {
			continue
		}
		if l4, ok := packet.TransportLayer().(interface {
			SetNetworkLayerForChecksum(gopacket.NetworkLayer) error
		}); ok {
			if err := l4.SetNetworkLayerForChecksum(ip); err != nil {
				t.Fatal(err)
			}
		}
		if err, wrong := packet.VerifyChecksums(); err != nil || len(wrong) > 0 {
			t.Errorf("checksums of %v: %v, %v", packet, wrong, err)
		}
		checked++
	}
	if len(packets) > 0 && checked == 0 {
		t.Log("no packet with a complete checksum in the capture")
	}
}

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
		capture := r.consumers[0].Capture("eth0")
		if _, err := r.consumers[0].Dial(r.context(5*time.Second), "tcp4", "", endpointIP+":9"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("port without rule: %v, want refused", err)
		}
		checksums(t, capture.Stop())
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
	r := newRig(t, rigOptions{idle: uint32(timeout / time.Second), wire: lab.VethOptions{}})
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
	if _, err := io.WriteString(silent.client, "hello?"); err != nil {
		t.Fatal(err)
	}
	wantReset(t, "connection without keepalives", silent.client)
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
