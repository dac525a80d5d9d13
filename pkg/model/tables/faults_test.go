package tables

import (
	"fmt"
	"testing"

	"github.com/privlink/privlink/pkg/model"
	"github.com/privlink/privlink/pkg/model/program"
)

// What no frame on one CPU can bring about is put in by hand, and only the programs see it.

func TestFaults_HomeLockedByAnotherCPU_RefusedAsTableBusy(t *testing.T) {
	eachHook(t, 0, func(b *bench, name string, p *program.Programs) error {
		syn := asked("S")
		home := b.m.Table.Home(model.Key{Src: client, Dst: endpoint, SrcPort: 5000, DstPort: 80, VNet: consumerNet, Proto: model.TCP})
		p.LockHome(home, true)
		if err := b.expect(p, answers("consumer", syn, model.TableBusy, reset(syn))); err != nil {
			return err
		}
		p.LockHome(home, false)
		// Nothing is left of the try: the pair and the port it would have had are free.
		return b.expect(p, forwards("consumer", syn, "provider", seen("S")))
	})
}

func TestFaults_KernelHelperRefuses_DroppedAsHelper(t *testing.T) {
	const refusing = 33 // see fuzz.Mutants
	eachHook(t, refusing, func(b *bench, name string, p *program.Programs) error {
		send := asked("S")
		if name != "TC alone" {
			send.options = forwardOptions // XDP has no helpers to refuse
		}
		return b.expect(p, drops("consumer", send, model.Helper))
	})
}

// eachHook runs f for TC alone and for XDP with TC.
func eachHook(t *testing.T, mutant uint32, f func(b *bench, name string, p *program.Programs) error) {
	t.Helper()
	err := program.InNetwork(deviceMACs(), func(indexes []uint32) error {
		for name, xdp := range map[string]bool{"TC alone": false, "XDP then TC": true} {
			c := config(indexes)
			p, err := program.Load(&c, program.Options{XDP: xdp, Mutant: mutant, Sums: program.SumsSecret})
			if err != nil {
				return err
			}
			defer p.Close()
			b := &bench{T: t, c: &c, m: model.New(c), sides: map[string]*program.Programs{name: p}, index: indexes}
			b.m.Now = start
			b.write()
			if err := f(b, name, p); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// expect runs a step on the programs only.
func (b *bench) expect(p *program.Programs, s step) error {
	at, _ := portNamed(b.T, s.on)
	in := model.Input{Frame: s.send.bytes(b.T), Interface: b.index[at.device], VLAN: at.vlan}
	want := model.Decision{Action: s.action, Reason: s.reason}
	if s.out != "" {
		var to port
		to, want.Out = portNamed(b.T, s.out)
		want.VLAN = to.vlan
	}
	if s.want != nil {
		want.Frame = s.want.bytes(b.T)
	}
	got, err := p.Packet(in, b.m.Now, 1)
	if err != nil {
		return err
	}
	return same(got, want)
}
