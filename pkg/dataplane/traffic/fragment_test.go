package traffic

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/privlink/privlink/pkg/dataplane"
	"github.com/privlink/privlink/pkg/lab"
	"golang.org/x/sys/unix"
)

func TestFragments_LargeDatagramsBothWays_ArriveWhole(t *testing.T) {
	eachMode(t, func(t *testing.T, o rigOptions) {
		r := newRig(t, o)
		r.backend.EchoServer(backendIP + ":7")
		s := r.consumers[0].Sequence(r.context(20*time.Second), endpointIP+":7", lab.SequenceOptions{Interval: 5 * time.Millisecond, Size: 60000})
		r.Wait("a hundred echoes of 60 kB", 15*time.Second, func() error {
			if s.Len() < 100 {
				return fmt.Errorf("%d echoes of %d sent", s.Len(), len(s.Sent()))
			}
			return nil
		})
	})
}

// equalIDs are the cases of datagrams with equal ids: with a UDP checksum and without, through TC alone and
// with XDP in front of it.
func equalIDs(t *testing.T, test func(t *testing.T, o rigOptions, checksum bool)) {
	for _, mode := range modes {
		for _, checksum := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s checksum %v", mode, checksum), func(t *testing.T) {
				o := rigOptions{consumer: mode, provider: mode}
				if mode == dataplane.ModeXDP {
					o.wire = wire()
				}
				test(t, o, checksum)
			})
		}
	}
}

// Two consumers behind one NAT IP send datagrams in two fragments with equal IP ids, interleaved. The
// backend must see each whole, never one with the other's bytes.
func TestFragments_TwoConsumersEqualIDsInterleaved_NeverMixed(t *testing.T) {
	equalIDs(t, func(t *testing.T, o rigOptions, checksum bool) {
		o.consumers = 2
		r := newRig(t, o)
		at := receive(r, r.backend, backendIP+":9")
		// one backend port for both, so that only the address and the id tell their fragments apart
		asked := fragmented{src: clientIP, dst: endpointIP, sport: 5000, dport: 9, size: 2000, split: 1200, checksum: checksum}
		a, b := asked.sentBy(r.consumers[0], r.gw.MAC("c1")), asked.sentBy(r.consumers[1], r.gw.MAC("c2"))
		interleave(r, a, b)
		at.wait(map[byte]int{'A': interleaved, 'B': interleaved})
	})
}

// The same the other way: two backends of one endpoint answer one client with equal IP ids.
func TestFragments_TwoBackendsEqualIDsInterleaved_NeverMixed(t *testing.T) {
	equalIDs(t, func(t *testing.T, o rigOptions, checksum bool) {
		const otherIP = "10.0.0.5"
		r := newRig(t, o)
		other := r.VM(r.gw, "web2", otherIP+"/16", o.wire)
		provider := &r.state.Networks[0]
		provider.Attachments = append(provider.Attachments, dataplane.Attachment{Interface: "web2", Mode: o.provider})
		r.state.Pools = append(r.state.Pools, dataplane.Pool{Key: "other pool", Members: []netip.Addr{mustAddr(otherIP)}})
		set := &r.state.RuleSets[0]
		second := set.Rules[0]
		second.Key, second.Protocol, second.Port = "other", dataplane.ProtocolUDP, 10
		second.Targets = []dataplane.Target{{Pool: "other pool", Addr: mustAddr(otherIP), Weight: 1, Healthy: true}}
		set.Rules = append(set.Rules, second)
		r.apply()
		at := receive(r, r.consumers[0], clientIP+":5000")
		a := at.openedTo(r.backend, backendIP+":9", endpointIP+":9")
		b := at.openedTo(other, otherIP+":10", endpointIP+":10")
		answers := func(n *lab.Namespace, src string, sport uint16, nat netip.AddrPort, iface string) sender {
			return fragmented{src: src, dst: nat.Addr().String(), sport: sport, dport: nat.Port(), size: 2000, split: 1200, checksum: checksum}.
				sentBy(n, r.gw.MAC(iface))
		}
		interleave(r, answers(r.backend, backendIP, 9, a, "web"), answers(other, otherIP, 10, b, "web2"))
		at.wait(map[byte]int{'A': interleaved, 'B': interleaved})
	})
}

