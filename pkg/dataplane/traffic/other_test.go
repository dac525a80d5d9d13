package traffic

import (
	"bytes"
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
	"github.com/vishvananda/netlink"
)

// Addresses of a host that forwards, as every container host does, by routes and by a bridge: it has one on the
// consumer's network and one on a network behind it, in IPv4 and IPv6.
const (
	hostIP    = "10.0.0.1"
	farHostIP = "10.9.0.1"
	farIP     = "10.9.0.2"
	farIP6    = "fd09::2"
	clientMAC = "02:00:00:00:01:04"
	hostMAC   = "02:00:00:00:00:01"
	webMAC    = "02:00:00:00:00:02"
	farMAC    = "02:00:00:00:09:02"
	marker    = "frame that is not privlink's "
)

// otherFrame is what a client may send that is no business of privlink's.
type otherFrame struct {
	name   string // it ends with marker and name
	reason string // it is counted under
	frame  []byte
}

// otherFrames are all kinds, each so that a host which routes and bridges takes it to another network.
func otherFrames(t *testing.T) []otherFrame {
	t.Helper()
	mac := func(s string) net.HardwareAddr {
		m, err := net.ParseMAC(s)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	ip4 := func(s string) net.IP { return net.ParseIP(s).To4() }
	const everybody, nobody, group, group6 = "ff:ff:ff:ff:ff:ff", "02:00:00:00:00:99", "01:00:5e:00:00:fb", "33:33:00:00:00:fb"
	udp := func(ip gopacket.SerializableLayer) []gopacket.SerializableLayer {
		u := &layers.UDP{SrcPort: 4000, DstPort: 4001}
		if err := u.SetNetworkLayerForChecksum(ip.(gopacket.NetworkLayer)); err != nil {
			t.Fatal(err)
		}
		return []gopacket.SerializableLayer{ip, u}
	}
	four := func(to string) []gopacket.SerializableLayer {
		return udp(&layers.IPv4{Version: 4, TTL: 64, Id: 7, Protocol: layers.IPProtocolUDP, SrcIP: ip4(clientIP), DstIP: ip4(to)})
	}
	six := func(to string) []gopacket.SerializableLayer {
		return udp(&layers.IPv6{Version: 6, NextHeader: layers.IPProtocolUDP, HopLimit: 64, SrcIP: net.ParseIP("fd00::4"), DstIP: net.ParseIP(to)})
	}
	arp := &layers.ARP{AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4, Operation: layers.ARPRequest,
		SourceHwAddress: mac(clientMAC), SourceProtAddress: ip4(clientIP), DstHwAddress: make([]byte, 6), DstProtAddress: ip4(hostIP)}
	tag := &layers.Dot1Q{VLANIdentifier: 99, Type: layers.EthernetTypeIPv4}
	var all []otherFrame
	for _, f := range []struct {
		name, reason, to string
		kind             layers.EthernetType
		rest             []gopacket.SerializableLayer
	}{
		{"routed", "other_ipv4", hostMAC, layers.EthernetTypeIPv4, four(farIP)},
		{"routed in IPv6", "other_ipv6", hostMAC, layers.EthernetTypeIPv6, six(farIP6)},
		{"to a group of IPv6", "other_ipv6", group6, layers.EthernetTypeIPv6, six("ff02::fb")},
		{"ARP for the host", "other_arp", everybody, layers.EthernetTypeARP, []gopacket.SerializableLayer{arp}},
		{"to another MAC", "other_mac", nobody, layers.EthernetTypeIPv4, four(farIP)},
		{"in IPv6 to another MAC", "other_mac", nobody, layers.EthernetTypeIPv6, six(farIP6)},
		{"of another kind", "other_ethertype", everybody, 0x88b5, nil},
		{"to a group", "multicast", group, layers.EthernetTypeIPv4, four("224.0.0.251")},
		{"to everybody", "multicast", everybody, layers.EthernetTypeIPv4, four("255.255.255.255")},
		{"with a tag", "no_attachment", everybody, layers.EthernetTypeDot1Q, append([]gopacket.SerializableLayer{tag}, four("255.255.255.255")...)},
	} {
		parts := []gopacket.SerializableLayer{&layers.Ethernet{SrcMAC: mac(clientMAC), DstMAC: mac(f.to), EthernetType: f.kind}}
		parts = append(append(parts, f.rest...), gopacket.Payload(marker+f.name))
		b := gopacket.NewSerializeBuffer()
		if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, parts...); err != nil {
			t.Fatal(err)
		}
		all = append(all, otherFrame{f.name, f.reason, bytes.Clone(b.Bytes())})
	}
	return all
}

