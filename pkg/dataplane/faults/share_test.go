package faults

import (
	"encoding/binary"
	"encoding/gob"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"

	"github.com/privlink/privlink/pkg/dataplane"
	"github.com/privlink/privlink/pkg/lab"
)

func taskset(t *testing.T, cpu int, args []string) *exec.Cmd {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return exec.Command("taskset", append([]string{"-c", strconv.Itoa(cpu), self}, args...)...)
}

// What others keep of what they have without an attack.
const (
	leastRate   = 0.90 // of their throughput, best round against best round
	leastOpened = 0.99 // of their new connections
	calmLeast   = 0.95 // of the connections asked for, without an attack
)

// Rounds with and without the attack, one after the other: at least and, as long as others on this machine take
// their part of the rounds, at most.
const (
	fewRounds  = 4
	mostRounds = 24
)

// A hostile consumer sends at full rate from one processor; another consumer keeps what it does on the other one.
// It needs both to itself, so it runs only where FAULTS_ALONE says that nothing else does: make check-hostile.
func TestHostile_FullRate_OthersKeepTheirShare(t *testing.T) {
	if os.Getenv("FAULTS_ALONE") == "" {
		t.Skip("needs two processors to itself: make check-hostile")
	}
	r := newRig(t, rigOptions{consumers: 2, pairs: 1 << 16})
	const sinkIP = "10.0.0.5"
	r.VM(r.gw, "sink", sinkIP+"/16", lab.VethOptions{})
	r.state.Networks = append(r.state.Networks, dataplane.Network{Key: "sink", Prefixes: r.state.Networks[0].Prefixes,
		Attachments: []dataplane.Attachment{{Interface: "sink", Mode: dataplane.ModeTC}}})
	own := r.state.RuleSets[0]
	own.Key, own.Network = "own", "sink"
	own.Rules = slices.Clone(own.Rules)
	own.Rules[0].Targets = []dataplane.Target{{Pool: "sink", Addr: netip.MustParseAddr(sinkIP), Weight: 1, Healthy: true}}
	r.state.RuleSets = append(r.state.RuleSets, own)
	r.state.Links[0].RuleSet = "own"
	r.open()
	other := r.neighbour(r.backend, 0, "server", backendIP)
	defer other.Kill()
	socket := r.Path("client")
	defer r.neighbour(r.consumers[1], 0, "client", socket, endpointIP).Kill()

	kinds := r.floods()
	for name, frames := range kinds {
		t.Run(name, func(t *testing.T) {
			file, err := os.Create(r.Path("frames"))
			if err != nil {
				t.Fatal(err)
			}
			if err := gob.NewEncoder(file).Encode(frames); err != nil {
				t.Fatal(err)
			}
			file.Close()
			attacker := r.neighbour(r.consumers[0], 1, "attacker", file.Name())
			defer attacker.Kill()
			r.shares(t, socket, attacker)
		})
	}
}

