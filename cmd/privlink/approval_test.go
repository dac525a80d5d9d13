package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/client"
	"github.com/privlink/privlink/pkg/lab"
)

// What a decision may take from the provider's request until packets show it, worst of approvalRounds each way.
const (
	approvalLimit  = 50 * time.Millisecond
	approvalRounds = 100
)

// From the HTTP request to the first packet that came through and to the last that did, a packet every millisecond:
// API, store, control plane, dataplane, kernel. Every sample counts. A machine that is busy with other things tells
// nothing of privlink, so what it lets others wait is measured beside, by threads that only wake up and only write: where
// one of these waited for more than a fifth of the limit (a decision waits for processor and disk half a dozen times),
// the series is repeated once, with the daemon and this test before all other processes, and the second series is the result.
func TestRun_Approval_PacketsSeeTheDecisionAtOnce(t *testing.T) {
	for _, mode := range []string{"tc", "xdp"} {
		t.Run(mode, func(t *testing.T) {
			r := newApprovalRig(t, mode)
			s := r.measure()
			t.Logf("%v", s)
			if s.worst() > approvalLimit && s.machine > approvalLimit/5 {
				r.ahead()
				s = r.measure()
				t.Logf("the machine was busy; again, before all others: %v", s)
			}
			if s.worst() > approvalLimit {
				t.Errorf("packets did not see every one of %d decisions within %v: %v", 2*approvalRounds, approvalLimit, s)
			}
		})
	}
}

// approvalRig has one connection, and datagrams on their way through it all the time.
type approvalRig struct {
	*lab.Lab
	t          *testing.T
	daemon     *lab.Daemon
	client     *client.Client
	connection api.ID
	echo       *lab.EchoServer
	sequence   *lab.Sequence
}

