package dataplane

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/privlink/privlink/pkg/lab"
)

// opened is a connection through the endpoint of a pair that is up.
func opened(t *testing.T) (*gateway, *lab.Namespace, *lab.Namespace, State, net.Conn) {
	t.Helper()
	g, consumer, provider, s := newPair(t)
	g.open()
	echo(t, provider, "10.0.1.4:8080")
	g.apply(s)
	c, err := dial(consumer, "10.0.1.10:80")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := say(c, "hello\n"); err != nil {
		t.Fatal(err)
	}
	return g, consumer, provider, s, c
}

// wantReset waits for a RST on a connection on which nobody says anything.
func wantReset(t *testing.T, c net.Conn) {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	_, err := c.Read(make([]byte, 1))
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the silent connection got %v, not a RST", err)
	}
}

func TestApply_RevokingChanges_ResetBothEnds(t *testing.T) {
	for name, change := range map[string]func(*State){
		"rejected":         func(s *State) { s.Links[0].State = LinkRejected },
		"removed":          func(s *State) { s.Links = nil },
		"epoch":            func(s *State) { s.Links[0].Epoch++ },
		"rule removed":     func(s *State) { s.RuleSets[0].Rules = nil },
		"backend removed":  func(s *State) { s.RuleSets[0].Rules[0].Targets = nil; s.Pools[0].Members = nil },
		"rule set removed": func(s *State) { s.Links = nil; s.RuleSets = nil },
		"NAT IP removed": func(s *State) {
			s.RuleSets[0].Sources = []Source{{Addr: netip.MustParseAddr("10.0.2.6")}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			g, consumer, provider, s := newPair(t)
			g.open()
			l, err := provider.Listen("tcp", "10.0.1.4:8080")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			g.apply(s)
			c, err := dial(consumer, "10.0.1.10:80")
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			served, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer served.Close()
			s = small()
			s.Revision = 2
			change(&s)
			if _, err := g.d.Apply(context.Background(), s); err != nil {
				t.Fatal(err)
			}
			wantReset(t, c)
			wantReset(t, served)
		})
	}
}

