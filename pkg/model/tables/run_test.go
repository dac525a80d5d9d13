package tables

import (
	"bytes"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/privlink/privlink/pkg/model"
	"github.com/privlink/privlink/pkg/model/program"
)

// row is one behaviour.
type row struct {
	name  string
	roles string // headers of bpf/ that it is about, without .h
	steps []step
	check func(*bench) // what the tables must hold in the end
}

// step is one frame, a change, or both.
type step struct {
	after  uint32 // seconds, before the frame
	change func(*bench)
	sweep  bool // all of the table
	on     string
	send   packet
	gso    model.GSO
	vlan   uint16 // instead of the attachment's
	action model.Action
	reason model.Reason
	out    string
	want   *packet
}

func forwards(on string, send packet, out string, want packet) step {
	return step{on: on, send: send, action: model.ActionRedirect, out: out, want: &want}
}

func drops(on string, send packet, reason model.Reason) step {
	return step{on: on, send: send, action: model.ActionDrop, reason: reason}
}

func answers(on string, send packet, reason model.Reason, want *packet) step {
	return step{on: on, send: send, action: model.ActionAnswer, reason: reason, out: on, want: want}
}

// passes the frame to the host as it came.
func passes(send packet, reason model.Reason) step {
	return step{on: "other", send: send, action: model.ActionPass, reason: reason, want: &send}
}

func later(seconds uint32) step { return step{after: seconds} }

func changes(f func(*bench)) step { return step{change: f} }

// start is the clock when a row begins, in seconds.
const start = 5000

