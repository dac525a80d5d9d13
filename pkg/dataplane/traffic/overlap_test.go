package traffic

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/privlink/privlink/pkg/dataplane"
	"github.com/privlink/privlink/pkg/lab"
)

var errNothing = errors.New("nothing yet")

// serveEnv makes a copy of this test binary a server of bulk transfers by that name: ten thousand connections are
// more files at both of their ends together than one process may have.
const serveEnv = "PRIVLINK_TRAFFIC_TEST_SERVE"

// serve is the server; it ends when it is killed.
func serve(name string) {
	var config net.ListenConfig
	config.SetMultipathTCP(false)
	ln, err := config.Listen(context.Background(), "tcp4", backendIP+":9000")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	lab.ServeBulk(name, ln)
	select {}
}

// Every consumer has the same client and endpoint address, and both providers the same backend; every connection
// carries streams of its own both ways, and each end compares each byte.
func TestOverlap_HundredIdenticalConsumers_NobodyReachesAWrongPeer(t *testing.T) {
	const consumers, connections, size = 100, 100, 32 << 10
	const all = consumers * connections
	for _, mode := range modes {
		t.Run(string(mode), func(t *testing.T) {
			r := newRig(t, rigOptions{consumers: consumers, providers: 2, consumer: mode, provider: mode, wire: wire()})
			ctx := r.context(3 * time.Minute)
			for _, b := range r.backends {
				cmd := exec.Command(os.Args[0])
				cmd.Env = append(os.Environ(), serveEnv+"="+b.String())
				b.StartCommand(ctx, cmd)
				b.WaitListening("tcp", 9000)
			}
			// each does a part of the work for all connections, so many at a time
			each := func(atOnce int, work func(consumer, n int) error) {
				t.Helper()
				numbers, failed := make(chan int), make(chan error, all)
				var wait sync.WaitGroup
				for range atOnce {
					wait.Go(func() {
						for i := range numbers {
							if err := work(i/connections, i%connections); err != nil {
								failed <- fmt.Errorf("consumer %d, connection %d: %w", i/connections+1, i%connections+1, err)
							}
						}
					})
				}
				for i := range all {
					numbers <- i
				}
				close(numbers)
				wait.Wait()
				close(failed)
				for err := range failed {
					t.Error(err)
				}
				if t.Failed() {
					t.FailNow()
				}
			}
			var open [consumers][connections]net.Conn
			t.Cleanup(func() {
				for _, of := range open {
					for _, c := range of {
						if c != nil {
							c.Close()
						}
					}
				}
			})
			each(64, func(consumer, n int) (err error) {
				// the same client ports everywhere
				local := fmt.Sprintf("%s:%d", clientIP, 20000+n)
				open[consumer][n], err = r.consumers[consumer].Dial(ctx, "tcp4", local, endpointIP+":9000")
				return err
			})
			if n := r.flows(); n != all {
				t.Errorf("%d flows with all connections open, want %d", n, all)
			}
			each(500, func(consumer, n int) error {
				c := open[consumer][n]
				if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
					return err
				}
				result, err := lab.TransferOver(c, lab.Bulk{Put: size, Get: size, Seed: uint64(consumer*connections + n + 1)})
				if want := r.backends[consumer%2].String(); err == nil && result.Server != want {
					err = fmt.Errorf("%q answered, want %q", result.Server, want)
				}
				return err
			})
			if n := r.flows(); n != all {
				t.Errorf("%d flows after the transfers, want %d", n, all)
			}
			stats, err := r.d.LinkStats()
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range stats {
				if s.Opened != connections || s.Refused != 0 || s.Flows != connections {
					t.Errorf("%s opened %d flows, was refused %d, has %d; want %d, 0, %d", s.Link, s.Opened, s.Refused, s.Flows, connections, connections)
				}
			}
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
