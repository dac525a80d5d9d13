package capacity

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"sync"
	"testing"

	"github.com/privlink/privlink/pkg/model"
	"github.com/privlink/privlink/pkg/model/program"
)

// All ports of eight NAT IPs to one backend port.
const (
	natIPs   = 8
	allPorts = natIPs * model.PortCount // 516,096
)

// Two threads fill all ports of eight NAT IPs: every flow gets one, no two the same, the next flow is
// refused, and all of them work both ways.
func TestPorts_EightNATIPsToOneBackend_AllUsedNoneLost(t *testing.T) {
	onSite(t, 1<<22, natIPs, 1, func(s *site) error {
		join, leave, err := program.Joiner()
		if err != nil {
			return err
		}
		defer leave()
		var wait sync.WaitGroup
		errs := make([]error, 2)
		for lane := range 2 {
			wait.Go(func() {
				if errs[lane] = join(); errs[lane] == nil {
					errs[lane] = s.fill(lane, 2)
				}
			})
		}
		wait.Wait()
		if err := errors.Join(errs...); err != nil {
			return err
		}
		if err := s.full(); err != nil {
			return err
		}
		lane := s.Lane()
		src, sport := client(allPorts)
		if left, _, err := lane.Send(s.indexes[0], newFrame(model.UDP, macs[0], model.MAC{2, 9}).address(src, endpoint, sport, firstPort)); err != nil || left {
			return fmt.Errorf("one flow more than there are ports was not refused (%v)", err)
		}
		return s.bothWays(lane)
	})
}

// fill opens every n-th flow.
func (s *site) fill(first, n int) error {
	lane := s.Lane()
	f := newFrame(model.UDP, macs[0], model.MAC{2, 9})
	for i := first; i < allPorts; i += n {
		src, sport := client(i)
		if left, _, err := lane.Send(s.indexes[0], f.address(src, endpoint, sport, firstPort)); err != nil || !left {
			return fmt.Errorf("flow %d was not opened (%w)", i, err)
		}
	}
	return nil
}

// full checks that every port of every NAT IP is in use, by one flow each.
func (s *site) full() error {
	domains, err := s.Domains()
	if err != nil {
		return err
	}
	if len(domains) != natIPs {
		return fmt.Errorf("%d port domains, want %d", len(domains), natIPs)
	}
	for k, d := range domains {
		set := 0
		for _, w := range d.Word {
			set += bits.OnesCount64(w)
		}
		if d.Used != model.PortCount || set != model.PortCount {
			return fmt.Errorf("domain %+v: %d ports used, %d bits set", k, d.Used, set)
		}
	}
	type port struct {
		nat  uint32
		port uint16
	}
	used := make(map[port]bool, allPorts)
	for i := range s.Flows() {
		f := &s.Flows()[i]
		if f.State&3 != 2 || f.Rw.Tag.Of.Flags&model.FlagReverse == 0 {
			continue
		}
		p := port{f.Key.Daddr, f.Key.Dport}
		if used[p] {
			return fmt.Errorf("port %+v has two flows", p)
		}
		used[p] = true
	}
	if len(used) != allPorts {
		return fmt.Errorf("%d ports have a flow, want %d", len(used), allPorts)
	}
	return nil
}

// bothWays sends one more datagram on every flow, and the answer to it.
func (s *site) bothWays(lane *program.Lane) error {
	there, back := newFrame(model.UDP, macs[0], model.MAC{2, 9}), newFrame(model.UDP, macs[1], model.MAC{2, 0, 0, 0, 2, 4})
	for i := range allPorts {
		src, sport := client(i)
		left, out, err := lane.Send(s.indexes[0], there.address(src, endpoint, sport, firstPort))
		if err != nil || !left {
			return fmt.Errorf("flow %d lost a datagram (%w)", i, err)
		}
		nat, natPort := model.IP(binary.BigEndian.Uint32(out[26:])), binary.BigEndian.Uint16(out[34:])
		left, out, err = lane.Send(s.indexes[1], back.address(backendIP, nat, firstPort, natPort))
		if err != nil || !left {
			return fmt.Errorf("flow %d lost an answer (%w)", i, err)
		}
		if to, port := model.IP(binary.BigEndian.Uint32(out[30:])), binary.BigEndian.Uint16(out[36:]); to != src || port != sport {
			return fmt.Errorf("the answer to flow %d goes to %s:%d", i, to, port)
		}
	}
	return nil
}
