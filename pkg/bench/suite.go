package bench

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/privlink/privlink/pkg/dataplane"
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
	// Rounds of a comparison; 0 = 11. Less proves nothing.
	Rounds int
	// Only restricts the run to these parts; empty = all, or with Quick those that are quick.
	Only []string
}

// scale of a run.
type scale struct {
	rounds    int
	flows     []uint32 // established, on tables as a new installation has them
	many      []uint32 // established, on tables of `pairs`
	packets   uint64   // timed in a round
	everybody bool     // all forwarders at every number of flows, not only at the first
	newFlows  uint32
	segments  int           // of a fill
	approvals int           // of a connection
	idle      int           // connections
	burst     time.Duration // of a TCP round
	pairs     uint32        // flows that the tables have room for where many flows are opened
}

var (
	fullScale = scale{
		rounds: 11, flows: []uint32{1, 1000, 100_000}, many: []uint32{400_000}, packets: 1 << 16, everybody: true, newFlows: 500_000,
		segments: 40, approvals: 300, idle: 8000, burst: 500 * time.Millisecond, pairs: 1 << 20,
	}
	quickScale = scale{
		rounds: 11, flows: []uint32{1, 100_000}, packets: 1 << 15, newFlows: 100_000,
		segments: 10, approvals: 20, idle: 1000, burst: 100 * time.Millisecond, pairs: 1 << 20,
	}
)

// suite is a run under way.
type suite struct {
	Options
	scale
	core     *Core
	progress Progress
	report   *Report
}

// part is a piece of a run with namespaces of its own.
type part struct {
	name  string
	quick bool     // belongs to a quick run
	needs []string // programs
	run   func(context.Context, *suite, *lab.Lab) error
}

var parts = []part{
	{"packets", true, []string{"nft"}, func(ctx context.Context, s *suite, l *lab.Lab) error { return s.packetCosts(ctx, l) }},
	{"opening", true, []string{"nft"}, func(ctx context.Context, s *suite, l *lab.Lab) error { return s.openingCosts(ctx, l) }},
	{"fill", false, nil, func(ctx context.Context, s *suite, l *lab.Lab) error {
		return Fill(ctx, l, s.core, s.progress, s.report, s.rounds, s.segments)
	}},
	{"sweep", false, nil, func(ctx context.Context, s *suite, l *lab.Lab) error {
		return Sweep(ctx, l, s.core, s.progress, s.report, s.rounds)
	}},
	{"scale", false, nil, func(ctx context.Context, s *suite, l *lab.Lab) error {
		return Scale(ctx, l, s.core, s.progress, s.report, s.rounds)
	}},
	{"tcp", false, []string{"nft", "iperf3"}, func(ctx context.Context, s *suite, l *lab.Lab) error {
		return TCP(ctx, l, s.progress, s.report, s.CPU, s.rounds, s.burst,
			[]Forwarder{NewRedirect(TC), NewNftables(), NewPrivlink(TC, s.pairs, 1)})
	}},
	{"proxy", false, []string{"haproxy", "nginx"}, func(ctx context.Context, s *suite, l *lab.Lab) error {
		return ProxyPath(ctx, l, s.progress, s.report, s.CPU, s.rounds, s.idle, s.burst,
			[]Forwarder{NewRedirect(TC), NewHaproxy(s.CPU), NewNginx(s.CPU), NewSplice(s.Executable, s.CPU)})
	}},
	{"load", true, nil, func(ctx context.Context, s *suite, l *lab.Lab) error {
		return Load(ctx, l, s.progress, s.report, s.rounds)
	}},
	{"control", true, []string{"go"}, func(ctx context.Context, s *suite, l *lab.Lab) error {
		return Approve(ctx, l, s.progress, s.report, s.approvals)
	}},
}

// Parts are the names for Options.Only.
func Parts() []string {
	var names []string
	for _, p := range parts {
		names = append(names, p.name)
	}
	return names
}

func (o Options) wants(p part) bool {
	if len(o.Only) == 0 {
		return p.quick || !o.Quick
	}
	return slices.Contains(o.Only, p.name)
}

