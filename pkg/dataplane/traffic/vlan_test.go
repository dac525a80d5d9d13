package traffic

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/privlink/privlink/pkg/dataplane"
	"github.com/privlink/privlink/pkg/lab"
	"golang.org/x/sys/unix"
)

// inline makes interfaces write tags into the frame, as on a cable, in place of carrying them beside it.
func inline(o lab.VethOptions) lab.VethOptions {
	o.A.Off = append(o.A.Off, "tx-vlan-hw-insert")
	o.B.Off = append(o.B.Off, "tx-vlan-hw-insert")
	return o
}

// received counts what came to a VM by its kind, and complains about what came with another tag than its network's.
func received(t *testing.T, who string, vm *lab.Namespace, packets []lab.Packet, vlan uint16) map[string]int {
	t.Helper()
	mac := vm.MAC("eth0")
	kinds := map[string]int{}
	for _, p := range packets {
		if p.Outgoing || len(p.Data) < 42 || string(p.Data[:6]) != string(mac) {
			continue // a switch shows others' broadcasts, too
		}
		kind := ""
		switch binary.BigEndian.Uint16(p.Data[12:]) {
		case 0x0806:
			kind = map[byte]string{1: "ARP request", 2: "ARP reply"}[p.Data[21]]
		case 0x0800:
			kind = map[byte]string{1: "ICMP", 6: "TCP", 17: "UDP"}[p.Data[23]]
		}
		if kind == "" || p.Tagged != (vlan != 0) || p.VLAN != vlan {
			t.Errorf("%s got %q with tag %v %d, want tag %d: %x", who, kind, p.Tagged, p.VLAN, vlan, p.Data[:42])
			return kinds
		}
		kinds[kind]++
	}
	return kinds
}

// converse sends through a consumer's endpoint what a program may: TCP both ways, UDP and an echo request.
func converse(ctx context.Context, r *rig, consumer int, udp string) error {
	c := r.consumers[consumer]
	const size = 4 << 20
	if _, err := c.Transfer(ctx, "", endpointIP+":9000", lab.Bulk{Put: size, Get: size, Seed: uint64(consumer + 1)}); err != nil {
		return fmt.Errorf("transfer: %w", err)
	}
	conn, err := c.Dial(ctx, "udp4", "", endpointIP+":7")
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := answered(conn, udp); err != nil {
		return err
	}
	if out, err := c.Run(ctx, "ping", "-c", "1", "-W", "5", endpointIP); err != nil {
		return fmt.Errorf("ping: %w: %s", err, out)
	}
	return nil
}

// datagram is a frame with a UDP datagram from a consumer to port 7 of its endpoint.
func datagram(r *rig, consumer int, text string) []byte {
	r.t.Helper()
	eth := &layers.Ethernet{SrcMAC: r.consumers[consumer].MAC("eth0"), DstMAC: r.gatewayMAC(consumer), EthernetType: layers.EthernetTypeIPv4}
	ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: net.ParseIP(clientIP).To4(), DstIP: net.ParseIP(endpointIP).To4()}
	udp := &layers.UDP{SrcPort: 4000, DstPort: 7}
	if err := udp.SetNetworkLayerForChecksum(ip); err != nil {
		r.t.Fatal(err)
	}
	b := gopacket.NewSerializeBuffer()
	o := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	if err := gopacket.SerializeLayers(b, o, eth, ip, udp, gopacket.Payload(text)); err != nil {
		r.t.Fatal(err)
	}
	return b.Bytes()
}

// answered sends a datagram and wants it back.
func answered(conn net.Conn, text string) error {
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	if _, err := conn.Write([]byte(text)); err != nil {
		return fmt.Errorf("send a datagram: %w", err)
	}
	back := make([]byte, len(text)+1)
	if n, err := conn.Read(back); err != nil || string(back[:n]) != text {
		return fmt.Errorf("sent %q, got %q: %w", text, back[:n], err)
	}
	return nil
}

func TestVLAN_EitherSideTagged_TagsChangeOnTheWire(t *testing.T) {
	for name, tags := range map[string][2]uint16{
		"tagged to untagged": {10, 0},
		"untagged to tagged": {0, 20},
		"tag to another":     {10, 20},
		"equal tags":         {10, 10},
	} {
		for wiring, o := range map[string]rigOptions{
			"tags beside the frame":   {},
			"tags in the frame":       {wire: inline(lab.VethOptions{})},
			"cables, untagged in XDP": {wire: inline(wire()), consumer: dataplane.ModeXDP, provider: dataplane.ModeXDP},
		} {
			t.Run(name+", "+wiring, func(t *testing.T) {
				o.consumerVLANs, o.providerVLAN = tags[:1], tags[1]
				r := newRig(t, o)
				for _, a := range r.d.Result().Attachments {
					want := o.consumer
					if want == "" || a.Attachment.VLAN != 0 {
						want = dataplane.ModeTC
					}
					if a.Err != nil || a.Mode != want {
						t.Errorf("attachment: %+v, want mode %s", a, want)
					}
					if refused := strings.Contains(strings.Join(a.Warnings, "\n"), "without xdp: it has VLAN"); refused != (a.Mode != a.Attachment.Mode) {
						t.Errorf("asked for %s, runs in %s, warnings %q", a.Attachment.Mode, a.Mode, a.Warnings)
					}
				}
				server := r.backend.BulkServer(backendIP + ":9000")
				r.backend.EchoServer(backendIP + ":7")
				atClient, atBackend := r.consumers[0].Capture("eth0"), r.backend.Capture("eth0")
				if err := converse(r.context(30*time.Second), r, 0, "through the tags"); err != nil {
					t.Error(err)
				}
				for _, err := range server.Errors() {
					t.Error(err)
				}
				client := received(t, "the client", r.consumers[0], atClient.Stop(), tags[0])
				backend := received(t, "the backend", r.backend, atBackend.Stop(), tags[1])
				if client["ARP reply"] == 0 || client["ICMP"] != 1 || client["UDP"] != 1 || client["TCP"] < 10 || backend["UDP"] != 1 || backend["TCP"] < 10 {
					t.Errorf("the client got %v, the backend %v", client, backend)
				}
			})
		}
	}
}

