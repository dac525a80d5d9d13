package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/privlink/privlink/pkg/lab"
)

// What the mix is made of.
const (
	mixMaxFlows  = 4
	mixTable     = 4096 // flows
	mixClient    = "10.0.1.4"
	mixEndpoint  = "10.0.1.10"
	mixBackend   = "10.0.0.4"
	mixDatagrams = 25
	mixRefused   = 5 // datagrams beyond the quota, from a socket each
	mixBulk      = 150_000
)

// mixRig is a daemon with a service of two rules, an endpoint that was approved and one that was not. Captures at
// every VM have seen all that it sent since before privlink knew the interfaces.
type mixRig struct {
	t                *testing.T
	lab              *lab.Lab
	daemon           *lab.Daemon
	gw, web, vm, vm2 *lab.Namespace
	sent             map[*lab.Namespace]*lab.Capture
	nat              string
	quota            map[uint16]bool // local ports of what exceeds the quota
}

func newMixRig(t *testing.T, mode string) *mixRig {
	t.Helper()
	l := lab.New(t)
	r := &mixRig{t: t, lab: l, gw: l.Namespace("gateway"), web: l.Namespace("web"), vm: l.Namespace("vm"), vm2: l.Namespace("vm2"),
		sent: map[*lab.Namespace]*lab.Capture{}, quota: map[uint16]bool{}}
	l.Veth(r.gw, "eth1", r.web, "eth0", wire(mixBackend+"/16"))
	l.Veth(r.gw, "eth2", r.vm, "eth0", wire(mixClient+"/16"))
	l.Veth(r.gw, "eth3", r.vm2, "eth0", wire(mixClient+"/16"))
	for _, n := range []*lab.Namespace{r.web, r.vm, r.vm2} {
		r.sent[n] = n.Capture("eth0")
	}
	r.daemon = r.gw.Daemon(t.Context(), lab.DaemonOptions{
		Binary: l.Build(t.Context(), "./cmd/privlink"), Args: []string{"--config", l.WriteFile("config.yaml", fmt.Appendf(nil, "flows: %d\n", mixTable))},
	})
	r.must("vnet create datacenter --prefix 10.0.0.0/16 --interface eth1 --mode " + mode)
	r.must("lb create web --vnet datacenter --rule tcp:80 --rule udp:53 --backend " + mixBackend)
	published := r.must(fmt.Sprintf("service create shop --lb web --nat-ip 10.0.0.100 --visibility * --max-flows-per-endpoint %d", mixMaxFlows))
	r.nat = "10.0.0.100"
	alias := regexp.MustCompile(`\S+\.privatelinkservice`).FindString(published)
	r.must("vnet create home --prefix 10.0.0.0/16 --interface eth2 --mode " + mode)
	r.must("vnet create other --prefix 10.0.0.0/16 --interface eth3 --mode " + mode)
	r.must("endpoint create to-shop --vnet home --ip " + mixEndpoint + " --service " + alias)
	r.must("endpoint create in-vain --vnet other --ip " + mixEndpoint + " --service " + alias)
	r.must("connection approve --service shop --name to-shop")
	return r
}

func (r *mixRig) must(line string) string {
	r.t.Helper()
	out, err := r.daemon.CLI(r.t.Context(), strings.Fields(line)...)
	if err != nil {
		r.t.Fatal(err)
	}
	return out
}

// datagrams sends some from one socket; where they are answered, each waits for its answer.
func (r *mixRig) datagrams(from *lab.Namespace, to string, answered bool, sizes ...int) (local uint16) {
	r.t.Helper()
	c, err := from.Dial(r.t.Context(), "udp4", "", to)
	if err != nil {
		r.t.Fatal(err)
	}
	defer c.Close()
	buffer := make([]byte, 1500)
	for _, size := range sizes {
		if _, err := c.Write(bytes.Repeat([]byte("x"), size)); err != nil {
			r.t.Fatal(err)
		}
		if !answered {
			continue
		}
		if err := c.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
			r.t.Fatal(err)
		}
		if n, err := c.Read(buffer); err != nil || n != size {
			r.t.Fatalf("%d bytes of %d came back: %v", n, size, err)
		}
	}
	return netPort(c.LocalAddr())
}

func netPort(a net.Addr) uint16 {
	_, text, _ := net.SplitHostPort(a.String())
	port, _ := strconv.ParseUint(text, 10, 16)
	return uint16(port)
}

