package dataplane

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A pin that is removed, replaced by another object, or that nobody made is found; what is the dataplane's own is put back.
func TestRepair_Pins_FoundAndPutBack(t *testing.T) {
	g, _, _, _, _ := opened(t)
	found := func() map[string]PinWhy {
		t.Helper()
		list, err := g.d.Pins()
		if err != nil {
			t.Fatal(err)
		}
		all := make(map[string]PinWhy, len(list))
		for _, p := range list {
			name, err := filepath.Rel(g.bpffs, p.Path)
			if err != nil {
				t.Fatal(err)
			}
			all[name] = p.Why
		}
		return all
	}
	remove := func(path string) {
		if err := os.Remove(path); err != nil {
			t.Error(err)
		}
	}
	if got := found(); len(got) != 0 {
		t.Fatalf("before anything was touched: %v", got)
	}
	for _, c := range []struct {
		pin string
		why PinWhy
	}{
		{"maps/" + mapAddresses, PinOther}, {"programs/" + programTC, PinOther}, {"links/tcx-consumer", PinOther},
		{"maps/" + mapAddresses, PinMissing}, {"programs/" + programTC, PinMissing}, {"links/tcx-consumer", PinMissing}, {"flows", PinMissing},
	} {
		path := filepath.Join(g.bpffs, c.pin)
		// Whoever looks once a second may have put it back before it was looked for.
		g.Wait(c.pin+" to be found "+string(c.why), 10*time.Second, func() error {
			remove(path)
			if c.why == PinOther {
				other, err := g.d.k.maps[mapConfig].Clone()
				if err != nil {
					return err
				}
				if err := errors.Join(other.Pin(path), other.Close()); err != nil {
					return err
				}
			}
			if got := found(); len(got) != 1 || got[c.pin] != c.why {
				return errors.New("it is not")
			}
			return nil
		})
		if err := g.d.Repair(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := found(); len(got) != 0 {
			t.Errorf("%s %s, repaired: %v", c.pin, c.why, got)
		}
	}
	left := filepath.Join(g.bpffs, "links", "tcx-gone")
	other, err := g.d.k.maps[mapConfig].Clone()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(other.Pin(left), other.Close()); err != nil {
		t.Fatal(err)
	}
	if got := found(); len(got) != 1 || got["links/tcx-gone"] != PinLeft {
		t.Errorf("a pin too many: %v", got)
	}
	remove(left)
}

// A program that somebody detached is missed, and attached again.
func TestRepair_ProgramDetached_FoundAndAttached(t *testing.T) {
	g, consumer, _, _, _ := opened(t)
	detached := func() []string {
		t.Helper()
		all, err := g.d.LookAtAttached()
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, a := range all {
			if a.Detached {
				names = append(names, a.Interface)
			}
		}
		return names
	}
	if names := detached(); names != nil {
		t.Fatalf("before: %q", names)
	}
	pin := filepath.Join(g.bpffs, "links", "tcx-consumer")
	g.Wait("the loss to be found", 10*time.Second, func() error {
		l, err := link.LoadPinnedLink(pin, nil)
		if err != nil {
			return err
		}
		if err := errors.Join(l.Detach(), l.Close()); err != nil {
			return err
		}
		if pins, err := PinnedLinks(g.bpffs); err != nil || !slices.Contains(pins, PinnedLink{pin, "tcx", "consumer", 0}) {
			return errors.New("no pin of a detached link, or no more")
		}
		if names := detached(); !slices.Equal(names, []string{"consumer"}) {
			return errors.New("not found, or attached again already")
		}
		return nil
	})
	if err := g.d.Repair(t.Context()); err != nil {
		t.Fatal(err)
	}
	if names := detached(); names != nil {
		t.Errorf("repaired: %q", names)
	}
	if err := works(consumer, "10.0.1.10:80"); err != nil {
		t.Error(err)
	}
}

// Where there is no TCX: our filter removed is missed and put back, and a filter that is asked before ours is told.
func TestRepair_Clsact_FilterRemovedAndAnotherBefore(t *testing.T) {
	g, consumer, provider, s := newPair(t)
	g.edit = func(o *Options) { o.NoTCX = true }
	g.open()
	echo(t, provider, "10.0.1.4:8080")
	g.apply(s)
	look := func() Attached {
		t.Helper()
		all, err := g.d.LookAtAttached()
		if err != nil {
			t.Fatal(err)
		}
		return all[slices.IndexFunc(all, func(a Attached) bool { return a.Interface == "consumer" })]
	}
	if is := look(); is.Detached || is.Before != nil {
		t.Fatalf("before: %+v", is)
	}
	ifindex := g.ns.Link("consumer").Attrs().Index
	g.Wait("the loss to be found", 10*time.Second, func() error {
		err := g.ns.Do(func() error {
			ours, err := g.d.att.ourFilter(ifindex)
			if err != nil || ours == nil {
				return fmt.Errorf("no filter of ours: %w", err)
			}
			return netlink.FilterDel(ours)
		})
		if err != nil {
			return err
		}
		if !look().Detached {
			return errors.New("not found, or put back already")
		}
		return nil
	})
	if err := g.d.Repair(t.Context()); err != nil {
		t.Fatal(err)
	}
	if is := look(); is.Detached {
		t.Error("the filter is not put back")
	}
	if err := works(consumer, "10.0.1.10:80"); err != nil {
		t.Error(err)
	}
	other, err := idle(ebpf.SchedCLS, 0) // in direct action: goes on
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	for _, c := range []struct {
		priority uint16
		before   int
	}{{filterPriority + 1, 0}, {7, 1}} {
		// What is behind ours is never asked about what ours takes.
		filter := &netlink.BpfFilter{Fd: other.FD(), Name: "other", FilterAttrs: netlink.FilterAttrs{
			LinkIndex: ifindex, Parent: netlink.HANDLE_MIN_INGRESS, Handle: 1, Priority: c.priority, Protocol: unix.ETH_P_ALL,
		}}
		if err := g.ns.Do(func() error { return netlink.FilterAdd(filter) }); err != nil {
			t.Fatal(err)
		}
		if is := look(); len(is.Before) != c.before {
			t.Errorf("with a filter of priority %d: %q, want %d", c.priority, is.Before, c.before)
		}
	}
	if err := works(consumer, "10.0.1.10:80"); err != nil {
		t.Error(err)
	}
}