func newApprovalRig(t *testing.T, mode string) *approvalRig {
	t.Helper()
	l := lab.New(t)
	gw := l.Namespace("gateway")
	web, home := l.VM(gw, "web", "10.0.0.4/16", wire("")), l.VM(gw, "home", "10.0.1.4/16", wire(""))
	r := &approvalRig{Lab: l, t: t, daemon: gw.Daemon(t.Context(), lab.DaemonOptions{Binary: l.Build(t.Context(), "./cmd/privlink")})}
	must := func(line string) string {
		t.Helper()
		out, err := r.daemon.CLI(t.Context(), strings.Fields(line)...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	must("vnet create datacenter --prefix 10.0.0.0/16")
	must("vnet attach datacenter --interface web --mode " + mode)
	must("lb create echo --vnet datacenter --rule udp:7 --backend 10.0.0.4")
	var service api.PrivateLinkService
	read(t, must("service create shop --lb echo --nat-ip-count 1 --visibility * -o json"), &service)
	must("vnet create home --prefix 10.0.0.0/16")
	must("vnet attach home --interface home --mode " + mode)
	must("endpoint create to-shop --vnet home --ip 10.0.1.10 --service " + service.Properties.Alias)
	var connections []api.PrivateEndpointConnection
	read(t, must("connection list -o json"), &connections)
	if len(connections) != 1 {
		t.Fatalf("%d connections", len(connections))
	}
	r.connection = api.IDOf(&service).Sub(api.PrivateEndpointConnections, connections[0].Name)
	var err error
	if r.client, err = client.New(client.Options{Socket: r.daemon.Socket}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.client.Close)
	r.echo = web.EchoServer("10.0.0.4:7")
	r.sequence = home.Sequence(t.Context(), "10.0.1.10:7", lab.SequenceOptions{Interval: time.Millisecond})
	return r
}

// decisionTimes are one series.
type decisionTimes struct {
	approve, reject []time.Duration // sorted
	machine         time.Duration   // the longest that the machine let somebody wait who had nothing to do with privlink
}

func (s decisionTimes) worst() time.Duration {
	return max(s.approve[len(s.approve)-1], s.reject[len(s.reject)-1])
}

func (s decisionTimes) String() string {
	return fmt.Sprintf("approve to first packet: median %v, worst %v; reject to last packet: median %v, worst %v; others waited up to %v",
		s.approve[len(s.approve)/2], s.approve[len(s.approve)-1], s.reject[len(s.reject)/2], s.reject[len(s.reject)-1], s.machine)
}

// measure approves and rejects.
func (r *approvalRig) measure() (s decisionTimes) {
	r.t.Helper()
	stop := r.watchMachine()
	for range approvalRounds {
		begin := r.decide(api.Approved)
		r.Wait("the first echo after an approval", 5*time.Second, func() error {
			a, ok := r.sequence.FirstAfter(begin)
			if !ok {
				return errors.New("no echo")
			}
			s.approve = append(s.approve, a.At.Sub(begin))
			return nil
		})
		begin = r.decide(api.Rejected)
		r.quiet()
		last, _ := r.sequence.Last()
		heard, _ := r.echo.Last()
		s.reject = append(s.reject, max(last.At.Sub(begin), heard.At.Sub(begin)))
	}
	s.machine = stop()
	slices.Sort(s.approve)
	slices.Sort(s.reject)
	return s
}

// decide sends the decision and returns when it began to.
func (r *approvalRig) decide(status api.ConnectionStatus) (begin time.Time) {
	r.t.Helper()
	decision := &api.PrivateEndpointConnection{}
	decision.Name = r.connection.Child
	decision.Properties.PrivateLinkServiceConnectionState = &api.ConnectionState{Status: status}
	begin = time.Now()
	if _, err := r.client.Call(r.t.Context(), http.MethodPut, client.Path(r.connection), nil, nil, decision, nil); err != nil {
		r.t.Fatal(err)
	}
	return begin
}

// quiet waits until twenty more datagrams were sent and none came through.
func (r *approvalRig) quiet() {
	r.t.Helper()
	through := func() int { return r.sequence.Len() + r.echo.Len() }
	sent, before := len(r.sequence.Sent()), through()
	r.Wait("no more packets after a rejection", 5*time.Second, func() error {
		if n := through(); n != before {
			sent, before = len(r.sequence.Sent()), n
		}
		if len(r.sequence.Sent()) < sent+20 {
			return errors.New("too few packets were sent since the last that came through")
		}
		return nil
	})
}

// watchMachine starts the two threads that only wait, for a processor and for the disk that the daemon's store is on;
// stop ends them and tells the longest wait of either.
func (r *approvalRig) watchMachine() (stop func() time.Duration) {
	r.t.Helper()
	page, err := os.Create(r.Path("page"))
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(r.t.Context())
	var ended sync.WaitGroup
	var processor, disk time.Duration
	ended.Go(func() {
		for ctx.Err() == nil {
			due := time.Now().Add(time.Millisecond)
			time.Sleep(time.Millisecond)
			processor = max(processor, time.Since(due))
		}
	})
	ended.Go(func() {
		defer page.Close()
		for ; ctx.Err() == nil; time.Sleep(20 * time.Millisecond) {
			begin := time.Now()
			if _, err := page.WriteAt(make([]byte, os.Getpagesize()), 0); err != nil {
				r.t.Error(err)
			}
			if err := unix.Fdatasync(int(page.Fd())); err != nil {
				r.t.Error(err)
			}
			disk = max(disk, time.Since(begin))
		}
	})
	return func() time.Duration {
		cancel()
		ended.Wait()
		return max(processor, disk)
	}
}

// ahead puts the threads of the daemon and of this process, and those they start, before the threads of other
// processes. Without the right to it (CAP_SYS_NICE) it changes nothing but what the log says.
func (r *approvalRig) ahead() {
	r.t.Helper()
	set := func(process int, policy, priority uint32) error {
		threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", process))
		if err != nil {
			return err
		}
		for _, thread := range threads {
			tid, err := strconv.Atoi(thread.Name())
			if err != nil {
				return err
			}
			err = unix.SchedSetAttr(tid, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: policy, Priority: priority}, 0)
			if err != nil && !errors.Is(err, unix.ESRCH) { // ended meanwhile
				return err
			}
		}
		return nil
	}
	if err := errors.Join(set(r.daemon.Process().PID(), unix.SCHED_RR, 1), set(os.Getpid(), unix.SCHED_RR, 1)); err != nil {
		r.t.Logf("not before others: %v", err)
	}
	r.t.Cleanup(func() {
		if err := set(os.Getpid(), unix.SCHED_NORMAL, 0); err != nil {
			r.t.Errorf("back to normal priority: %v", err)
		}
	})
}
