package traffic

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/privlink/privlink/pkg/dataplane"
	"github.com/privlink/privlink/pkg/lab"
)

var errNothing = errors.New("nothing yet")

// Every consumer has the same client and endpoint address; every connection carries streams of its
// own both ways, and each end compares each byte.
func TestOverlap_HundredIdenticalConsumers_NobodyReachesAWrongPeer(t *testing.T) {
	const consumers, connections, size = 100, 100, 32 << 10
	for _, mode := range modes {
		t.Run(string(mode), func(t *testing.T) {
			r := newRig(t, rigOptions{consumers: consumers, consumer: mode, provider: mode, wire: wire()})
			server := r.backend.BulkServer(backendIP + ":9000")
			ctx := r.context(3 * time.Minute)
			var wait sync.WaitGroup
			failed := make(chan error, consumers*connections)
			for i, c := range r.consumers {
				for n := range connections {
					wait.Go(func() {
						// the same client ports everywhere
						local := fmt.Sprintf("%s:%d", clientIP, 20000+n)
						_, err := c.Transfer(ctx, local, endpointIP+":9000", lab.Bulk{Put: size, Get: size, Seed: uint64(i*connections + n + 1)})
						if err != nil {
							failed <- fmt.Errorf("consumer %d, connection %d: %w", i+1, n+1, err)
						}
					})
				}
			}
			wait.Wait()
			close(failed)
			for err := range failed {
				t.Error(err)
			}
			for _, err := range server.Errors() {
				t.Error(err)
			}
			// A client is done when it has the server's end; the server counts a moment later.
			r.Wait("the server to count all transfers", 10*time.Second, func() error {
				if got := server.Finished(); got != consumers*connections {
					return fmt.Errorf("%d transfers finished, want %d", got, consumers*connections)
				}
				return nil
			})
		})
	}
}

func TestOverlap_TwoConsumers_OnlyTheApprovedOnePasses(t *testing.T) {
	for _, mode := range modes {
		t.Run(string(mode), func(t *testing.T) {
			r := newRig(t, rigOptions{consumers: 2, consumer: mode, provider: mode, wire: wire()})
			r.backend.EchoServer(backendIP + ":7")
			r.setLink(1, dataplane.LinkPending)
			local := lab.SequenceOptions{Local: clientIP + ":20000"}
			approved := r.consumers[0].Sequence(r.context(time.Minute), endpointIP+":7", local)
			pending := r.consumers[1].Sequence(r.context(time.Minute), endpointIP+":7", local)
			r.Wait("a hundred echoes for the approved consumer", 10*time.Second, func() error {
				if approved.Len() < 100 {
					return errNothing
				}
				return nil
			})
			if n := pending.Len(); n != 0 {
				t.Errorf("the pending consumer got %d echoes", n)
			}
		})
	}
}
