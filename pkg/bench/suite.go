package bench

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/privlink/privlink/pkg/lab"
	"github.com/privlink/privlink/pkg/splice"
)

// Options of a run of the whole benchmark.
type Options struct {
	CPU   int    // the core that everything runs on
	Quick bool   // under a minute: fewer packets, flows and parts
	Dir   string // where bench.json and the plots go
	// Executable is the program that serves the splice path, called with "splice" and a setup.
	Executable string
	// Only restricts the run to these parts; empty = all.
	Only []string
}

// scale of a run.
type scale struct {
	rounds    int
	flows     []uint32
	packets   uint64 // per round
	newFlows  uint32
	approvals int
	idle      int           // connections
	segments  int           // of a fill
	burst     time.Duration // of a TCP round
	pairs     uint32        // flows that the tables have room for
}

func (o Options) scale() scale {
	if o.Quick {
		return scale{rounds: 11, flows: []uint32{1, 100_000}, packets: 1 << 16, newFlows: 100_000, segments: 10, approvals: 50, idle: 1000, burst: 100 * time.Millisecond, pairs: 1 << 20}
	}
	return scale{rounds: 15, flows: []uint32{1, 1000, 10_000, 100_000, 400_000}, packets: 1 << 18, newFlows: 500_000, segments: 100, approvals: 300, idle: 8000, burst: 500 * time.Millisecond, pairs: 1 << 20}
}

func (o Options) wants(part string) bool {
	if len(o.Only) == 0 {
		return true
	}
	for _, p := range o.Only {
		if p == part {
			return true
		}
	}
	return false
}

// Run measures everything, part by part. What cannot be measured is reported as such; an
// error is a run that is not valid: a wrong packet, a lost one, a set-up that failed.
func Run(ctx context.Context, o Options, p Progress) (*Report, error) {
	r := &Report{Machine: machine(o)}
	s := o.scale()
	// Both far ends of the idle connections are in this process.
	if _, err := splice.RaiseDescriptors(0); err != nil {
		return nil, err
	}
	core, err := NewCore(o.CPU)
	if err != nil {
		return nil, err
	}
	defer core.Close()
	restore, err := AllowConntrack(1 << 20)
	if err != nil {
		return nil, err
	}
	defer restore()
	if o.wants("packets") {
		if err := inLab(ctx, func(l *lab.Lab) error { return packets(ctx, l, core, p, r, s) }); err != nil {
			return nil, err
		}
	}
	if o.wants("fill") {
		if err := inLab(ctx, func(l *lab.Lab) error { return Fill(ctx, l, core, p, r, s.rounds, s.segments) }); err != nil {
			return nil, err
		}
	}
	if o.wants("sweep") {
		if err := inLab(ctx, func(l *lab.Lab) error { return Sweep(ctx, l, core, p, r, s.rounds) }); err != nil {
			return nil, err
		}
	}
	if o.wants("scale") {
		if err := inLab(ctx, func(l *lab.Lab) error { return Scale(ctx, l, core, p, r, s.rounds) }); err != nil {
			return nil, err
		}
	}
	if o.wants("tcp") {
		if err := inLab(ctx, func(l *lab.Lab) error {
			return TCP(ctx, l, p, r, o.CPU, s.rounds, s.burst, []Forwarder{NewRedirect(TC), NewNftables(), NewPrivlink(TC, s.pairs, 1)})
		}); err != nil {
			return nil, err
		}
	}
	if o.wants("proxy") {
		if err := inLab(ctx, func(l *lab.Lab) error {
			return ProxyPath(ctx, l, p, r, o.CPU, s.rounds, s.idle, s.burst, []Forwarder{
				NewRedirect(TC), NewHaproxy(o.CPU), NewNginx(o.CPU), NewSplice(o.Executable, o.CPU),
			})
		}); err != nil {
			return nil, err
		}
	}
	if o.wants("load") {
		if err := inLab(ctx, func(l *lab.Lab) error { return Load(ctx, l, p, r, s.rounds) }); err != nil {
			return nil, err
		}
	}
	if o.wants("control") {
		if err := inLab(ctx, func(l *lab.Lab) error { return Approve(ctx, l, p, r, s.approvals) }); err != nil {
			return nil, err
		}
	}
	p.Done()
	return r, r.write(o.Dir)
}