// refused dials what answers with a RST.
func (r *mixRig) refused(port string) (local uint16) {
	r.t.Helper()
	local = uint16(30000 + len(r.quota))
	if c, err := r.vm.Dial(r.t.Context(), "tcp4", fmt.Sprintf("%s:%d", mixClient, local), mixEndpoint+":"+port); err == nil {
		c.Close()
		r.t.Fatalf("port %s answers", port)
	}
	return local
}

// inject sends frames of kinds that a socket does not make.
func (r *mixRig) inject(ttlPort uint16) {
	r.t.Helper()
	own, gateway := r.vm.MAC("eth0"), r.gw.MAC("eth2")
	other := net.HardwareAddr{2, 0, 0, 0, 0, 0x99}
	udp := func(to string, ttl uint8, source uint16) []gopacket.SerializableLayer {
		ip := &layers.IPv4{Version: 4, TTL: ttl, Protocol: layers.IPProtocolUDP, SrcIP: net.ParseIP(mixClient).To4(), DstIP: net.ParseIP(to).To4()}
		u := &layers.UDP{SrcPort: layers.UDPPort(source), DstPort: 53}
		if err := u.SetNetworkLayerForChecksum(ip); err != nil {
			r.t.Fatal(err)
		}
		return []gopacket.SerializableLayer{ip, u}
	}
	for _, f := range []struct {
		count int
		to    net.HardwareAddr
		kind  layers.EthernetType
		rest  []gopacket.SerializableLayer
	}{
		{1, gateway, layers.EthernetTypeIPv4, udp("10.9.0.1", 64, 1)},
		{2, other, layers.EthernetTypeIPv4, udp(mixEndpoint, 64, 1)},
		{3, net.HardwareAddr{1, 0, 0x5e, 0, 0, 0xfb}, layers.EthernetTypeIPv4, udp("224.0.0.251", 64, 1)},
		{4, gateway, layers.EthernetTypeIPv6, []gopacket.SerializableLayer{&layers.IPv6{Version: 6, HopLimit: 64, SrcIP: net.ParseIP("fd00::1"), DstIP: net.ParseIP("fd00::2")}}},
		{5, gateway, 0x88b5, nil},
		{2, gateway, layers.EthernetTypeIPv4, udp(mixEndpoint, 1, ttlPort)},
	} {
		b := gopacket.NewSerializeBuffer()
		all := append([]gopacket.SerializableLayer{&layers.Ethernet{SrcMAC: own, DstMAC: f.to, EthernetType: f.kind}}, f.rest...)
		all = append(all, gopacket.Payload(strings.Repeat("p", 40)))
		if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, all...); err != nil {
			r.t.Fatal(err)
		}
		for range f.count {
			if err := r.vm.Inject("eth0", b.Bytes()); err != nil {
				r.t.Fatal(err)
			}
		}
	}
}

// amount is packets and bytes.
type amount struct{ packets, bytes uint64 }

func (a *amount) add(bytes int) { a.packets++; a.bytes += uint64(bytes) }

// tally is what the captures say the counters must be.
type tally struct {
	in, out amount            // of the approved link, IP packets
	udp     [2]amount         // of these, in and out
	reasons map[string]amount // frames
	links   map[string]uint64 // packets dropped, by endpoint
}

func (y *tally) count(reason, link string, frame int) {
	a := y.reasons[reason]
	a.add(frame)
	y.reasons[reason] = a
	if link != "" {
		y.links[link]++
	}
}