// A trunk carries three consumers' networks, one of them untagged, and the provider's. All have the same addresses, so
// that nothing but the tag tells them apart.
func TestVLAN_Trunk_NetworksOfOneInterfaceAreApart(t *testing.T) {
	r := newRig(t, rigOptions{trunk: true, consumers: 3, consumerVLANs: []uint16{10, 20, 0}, providerVLAN: 30})
	server := r.backend.BulkServer(backendIP + ":9000")
	r.backend.EchoServer(backendIP + ":7")
	captures := []*lab.Capture{r.backend.Capture("eth0")}
	ctx := r.context(time.Minute)
	done := make(chan error)
	for i, c := range r.consumers {
		captures = append(captures, c.Capture("eth0"))
		go func() {
			err := converse(ctx, r, i, fmt.Sprintf("from consumer %d", i+1))
			if err != nil {
				err = fmt.Errorf("consumer %d: %w", i+1, err)
			}
			done <- err
		}()
	}
	for range r.consumers {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	for _, err := range server.Errors() {
		t.Error(err)
	}
	for i, vlan := range []uint16{30, 10, 20, 0} {
		who, vm := "the backend", r.backend
		if i > 0 {
			who, vm = fmt.Sprintf("consumer %d", i), r.consumers[i-1]
		}
		if got := received(t, who, vm, captures[i].Stop(), vlan); got["TCP"] == 0 || got["UDP"] == 0 {
			t.Errorf("%s got %v", who, got)
		}
	}
	stats, err := r.d.LinkStats()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range stats {
		if s.Opened != 2 || s.Refused != 0 {
			t.Errorf("%s opened %d flows and was refused %d, want 2 and 0", s.Link, s.Opened, s.Refused)
		}
	}

	// a tag that is nobody's
	before, capture := reasons(r), r.backend.Capture("eth0")
	frame := datagram(r, 2, "once")
	tagged := slices.Concat(frame[:12], []byte{0x81, 0, 0, 99}, frame[12:])
	if err := r.consumers[2].Inject("eth0", tagged, frame); err != nil {
		t.Fatal(err)
	}
	once := func(p lab.Packet) bool { // and no error that quotes it
		return !p.Outgoing && bytes.HasSuffix(p.Data, []byte("once")) && p.Data[23] == unix.IPPROTO_UDP
	}
	r.Wait("the untagged one to arrive", 5*time.Second, func() error {
		if capture.Count(once) == 0 {
			return errNothing
		}
		return nil
	})
	if n := capture.Count(once); n != 1 {
		t.Errorf("%d frames arrived, want the untagged one", n)
	}
	if now := reasons(r); now["no_attachment"] != before["no_attachment"]+1 {
		t.Errorf("%d frames of an unknown VLAN dropped, want 1", now["no_attachment"]-before["no_attachment"])
	}
}

// An interface that XDP serves gets a VLAN: XDP would take its frames for untagged ones, and goes.
func TestVLAN_AddedToAnInterfaceInXDP_XDPGoesAndBothNetworksWork(t *testing.T) {
	r := newRig(t, rigOptions{consumers: 2, consumer: dataplane.ModeXDP, provider: dataplane.ModeXDP, wire: wire()})
	r.backend.EchoServer(backendIP + ":7")
	mode := func(want dataplane.Mode) {
		t.Helper()
		for _, a := range r.d.Result().Attachments {
			if a.Attachment.Interface == "c1" && a.Mode != want {
				t.Errorf("%s vlan %d runs in %s (%s), want %s", a.Attachment.Interface, a.Attachment.VLAN, a.Mode, a.Why, want)
			}
		}
	}
	mode(dataplane.ModeXDP)
	untagged, err := r.consumers[0].Dial(r.context(time.Minute), "udp4", "", endpointIP+":7")
	if err != nil {
		t.Fatal(err)
	}
	defer untagged.Close()
	if err := answered(untagged, "before"); err != nil {
		t.Fatal(err)
	}
	second := &r.state.Networks[2].Attachments[0]
	*second = dataplane.Attachment{Interface: "c1", VLAN: 10, Mode: dataplane.ModeXDP}
	r.apply()
	mode(dataplane.ModeTC)
	if err := answered(untagged, "beside a VLAN"); err != nil {
		t.Error(err)
	}
	r.consumers[0].VLAN("eth0", 10)
	// the endpoint of the second consumer now, at the same addresses
	tagged, err := r.consumers[0].Dial(r.context(time.Minute), "udp4", "", endpointIP+":7")
	if err != nil {
		t.Fatal(err)
	}
	defer tagged.Close()
	if err := answered(tagged, "in the VLAN"); err != nil {
		t.Error(err)
	}
	stats, err := r.d.LinkStats()
	if err != nil {
		t.Fatal(err)
	}
	if len(stats) != 2 || stats[0].PacketsIn != 2 || stats[1].PacketsIn != 1 {
		t.Errorf("packets of the two links: %+v", stats)
	}
}