// TestPackets runs every row, and then asks whether all verdicts, reasons and headers had one.
func TestPackets_EveryRow_ProgramsAndModelDoWhatItSays(t *testing.T) {
	reached := &reach{actions: make(map[model.Action]bool), reasons: make(map[model.Reason]bool)}
	err := program.InNetwork(deviceMACs(), func(indexes []uint32) error {
		c := config(indexes)
		sides := make(map[string]*program.Programs)
		for name, o := range map[string]program.Options{
			"TC alone": {}, "XDP then TC": {XDP: true},
			"TC, checksums secret": {Sums: program.SumsSecret}, "TC, complete checksums": {Sums: program.SumsComplete},
		} {
			p, err := program.Load(&c, o)
			if err != nil {
				return err
			}
			defer p.Close()
			sides[name] = p
		}
		for _, r := range slices.Concat(senderRows(t), lifeRows(t), oursRows(t), limitRows(t), forwardRows(t), icmpRows(t), fragmentRows(t), innerRows(t)) {
			// Not in parallel and not on a goroutine of its own: test runs belong to this thread's network.
			if failed := r.run(t, indexes, sides, reached); failed != nil {
				t.Errorf("%s: %v", r.name, failed)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	reached.complain(t)
}

// run runs one row on the model and on both sets of programs.
func (r row) run(t *testing.T, indexes []uint32, sides map[string]*program.Programs, reached *reach) error {
	c := config(indexes)
	b := &bench{T: t, c: &c, m: model.New(c), sides: sides, index: indexes}
	b.c = &b.m.Config
	b.m.Now = start
	for name, p := range sides {
		if err := p.Reset(); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	b.write()
	for i, s := range r.steps {
		if err := s.run(b, reached); err != nil {
			return fmt.Errorf("step %d: %w", i+1, err)
		}
	}
	if r.check != nil {
		r.check(b)
	}
	reached.roles = append(reached.roles, strings.Fields(r.roles)...)
	return nil
}

func (s step) run(b *bench, reached *reach) error {
	b.m.Now += s.after
	if s.change != nil {
		s.change(b)
		b.write()
	}
	if s.sweep {
		if err := b.sweep(); err != nil {
			return err
		}
	}
	if s.on == "" {
		return nil
	}
	at, _ := portNamed(b.T, s.on)
	in := model.Input{Frame: s.send.bytes(b.T), Interface: b.index[at.device], VLAN: at.vlan, GSO: s.gso}
	if s.vlan != 0 {
		in.VLAN = s.vlan
	}
	want := model.Decision{Action: s.action, Reason: s.reason}
	if s.out != "" {
		var to port
		to, want.Out = portNamed(b.T, s.out)
		want.VLAN = to.vlan
	} else if s.action == model.ActionPass {
		want.VLAN = in.VLAN
	}
	if s.want != nil {
		want.Frame = s.want.bytes(b.T)
	}
	const random = 1
	b.m.Random = random
	if err := same(b.m.Packet(in), want); err != nil {
		return fmt.Errorf("model: %w", err)
	}
	for name, p := range b.sides {
		got, err := p.Packet(in, b.m.Now, random)
		if err == nil {
			err = same(got, want)
		}
		if err == nil {
			err = p.CompareAll(b.m)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	reached.actions[s.action], reached.reasons[s.reason] = true, true
	for r, c := range b.m.Reasons {
		if c.Packets > 0 {
			reached.reasons[model.Reason(r)] = true
		}
	}
	return nil
}

func same(got, want model.Decision) error {
	if got.Action != want.Action || got.Reason != want.Reason || got.Out != want.Out || got.VLAN != want.VLAN {
		return fmt.Errorf("%s, %s, by %d, tag %d; want %s, %s, by %d, tag %d",
			got.Action, got.Reason, got.Out, got.VLAN, want.Action, want.Reason, want.Out, want.VLAN)
	}
	if want.Frame != nil && got.Frame != nil && !bytes.Equal(got.Frame, want.Frame) {
		return fmt.Errorf("frame\n  got  %x\n  want %x", got.Frame, want.Frame)
	}
	return nil
}

func (b *bench) sweep() error {
	slots := uint32(len(b.m.Table.Slots))
	want := b.m.Sweep(0, slots)
	b.m.WantedSweep = false
	for name, p := range b.sides {
		p.SweepDone()
		got, err := p.Sweep(0, slots, b.m.Now)
		if err == nil && got != want {
			err = fmt.Errorf("found %+v, model %+v", got, want)
		}
		if err == nil {
			err = p.CompareAll(b.m)
		}
		if err != nil {
			return fmt.Errorf("sweep: %s: %w", name, err)
		}
	}
	return nil
}

// reach is what the rows got to.
type reach struct {
	actions map[model.Action]bool
	reasons map[model.Reason]bool
	roles   []string
}

// elsewhere are headers without a row, and why.
var elsewhere = map[string]string{
	"types": "values of the maps", "maps": "the maps", "reasons": "the reasons", "mutants": "faults for make fuzz-mutants", "faults": "faults for the stress and pkg/model/reuse", "hold": "for pkg/model/reuse",
	"exports": "types for Go", "wire": "formats", "hook": "what differs between the hooks: every row runs in both",
	"migrate": "the table of before: pkg/dataplane/migrate_test.go", "carry": "the same",
}

// complain about what no row reached.
func (r *reach) complain(t *testing.T) {
	for _, a := range []model.Action{model.ActionPass, model.ActionDrop, model.ActionRedirect, model.ActionAnswer} {
		if !r.actions[a] {
			t.Errorf("no row reaches verdict %s", a)
		}
	}
	for reason := range model.ReasonCount {
		if !r.reasons[reason] && reason != model.TableBusy && reason != model.Helper { // faults_test.go
			t.Errorf("no row reaches reason %s", reason)
		}
	}
	files, err := os.ReadDir("../../../bpf")
	if err != nil {
		t.Fatal(err)
	}
	header := regexp.MustCompile(`^([a-z_]+)\.h$`)
	for _, f := range files {
		m := header.FindStringSubmatch(f.Name())
		if m != nil && !slices.Contains(r.roles, m[1]) && elsewhere[m[1]] == "" {
			t.Errorf("no row is about bpf/%s", f.Name())
		}
	}
}
