package reuse

import (
	"testing"

	"github.com/privlink/privlink/pkg/model"
	"github.com/privlink/privlink/pkg/model/program"
)

const tcp, udp = model.TCP, model.UDP

// Replies open nothing, so both tenants' ports stay in step and are equal.
var cases = []holding{
	{name: "reply TCP, then TCP", reverse: true, proto: tcp, others: tcp, flags: model.ACK},
	{name: "reply UDP, then UDP", reverse: true, proto: udp, others: udp},
	{name: "reply TCP, then UDP", reverse: true, proto: tcp, others: udp, flags: model.ACK},
	{name: "reply UDP, then TCP", reverse: true, proto: udp, others: tcp},
	{name: "request TCP, then TCP", proto: tcp, others: tcp, flags: model.ACK},
	{name: "request UDP, then UDP", proto: udp, others: udp},
	{name: "request TCP, then UDP", proto: tcp, others: udp, flags: model.ACK},
	{name: "request UDP, then TCP", proto: udp, others: tcp},
}

// Packets that do more than pass: they change the phase, or say that the client is elsewhere.
var changing = []holding{
	{name: "RST from the backend", reverse: true, proto: tcp, others: tcp, flags: model.RST},
	{name: "SYN-ACK", reverse: true, proto: tcp, others: tcp, flags: model.SYN | model.ACK},
	{name: "RST", proto: tcp, others: tcp, flags: model.RST},
	{name: "FIN", proto: tcp, others: tcp, flags: model.FIN | model.ACK},
	{name: "SYN again", proto: tcp, others: tcp, flags: model.SYN},
	{name: "client moved, UDP", proto: udp, others: udp, moved: true},
	{name: "client moved, TCP", proto: tcp, others: udp, flags: model.ACK, moved: true},
}

// Tries of a case in one hook, wherever the packet is held. Of the eight cases four are requests, four replies, and
// four of TCP against UDP: in two hooks that makes wanted tries of each kind at each place.
const (
	tries  = 1250
	wanted = 10_000
)

// triesChanging are those of a packet that does more than pass.
const triesChanging = 200

// held counts the tries that overlapped at one place.
type held struct{ requests, replies, mixed int }

// A packet that is held while its slot gets another owner carries nothing of him and changes nothing of
// his flow: held in the lookup, and held between the lookup and its rewrite.
func TestReuse_SlotTakenWhilePacketIsHeld_NothingOfTheOtherTenant(t *testing.T) {
	for _, place := range []struct {
		name string
		hold uint32
	}{{"in the lookup", program.HoldReading}, {"before the rewrite", program.HoldFound}} {
		var sum held
		all := true
		for hook, xdp := range map[string]bool{"TC": false, "XDP": true} {
			ran := false
			t.Run(hook+", "+place.name, func(t *testing.T) {
				ran = true
				o := program.Options{XDP: xdp, Hold: place.hold}
				holdEach(t, o, cases, tries, &sum)
				if place.hold == program.HoldFound {
					holdEach(t, o, changing, triesChanging, new(held))
				}
			})
			all = all && ran // -run may name some only
		}
		t.Logf("held %s while the slot got another owner: %d requests, %d replies; of these %d TCP against UDP", place.name, sum.requests, sum.replies, sum.mixed)
		if all && min(sum.requests, sum.replies, sum.mixed) < wanted {
			t.Errorf("want %d of each", wanted)
		}
	}
}

// holdEach tries each case and judges what came of it.
func holdEach(t *testing.T, o program.Options, cases []holding, tries int, sum *held) {
	t.Helper()
	err := onStage(o, func(s *stage) error {
		outcomes, err := s.run(cases, tries)
		if err != nil {
			return err
		}
		for _, h := range cases {
			o := outcomes[h.name]
			t.Logf("%-22s %d tries overlapped (%d late): %d translated as their own, %d answered, equal NAT ports in %d",
				h.name, o.overlapped, o.late, o.translated, o.answered, o.equalPorts)
			if o.foreign > 0 || o.harmed > 0 {
				t.Errorf("%d packets with what is not theirs, %d flows of the other tenant changed: %s", o.foreign, o.harmed, o.example)
			}
			if h.reverse && o.equalPorts < o.overlapped {
				t.Errorf("%s: the tenants' NAT ports were equal in %d of %d tries", h.name, o.equalPorts, o.overlapped)
			}
			if h.reverse {
				sum.replies += o.overlapped
			} else {
				sum.requests += o.overlapped
			}
			if h.proto != h.others {
				sum.mixed += o.overlapped
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// The test above sees what it is for: with one rule broken, one of the cases is not as it should be.
func TestReuse_RuleBroken_Seen(t *testing.T) {
	foreign := func(o *outcome) bool { return o.foreign > 0 }
	harmed := func(o *outcome) bool { return o.harmed > 0 }
	for _, c := range []struct {
		name string
		o    program.Options
		held holding
		seen func(*outcome) bool
	}{
		{"state not read again, request", program.Options{Hold: program.HoldReading, Fault: program.FaultNoRecheck}, cases[4], foreign},
		{"state not read again, reply", program.Options{Hold: program.HoldReading, Fault: program.FaultNoRecheck}, cases[0], foreign},
		{"state not read again, TCP and UDP", program.Options{Hold: program.HoldReading, Fault: program.FaultNoRecheck}, cases[2], foreign},
		{"state not read again, XDP", program.Options{XDP: true, Hold: program.HoldReading, Fault: program.FaultNoRecheck}, cases[5], foreign},
		{"sequence not raised", program.Options{Hold: program.HoldReading, Fault: program.FaultSameSequence}, cases[1], foreign},
		{"twin of whoever is there", program.Options{Hold: program.HoldFound, Fault: program.FaultBlindTwin}, changing[5], harmed},
		{"stamp of whoever is there", program.Options{Hold: program.HoldFound, Fault: program.FaultBlindStamp}, cases[1], harmed},
	} {
		t.Run(c.name, func(t *testing.T) {
			const tries = 100
			err := onStage(c.o, func(s *stage) error {
				all, err := s.run([]holding{c.held}, tries)
				if err != nil {
					return err
				}
				o := all[c.held.name]
				t.Logf("%d of %d packets foreign, %d flows harmed: %s", o.foreign, tries, o.harmed, o.example)
				if !c.seen(o) {
					t.Error("the fault was not seen")
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		})
	}
}