// shares compares rounds under attack with rounds without.
func (r *rig) shares(t *testing.T, socket string, attacker *lab.Process) {
	var calm, attacked share
	var calmOpened, attackedOpened, rounds int
	var frames uint64
	for rounds < mostRounds {
		if err := attacker.Signal(unix.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		s := ask(t, socket)
		calm.Rate, calmOpened = max(calm.Rate, s.Rate), calmOpened+s.Opened
		if err := attacker.Signal(unix.SIGCONT); err != nil {
			t.Fatal(err)
		}
		before := r.received("c1")
		s = ask(t, socket)
		frames += r.received("c1") - before
		attacked.Rate, attackedOpened = max(attacked.Rate, s.Rate), attackedOpened+s.Opened
		rounds++
		if rounds >= fewRounds && attacked.Rate >= leastRate*calm.Rate {
			break
		}
	}
	t.Logf("%d rounds: %.0f of %.0f MB/s (%.3f), %d of %d connections (%.3f), under %d frames", rounds, attacked.Rate/1e6, calm.Rate/1e6,
		attacked.Rate/calm.Rate, attackedOpened, calmOpened, float64(attackedOpened)/float64(calmOpened), frames)
	if frames < uint64(rounds)*10_000 {
		t.Errorf("that was no attack: %d frames", frames)
	}
	// Right after an attack some of its frames are still under way.
	if float64(calmOpened) < calmLeast*float64(rounds*connections) {
		t.Errorf("without attack only %d of %d connections came about: nothing to compare with", calmOpened, rounds*connections)
	}
	if attacked.Rate < leastRate*calm.Rate {
		t.Errorf("the other consumer keeps %.3f of its throughput, less than %.2f", attacked.Rate/calm.Rate, leastRate)
	}
	if float64(attackedOpened) < leastOpened*float64(calmOpened) {
		t.Errorf("the other consumer keeps %d of %d new connections", attackedOpened, calmOpened)
	}
}

func (r *rig) received(name string) uint64 {
	r.t.Helper()
	l, err := r.gw.Netlink().LinkByName(name)
	if err != nil {
		r.t.Fatal(err)
	}
	return l.Attrs().Statistics.RxPackets
}

func ask(t *testing.T, socket string) (s share) {
	t.Helper()
	c, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := gob.NewDecoder(c).Decode(&s); err != nil {
		t.Fatal(err)
	}
	if s.Err != "" {
		t.Fatal(s.Err)
	}
	return s
}

// floods are the kinds of attack, each as frames to be sent over and over.
func (r *rig) floods() map[string][][]byte {
	kinds := make(map[string][][]byte)
	flood := func(kind string, build func(a *attack)) {
		a := &attack{own: r.consumers[0].MAC("eth0"), gateway: r.gw.MAC("c1")}
		build(a)
		kinds[kind] = a.frames
	}
	const many = 20_000 // flows: more than the quota
	syn := func(a *attack, src string, sport, dport int) {
		ip := ipv4(src, endpointIP, layers.IPProtocolTCP)
		tcp := &layers.TCP{SrcPort: layers.TCPPort(sport), DstPort: layers.TCPPort(dport), SYN: true, Seq: 1, Window: 1000}
		_ = tcp.SetNetworkLayerForChecksum(ip)
		a.add(a.eth(layers.EthernetTypeIPv4), ip, tcp)
	}
	udp := func(a *attack, src string, sport, dport, size int) {
		ip := ipv4(src, endpointIP, layers.IPProtocolUDP)
		udp := &layers.UDP{SrcPort: layers.UDPPort(sport), DstPort: layers.UDPPort(dport)}
		_ = udp.SetNetworkLayerForChecksum(ip)
		a.add(a.eth(layers.EthernetTypeIPv4), ip, udp, gopacket.Payload(make([]byte, size)))
	}
	flood("SYN flood", func(a *attack) {
		for i := range many {
			syn(a, clientIP, 1024+i, 80)
		}
	})
	flood("UDP flood", func(a *attack) {
		for i := range 64 {
			udp(a, clientIP, 5000+i, 53, 1400)
		}
	})
	flood("port exhaustion", func(a *attack) {
		for i := range many {
			udp(a, clientIP, 1024+i, 53, 16)
		}
	})
	flood("flow table exhaustion", func(a *attack) {
		for i := range many {
			syn(a, fmt.Sprintf("10.0.%d.%d", 128+i%100, 1+i/100), 1024+i, 1+i%60_000)
		}
	})
	flood("fragments", func(a *attack) {
		a.fragments(clientIP, endpointIP, 53)
		for i := range many / 4 {
			ip := ipv4(clientIP, endpointIP, layers.IPProtocolUDP)
			ip.Flags, ip.Id = layers.IPv4MoreFragments, uint16(i)
			data := make([]byte, 64)
			binary.BigEndian.PutUint16(data, 5000)
			binary.BigEndian.PutUint16(data[2:], 53)
			binary.BigEndian.PutUint16(data[4:], 1000)
			a.add(a.eth(layers.EthernetTypeIPv4), ip, gopacket.Payload(data))
		}
	})
	flood("forged ICMP errors", func(a *attack) {
		for i := range 2000 {
			a.quote(backendIP, natIP, ipv4(natIP, backendIP, layers.IPProtocolTCP), uint16(1024+i), portSink)
			a.quote(clientIP, endpointIP, ipv4(endpointIP, clientIP, layers.IPProtocolTCP), portSink, uint16(1024+i))
		}
	})
	flood("ARP spoofing", func(a *attack) {
		for i := range 250 {
			for _, address := range []string{endpointIP, natIP, backendIP, fmt.Sprintf("10.0.3.%d", i)} {
				a.arp(uint16(1+i%2), net.HardwareAddr{2, 0, 0, 0, 1, byte(i)}, address, endpointIP)
			}
		}
	})
	flood("forged sources and addresses", func(a *attack) {
		for _, dst := range []string{backendIP, natIP, endpointIP, "10.0.1.77", "100.64.0.1"} {
			for _, src := range []string{clientIP, backendIP, natIP, "127.0.0.1"} {
				a.all(a.eth(layers.EthernetTypeIPv4), src, dst, portSink, portOne)
			}
		}
		a.ipv6()
		a.tagged(a.frames[:100])
	})
	return kinds
}