// A consumer sends first fragments without the others, more than there are IP ids, behind the NAT IP of a
// consumer whose datagrams come in two fragments. What the first leaves lying at the backend must not become
// part of the second's datagrams, and each of these must arrive.
func TestFragments_FloodOfLoneFirstFragments_OthersArriveWhole(t *testing.T) {
	equalIDs(t, func(t *testing.T, o rigOptions, checksum bool) {
		const (
			datagrams = 700
			flood     = 100 // between the two fragments of a datagram
		)
		if datagrams*flood < 1<<16 {
			t.Fatal("not more than there are ids")
		}
		o.consumers = 2
		r := newRig(t, o)
		// What never becomes whole stays at the backend for 30 s, and must find room beside what does. Linux
		// also gives up a datagram when 64 fragments of others came in between from the same address, which
		// a NAT IP is for many: that is the backend's to set.
		r.backend.Sysctl("net/ipv4/ipfrag_high_thresh", strconv.Itoa(64<<20))
		r.backend.Sysctl("net/ipv4/ipfrag_max_dist", "0")
		at := receive(r, r.backend, backendIP+":9")
		// Equal in size, so that anybody's second fragment would complete anybody's first.
		f := fragmented{src: clientIP, dst: endpointIP, sport: 5000, dport: 9, size: 200, split: 64, checksum: checksum}
		attacker, victim := f.sentBy(r.consumers[0], r.gw.MAC("c1")), f.sentBy(r.consumers[1], r.gw.MAC("c2"))
		id := uint16(0)
		for n := range datagrams {
			parts := victim.datagram(r, byte(n), uint16(n*91))
			victim.inject(r, parts[0])
			lone := make([][]byte, flood)
			for i := range lone {
				lone[i] = attacker.datagram(r, 'X', id)[0]
				id++
			}
			attacker.inject(r, lone...)
			victim.inject(r, parts[1])
		}
		want := map[byte]int{}
		for n := range datagrams {
			want[byte(n)]++
		}
		at.wait(want)
		if n := reasonCount(r, "fragment_ids"); n < datagrams*flood/2 {
			t.Errorf("the flood did not come to the limit of incomplete datagrams: %d met it", n)
		}
	})
}

// interleaved is how many datagrams each of two senders sends.
const interleaved = 60

// interleave sends datagrams of As and Bs with equal ids: A1 B1 A2 B2.
func interleave(r *rig, a, b sender) {
	r.t.Helper()
	for n := range interleaved {
		as, bs := a.datagram(r, 'A', uint16(n+1)), b.datagram(r, 'B', uint16(n+1))
		for part := range 2 {
			a.inject(r, as[part])
			b.inject(r, bs[part])
		}
	}
}

// receiver takes datagrams of one repeated byte and counts them by it.
type receiver struct {
	r  *rig
	pc net.PacketConn
	mu sync.Mutex
	by map[byte]int
}

// receive begins to. A datagram that is not of one byte is an error.
func receive(r *rig, n *lab.Namespace, address string) *receiver {
	r.t.Helper()
	pc, err := n.ListenPacket("udp4", address)
	if err != nil {
		r.t.Fatal(err)
	}
	// Room for all of a test: what is lost is to be privlink's fault.
	var sized error
	raw, err := pc.(*net.UDPConn).SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) {
			sized = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20)
		})
	}
	if err := errors.Join(err, sized); err != nil {
		r.t.Fatal(err)
	}
	at := &receiver{r: r, pc: pc, by: map[byte]int{}}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buffer := make([]byte, 1<<16)
		for {
			n, _, err := pc.ReadFrom(buffer)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				continue // an ICMP error about what was sent
			}
			data := buffer[:n]
			if n == 0 || !bytes.Equal(data, bytes.Repeat(data[:1], n)) {
				r.t.Errorf("a datagram of %d bytes: %x", n, data)
				continue
			}
			at.mu.Lock()
			at.by[data[0]]++
			at.mu.Unlock()
		}
	}()
	r.t.Cleanup(func() { pc.Close(); <-done })
	return at
}

