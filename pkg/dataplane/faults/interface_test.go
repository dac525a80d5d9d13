package faults

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"testing"
	"time"

	"github.com/privlink/privlink/pkg/dataplane"
	"github.com/privlink/privlink/pkg/lab"
	"github.com/privlink/privlink/pkg/lab/load"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// waitGone waits until the dataplane knows that the interface is not there, waitBack until it carries traffic again.
func (r *rig) waitGone(name string) {
	r.t.Helper()
	r.Wait("the dataplane to see "+name+" go", 15*time.Second, func() error {
		if a := r.attachment(name); !errors.Is(a.Err, dataplane.ErrNoInterface) {
			return fmt.Errorf("%+v", a)
		}
		return nil
	})
}

func (r *rig) waitBack(name string, ifindex int) {
	r.t.Helper()
	r.Wait("the dataplane to take "+name+" back", 15*time.Second, func() error {
		if a := r.attachment(name); a.Err != nil || a.Ifindex != ifindex {
			return fmt.Errorf("%+v", a)
		}
		return nil
	})
}

func ifindex(n *lab.Namespace, name string) int { return n.Link(name).Attrs().Index }

// untilUp is a window that ends when a new connection of the client has gone well, which began after now.
func (r *rig) untilUp(from time.Time) load.Window {
	r.t.Helper()
	back := time.Now()
	for i, n := range r.consumers {
		r.Wait(fmt.Sprintf("a connection of consumer %d", i+1), 20*time.Second, func() error {
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
			defer cancel()
			conn, err := n.Dial(ctx, "tcp4", "", fmt.Sprintf("%s:%d", endpointIP, load.PortEcho))
			if err != nil {
				return err
			}
			return conn.Close()
		})
	}
	r.t.Logf("down for %v, and %v until the first connection", back.Sub(from).Round(time.Millisecond), time.Since(back).Round(time.Millisecond))
	return load.Window{From: from, To: time.Now()}
}

func TestInterface_DeletedAndMadeAgain_OthersLoseNothing(t *testing.T) {
	for name, o := range hooks {
		for _, which := range []string{"consumer", "backend"} {
			t.Run(name+" "+which, func(t *testing.T) {
				r := newRig(t, o)
				r.open()
				r.load(load.Options{Bulk: -1})
				vm, port, address := r.consumers[0], "c1", clientIP
				if which == "backend" {
					vm, port, address = r.backend, "web", backendIP
				}
				before := ifindex(r.gw, port)
				wire := o.wire
				wire.B.Addr = address + "/16"
				from := r.mark()
				r.gw.Delete(port)
				r.waitGone(port)
				r.Veth(r.gw, port, vm, "eth0", wire) // other MACs at both ends, too
				after := ifindex(r.gw, port)
				if after == before {
					t.Fatalf("the new interface has the old number %d", after)
				}
				r.waitBack(port, after)
				window := r.untilUp(from)
				r.more(3)
				if which == "backend" {
					r.wantNothingLost(window)
					return
				}
				first := r.clients[0].Stop()
				t.Log("the one concerned:", first)
				// Its old connections lived through it: only what was sent into the gap is lost.
				if out := first.Outside([]load.Window{window}); len(out.Lost) > 0 || len(out.Broken) > 0 {
					t.Errorf("the consumer concerned, afterwards: %v", out)
				}
				for _, b := range first.Broken {
					if b.Kind != "short connection" {
						t.Errorf("%s broke: %v", b.Kind, b.Err)
					}
				}
				r.clients = r.clients[1:]
				r.wantNothingLost()
			})
		}
	}
}

// Another device gets the number of one that is gone: what goes to the old one must not reach it, and what it sends
// must not be taken for the old one's.
func TestInterface_NumberReused_NothingReachesTheNewOne(t *testing.T) {
	for name, o := range hooks {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, o)
			r.open()
			r.load(load.Options{Bulk: -1})
			old := ifindex(r.gw, "c1")
			r.gw.Delete("c1")
			r.waitGone("c1")
			// The backend still sends to the consumer that is gone, on connections that wait for it.
			stranger := r.Namespace("stranger")
			err := r.gw.Netlink().LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "other", Index: old}, PeerName: "peer"})
			if err != nil {
				t.Fatal(err)
			}
			moveTo(t, r.gw, "peer", stranger)
			r.gw.Up("other")
			stranger.Up("peer")
			stranger.WaitUp("peer")
			if got := ifindex(r.gw, "other"); got != old {
				t.Fatalf("the new interface has number %d, not %d", got, old)
			}
			seen := stranger.Capture("peer")
			ping := frame(stranger.MAC("peer"), r.gw.MAC("other"), clientIP, endpointIP, load.PortDatagrams)
			for range 10 {
				if err := stranger.Inject("peer", ping); err != nil {
					t.Fatal(err)
				}
			}
			first := r.clients[0]
			r.clients = r.clients[1:]
			r.more(20)
			for _, p := range seen.Stop() {
				if !p.Outgoing {
					t.Errorf("a frame came out of the new interface: %x", p.Data)
				}
			}
			// The old name comes back with another number and works.
			wire := o.wire
			wire.B.Addr = clientIP + "/16"
			r.Veth(r.gw, "c1", r.consumers[0], "eth0", wire)
			r.waitBack("c1", ifindex(r.gw, "c1"))
			r.untilUp(r.mark())
			first.Stop()
			r.wantNothingLost()
		})
	}
}