// tally goes through everything that the VMs sent, and through privlink's own packets as they got them.
func (r *mixRig) tally() tally {
	y := tally{reasons: map[string]amount{}, links: map[string]uint64{}}
	endpoint, nat := net.ParseIP(mixEndpoint).To4(), net.ParseIP(r.nat).To4()
	for n, capture := range r.sent {
		gateway := r.gw.MAC(map[*lab.Namespace]string{r.web: "eth1", r.vm: "eth2", r.vm2: "eth3"}[n])
		for _, p := range capture.Packets() {
			d, size := p.Data, len(p.Data)
			kind := binary.BigEndian.Uint16(d[12:])
			if !p.Outgoing {
				if kind != 0x0800 {
					continue
				}
				switch l4 := d[14+int(d[14]&15)*4:]; {
				case d[23] == 6 && l4[13]&4 != 0: // no VM sends one
					y.count("rst_sent", "", size)
				case d[23] == 1 && l4[0] != 0:
					y.count("icmp_sent", "", size)
				}
				continue
			}
			switch {
			case kind == 0x0806:
				target := d[38:42]
				if d[21] == 1 && (n != r.web && bytes.Equal(target, endpoint) || n == r.web && bytes.Equal(target, nat)) {
					y.count("arp_reply", "", size)
				} else {
					y.count("other_arp", "", size)
				}
			case !bytes.Equal(d[:6], gateway) && d[0]&1 == 0:
				y.count("other_mac", "", size)
			case kind == 0x86dd:
				y.count("other_ipv6", "", size)
			case kind != 0x0800:
				y.count("other_ethertype", "", size)
			case d[0]&1 != 0:
				y.count("multicast", "", size)
			case n == r.web && binary.BigEndian.Uint16(d[34:]) == 9:
				y.count("nat_no_flow", "", size)
			case n == r.web:
				y.out.add(size - 14)
				if d[23] == 17 {
					y.udp[1].add(size - 14)
				}
			case !bytes.Equal(d[30:34], endpoint):
				y.count("other_ipv4", "", size)
			case n == r.vm2:
				y.count("not_approved", "in-vain", size)
			case d[23] == 1:
				y.count("echo_reply", "", size)
			case d[22] == 1:
				y.count("ttl", "to-shop", size)
			case binary.BigEndian.Uint16(d[36:]) == 54 || binary.BigEndian.Uint16(d[36:]) == 81:
				y.count("no_rule", "to-shop", size)
			case r.quota[binary.BigEndian.Uint16(d[34:])]:
				y.count("quota", "to-shop", size)
			default:
				y.in.add(size - 14)
				if d[23] == 17 {
					y.udp[0].add(size - 14)
				}
			}
		}
	}
	return y
}

// due are the series of links, services and reasons as they must be; one that is not here must be 0.
func (y *tally) due() map[string]uint64 {
	due := map[string]uint64{
		"link_bytes_total to-shop in": y.in.bytes, "link_bytes_total to-shop out": y.out.bytes,
		"link_packets_total to-shop in": y.in.packets, "link_packets_total to-shop out": y.out.packets,
		"link_flows to-shop": mixMaxFlows, "link_flows_limit to-shop": mixMaxFlows, "link_flows_limit in-vain": mixMaxFlows,
		"link_flows_limit frontend of the provider's network": mixTable / 4,
		"link_flows_opened_total to-shop":                     mixMaxFlows, "link_flows_refused_total to-shop": mixRefused + 1,
		"link_packets_dropped_total to-shop": y.links["to-shop"], "link_packets_dropped_total in-vain": y.links["in-vain"],
		"service_bytes_total shop in": y.in.bytes, "service_bytes_total shop out": y.out.bytes,
		"service_packets_total shop in": y.in.packets, "service_packets_total shop out": y.out.packets,
		"service_flows shop": mixMaxFlows,
	}
	for reason, a := range y.reasons {
		due["packets_by_reason_total "+reason], due["bytes_by_reason_total "+reason] = a.packets, a.bytes
	}
	return due
}

var (
	seriesLine  = regexp.MustCompile(`(?m)^privlink_((?:link|service)_\w+|(?:packets|bytes)_by_reason_total)\{(.*)\} (\S+)$`)
	seriesLabel = regexp.MustCompile(`(\w+)="([^"]*)"`)
)

// series are those of a page, by name, the last part of the link's, service's or reason's name, and direction.
func series(t *testing.T, page string) map[string]uint64 {
	t.Helper()
	all := map[string]uint64{}
	for _, line := range seriesLine.FindAllStringSubmatch(page, -1) {
		labels := map[string]string{}
		for _, l := range seriesLabel.FindAllStringSubmatch(line[2], -1) {
			labels[l[1]] = l[2]
		}
		value, err := strconv.ParseFloat(line[3], 64)
		if err != nil {
			t.Fatal(err)
		}
		name := labels["link"]
		if name == "" {
			name = labels["service"] + labels["reason"]
		}
		key := line[1] + " " + name[strings.LastIndex(name, "/")+1:]
		if labels["link_id"] == "0" {
			key += " of the provider's network"
		}
		key = strings.TrimSpace(key + " " + labels["direction"])
		if _, twice := all[key]; twice {
			t.Fatalf("two series are %q", key)
		}
		all[key] = uint64(value)
	}
	return all
}

func (r *mixRig) page() string {
	r.t.Helper()
	page, err := exec.CommandContext(r.t.Context(), "curl", "-sf", "--unix-socket", r.daemon.Socket, "http://privlink/metrics").Output()
	if err != nil {
		r.t.Fatal(err)
	}
	return string(page)
}

