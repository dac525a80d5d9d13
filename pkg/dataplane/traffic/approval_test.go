package traffic

import (
	"slices"
	"testing"
	"time"

	"github.com/privlink/privlink/pkg/dataplane"
	"github.com/privlink/privlink/pkg/lab"
)

// What an approval and a rejection may take until packets notice, worst of approvalRounds.
const (
	approvalLimit  = 50 * time.Millisecond
	approvalRounds = 100
)

// Another process on the machine can only add to the times: the best of a few series counts.
const approvalTries = 3

func TestApproval_APacketEveryMillisecond_SeesTheDecisionAtOnce(t *testing.T) {
	for _, mode := range modes {
		t.Run(string(mode), func(t *testing.T) {
			r := newRig(t, rigOptions{consumer: mode, provider: mode, wire: wire()})
			r.backend.EchoServer(backendIP + ":7")
			r.setLink(0, dataplane.LinkRejected)
			s := r.consumers[0].Sequence(r.context(5*time.Minute), endpointIP+":7", lab.SequenceOptions{})
			for try := 1; ; try++ {
				approve, reject := decisions(r, s)
				t.Logf("approve to first packet: median %v, worst %v", approve[len(approve)/2], approve[len(approve)-1])
				t.Logf("reject to last packet:   median %v, worst %v", reject[len(reject)/2], reject[len(reject)-1])
				if approve[len(approve)-1] <= approvalLimit && reject[len(reject)-1] <= approvalLimit {
					return
				}
				if try == approvalTries {
					t.Fatalf("in no series of %d did packets see every decision within %v", approvalRounds, approvalLimit)
				}
			}
		})
	}
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
