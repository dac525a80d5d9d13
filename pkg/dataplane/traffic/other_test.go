package traffic

import (
	"bytes"
	"fmt"
	"maps"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/privlink/privlink/pkg/dataplane"
	"github.com/privlink/privlink/pkg/lab"
	"github.com/vishvananda/netlink"
)

// Addresses of a host that forwards, as every container host does: it has one on the consumer's
// network and one on a network behind it.
const (
	hostIP    = "10.0.0.1"
	farHostIP = "10.9.0.1"
	farIP     = "10.9.0.2"
	clientMAC = "02:00:00:00:01:04"
	hostMAC   = "02:00:00:00:00:01"
	farMAC    = "02:00:00:00:09:02"
	marker    = "frame that is not privlink's "
)

// otherFrames are what a client may send that is no business of privlink's, by the reason it is counted under.
func otherFrames(t *testing.T) map[string][]byte {
	t.Helper()
	mac := func(s string) net.HardwareAddr {
		m, err := net.ParseMAC(s)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	ip4 := func(s string) net.IP { return net.ParseIP(s).To4() }
	frame := func(to string, kind layers.EthernetType, rest ...gopacket.SerializableLayer) []byte {
		b := gopacket.NewSerializeBuffer()
		eth := &layers.Ethernet{SrcMAC: mac(clientMAC), DstMAC: mac(to), EthernetType: kind}
		if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true},
			append([]gopacket.SerializableLayer{eth}, rest...)...); err != nil {
			t.Fatal(err)
		}
		return bytes.Clone(b.Bytes())
	}
	udp := func(to string, name string) []gopacket.SerializableLayer {
		ip := &layers.IPv4{Version: 4, TTL: 64, Id: 7, Protocol: layers.IPProtocolUDP, SrcIP: ip4(clientIP), DstIP: ip4(to)}
		u := &layers.UDP{SrcPort: 4000, DstPort: 4001}
		if err := u.SetNetworkLayerForChecksum(ip); err != nil {
			t.Fatal(err)
		}
		return []gopacket.SerializableLayer{ip, u, gopacket.Payload(marker + name)}
	}
	six := &layers.IPv6{Version: 6, NextHeader: layers.IPProtocolUDP, HopLimit: 64, SrcIP: net.ParseIP("fd00::4"), DstIP: net.ParseIP("fd09::2")}
	sixUDP := &layers.UDP{SrcPort: 4000, DstPort: 4001}
	if err := sixUDP.SetNetworkLayerForChecksum(six); err != nil {
		t.Fatal(err)
	}
	arp := &layers.ARP{AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4, Operation: layers.ARPRequest,
		SourceHwAddress: mac(clientMAC), SourceProtAddress: ip4(clientIP), DstHwAddress: make([]byte, 6), DstProtAddress: ip4(hostIP)}
	return map[string][]byte{
		"other_ipv4":      frame(hostMAC, layers.EthernetTypeIPv4, udp(farIP, "other_ipv4")...),
		"other_ipv6":      frame(hostMAC, layers.EthernetTypeIPv6, six, sixUDP, gopacket.Payload(marker+"other_ipv6")),
		"other_arp":       frame("ff:ff:ff:ff:ff:ff", layers.EthernetTypeARP, arp),
		"other_mac":       frame("02:00:00:00:00:99", layers.EthernetTypeIPv4, udp(farIP, "other_mac")...),
		"other_ethertype": frame(hostMAC, 0x88b5, gopacket.Payload(marker+"other_ethertype")),
		"multicast":       frame("01:00:5e:00:00:fb", layers.EthernetTypeIPv4, udp("224.0.0.251", "multicast")...),
	}
}

// forwarder makes the rig's gateway a host that routes between the consumer and a far network.
func forwarder(r *rig) (far *lab.Namespace) {
	r.t.Helper()
	r.gw.Sysctl("net.ipv4.ip_forward", "1")
	r.gw.Sysctl("net.ipv6.conf.all.disable_ipv6", "0")
	r.gw.Sysctl("net.ipv6.conf.all.forwarding", "1")
	far = r.VM(r.gw, "far", farIP+"/24", lab.VethOptions{B: lab.EndOptions{MAC: farMAC}})
	r.gw.Addr("far", farHostIP+"/24")
	neighbour := &netlink.Neigh{LinkIndex: r.gw.Link("far").Attrs().Index, State: netlink.NUD_PERMANENT, IP: net.ParseIP(farIP), HardwareAddr: far.MAC("eth0")}
	if err := r.gw.Netlink().NeighSet(neighbour); err != nil {
		r.t.Fatal(err)
	}
	return far
}