// Every packet of a mix is in the metrics exactly as the VMs' captures have it: carried, refused and dropped, by link,
// service and reason, in packets and bytes.
func TestMetrics_KnownMix_EverySeriesIsExact(t *testing.T) {
	for _, mode := range []string{"tc", "xdp"} {
		t.Run(mode, func(t *testing.T) {
			r := newMixRig(t, mode)
			server := r.web.BulkServer(mixBackend + ":80")
			r.web.EchoServer(mixBackend + ":53")

			// as many flows as the endpoint may have, the TCP one open to the end
			var sizes []int
			payload := 0
			for i := range mixDatagrams {
				sizes = append(sizes, 10*i)
				payload += 10 * i
			}
			first := r.datagrams(r.vm, mixEndpoint+":53", true, sizes...)
			for range mixMaxFlows - 2 {
				r.datagrams(r.vm, mixEndpoint+":53", true, 1)
			}
			conn, err := r.vm.Dial(t.Context(), "tcp4", "", mixEndpoint+":80")
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := lab.TransferOver(conn, lab.Bulk{Put: mixBulk, Get: mixBulk, Seed: 1}); err != nil {
				t.Fatal(err)
			}
			for range mixRefused {
				r.quota[r.datagrams(r.vm, mixEndpoint+":53", false, 100)] = true
			}
			r.quota[r.refused("80")] = true

			r.datagrams(r.vm, mixEndpoint+":54", false, 7, 8, 9)
			r.refused("81")
			r.datagrams(r.vm2, mixEndpoint+":53", false, 70, 80)
			if out, err := r.vm.Run(t.Context(), "ping", "-c", "2", "-i", "0.2", "-W", "5", mixEndpoint); err != nil {
				t.Errorf("ping: %v: %s", err, out)
			}
			r.inject(first)
			stray, err := r.web.Dial(t.Context(), "udp4", mixBackend+":9", r.nat+":2000")
			if err != nil {
				t.Fatal(err)
			}
			defer stray.Close()
			if _, err := stray.Write([]byte("to a NAT IP, without a flow")); err != nil {
				t.Fatal(err)
			}

			var page string
			var y tally
			r.lab.Wait("the metrics to be what the captures are", 10*time.Second, func() error {
				page, y = r.page(), r.tally()
				return differ(series(t, page), y.due())
			})
			for _, err := range server.Errors() {
				t.Error(err)
			}

			// The captures say what the sockets know: of TCP only that its bytes went, in packets of its own choice.
			const datagrams = mixDatagrams + mixMaxFlows - 2
			udp := amount{datagrams, uint64(payload + mixMaxFlows - 2 + datagrams*28)}
			for i, all := range []amount{y.in, y.out} {
				if y.udp[i] != udp {
					t.Errorf("%+v of UDP in the captures, want %+v", y.udp[i], udp)
				}
				if packets := all.packets - udp.packets; all.bytes-udp.bytes < mixBulk+40*packets || packets < mixBulk/1460 {
					t.Errorf("%+v, with UDP, is less than the sockets sent", all)
				}
			}
			for reason, want := range map[string]uint64{
				"no_rule": 3 + 1, "quota": mixRefused + 1, "not_approved": 2, "nat_no_flow": 1, "ttl": 2, "echo_reply": 2,
				"rst_sent": 2, "icmp_sent": 2, "other_ipv4": 1, "other_mac": 2, "multicast": 3, "other_ipv6": 4, "other_ethertype": 5,
			} {
				if got := y.reasons[reason].packets; got != want {
					t.Errorf("%s: %d packets in the captures, want %d", reason, got, want)
				}
			}
			check := exec.Command("promtool", "check", "metrics")
			check.Stdin = strings.NewReader(page)
			if out, err := check.CombinedOutput(); err != nil || len(out) > 0 {
				t.Errorf("promtool: %v\n%s", err, out)
			}
		})
	}
}

// differ says which series are not what they must be.
func differ(got, due map[string]uint64) error {
	var wrong []string
	var names []string
	for _, all := range []map[string]uint64{got, due} {
		for name := range all {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	for _, name := range names {
		value, there := got[name]
		if !there || value != due[name] {
			wrong = append(wrong, fmt.Sprintf("%s is %d (there: %v), want %d", name, value, there, due[name]))
		}
	}
	if len(wrong) > 0 {
		return fmt.Errorf("%d of %d series are wrong:\n%s", len(wrong), len(names), strings.Join(wrong, "\n"))
	}
	return nil
}