func TestApply_OtherChanges_LeaveFlowsAlone(t *testing.T) {
	for name, change := range map[string]func(*State){
		"backend port":  func(s *State) { s.RuleSets[0].Rules[0].BackendPort = 9090 },
		"frontend port": func(s *State) { s.RuleSets[0].Rules[0].Port = 81 },
		"distribution":  func(s *State) { s.RuleSets[0].Rules[0].Distribution = DistributionSourceIP },
		"unhealthy":     func(s *State) { s.RuleSets[0].Rules[0].Targets[0].Healthy = false },
		"other pool": func(s *State) {
			s.Pools = append(s.Pools, Pool{Key: "second", Members: []netip.Addr{netip.MustParseAddr("10.0.1.4")}})
			s.RuleSets[0].Rules[0].Targets[0].Pool = "second"
		},
		"no target, still a member": func(s *State) { s.RuleSets[0].Rules[0].Targets = nil },
		"draining": func(s *State) {
			s.RuleSets[0].Sources = []Source{{Addr: netip.MustParseAddr("10.0.2.5"), Draining: true}, {Addr: netip.MustParseAddr("10.0.2.6")}}
		},
		"quota": func(s *State) { s.Links[0].MaxFlows = 1 },
		"other link": func(s *State) {
			s.Links = append(s.Links, Link{Key: "second", ID: 2, Network: "consumers", Addr: netip.MustParseAddr("10.0.1.11"), RuleSet: "service", State: LinkPending})
		},
	} {
		t.Run(name, func(t *testing.T) {
			g, _, _, s, c := opened(t)
			s = small()
			change(&s)
			if _, err := g.d.Apply(context.Background(), s); err != nil {
				t.Fatal(err)
			}
			// A sweep visits everything once; then the flow is either there or not.
			_, before, _ := g.d.Sweep()
			g.Wait("two sweeps", 5*time.Second, func() error {
				if _, n, _ := g.d.Sweep(); n < before+2 {
					return errors.New("not yet")
				}
				return nil
			})
			if err := say(c, "still here\n"); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestApply_BackendPort_NewFlowsFollow(t *testing.T) {
	g, consumer, provider, s, c := opened(t)
	l, err := provider.Listen("tcp", "10.0.1.4:9090")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s.RuleSets[0].Rules[0].BackendPort = 9090
	g.apply(s)
	second, err := dial(consumer, "10.0.1.10:80")
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if _, err := l.Accept(); err != nil {
		t.Fatal(err)
	}
	if err := say(c, "old port\n"); err != nil {
		t.Fatal(err)
	}
}

func TestApply_ModeXDP_CarriesTraffic(t *testing.T) {
	g, consumer, provider, s := newPair(t)
	s.Networks[0].Attachments[0].Mode = ModeXDP
	s.Networks[1].Attachments[0].Mode = ModeXDP
	g.open()
	echo(t, provider, "10.0.1.4:8080")
	r := g.apply(s)
	for _, a := range r.Attachments {
		if a.Err != nil || a.Mode != ModeXDP || len(a.Warnings) != 1 {
			t.Errorf("attachment: %+v", a)
		}
	}
	for range 3 {
		c, err := dial(consumer, "10.0.1.10:80")
		if err != nil {
			t.Fatal(err)
		}
		if err := say(c, strings.Repeat("0123456789abcdef", 4096)); err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	// The receiving ends take XDP frames as soon as they do GRO. privlink hears of it, or (before Linux 6.3) tries at
	// its next look at the interfaces, every 10 s.
	consumer.SetFeatures("eth0", true, "gro")
	g.Wait("the consumer's side to take XDP frames", 15*time.Second, func() error {
		for _, a := range g.d.Result().Attachments {
			if a.Attachment.Interface == "consumer" && a.TakesXDP {
				return nil
			}
		}
		return fmt.Errorf("%+v", g.d.Result().Attachments)
	})
	s.Networks[0].Attachments[0].Mode = ModeAuto
	r = g.apply(s)
	if a := r.Attachments[0]; a.Mode != ModeTC || !strings.Contains(a.Why, "physical") {
		t.Errorf("auto on a veth: %+v", a)
	}
}

func TestXDP_NoFeatures_ProbesWhoTakesFrames(t *testing.T) {
	g, consumer, provider, s := newPair(t)
	s.Networks[0].Attachments[0].Mode = ModeXDP
	s.Networks[1].Attachments[0].Mode = ModeXDP
	d := g.open()
	d.mu.Lock()
	d.noFeatures = true
	d.mu.Unlock()
	consumer.SetFeatures("eth0", true, "gro")
	provider.SetFeatures("eth0", false, "gro")
	g.apply(s)
	g.Wait("the probes", 15*time.Second, func() error {
		d.mu.Lock()
		defer d.mu.Unlock()
		if !d.probed["consumer"].takesXDP || d.probed["provider"].takesXDP {
			return fmt.Errorf("consumer takes %v, provider %v", d.probed["consumer"].takesXDP, d.probed["provider"].takesXDP)
		}
		return nil
	})
	echo(t, provider, "10.0.1.4:8080")
	if err := works(consumer, "10.0.1.10:80"); err != nil {
		t.Fatal(err)
	}
}

func TestInterface_MadeAnew_FlowsGoOn(t *testing.T) {
	g, consumer, _, _, c := opened(t)
	mac := consumer.MAC("eth0").String()
	gatewayMAC := g.ns.MAC("consumer").String()
	g.ns.Delete("consumer")
	g.Wait("the dataplane to see it go", 5*time.Second, func() error {
		for _, a := range g.d.Result().Attachments {
			if a.Attachment.Interface == "consumer" && errors.Is(a.Err, ErrNoInterface) {
				return nil
			}
		}
		return fmt.Errorf("%+v", g.d.Result().Attachments)
	})
	g.Veth(g.ns, "consumer", consumer, "eth0", lab.VethOptions{A: lab.EndOptions{MAC: gatewayMAC}, B: lab.EndOptions{MAC: mac, Addr: "10.0.1.4/16"}})
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, "again\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 6)); err != nil {
		t.Fatal(err)
	}
}

func TestAttach_HostAddress_IsRefused(t *testing.T) {
	g, _, _, s := newPair(t)
	g.ns.Addr("consumer", "192.0.2.1/24")
	g.open()
	if err := g.d.CheckAttachment(s.Networks[0].Attachments[0]); !errors.Is(err, ErrHostAddress) {
		t.Errorf("check: %v", err)
	}
	r, err := g.d.Apply(context.Background(), s)
	if err != nil {
		t.Fatal(err)
	}
	if !errors.Is(r.Attachments[0].Err, ErrHostAddress) || r.Attachments[1].Err != nil {
		t.Errorf("attachments: %+v", r.Attachments)
	}
	g.waitSame()
	for _, allow := range []func(*Attachment){func(a *Attachment) { a.PassOther = true }, func(a *Attachment) { a.Exclusive = true }} {
		s := small()
		allow(&s.Networks[0].Attachments[0])
		if err := g.d.CheckAttachment(s.Networks[0].Attachments[0]); err != nil {
			t.Error(err)
		}
	}
	if err := g.d.CheckAttachment(Attachment{Interface: "nosuch"}); !errors.Is(err, ErrNoInterface) {
		t.Errorf("check of an interface that is not there: %v", err)
	}
}

func TestAddress_SomebodyHasIt_IsAConflict(t *testing.T) {
	g, consumer, _, s := newPair(t)
	consumer.Addr("eth0", "10.0.1.10/16")
	g.open()
	if _, err := g.d.Apply(context.Background(), s); err != nil {
		t.Fatal(err)
	}
	mac := consumer.MAC("eth0").String()
	g.Wait("the conflict", 5*time.Second, func() error {
		r := g.d.Result()
		if len(r.Conflicts) != 1 {
			return fmt.Errorf("conflicts: %+v", r.Conflicts)
		}
		if c := r.Conflicts[0]; c.MAC.String() != mac || c.Network != "consumers" || c.Addr != netip.MustParseAddr("10.0.1.10") || c.Interface != "consumer" {
			t.Errorf("conflict: %+v, the other's MAC is %s", c, mac)
		}
		return nil
	})
	g.waitSame()
}

// TestSweep_TwoAtOnce_OneRefused: a slice collects what it freed in memory of the object, so a second one at the same time is
// refused, and neither is harmed.
func TestSweep_TwoAtOnce_OneRefused(t *testing.T) {
	g, _, _, s := newPair(t)
	g.open()
	g.apply(s)
	var met atomic.Bool
	slices := func() error {
		for n := 0; n < 500 || !met.Load() && n < 100_000; n++ {
			slice := bpfSweep{Count: SweepSlice}
			switch err := runSyscall(g.d.k.sweep, &slice); {
			case err == nil && slice.Count > 0:
			case err != nil && strings.Contains(err.Error(), "returned -16"): // EBUSY
				met.Store(true)
			default:
				return fmt.Errorf("a slice of %d slots: %w", slice.Count, err)
			}
		}
		return nil
	}
	var group sync.WaitGroup
	var failed [2]error
	for i := range failed {
		group.Go(func() { failed[i] = slices() })
	}
	group.Wait()
	if err := errors.Join(failed[:]...); err != nil {
		t.Fatal(err)
	}
	if !met.Load() {
		t.Error("the slices of two threads never met")
	}
}
