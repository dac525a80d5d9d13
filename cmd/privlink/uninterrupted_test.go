package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/lab"
	"github.com/privlink/privlink/pkg/lab/load"
)

// busyGateway is `privlink run` under the traffic of real programs, of which nothing may be lost: iperf3, curl after
// curl from nginx, and load's datagrams with numbers and checked connections.
//
// Lost is what one VM sent and the other did not get, counted by the kernels of both, to the packet. How often TCP sent
// again is told, and counts as sending: it does so, too, for what was late, overtaken, or not wanted by a socket while the
// machine's memory for TCP was used up by others.
type busyGateway struct {
	*lab.Daemon
	t       *testing.T
	lab     *lab.Lab
	vm, web *lab.Namespace
	load    *load.Client
	iperf   *lab.Process
	curls   *downloads
	before  balance
}

const (
	busyEndpoint = "10.0.1.10"
	busyFile     = 256 << 10 // bytes of a download
)

// newBusyGateway returns when all of the traffic flows.
func newBusyGateway(t *testing.T, mode, binary string, l *lab.Lab) *busyGateway {
	t.Helper()
	ctx, gw, o := t.Context(), l.Namespace("gateway"), lab.VethOptions{}
	if mode == "xdp" {
		o = wire("")
		o.B.Queue = true // as a NIC has one: what does not fit the peer's ring waits
	}
	g := &busyGateway{t: t, lab: l, web: l.VM(gw, "web", "10.0.0.4/16", o), vm: l.VM(gw, "vm", "10.0.1.4/16", o)}
	for _, n := range []*lab.Namespace{g.web, g.vm} {
		// What all connections have under way together is less than the 256 places of a veth's ring behind XDP, which has no queue.
		n.Sysctl("net.ipv4.tcp_wmem", "4096 65536 65536")
	}
	if err := load.Serve(g.web, "10.0.0.4"); err != nil {
		t.Fatal(err)
	}
	g.web.Nginx(ctx, lab.NginxOptions{Listen: []string{"10.0.0.4:80"}, Sparse: map[string]int64{"file": busyFile}})
	g.web.Iperf3(ctx, "10.0.0.4:5201")
	g.Daemon = gw.Daemon(ctx, lab.DaemonOptions{Binary: binary})
	for _, line := range []string{
		"vnet create provider --prefix 10.0.0.0/16 --interface web --mode " + mode,
		"lb create web --vnet provider --rule all:0 --backend 10.0.0.4",
		"service create shop --lb web --nat-ip-count 1 --visibility * --auto-approval *",
		"vnet create consumer --prefix 10.0.0.0/16 --interface vm --mode " + mode,
		"endpoint create to-shop --vnet consumer --ip " + busyEndpoint + " --service " + defaultService("shop"),
	} {
		mustRun(t, g.Daemon, line)
	}
	l.Wait("nginx to answer", 20*time.Second, func() error { return download(ctx, g.vm) })
	g.before = g.settledBalance()
	var err error
	if g.load, err = load.Start(ctx, g.vm, busyEndpoint, load.Options{Bulk: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	// Less than the machine could: what its own queues drop is no loss of the gateway's.
	g.iperf = g.vm.Start(ctx, "iperf3", "--client", busyEndpoint, "--time", "0", "--bitrate", "100M", "--interval", "0", "--json")
	g.curls = downloadOn(g.vm)
	t.Cleanup(func() { g.curls.end() })
	g.more(3)
	return g
}

// balance is what is missing of the packets that the VMs sent each other, in each direction, how many that were, and how often
// TCP sent again.
type balance struct{ toWeb, toVM, sent, again int }

// settledBalance is the balance while nothing is under way.
func (g *busyGateway) settledBalance() (b balance) {
	g.t.Helper()
	g.lab.Wait("the network to be quiet", 20*time.Second, func() error {
		vm, web := g.counters(g.vm), g.counters(g.web)
		b = balance{toWeb: vm.sent - web.arrived, toVM: web.sent - vm.arrived, sent: vm.sent + web.sent, again: vm.again + web.again}
		time.Sleep(50 * time.Millisecond)
		if vm != g.counters(g.vm) || web != g.counters(g.web) {
			return errors.New("packets are under way")
		}
		return nil
	})
	return b
}

// counters are a VM's counts of IP packets, before segments are merged and as they are after they were divided.
type counters struct{ sent, arrived, again int }

func (g *busyGateway) counters(n *lab.Namespace) counters {
	g.t.Helper()
	out, err := n.Run(g.t.Context(), "nstat", "--json", "--ignore", "--noupdate", "--zeros")
	if err != nil {
		g.t.Fatal(err)
	}
	var all struct{ Kernel map[string]int }
	if err := json.Unmarshal([]byte(out), &all); err != nil {
		g.t.Fatalf("nstat: %v\n%s", err, out)
	}
	sum := func(names ...string) (sum int) {
		for _, name := range names {
			count, ok := all.Kernel[name]
			if !ok {
				g.t.Fatalf("nstat does not say %s: %s", name, out)
			}
			sum += count
		}
		return sum
	}
	return counters{
		sent:    sum("TcpOutSegs", "TcpRetransSegs", "UdpOutDatagrams", "IcmpOutMsgs"),
		arrived: sum("IpExtInNoECTPkts", "IpExtInECT0Pkts", "IpExtInECT1Pkts", "IpExtInCEPkts"),
		again:   sum("TcpRetransSegs"),
	}
}

// more waits until so many more of the load's connections and of the downloads have come to their end: traffic has met
// whatever happened before.
func (g *busyGateway) more(n int) {
	g.t.Helper()
	moreLoad(g.lab, g.load, n)
	want := g.curls.count() + n
	g.lab.Wait("downloads", 30*time.Second, func() error {
		if have := g.curls.count(); have < want {
			return fmt.Errorf("%d of %d", have, want)
		}
		return nil
	})
}

// wantNothingLost ends all of the traffic, and says how much it was and that it lacks nothing.
func (g *busyGateway) wantNothingLost() {
	t := g.t
	t.Helper()
	wantNothingLost(t, g.load)
	if count, broken := g.curls.end(); len(broken) > 0 {
		t.Errorf("%d of %d downloads broke, the first: %v", len(broken), count, broken[0])
	} else {
		t.Logf("%d downloads of %d bytes checked, 0 broken", count, busyFile)
	}
	if err := g.iperf.Signal(unix.SIGTERM); err != nil {
		t.Fatalf("iperf3: %v\n%s", err, g.iperf.Output())
	}
	// Told to end, it fails with its report.
	var exit *exec.ExitError
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := g.iperf.Wait(ctx); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	var report struct {
		End struct {
			Sent struct {
				Bytes, Retransmits int64
				Seconds            float64
			} `json:"sum_sent"`
		}
		Error string
	}
	if err := json.Unmarshal([]byte(g.iperf.Output()), &report); err != nil {
		t.Fatalf("iperf3: %v\n%s", err, g.iperf.Output())
	}
	sent := report.End.Sent
	if report.Error != "interrupt - the client has terminated" || sent.Bytes == 0 {
		t.Errorf("iperf3 was disturbed: %s", g.iperf.Output())
	}
	now := g.settledBalance()
	t.Logf("iperf3 sent %d MB in %.0f s, %d retransmits; of all programs' %d", sent.Bytes/1e6, sent.Seconds, sent.Retransmits, now.again-g.before.again)
	lost := [...]int{now.toWeb - g.before.toWeb, now.toVM - g.before.toVM}
	t.Logf("%d packets sent, %d lost to the server, %d lost to the client", now.sent-g.before.sent, lost[0], lost[1])
	if lost != [2]int{} {
		t.Error("what was sent did not arrive")
	}
}

// downloads are curl's, one after the other.
type downloads struct {
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu     sync.Mutex
	ended  int
	broken []error
}

// downloadOn begins to download.
func downloadOn(n *lab.Namespace) *downloads {
	ctx, cancel := context.WithCancel(context.Background())
	d := &downloads{cancel: cancel}
	d.done.Go(func() {
		for ctx.Err() == nil {
			err := download(context.Background(), n) // what began is brought to its end
			d.mu.Lock()
			d.ended++
			if err != nil {
				d.broken = append(d.broken, err)
			}
			d.mu.Unlock()
		}
	})
	return d
}

func (d *downloads) count() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ended
}

// end ends them in order and says how many there were, and what broke.
func (d *downloads) end() (count int, broken []error) {
	d.cancel()
	d.done.Wait()
	return d.ended, d.broken
}

// download gets the file once, whole.
func download(ctx context.Context, n *lab.Namespace) error {
	out, err := n.Run(ctx, "curl", "--silent", "--show-error", "--fail", "--max-time", "60", "--output", "/dev/null", "--write-out", "%{size_download}",
		"http://"+busyEndpoint+"/file")
	if err == nil && out != strconv.Itoa(busyFile) {
		err = fmt.Errorf("curl got %s bytes of %d", out, busyFile)
	}
	return err
}

// eachBusyGateway runs a test for each way to be attached, with its part of so many repetitions: all of them together are as
// many as asked for, or one more.
func eachBusyGateway(t *testing.T, variable string, usual int, test func(t *testing.T, g *busyGateway, times int)) {
	t.Helper()
	modes := []string{"tc", "xdp"}
	times := lab.Times(t, variable, usual)
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) {
			l := lab.New(t)
			test(t, newBusyGateway(t, mode, l.Build(t.Context(), "./cmd/privlink"), l), (times+len(modes)-1)/len(modes))
		})
	}
}