// inLab gives a part namespaces of its own, which are gone when it ends.
func inLab(ctx context.Context, fn func(*lab.Lab) error) error {
	return lab.Run(ctx, lab.Options{Name: "bench"}, func(_ context.Context, l *lab.Lab) error { return fn(l) })
}

// packets compares the forwarders packet by packet: established flows, then new ones.
func packets(ctx context.Context, net *lab.Lab, core *Core, p Progress, r *Report, s scale) error {
	most := s.newFlows
	for _, n := range s.flows {
		most = max(most, n)
	}
	c := &Comparison{Rounds: s.rounds}
	defer c.Close()
	var err error
	if c.Base, err = NewLane(net, core, nil, most); err != nil {
		return err
	}
	for _, f := range forwarders(s.pairs) {
		p.Step("setting up %s", f.Name())
		l, err := NewLane(net, core, f, most)
		if err != nil {
			return err
		}
		c.Lanes = append(c.Lanes, l)
	}
	if err := c.Established(ctx, p, r, s.flows, s.packets); err != nil {
		return err
	}
	opening := &Comparison{Base: c.Base, Rounds: s.rounds}
	for _, name := range []string{nameXDPReference, nameXDPPrivlink, nameTCReference, nameTCPrivlink, nameNftables} {
		if l := c.lane(name); l != nil {
			opening.Lanes = append(opening.Lanes, l)
		}
	}
	return opening.NewFlows(ctx, p, r, s.newFlows)
}

// forwarders are all that packets are compared through, with room for so many flows.
func forwarders(pairs uint32) []Forwarder {
	return []Forwarder{
		NewRedirect(XDP), NewReference(XDP, pairs), NewPrivlink(XDP, pairs, 1),
		NewRedirect(TC), NewReference(TC, pairs), NewPrivlink(TC, pairs, 1),
		NewKernelForwarding(), NewNftables(),
	}
}

// write puts bench.json and the plots into a folder.
func (r *Report) write(dir string) error {
	if err := WriteJSON(filepath.Join(dir, "bench.json"), r.Metrics); err != nil {
		return err
	}
	plots := map[string]*Plot{
		"cost":  {Title: "Cost of a packet of an established flow", XLabel: "flows", YLabel: "ns", Log: true},
		"setup": {Title: "Cost of opening a flow as a port range fills", XLabel: "ports in use, %", YLabel: "ns"},
	}
	for _, c := range r.curves {
		plots[c.Plot].Curves = append(plots[c.Plot].Curves, c)
	}
	for name, p := range plots {
		if len(p.Curves) == 0 {
			continue
		}
		if err := p.WriteSVG(filepath.Join(dir, "bench-"+name+".svg")); err != nil {
			return err
		}
	}
	return nil
}

// machine says what the run ran on.
func machine(o Options) []string {
	var u unix.Utsname
	kernel := "unknown kernel"
	if unix.Uname(&u) == nil {
		kernel = unix.ByteSliceToString(u.Release[:])
	}
	cpu := "unknown CPU"
	if f, err := os.Open("/proc/cpuinfo"); err == nil {
		defer func() { _ = f.Close() }()
		for lines := bufio.NewScanner(f); lines.Scan(); {
			if name, value, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(name) == "model name" {
				cpu = strings.TrimSpace(value)
				break
			}
		}
	}
	return []string{
		fmt.Sprintf("kernel %s, %d x %s, everything on CPU %d", kernel, runtime.NumCPU(), cpu, o.CPU),
		"costs are ns per packet above the generator sending straight into the sink; ratios are of minima",
	}
}

// Parts of a run, for Options.Only.
var Parts = []string{"packets", "fill", "sweep", "scale", "tcp", "proxy", "load", "control"}
