package faults

import (
	"encoding/binary"
	"encoding/gob"
	"errors"
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

// What others keep of what they have while the attacker's processor is just as busy with something else.
const (
	leastRate   = 0.90 // of their throughput, in the median of the rounds
	leastOpened = 0.99 // of their new connections
	calmLeast   = 0.95 // of the connections asked for, without an attack
)

// A round is one of the control and one of the attack, side by side in time and in changing order. The median of so
// many is judged; if it is below the limit, that of more, and that is final: others on this machine may take their part
// of some rounds, but not of half of them.
const (
	fewRounds  = 7
	mostRounds = 25
	idleRounds = 3 // with nothing at all on the attacker's processor, to show beside it
	leastFlood = 10_000
)

// Processors: of who is attacked with its server, and of the attacker. This process, which sweeps and watches, is on
// the attacker's, too.
const (
	victimCPU   = 0
	attackerCPU = 1
)

// A hostile consumer sends at full rate from one processor; another consumer keeps what it does on the other one.
// It needs both to itself, so it runs only where FAULTS_ALONE says that nothing else does: make check-hostile.
//
// It is compared with the same frames sent at full rate into a veth that privlink knows nothing of: a processor whose
// neighbour idles is faster than one whose neighbour works, whatever the neighbour does.
func TestHostile_FullRate_OthersKeepTheirShare(t *testing.T) {
	if os.Getenv("FAULTS_ALONE") == "" {
		t.Skip("needs two processors to itself: make check-hostile")
	}
	bind(t, attackerCPU)
	for _, mode := range []dataplane.Mode{dataplane.ModeTC, dataplane.ModeXDP} {
		for _, kind := range floods {
			t.Run(fmt.Sprintf("%s/%s", mode, kind.name), func(t *testing.T) { fullRate(t, mode, kind.build) })
		}
	}
}

func fullRate(t *testing.T, mode dataplane.Mode, build func(*attack)) {
	o := rigOptions{consumers: 2, pairs: 1 << 16, mode: mode}
	if mode == dataplane.ModeXDP {
		o.wire = wire()
	}
	r := newRig(t, o)
	const sinkIP = "10.0.0.5"
	r.VM(r.gw, "sink", sinkIP+"/16", o.wire)
	r.state.Networks = append(r.state.Networks, dataplane.Network{Key: "sink", Prefixes: r.state.Networks[0].Prefixes,
		Attachments: []dataplane.Attachment{{Interface: "sink", Mode: mode}}})
	own := r.state.RuleSets[0]
	own.Key, own.Network = "own", "sink"
	own.Rules = slices.Clone(own.Rules)
	own.Rules[0].Targets = []dataplane.Target{{Pool: "sink", Addr: netip.MustParseAddr(sinkIP), Weight: 1, Healthy: true}}
	r.state.RuleSets = append(r.state.RuleSets, own)
	r.state.Links[0].RuleSet = "own"
	r.open()
	defer neighbour(t, r.backend, victimCPU, "server", backendIP).Kill()
	socket := r.Path("client")
	defer neighbour(t, r.consumers[1], victimCPU, "client", socket, address(endpointIP, portSink), address(endpointIP, portOne)).Kill()

	a := &attack{own: r.consumers[0].MAC("eth0"), gateway: r.gw.MAC("c1")}
	build(a)
	file, err := os.Create(r.Path("frames"))
	if err != nil {
		t.Fatal(err)
	}
	if err := gob.NewEncoder(file).Encode(a.frames); err != nil {
		t.Fatal(err)
	}
	file.Close()
	elsewhere := r.Namespace("elsewhere")
	beside := r.VM(elsewhere, "beside", clientIP+"/16", o.wire)
	attacker := flood(t, r.consumers[0], r.gw, "c1", "attacker", file.Name())
	control := flood(t, beside, elsewhere, "beside", "attacker", file.Name())
	shares(t, side{socket, attacker}, side{socket, control}, leastFlood)
}

// bind keeps this process on one processor until the test ends. New threads are where the old ones are.
func bind(t *testing.T, cpu int) {
	t.Helper()
	var before, only unix.CPUSet
	only.Set(cpu)
	set := func(to *unix.CPUSet) {
		tasks, err := os.ReadDir("/proc/self/task")
		if err != nil {
			t.Fatal(err)
		}
		for _, task := range tasks {
			id, err := strconv.Atoi(task.Name())
			if err != nil {
				t.Fatal(err)
			}
			if err := unix.SchedSetaffinity(id, to); err != nil && !errors.Is(err, unix.ESRCH) {
				t.Fatal(err)
			}
		}
	}
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		t.Fatal(err)
	}
	set(&only)
	set(&only) // threads that an unbound one has made meanwhile
	t.Cleanup(func() { set(&before) })
}

