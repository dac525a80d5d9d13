package traffic

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/privlink/privlink/pkg/dataplane"
	"github.com/privlink/privlink/pkg/lab"
)

// What an approval and a rejection may take until packets notice, worst of approvalRounds.
const (
	approvalLimit  = 50 * time.Millisecond
	approvalRounds = 100
)

// An approval does not wait for the kernel's lock on interfaces, which whoever makes or removes one holds for
// long: others do so all the time on a host with containers. Measured at real-time priority: what it has to wait for
// then is privlink and the kernel, not the other processes of the machine. From the request on, it is measured by
// TestRun_Approval of cmd/privlink.
func TestApproval_InterfacesComeAndGo_SeenAtOnce(t *testing.T) {
	r := newRig(t, rigOptions{consumer: dataplane.ModeTC, provider: dataplane.ModeTC, wire: wire()})
	r.backend.EchoServer(backendIP + ":7")
	r.setLink(0, dataplane.LinkRejected)
	ahead(t)
	const others = 4
	var stop atomic.Bool
	var made atomic.Int32
	var stopped sync.WaitGroup
	for n := range others {
		here, there := r.Namespace(fmt.Sprintf("here%d", n)), r.Namespace(fmt.Sprintf("there%d", n))
		stopped.Go(func() {
			for ; !stop.Load(); made.Add(1) {
				r.Veth(here, "a", there, "b", lab.VethOptions{})
				here.Delete("a")
			}
		})
	}
	s := r.consumers[0].Sequence(r.context(5*time.Minute), endpointIP+":7", lab.SequenceOptions{})
	approve, reject := decisions(r, s)
	stop.Store(true)
	stopped.Wait()
	t.Logf("%d pairs of interfaces made and removed; approve to first packet: worst %v; reject to last packet: worst %v",
		made.Load(), approve[len(approve)-1], reject[len(reject)-1])
	if made.Load() < approvalRounds {
		t.Errorf("only %d pairs of interfaces were made meanwhile", made.Load())
	}
	if approve[len(approve)-1] > approvalLimit || reject[len(reject)-1] > approvalLimit {
		t.Errorf("packets did not see every one of %d decisions within %v", 2*approvalRounds, approvalLimit)
	}
}

// ahead puts this process's threads, and those they start, before the threads of other processes until the
// test ends. Without the right to it (CAP_SYS_NICE) it changes nothing.
func ahead(t *testing.T) {
	t.Helper()
	set := func(policy, priority uint32) error {
		threads, err := os.ReadDir("/proc/self/task")
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
	if err := set(unix.SCHED_RR, 1); err != nil {
		t.Logf("not at real-time priority: %v", err)
		return
	}
	t.Cleanup(func() {
		if err := set(unix.SCHED_NORMAL, 0); err != nil {
			t.Errorf("back to normal priority: %v", err)
		}
	})
}

// decisions approves and rejects, and returns how long it took until packets noticed, sorted.
func decisions(r *rig, s *lab.Sequence) (approve, reject []time.Duration) {
	r.t.Helper()
	for range approvalRounds {
		begin := time.Now()
		r.setLink(0, dataplane.LinkApproved)
		r.Wait("the first echo after an approval", 5*time.Second, func() error {
			a, ok := s.FirstAfter(begin)
			if !ok {
				return errNothing
			}
			approve = append(approve, a.At.Sub(begin))
			return nil
		})
		begin = time.Now()
		r.setLink(0, dataplane.LinkRejected)
		quiet(r, s)
		last, ok := s.Last()
		if !ok {
			r.t.Fatal("no echo at all")
		}
		reject = append(reject, last.At.Sub(begin))
	}
	slices.Sort(approve)
	slices.Sort(reject)
	return approve, reject
}

// quiet waits until twenty more datagrams were sent and none came back.
func quiet(r *rig, s *lab.Sequence) {
	r.t.Helper()
	sent, echoes := len(s.Sent()), s.Len()
	r.Wait("no more echoes", 5*time.Second, func() error {
		if s.Len() != echoes {
			sent, echoes = len(s.Sent()), s.Len()
		}
		if len(s.Sent()) < sent+20 {
			return errNothing
		}
		return nil
	})
}
