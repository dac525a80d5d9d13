package inner

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// recorder is a door that remembers who may pass.
type recorder struct {
	mu      sync.Mutex
	refuse  error
	entries map[netip.AddrPort]Destination
	admits  int
}

func (r *recorder) Admit(source netip.AddrPort, to Destination) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.refuse != nil {
		return r.refuse
	}
	if _, ok := r.entries[source]; ok {
		return errors.New("two entries for one source")
	}
	r.entries[source] = to
	r.admits++
	return nil
}

func (r *recorder) Withdraw(source netip.AddrPort) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.entries, source)
}

func mustDialer(t *testing.T, door Door) *Dialer {
	t.Helper()
	d, err := NewDialer(mustSetup(t, testConfig(t)), door, 5)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	return d
}

func TestDialer_NobodyAnswers_DeadlineAndEntryGone(t *testing.T) {
	door := &recorder{entries: make(map[netip.AddrPort]Destination)}
	d := mustDialer(t, door)
	var group sync.WaitGroup
	for range 20 {
		group.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			defer cancel()
			conn, err := d.Dial(ctx, Destination{Target: netip.MustParseAddrPort("10.0.0.1:80")})
			if conn != nil || !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("dial into nothing: %v, %v", conn, err)
			}
		})
	}
	group.Wait()
	if len(door.entries) != 0 || door.admits != 20 {
		t.Errorf("%d entries are left of %d", len(door.entries), door.admits)
	}
	if d.ports.taken != [len(d.ports.taken)]uint64{} {
		t.Error("ports are still taken")
	}
}

func TestDialer_NotAdmitted_NothingIsSent(t *testing.T) {
	refusal := errors.New("no such backend")
	d := mustDialer(t, &recorder{refuse: refusal})
	if _, err := d.Dial(t.Context(), Destination{Target: netip.MustParseAddrPort("10.0.0.1:80")}); !errors.Is(err, refusal) || !errors.Is(err, ErrNotAdmitted) {
		t.Errorf("dial: %v, want the door's refusal", err)
	}
}

// What is missing on this machine is told from what the destination does.
func TestDialer_InterfaceGone_ErrLocal(t *testing.T) {
	door := &recorder{entries: make(map[netip.AddrPort]Destination)}
	d := mustDialer(t, door)
	link, err := netlink.LinkByName("plinner")
	if err == nil {
		err = netlink.LinkDel(link)
	}
	if err != nil {
		t.Fatal(err)
	}
	_, err = d.Dial(t.Context(), Destination{Target: netip.MustParseAddrPort("10.0.0.1:80")})
	if !errors.Is(err, ErrLocal) || !errors.Is(err, syscall.ENETUNREACH) || len(door.entries) != 0 {
		t.Errorf("dial: %v, and %d entries are left", err, len(door.entries))
	}
}

func TestDialer_Closed_DialFails(t *testing.T) {
	d := mustDialer(t, &recorder{entries: make(map[netip.AddrPort]Destination)})
	d.Close()
	if _, err := d.Dial(t.Context(), Destination{Target: netip.MustParseAddrPort("10.0.0.1:80")}); !errors.Is(err, errClosed) {
		t.Errorf("dial: %v", err)
	}
}