// marked returns what a capture saw of the frames, sorted.
func marked(c *lab.Capture) []string {
	var seen []string
	for _, p := range c.Packets() {
		if i := bytes.Index(p.Data, []byte(marker)); i >= 0 && !p.Outgoing {
			seen = append(seen, string(p.Data[i+len(marker):])+fmt.Sprintf(" %x", p.Data[:i]))
		}
	}
	slices.Sort(seen)
	return seen
}

func TestOther_ForwardingHost_NothingGetsPastAndEachKindIsCounted(t *testing.T) {
	for _, mode := range modes {
		t.Run(string(mode), func(t *testing.T) {
			o := rigOptions{consumer: mode, provider: mode, wire: wire()}
			o.wire.A.MAC, o.wire.B.MAC = hostMAC, clientMAC
			r := newRig(t, o)
			far := forwarder(r)
			capture, provider := far.Capture("eth0"), r.backend.Capture("eth0")
			before := reasons(r)
			frames := otherFrames(t)
			for _, f := range frames {
				if err := r.consumers[0].Inject("eth0", f, f, f); err != nil {
					t.Fatal(err)
				}
			}
			r.Wait("every kind to be counted", 5*time.Second, func() error {
				now := reasons(r)
				for reason := range frames {
					if got := now[reason] - before[reason]; got < 3 {
						return fmt.Errorf("%s: %d packets of 3", reason, got)
					}
				}
				return nil
			})
			for who, c := range map[string]*lab.Capture{"the far network": capture, "the provider": provider} {
				if seen := marked(c); len(seen) > 0 {
					t.Errorf("%s saw %q", who, seen)
				}
			}
			// ssh to the gateway is not ours either
			r.gw.Addr("c1", hostIP+"/16")
			if _, err := r.gw.Listen("tcp4", hostIP+":22"); err != nil {
				t.Fatal(err)
			}
			if c, err := r.consumers[0].Dial(r.context(time.Second), "tcp4", "", hostIP+":22"); err == nil {
				c.Close()
				t.Error("the gateway's own port answers")
			}
		})
	}
}

func reasons(r *rig) map[string]uint64 {
	r.t.Helper()
	all, err := r.d.ReasonStats()
	if err != nil {
		r.t.Fatal(err)
	}
	count := map[string]uint64{}
	for _, s := range all {
		count[s.Label] = s.Packets
	}
	return count
}

func TestOther_PassOther_TheHostSeesWhatItWouldWithoutPrivlink(t *testing.T) {
	for _, mode := range modes {
		t.Run(string(mode), func(t *testing.T) {
			o := rigOptions{consumer: mode, provider: mode, passOther: true, wire: wire()}
			o.wire.A.MAC, o.wire.B.MAC = hostMAC, clientMAC
			r := newRig(t, o)
			far := forwarder(r)
			r.gw.Addr("c1", hostIP+"/16")
			r.apply()
			frames := otherFrames(t)
			send := func() (far1 []string, answers int) {
				at, own := far.Capture("eth0"), r.consumers[0].Capture("eth0")
				for _, reason := range slices.Sorted(maps.Keys(frames)) {
					if err := r.consumers[0].Inject("eth0", frames[reason]); err != nil {
						t.Fatal(err)
					}
				}
				if c, err := r.consumers[0].Dial(r.context(2*time.Second), "tcp4", "", hostIP+":22"); err == nil {
					c.Close()
					answers++
				}
				r.Wait("the routed frame", 5*time.Second, func() error {
					if len(marked(at)) == 0 {
						return errNothing
					}
					return nil
				})
				for _, p := range own.Stop() {
					if !p.Outgoing && len(p.Data) >= 22 && p.Data[12] == 8 && p.Data[13] == 6 && p.Data[21] == 2 {
						answers += 10 // the host's ARP reply
					}
				}
				seen := marked(at)
				at.Stop()
				return seen, answers
			}
			if _, err := r.gw.Listen("tcp4", hostIP+":22"); err != nil {
				t.Fatal(err)
			}
			with, answersWith := send()
			if err := r.d.Close(); err != nil {
				t.Fatal(err)
			}
			if err := dataplane.Down(r.context(5*time.Second), dataplane.Options{BPFFS: r.BPFFS("pins"), NetNS: r.gw.Path()}); err != nil {
				t.Fatal(err)
			}
			without, answersWithout := send()
			if !slices.Equal(with, without) {
				t.Errorf("the far network saw\n%q\nwith privlink, and without\n%q", with, without)
			}
			if answersWith%10 != 1 || answersWithout%10 != 1 || answersWith/10 == 0 || answersWithout/10 == 0 {
				t.Errorf("ssh and ARP to the host: %d with privlink, %d without", answersWith, answersWithout)
			}
		})
	}
}
