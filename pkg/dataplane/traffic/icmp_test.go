package traffic

import (
	"errors"
	"net"
	"slices"
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

// A router of somebody's own, with a smaller MTU behind it: what it says to the address it knows reaches the sender on the other side.
func TestPathMTU_SmallerBehindARouter_IsLearnedAcrossTheLink(t *testing.T) {
	const behind = "192.0.2.10"
	tooBig := []kind{icmpOf(layers.ICMPv4TypeDestinationUnreachable)}
	// host is somebody behind the router, who promises 1460 bytes a segment and cannot get them.
	host := func(r *rig, router *lab.Namespace) *lab.Namespace {
		n := r.VM(router, "behind", behind+"/24", lab.VethOptions{MTU: 1300})
		router.Addr("behind", "192.0.2.1/24")
		router.Sysctl("net.ipv4.ip_forward", "1")
		n.Route("10.0.0.0/16", "192.0.2.1")
		if err := n.Netlink().LinkSetMTU(n.Link("eth0"), 1500); err != nil {
			t.Fatal(err)
		}
		return n
	}
	t.Run("consumer", func(t *testing.T) {
		eachMode(t, func(t *testing.T, o rigOptions) {
			r := newRig(t, o)
			client := host(r, r.consumers[0])
			server := r.backend.BulkServer(backendIP + ":9000")
			both := watch(r)
			if _, err := client.Transfer(r.context(30*time.Second), "", endpointIP+":9000", lab.Bulk{Get: 1 << 20, Seed: 3}); err != nil {
				t.Fatal(err)
			}
			for _, err := range server.Errors() {
				t.Error(err)
			}
			learned(r, r.backend, natIP)
			_, packets := both.stop(nil, tooBig)
			hidden(t, only(packets, tooBig[0]), behind, clientIP, endpointIP)
		})
	})
	t.Run("provider", func(t *testing.T) {
		eachMode(t, func(t *testing.T, o rigOptions) {
			r := newRig(t, o)
			backend := host(r, r.backend)
			r.state.Networks[0].Attachments[0].NextHop = mustAddr(backendIP)
			r.state.Pools[0].Members[0] = mustAddr(behind)
			r.state.RuleSets[0].Rules[0].Targets[0].Addr = mustAddr(behind)
			r.apply()
			server := backend.BulkServer(behind + ":9000")
			both := watch(r)
			if _, err := r.consumers[0].Transfer(r.context(30*time.Second), "", endpointIP+":9000", lab.Bulk{Put: 1 << 20, Seed: 4}); err != nil {
				t.Fatal(err)
			}
			for _, err := range server.Errors() {
				t.Error(err)
			}
			learned(r, r.consumers[0], endpointIP)
			packets, _ := both.stop(tooBig, nil)
			hidden(t, only(packets, tooBig[0]), behind, backendIP, natIP)
		})
	})
}

// only are the packets of one kind that arrived.
func only(packets []lab.Packet, k kind) []lab.Packet {
	return slices.DeleteFunc(slices.Clone(packets), func(p lab.Packet) bool {
		return p.Outgoing || !k.is(gopacket.NewPacket(p.Data, layers.LayerTypeEthernet, gopacket.NoCopy))
	})
}

// learned checks that a host knows of the smaller MTU on its way.
func learned(r *rig, sender *lab.Namespace, to string) {
	r.t.Helper()
	out, err := sender.Run(r.context(5*time.Second), "ip", "route", "get", to)
	if err != nil || !strings.Contains(out, "mtu 1300") {
		r.t.Errorf("route of the sender: %q, %v; want mtu 1300", out, err)
	}
}

// datagrams opens a UDP flow through the endpoint and returns a connected socket at each end: only such a one is told of errors.
func datagrams(r *rig) (client, server net.Conn) {
	r.t.Helper()
	ctx := r.context(5 * time.Second)
	listener, err := r.backend.ListenPacket("udp4", backendIP+":9999")
	if err != nil {
		r.t.Fatal(err)
	}
	defer listener.Close()
	if client, err = r.consumers[0].Dial(ctx, "udp4", "", endpointIP+":9999"); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { client.Close() })
	if _, err := client.Write([]byte("a question")); err != nil {
		r.t.Fatal(err)
	}
	if err := listener.SetReadDeadline(time.Now().Add(2 * time.Second)); err != nil {
		r.t.Fatal(err)
	}
	_, from, err := listener.ReadFrom(make([]byte, 64))
	if err != nil {
		r.t.Fatal(err)
	}
	listener.Close()
	if server, err = r.backend.Dial(ctx, "udp4", backendIP+":9999", from.String()); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { server.Close() })
	return client, server
}

// wantError writes a datagram, which must be answered with an ICMP error that the kernel tells as want.
func wantError(t *testing.T, who string, c net.Conn, want syscall.Errno) {
	t.Helper()
	if _, err := c.Write([]byte("anybody?")); err != nil {
		t.Fatal(err)
	}
	if err := c.SetReadDeadline(time.Now().Add(2 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", who, err, want)
	}
}

func TestICMP_ErrorsOfTheClient_ReachTheBackendFromTheNATIP(t *testing.T) {
	eachMode(t, func(t *testing.T, o rigOptions) {
		r := newRig(t, o)
		both := watch(r)
		client, server := datagrams(r)
		client.Close()
		wantError(t, "backend", server, syscall.ECONNREFUSED)
		_, packets := both.stop(nil, []kind{icmpOf(layers.ICMPv4TypeDestinationUnreachable)})
		hidden(t, packets, clientIP, endpointIP)
	})
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
		wantError(t, "client", c, syscall.ECONNREFUSED)
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

func TestICMP_TTLExpires_TheAddressItWentToAnswers(t *testing.T) {
	exceeded := icmpOf(layers.ICMPv4TypeTimeExceeded)
	eachMode(t, func(t *testing.T, o rigOptions) {
		r := newRig(t, o)
		both := watch(r)
		client, server := datagrams(r)
		oneHop(t, client)
		wantError(t, "client", client, syscall.EHOSTUNREACH)
		oneHop(t, server)
		wantError(t, "backend", server, syscall.EHOSTUNREACH)
		consumer, provider := both.stop([]kind{exceeded}, []kind{exceeded})
		hidden(t, consumer, backendIP, natIP)
		hidden(t, provider, clientIP, endpointIP)
		for side, packets := range map[string][]lab.Packet{endpointIP: only(consumer, exceeded), natIP: only(provider, exceeded)} {
			if len(packets) == 0 {
				t.Errorf("no time exceeded from %s", side)
			}
			for _, p := range packets {
				packet := gopacket.NewPacket(p.Data, layers.LayerTypeEthernet, gopacket.NoCopy)
				if from := packet.Layer(layers.LayerTypeIPv4).(*layers.IPv4).SrcIP.String(); from != side {
					t.Errorf("time exceeded from %s, want %s", from, side)
				}
			}
		}
	})
}

// oneHop lets a socket's datagrams come no further than the gateway, and tells the socket.
func oneHop(t *testing.T, c net.Conn) {
	t.Helper()
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var set error
	if err := raw.Control(func(fd uintptr) {
		set = errors.Join(syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IP, syscall.IP_TTL, 1),
			syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IP, syscall.IP_RECVERR, 1))
	}); err != nil || set != nil {
		t.Fatal(err, set)
	}
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