// flooder is a process that sends frames at full rate when it is told to.
type flooder struct {
	process *lab.Process
	far     *lab.Namespace // where its frames arrive
	name    string
}

// flood starts one in a namespace, stopped until its first round; its frames arrive at an interface of another one.
func flood(t *testing.T, n, far *lab.Namespace, name, role string, args ...string) *flooder {
	t.Helper()
	f := &flooder{process: neighbour(t, n, attackerCPU, role, args...), far: far, name: name}
	t.Cleanup(f.process.Kill)
	f.signal(t, unix.SIGSTOP)
	return f
}

func (f *flooder) signal(t *testing.T, s unix.Signal) {
	t.Helper()
	if err := f.process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

func (f *flooder) received(t *testing.T) uint64 {
	t.Helper()
	l, err := f.far.Netlink().LinkByName(f.name)
	if err != nil {
		t.Fatal(err)
	}
	return l.Attrs().Statistics.RxPackets
}

// side is who is measured, and who sends meanwhile; nil = nobody.
type side struct {
	socket string // of the client
	beside *flooder
}

// tally is what the other consumer got in the rounds of one kind, and how many frames arrived meanwhile.
type tally struct {
	rates          []float64
	opened, rounds int
	frames         uint64
}

func (s *tally) asked() int { return s.rounds * connections }

// during does a round of the other consumer's while somebody sends.
func (s *tally) during(t *testing.T, of side) {
	t.Helper()
	f := of.beside
	var before uint64
	if f != nil {
		f.signal(t, unix.SIGCONT)
		before = f.received(t)
	}
	got := ask(t, of.socket)
	if f != nil {
		s.frames += f.received(t) - before
		f.signal(t, unix.SIGSTOP)
	}
	s.rates, s.opened, s.rounds = append(s.rates, got.Rate), s.opened+got.Opened, s.rounds+1
}

// shares compares rounds under attack with rounds in which the attacker's processor is as busy elsewhere; in each
// round at least so many frames arrive. It returns the control's throughput.
func shares(t *testing.T, attack, control side, least uint64) (rate float64) {
	t.Helper()
	var idle, busy, attacked tally
	for range idleRounds {
		idle.during(t, side{control.socket, nil})
	}
	var ratios []float64
	for len(ratios) < mostRounds {
		if len(ratios)%2 == 0 {
			busy.during(t, control)
			attacked.during(t, attack)
		} else {
			attacked.during(t, attack)
			busy.during(t, control)
		}
		ratios = append(ratios, attacked.rates[len(ratios)]/busy.rates[len(ratios)])
		if len(ratios) == fewRounds && median(ratios) >= leastRate {
			break
		}
	}
	share := median(ratios)
	t.Logf("%d rounds: %.3f of throughput (%.3f to %.3f), %d of %d connections, under %d frames; elsewhere %d; beside an idle processor %.3f of %.0f MB/s",
		len(ratios), share, slices.Min(ratios), slices.Max(ratios), attacked.opened, attacked.asked(), attacked.frames, busy.frames,
		median(attacked.rates)/median(idle.rates), median(idle.rates)/1e6)
	for what, s := range map[string]*tally{"attack": &attacked, "control": &busy} {
		if s.frames < uint64(s.rounds)*least {
			t.Errorf("that was no %s: %d frames", what, s.frames)
		}
	}
	for what, s := range map[string]*tally{"beside an idle processor": &idle, "beside a busy one": &busy} {
		if float64(s.opened) < calmLeast*float64(s.asked()) {
			t.Errorf("%s only %d of %d connections came about: nothing to compare with", what, s.opened, s.asked())
		}
	}
	if share < leastRate {
		t.Errorf("the other consumer keeps %.3f of its throughput, less than %.2f: %.3f", share, leastRate, ratios)
	}
	if float64(attacked.opened) < leastOpened*float64(busy.opened) {
		t.Errorf("the other consumer keeps %d of %d new connections", attacked.opened, busy.opened)
	}
	return median(busy.rates)
}

func address(ip string, port int) string { return fmt.Sprintf("%s:%d", ip, port) }

func median(list []float64) float64 {
	sorted := slices.Sorted(slices.Values(list))
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
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

// many flows: more than the quota.
const many = 20_000

func (a *attack) syn(src string, sport, dport int) {
	ip := ipv4(src, endpointIP, layers.IPProtocolTCP)
	tcp := &layers.TCP{SrcPort: layers.TCPPort(sport), DstPort: layers.TCPPort(dport), SYN: true, Seq: 1, Window: 1000}
	_ = tcp.SetNetworkLayerForChecksum(ip)
	a.add(a.eth(layers.EthernetTypeIPv4), ip, tcp)
}

func (a *attack) udp(src string, sport, dport, size int) {
	ip := ipv4(src, endpointIP, layers.IPProtocolUDP)
	udp := &layers.UDP{SrcPort: layers.UDPPort(sport), DstPort: layers.UDPPort(dport)}
	_ = udp.SetNetworkLayerForChecksum(ip)
	a.add(a.eth(layers.EthernetTypeIPv4), ip, udp, gopacket.Payload(make([]byte, size)))
}

// floods are the kinds of attack, each as frames to be sent over and over.
var floods = []struct {
	name  string
	build func(*attack)
}{
	{"SYN flood", func(a *attack) {
		for i := range many {
			a.syn(clientIP, 1024+i, 80)
		}
	}},
	{"UDP flood", func(a *attack) {
		for i := range 64 {
			a.udp(clientIP, 5000+i, 53, 1400)
		}
	}},
	{"port exhaustion", func(a *attack) {
		for i := range many {
			a.udp(clientIP, 1024+i, 53, 16)
		}
	}},
	{"flow table exhaustion", func(a *attack) {
		for i := range many {
			a.syn(fmt.Sprintf("10.0.%d.%d", 128+i%100, 1+i/100), 1024+i, 1+i%60_000)
		}
	}},
	{"fragments", func(a *attack) {
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
	}},
	{"forged ICMP errors", func(a *attack) {
		for i := range 2000 {
			a.quote(backendIP, natIP, ipv4(natIP, backendIP, layers.IPProtocolTCP), uint16(1024+i), portSink)
			a.quote(clientIP, endpointIP, ipv4(endpointIP, clientIP, layers.IPProtocolTCP), portSink, uint16(1024+i))
		}
	}},
	{"ARP spoofing", func(a *attack) {
		for i := range 250 {
			for _, address := range []string{endpointIP, natIP, backendIP, fmt.Sprintf("10.0.3.%d", i)} {
				a.arp(uint16(1+i%2), net.HardwareAddr{2, 0, 0, 0, 1, byte(i)}, address, endpointIP)
			}
		}
	}},
	{"forged sources and addresses", func(a *attack) {
		for _, dst := range []string{backendIP, natIP, endpointIP, "10.0.1.77", "100.64.0.1"} {
			for _, src := range []string{clientIP, backendIP, natIP, "127.0.0.1"} {
				a.all(a.eth(layers.EthernetTypeIPv4), src, dst, portSink, portOne)
			}
		}
		a.ipv6()
		a.tagged(a.frames[:100])
	}},
}