// Run measures part by part and writes bench.json and the plots. A part that fails (a wrong
// packet, a lost one, a set-up that did not work) leaves no figure; the others go on, and the
// error names it.
func Run(ctx context.Context, o Options, p Progress) (*Report, error) {
	s := &suite{Options: o, scale: fullScale, progress: p, report: &Report{Machine: machine(o)}}
	if o.Quick {
		s.scale = quickScale
	}
	if o.Rounds > 0 {
		s.rounds = o.Rounds
	}
	for _, name := range o.Only {
		if !slices.Contains(Parts(), name) {
			return nil, fmt.Errorf("part %q: there is none (there are %v)", name, Parts())
		}
	}
	// Both far ends of the idle connections are in this process.
	if _, err := splice.RaiseDescriptors(0); err != nil {
		return nil, err
	}
	core, err := NewCore(o.CPU)
	if err != nil {
		return nil, err
	}
	defer core.Close()
	s.core = core
	restore, err := AllowConntrack(1 << 20)
	if err != nil {
		return nil, err
	}
	defer restore()
	var failed []error
	for _, part := range parts {
		if o.wants(part) && ctx.Err() == nil {
			failed = append(failed, s.runPart(ctx, part))
		}
	}
	p.Done()
	failed = append(failed, ctx.Err(), s.report.write(o.Dir))
	return s.report, errors.Join(failed...)
}

func (s *suite) runPart(ctx context.Context, p part) error {
	for _, program := range p.needs {
		if _, err := exec.LookPath(program); err != nil {
			s.report.NotMeasured(p.name, fmt.Errorf("%s is not installed (scripts/setup bench)", program))
			return nil
		}
	}
	before := s.report.mark()
	if err := inLab(ctx, func(l *lab.Lab) error { return p.run(ctx, s, l) }); err != nil {
		s.report.rollBack(before)
		s.report.NotMeasured(p.name, err)
		return fmt.Errorf("part %s: %w", p.name, err)
	}
	return nil
}

// inLab gives a part namespaces of its own, which are gone when it ends.
func inLab(ctx context.Context, fn func(*lab.Lab) error) error {
	return lab.Run(ctx, lab.Options{Name: "bench"}, func(_ context.Context, l *lab.Lab) error { return fn(l) })
}

// forwarders are all that packets are compared through, with room for so many flows.
func forwarders(pairs uint32) []Forwarder {
	return []Forwarder{
		NewRedirect(XDP), NewReference(XDP, pairs), NewPrivlink(XDP, pairs, 1),
		NewRedirect(TC), NewReference(TC, pairs), NewPrivlink(TC, pairs, 1),
		NewKernelForwarding(), NewNftables(),
	}
}

// compare makes a comparison of all forwarders, with room for so many flows. The caller closes it.
func (s *suite) compare(net *lab.Lab, pairs, flows uint32) (*Comparison, error) {
	c := &Comparison{Rounds: s.rounds}
	var err error
	if c.Base, err = NewLane(net, s.core, nil, flows); err != nil {
		return nil, err
	}
	for _, f := range forwarders(pairs) {
		s.progress.Step("setting up %s", f.Name())
		l, err := NewLane(net, s.core, f, flows)
		if err != nil {
			c.Close()
			return nil, err
		}
		c.Lanes = append(c.Lanes, l)
	}
	return c, nil
}

// packetCosts compares the forwarders packet by packet, with tables as a new installation has them.
func (s *suite) packetCosts(ctx context.Context, net *lab.Lab) error {
	all, err := s.compare(net, dataplane.DefaultPairs, slices.Max(s.flows))
	if err != nil {
		return err
	}
	defer all.Close()
	for i, n := range s.flows {
		c := all
		if i > 0 && !s.everybody {
			c = all.only(nameXDPRedirect, nameXDPReference, nameXDPPrivlink, nameNftables)
		}
		if err := c.Established(ctx, s.progress, s.report, n, s.packets); err != nil {
			return err
		}
	}
	return nil
}

// openingCosts compares what opening flows costs, and packets of more flows than a default table holds.
func (s *suite) openingCosts(ctx context.Context, net *lab.Lab) error {
	all, err := s.compare(net, s.pairs, max(s.newFlows, slices.Max(append(s.many, 0))))
	if err != nil {
		return err
	}
	defer all.Close()
	for _, n := range s.many {
		if err := all.Established(ctx, s.progress, s.report, n, s.packets); err != nil {
			return err
		}
	}
	names := []string{nameXDPReference, nameXDPPrivlink, nameNftables}
	if s.everybody {
		names = append(names, nameTCReference, nameTCPrivlink)
	}
	return all.only(names...).NewFlows(ctx, s.progress, s.report, s.newFlows)
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