// otherRig has the gateway as such a host: the consumer, the provider and a far network hang on one bridge, which has
// an address on each. Somebody listens at the gateway.
type otherRig struct {
	*rig
	far    *lab.Namespace
	frames []otherFrame
}

func newOtherRig(t *testing.T, mode dataplane.Mode, passOther bool) *otherRig {
	t.Helper()
	o := rigOptions{consumer: mode, provider: mode, passOther: passOther, wire: wire()}
	provider := wire()
	o.wire.A.MAC, o.wire.B.MAC, provider.A.MAC = hostMAC, clientMAC, webMAC
	o.providerWire = &provider
	r := &otherRig{newRig(t, o), nil, otherFrames(t)}
	for key, value := range map[string]string{
		"net.ipv4.ip_forward": "1", "net.ipv4.conf.all.send_redirects": "0", "net.ipv4.conf.default.send_redirects": "0",
		"net.ipv6.conf.all.disable_ipv6": "0", "net.ipv6.conf.all.forwarding": "1", "net.ipv6.conf.default.accept_dad": "0",
	} {
		r.gw.Sysctl(key, value)
	}
	r.far = r.VM(r.gw, "far", farIP+"/24", lab.VethOptions{B: lab.EndOptions{MAC: farMAC}})
	r.gw.Bridge("br0", "c1", "web", "far")
	for _, cidr := range []string{hostIP + "/16", farHostIP + "/24", "fd00::1/64", "fd09::1/64"} {
		r.gw.Addr("br0", cidr)
	}
	for _, ip := range []string{farIP, farIP6} {
		neighbour := &netlink.Neigh{LinkIndex: r.gw.Link("br0").Attrs().Index, State: netlink.NUD_PERMANENT, IP: net.ParseIP(ip), HardwareAddr: r.far.MAC("eth0")}
		if err := r.gw.Netlink().NeighSet(neighbour); err != nil {
			t.Fatal(err)
		}
	}
	ssh, err := r.gw.Listen("tcp4", hostIP+":22")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ssh.Close() })
	r.apply()
	return r
}

// seen is what became of all frames, one after the other.
type seen struct {
	far, provider []string // captured there, each kind and its bytes, sorted
	arp, ssh      bool     // the host answered
}

// send sends every kind, tries for as long as it may to reach the host, and ends with a frame from the host itself,
// behind which none can come any more.
func (r *otherRig) send(patience time.Duration) seen {
	r.t.Helper()
	far, provider, own := r.far.Capture("eth0"), r.backend.Capture("eth0"), r.consumers[0].Capture("eth0")
	for _, f := range r.frames {
		if err := r.consumers[0].Inject("eth0", f.frame); err != nil {
			r.t.Fatal(err)
		}
	}
	// asks for the host's MAC again, and does not end with an attempt of before
	if _, err := r.consumers[0].Run(r.t.Context(), "ip", "neigh", "flush", "dev", "eth0"); err != nil {
		r.t.Fatal(err)
	}
	var s seen
	if c, err := r.consumers[0].Dial(r.context(patience), "tcp4", "", hostIP+":22"); err == nil {
		c.Close()
		s.ssh = true
	}
	if err := r.gw.Inject("br0", toEverybody("the last")); err != nil {
		r.t.Fatal(err)
	}
	r.Wait("the last frame", 5*time.Second, func() error {
		if far.Count(saying("the last")) == 0 || provider.Count(saying("the last")) == 0 {
			return errNothing
		}
		return nil
	})
	s.far, s.provider = marked(far.Stop()), marked(provider.Stop())
	for _, p := range own.Stop() {
		if !p.Outgoing && len(p.Data) >= 32 && p.Data[12] == 8 && p.Data[13] == 6 && p.Data[21] == 2 && net.IP(p.Data[28:32]).String() == hostIP {
			s.arp = true
		}
	}
	return s
}

// toEverybody is a frame of a kind that nobody knows.
func toEverybody(text string) []byte {
	return slices.Concat(bytes.Repeat([]byte{0xff}, 6), []byte{2, 0, 0, 0, 0, 9, 0x88, 0xb5}, []byte(text))
}

