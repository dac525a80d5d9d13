package traffic

import (
	"errors"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/privlink/privlink/pkg/dataplane"
	"github.com/privlink/privlink/pkg/lab"
)

// A smaller MTU on either side, with segmentation offload on: the sender has to learn it from
// privlink's answer, since a veth itself never drops a GSO packet.
func TestPathMTU_SmallerOnOneSide_IsLearned(t *testing.T) {
	small := func(o lab.VethOptions) lab.VethOptions { o.MTU = 1300; return o }
	tooBig := []kind{icmpOf(layers.ICMPv4TypeDestinationUnreachable)}
	for name, test := range map[string]struct {
		consumer, provider         func(lab.VethOptions) lab.VethOptions
		bulk                       lab.Bulk
		sender                     func(*rig) (*lab.Namespace, string)
		consumerGets, providerGets []kind
	}{
		"provider": {nil, small, lab.Bulk{Put: 4 << 20, Seed: 1},
			func(r *rig) (*lab.Namespace, string) { return r.consumers[0], endpointIP }, tooBig, nil},
		"consumer": {small, nil, lab.Bulk{Get: 4 << 20, Seed: 2},
			func(r *rig) (*lab.Namespace, string) { return r.backend, natIP }, nil, tooBig},
	} {
		t.Run(name, func(t *testing.T) {
			eachMode(t, func(t *testing.T, o rigOptions) {
				far := o.wire
				if test.consumer != nil {
					o.wire = test.consumer(o.wire)
				} else {
					far = test.provider(far)
				}
				o.providerWire = &far
				r := newRig(t, o)
				// a handshake that promises 1460 bytes a segment, as hosts behind a router make
				for _, n := range []*lab.Namespace{r.consumers[0], r.backend} {
					if err := n.Netlink().LinkSetMTU(n.Link("eth0"), 1500); err != nil {
						t.Fatal(err)
					}
				}
				server := r.backend.BulkServer(backendIP + ":9000")
				ctx := r.context(30 * time.Second)
				both := watch(r)
				if _, err := r.consumers[0].Transfer(ctx, "", endpointIP+":9000", test.bulk); err != nil {
					t.Fatal(err)
				}
				for _, err := range server.Errors() {
					t.Error(err)
				}
				sender, to := test.sender(r)
				learned(r, sender, to)
				both.stop(test.consumerGets, test.providerGets)
			})
		})
	}
}

// learned checks that a host knows of the smaller MTU on its way.
func learned(r *rig, sender *lab.Namespace, to string) {
	r.t.Helper()
	out, err := sender.Run(r.context(5*time.Second), "ip", "route", "get", to)
	if err != nil || !strings.Contains(out, "mtu 1300") {
		r.t.Errorf("route of the sender: %q, %v; want mtu 1300", out, err)
	}
}

func TestICMP_ErrorsOfTheBackend_ReachTheClientFromTheEndpoint(t *testing.T) {
	eachMode(t, func(t *testing.T, o rigOptions) {
		r := newRig(t, o)
		both := watch(r)
		c, err := r.consumers[0].Dial(r.context(5*time.Second), "udp4", "", endpointIP+":9999")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Write([]byte("anybody?")); err != nil {
			t.Fatal(err)
		}
		if err := c.SetReadDeadline(time.Now().Add(2 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("read: %v, want port unreachable", err)
		}
		packets, _ := both.stop([]kind{icmpOf(layers.ICMPv4TypeDestinationUnreachable)}, nil)
		hidden(t, packets, backendIP, natIP)
	})
}

// hidden checks that no address of the other side shows in a capture, quotes included.
func hidden(t *testing.T, packets []lab.Packet, secrets ...string) {
	t.Helper()
	for _, p := range packets {
		for _, secret := range secrets {
			raw := mustAddr(secret).AsSlice()
			if strings.Contains(string(p.Data), string(raw)) {
				t.Errorf("%s shows in %v", secret, gopacket.NewPacket(p.Data, layers.LayerTypeEthernet, gopacket.NoCopy))
			}
		}
	}
}

func TestICMP_TTLExpires_TheEndpointAnswers(t *testing.T) {
	eachMode(t, func(t *testing.T, o rigOptions) {
		r := newRig(t, o)
		r.backend.EchoServer(backendIP + ":7")
		both := watch(r)
		conn, err := r.consumers[0].Dial(r.context(5*time.Second), "udp4", "", endpointIP+":7")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		raw, err := conn.(syscall.Conn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		if err := raw.Control(func(fd uintptr) {
			err = errors.Join(syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IP, syscall.IP_TTL, 1),
				syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IP, syscall.IP_RECVERR, 1))
		}); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write([]byte("one hop")); err != nil {
			t.Fatal(err)
		}
		if err := conn.SetReadDeadline(time.Now().Add(2 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.EHOSTUNREACH) {
			t.Errorf("read: %v, want time exceeded", err)
		}
		packets, _ := both.stop([]kind{icmpOf(layers.ICMPv4TypeTimeExceeded)}, nil)
		hidden(t, packets, backendIP, natIP)
		found := false
		for _, p := range packets {
			packet := gopacket.NewPacket(p.Data, layers.LayerTypeEthernet, gopacket.NoCopy)
			icmp, ok := packet.Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4)
			if ok && !p.Outgoing && icmp.TypeCode.Type() == layers.ICMPv4TypeTimeExceeded {
				found = true
				if from := packet.Layer(layers.LayerTypeIPv4).(*layers.IPv4).SrcIP.String(); from != endpointIP {
					t.Errorf("time exceeded from %s, want the endpoint", from)
				}
			}
		}
		if !found {
			t.Error("no time exceeded")
		}
	})
}

func TestICMP_EchoToTheEndpoint_AnsweredWhileApproved(t *testing.T) {
	eachMode(t, func(t *testing.T, o rigOptions) {
		r := newRig(t, o)
		ctx := r.context(20 * time.Second)
		both := watch(r)
		if out, err := r.consumers[0].Run(ctx, "ping", "-c", "2", "-i", "0.2", "-W", "1", endpointIP); err != nil {
			t.Errorf("approved: %v\n%s", err, out)
		}
		both.stop([]kind{icmpOf(layers.ICMPv4TypeEchoReply)}, nil)
		r.setLink(0, dataplane.LinkRejected)
		if out, err := r.consumers[0].Run(ctx, "ping", "-c", "1", "-W", "1", endpointIP); err == nil {
			t.Errorf("rejected, and still answered:\n%s", out)
		}
	})
}