// Numbers change hands between attached interfaces while nobody looks (F26): the clean-up of the old one must not
// take the new one's filter.
func TestInterface_NumberReusedByAnAttachedOne_ItsFilterStays(t *testing.T) {
	for name, o := range hooks {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, o)
			spare := r.state.Networks[1]
			spare.Key = "spare"
			spare.Attachments = append([]dataplane.Attachment(nil), spare.Attachments...)
			spare.Attachments[0].Interface = "spare"
			r.state.Networks = append(r.state.Networks, spare)
			gone := r.Namespace("gone")
			r.Veth(r.gw, "spare", gone, "eth0", o.wire)
			r.open()
			r.load(load.Options{Bulk: -1})
			from := r.mark()
			number := ifindex(r.gw, "spare")
			link := r.gw.Link("spare")
			again := r.gw.Link("c1")
			h := r.gw.Netlink()
			if err := h.LinkDel(link); err != nil {
				t.Fatal(err)
			}
			if err := h.LinkDel(again); err != nil {
				t.Fatal(err)
			}
			err := h.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "c1", Index: number}, PeerName: "peer"})
			if err != nil {
				t.Fatal(err)
			}
			moveTo(t, r.gw, "peer", r.consumers[0])
			if err := r.consumers[0].Netlink().LinkSetName(r.consumers[0].Link("peer"), "eth0"); err != nil {
				t.Fatal(err)
			}
			r.consumers[0].Addr("eth0", clientIP+"/16")
			r.consumers[0].Up("eth0")
			r.gw.Up("c1")
			r.waitBack("c1", number)
			r.waitGone("spare")
			window := r.untilUp(from)
			r.more(20)
			first := r.clients[0].Stop()
			if out := first.Outside([]load.Window{window}); len(out.Lost) > 0 || len(out.Broken) > 0 {
				t.Errorf("the consumer concerned, afterwards: %v", out)
			}
			r.clients = r.clients[1:]
			r.wantNothingLost()
		})
	}
}

func TestInterface_DownAndUp_LossEndsWithIt(t *testing.T) {
	for name, o := range hooks {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, o)
			r.open()
			r.load(load.Options{Bulk: -1})
			var windows []load.Window
			for _, port := range []string{"web", "c1", "web"} {
				from := r.mark()
				r.gw.Down(port)
				r.gw.Up(port)
				r.gw.WaitUp(port)
				windows = append(windows, r.untilUp(from))
				r.more(2)
			}
			all := r.wantNothingLost(windows...)
			for _, b := range all.Broken {
				t.Errorf("%s broke: %v", b.Kind, b.Err)
			}
		})
	}
}

// A VM's namespace goes away, and its interface with it; a new one of the same name comes.
func TestInterface_NamespaceGone_OthersLoseNothing(t *testing.T) {
	for name, o := range hooks {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, o)
			mortal := r.state.Networks[1]
			mortal.Key = "mortal"
			mortal.Attachments = append([]dataplane.Attachment(nil), mortal.Attachments...)
			mortal.Attachments[0].Interface = "mortal"
			r.state.Networks = append(r.state.Networks, mortal)
			kill := r.mortal("mortal")
			r.open()
			r.load(load.Options{})
			for range 3 {
				kill()
				r.waitGone("mortal")
				kill = r.mortal("mortal")
				r.waitBack("mortal", ifindex(r.gw, "mortal"))
				r.more(1)
			}
			r.wantNothingLost()
		})
	}
}

// mortal makes an interface whose other end is in a namespace that ends with a process; the function kills that.
func (r *rig) mortal(name string) (kill func()) {
	r.t.Helper()
	p := r.gw.StartCommand(r.t.Context(), exec.Command("unshare", "--net", "--", "sleep", "infinity"))
	own := netnsOf(r.t, r.gw)
	r.Wait("the namespace of the process", 5*time.Second, func() error {
		its, err := netns.GetFromPid(p.PID())
		if err != nil {
			return err
		}
		defer its.Close()
		if its.UniqueId() == own {
			return errEarly
		}
		return nil
	})
	h := r.gw.Netlink()
	if err := h.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: "peer"}); err != nil {
		r.t.Fatal(err)
	}
	if err := h.LinkSetNsPid(r.gw.Link("peer"), p.PID()); err != nil {
		r.t.Fatal(err)
	}
	r.gw.Up(name)
	return p.Kill
}

func netnsOf(t *testing.T, n *lab.Namespace) (id string) {
	t.Helper()
	h, err := netns.GetFromPath(n.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	return h.UniqueId()
}

func moveTo(t *testing.T, from *lab.Namespace, name string, to *lab.Namespace) {
	t.Helper()
	h, err := netns.GetFromPath(to.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if err := from.Netlink().LinkSetNsFd(from.Link(name), int(h)); err != nil {
		t.Fatal(err)
	}
}