// saying picks the frames received with a text in them.
func saying(text string) func(lab.Packet) bool {
	return func(p lab.Packet) bool { return !p.Outgoing && bytes.Contains(p.Data, []byte(text)) }
}

// marked returns what a capture saw of the frames, sorted.
func marked(packets []lab.Packet) []string {
	var seen []string
	for _, p := range packets {
		if i := bytes.Index(p.Data, []byte(marker)); i >= 0 && !p.Outgoing {
			seen = append(seen, fmt.Sprintf("%s, tag %d: %x", bytes.TrimRight(p.Data[i+len(marker):], "\x00"), p.VLAN, p.Data[:i]))
		}
	}
	slices.Sort(seen)
	return seen
}

// down takes privlink away and sends all again: every kind crosses then.
func (r *otherRig) down() seen {
	r.t.Helper()
	if err := r.d.Close(); err != nil {
		r.t.Fatal(err)
	}
	if err := dataplane.Down(r.context(5*time.Second), dataplane.Options{BPFFS: r.BPFFS("pins"), NetNS: r.gw.Path()}); err != nil {
		r.t.Fatal(err)
	}
	capture := r.far.Capture("eth0")
	r.Wait("the kernel to let go of the programs", 5*time.Second, func() error { // some time after the last pin is gone
		if err := r.consumers[0].Inject("eth0", toEverybody("still there?")); err != nil {
			return err
		}
		if capture.Count(saying("still there?")) == 0 {
			return errNothing
		}
		return nil
	})
	capture.Stop()
	s := r.send(5 * time.Second)
	for _, f := range r.frames {
		named := func(text string) bool { return strings.HasPrefix(text, f.name+", tag ") }
		if !slices.ContainsFunc(s.far, named) {
			r.t.Errorf("without privlink %q does not cross either", f.name)
		}
		if bridged := !strings.HasPrefix(f.name, "routed"); bridged && !slices.ContainsFunc(s.provider, named) {
			r.t.Errorf("without privlink %q does not reach the provider either", f.name)
		}
	}
	if !s.arp || !s.ssh {
		r.t.Errorf("without privlink the host answers ARP: %v, ssh: %v", s.arp, s.ssh)
	}
	return s
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

func TestOther_HostThatRoutesAndBridges_NothingGetsPastAndEachKindIsCounted(t *testing.T) {
	for _, mode := range modes {
		t.Run(string(mode), func(t *testing.T) {
			r := newOtherRig(t, mode, false)
			before := reasons(r.rig)
			s := r.send(time.Second)
			if len(s.far) > 0 || len(s.provider) > 0 || s.arp || s.ssh {
				t.Errorf("the far network saw %q, the provider %q; the host answered ARP: %v, ssh: %v", s.far, s.provider, s.arp, s.ssh)
			}
			want := map[string]uint64{}
			for _, f := range r.frames {
				want[f.reason]++
			}
			// whoever dials the host asks for its MAC, more than once where nobody answers
			now := reasons(r.rig)
			if got := now["other_arp"] - before["other_arp"]; got <= want["other_arp"] {
				t.Errorf("other_arp: %d, want more than %d", got, want["other_arp"])
			}
			delete(want, "other_arp")
			for reason, n := range want {
				if got := now[reason] - before[reason]; got != n {
					t.Errorf("%s: %d packets, want %d", reason, got, n)
				}
			}
			r.down()
		})
	}
}

func TestOther_PassOther_TheHostSeesWhatItWouldWithoutPrivlink(t *testing.T) {
	for _, mode := range modes {
		t.Run(string(mode), func(t *testing.T) {
			r := newOtherRig(t, mode, true)
			with := r.send(5 * time.Second)
			without := r.down()
			if !slices.Equal(with.far, without.far) {
				t.Errorf("the far network saw\n%q\nwith privlink, and without\n%q", with.far, without.far)
			}
			if !slices.Equal(with.provider, without.provider) {
				t.Errorf("the provider saw\n%q\nwith privlink, and without\n%q", with.provider, without.provider)
			}
			if !with.arp || !with.ssh {
				t.Errorf("the host answers ARP: %v, ssh: %v", with.arp, with.ssh)
			}
		})
	}
}