func TestRestart_KilledManyTimes_NothingLost(t *testing.T) {
	eachBusyGateway(t, "FAULTS_KILLS", 100, func(t *testing.T, g *busyGateway, times int) {
		var took []time.Duration
		for range times {
			before := attachedPrograms(t, g.BPFFS)
			g.Kill()
			g.more(1)
			begin := time.Now()
			g.Start(t.Context())
			took = append(took, time.Since(begin))
			wantReplaced(t, before, attachedPrograms(t, g.BPFFS))
		}
		g.more(3)
		slices.Sort(took)
		t.Logf("%d kills; the next daemon took requests after %v in the median, %v at worst", times, took[times/2].Round(time.Millisecond), took[times-1].Round(time.Millisecond))
		g.wantNothingLost()
	})
}

func TestUpgrade_ManyTimes_OtherVersionRunsAndNothingLost(t *testing.T) {
	eachBusyGateway(t, "FAULTS_UPGRADES", 20, func(t *testing.T, g *busyGateway, times int) {
		next := []string{g.lab.BuildVersion(t.Context(), "./cmd/privlink", "next"), g.Binary}
		for i := range times {
			before, version := attachedPrograms(t, g.BPFFS), g.version()
			g.Stop()
			g.Binary = next[i%len(next)]
			g.Start(t.Context())
			wantReplaced(t, before, attachedPrograms(t, g.BPFFS))
			if now := g.version(); now == version {
				t.Errorf("version %s runs again", now)
			}
			g.more(1)
		}
		t.Logf("%d upgrades", times)
		g.wantNothingLost()
	})
}

// version is what the running daemon says it is.
func (g *busyGateway) version() string {
	g.t.Helper()
	out, err := g.CLI(g.t.Context(), "status", "-o", "json")
	var s api.Status
	if err == nil {
		err = json.Unmarshal([]byte(out), &s)
	}
	if err != nil {
		g.t.Fatalf("status: %v\n%s", err, out)
	}
	return s.Version
}