// openedTo opens the flow from the receiver to a backend, and returns what the backend sees it as.
func (at *receiver) openedTo(backend *lab.Namespace, listen, endpoint string) netip.AddrPort {
	at.r.t.Helper()
	pc, err := backend.ListenPacket("udp4", listen)
	if err != nil {
		at.r.t.Fatal(err)
	}
	at.r.t.Cleanup(func() { pc.Close() })
	if _, err := at.pc.WriteTo([]byte("?"), net.UDPAddrFromAddrPort(netip.MustParseAddrPort(endpoint))); err != nil {
		at.r.t.Fatal(err)
	}
	if err := pc.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		at.r.t.Fatal(err)
	}
	_, from, err := pc.ReadFrom(make([]byte, 16))
	if err != nil {
		at.r.t.Fatal(err)
	}
	return from.(*net.UDPAddr).AddrPort()
}

// wait waits for as many datagrams of each byte, and no others.
func (at *receiver) wait(want map[byte]int) {
	at.r.t.Helper()
	at.r.Wait("all datagrams", 5*time.Second, func() error {
		at.mu.Lock()
		defer at.mu.Unlock()
		if !maps.Equal(at.by, want) {
			return fmt.Errorf("%v, want %v", at.by, want)
		}
		return nil
	})
}

// fragmented is a kind of datagram that is sent in two fragments.
type fragmented struct {
	src, dst     string
	sport, dport uint16
	size, split  int // of the payload; bytes of UDP in the first fragment
	checksum     bool
}

// sender sends them from a namespace's eth0.
type sender struct {
	fragmented
	eth  layers.Ethernet
	wire *lab.Injector
}

func (f fragmented) sentBy(from *lab.Namespace, gateway net.HardwareAddr) sender {
	return sender{f, layers.Ethernet{SrcMAC: from.MAC("eth0"), DstMAC: gateway, EthernetType: layers.EthernetTypeIPv4}, from.Injector("eth0")}
}

func (s sender) inject(r *rig, frames ...[]byte) {
	r.t.Helper()
	if err := s.wire.Send(frames...); err != nil {
		r.t.Fatal(err)
	}
}

// datagram makes one, of one repeated byte, as two frames.
func (s sender) datagram(r *rig, fill byte, id uint16) (parts [2][]byte) {
	r.t.Helper()
	ip := &layers.IPv4{Version: 4, IHL: 5, TTL: 64, Protocol: layers.IPProtocolUDP, Id: id,
		SrcIP: net.ParseIP(s.src).To4(), DstIP: net.ParseIP(s.dst).To4()}
	udp := &layers.UDP{SrcPort: layers.UDPPort(s.sport), DstPort: layers.UDPPort(s.dport)}
	if err := udp.SetNetworkLayerForChecksum(ip); err != nil {
		r.t.Fatal(err)
	}
	options := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	whole := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(whole, options, udp, gopacket.Payload(bytes.Repeat([]byte{fill}, s.size))); err != nil {
		r.t.Fatal(err)
	}
	datagram := whole.Bytes()
	if !s.checksum {
		binary.BigEndian.PutUint16(datagram[6:], 0)
	}
	for n, part := range [][]byte{datagram[:s.split], datagram[s.split:]} {
		head := *ip
		if n == 0 {
			head.Flags = layers.IPv4MoreFragments
		} else {
			head.FragOffset = uint16(s.split / 8)
		}
		frame := gopacket.NewSerializeBuffer()
		if err := gopacket.SerializeLayers(frame, options, &s.eth, &head, gopacket.Payload(part)); err != nil {
			r.t.Fatal(err)
		}
		parts[n] = bytes.Clone(frame.Bytes())
	}
	return parts
}
