package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/privlink/privlink/pkg/lab"
	"github.com/privlink/privlink/pkg/lab/load"
)

// Options of a run.
type Options struct {
	Binary   string        // the privlink executable
	Duration time.Duration // at least a few seconds
	Seed     uint64
	Out      io.Writer
	Verbose  bool   // each fault as it comes
	Only     string // name of the one kind to strike with; empty = all
}

// Result of a run.
type Result struct {
	Faults      int
	Packets     int
	Connections int
	Lost        int // packets, outside of fault windows
	Broken      int // connections that should not be
}

// String is the last line of a run.
func (r Result) String() string {
	return fmt.Sprintf("%d faults, %d packets and %d connections checked, %d packets lost outside fault windows, %d connections broken that should not be",
		r.Faults, r.Packets, r.Connections, r.Lost, r.Broken)
}

// Least that has to be checked in each second of a run, and the most of it that windows may cover.
const (
	leastPackets     = 1000
	leastConnections = 20
	mostCovered      = 0.25
)

// Run breaks things for as long as the options say, prints the table of windows and what came of it, and
// fails when something was lost that should not be, or too little was checked.
func Run(ctx context.Context, o Options) (Result, error) {
	var result Result
	var failed error
	err := lab.Run(ctx, lab.Options{Name: "chaos", Log: o.Out}, func(ctx context.Context, l *lab.Lab) error {
		a, err := build(ctx, l, o.Binary)
		if err != nil {
			return err
		}
		r := &run{Options: o, arena: a, draw: rand.New(rand.NewPCG(o.Seed, 0)), struck: make(map[string]int), longest: make(map[string]time.Duration)}
		if err := r.faults(ctx); err != nil {
			return err
		}
		result, failed = r.judge()
		return nil
	})
	return result, errors.Join(err, failed)
}

// run is one run of chaos.
type run struct {
	Options
	*arena
	draw       *rand.Rand
	begin, end time.Time
	// Windows of datagrams, of new connections to the plain service and of new ones to the proxied service.
	packets, plain, proxied []load.Window
	endings                 []load.Window // those of proxied that end what exists
	overlong                []error       // windows longer than their kind's may be
	struck                  map[string]int
	longest                 map[string]time.Duration // how long a kind's window was at most
	counts                  map[string]uint64        // packets by reason after the last fault
}

// covered is how much of the run windows take.
func covered(windows []load.Window) (sum time.Duration) {
	for _, w := range windows {
		sum += w.To.Sub(w.From)
	}
	return sum
}

// affordable says whether one more fault of the kind fits into what windows may cover, and before the end.
func (r *run) affordable(k Kind) bool {
	expect := max(2*time.Second, 3*r.longest[k.Name]/2)
	if k.Most > brief && r.struck[k.Name] == 0 {
		expect = 4 * time.Second // a daemon may have to start
	}
	most := time.Duration(mostCovered * float64(r.Duration))
	for _, w := range r.windows(k) {
		if covered(*w.all)+expect > most {
			return false
		}
	}
	return time.Until(r.begin.Add(r.Duration)) > k.Lasts+expect
}

// excuse is until when a fault excuses something after it is over, and the windows in which that is excused.
type excuse struct {
	until *time.Duration
	all   *[]load.Window
}

// windows are those that a fault of the kind opens.
func (r *run) windows(k Kind) []excuse {
	return slices.DeleteFunc([]excuse{{k.Packets, &r.packets}, {k.Plain, &r.plain}, {k.Proxied, &r.proxied}}, func(e excuse) bool { return e.until == nil })
}

// faults starts the traffic, strikes until the time is over, and stops the traffic.
func (r *run) faults(ctx context.Context) error {
	if err := r.start(ctx); err != nil {
		return err
	}
	counts, err := r.reasons(ctx)
	if err != nil {
		return err
	}
	r.counts = counts
	r.begin = time.Now()
	limit := r.begin.Add(r.Duration)
	var queue []Kind
	for time.Now().Before(limit) {
		if len(queue) == 0 {
			queue = slices.DeleteFunc(Kinds(), func(k Kind) bool { return r.Only != "" && k.Name != r.Only })
			if len(queue) == 0 {
				return fmt.Errorf("there is no kind of fault %q", r.Only)
			}
			r.draw.Shuffle(len(queue), func(i, j int) { queue[i], queue[j] = queue[j], queue[i] })
		}
		k := queue[0]
		queue = queue[1:]
		if r.affordable(k) {
			if err := r.strike(ctx, k); err != nil {
				return fmt.Errorf("fault %s: %w", k.Name, err)
			}
		}
		// Undisturbed traffic between any two, and the kinds spread over the run.
		if err := pause(ctx, min(time.Until(limit), r.Duration/100+time.Duration(r.draw.IntN(1000))*time.Millisecond)); err != nil {
			return err
		}
	}
	r.end = time.Now()
	return nil
}

// strike brings one fault and notes its windows.
func (r *run) strike(ctx context.Context, k Kind) error {
	from := r.underWay()
	r.object, r.window = "", load.Window{}
	err := k.strike(ctx, r.arena, r.draw)
	if err != nil {
		return err
	}
	r.struck[k.Name]++
	over := time.Now()
	if !r.window.From.IsZero() {
		from = r.window.From
	}
	if !r.window.To.IsZero() {
		over = r.window.To
	}
	if k.Ends {
		r.endings = append(r.endings, load.Window{From: from, To: over.Add(*k.Proxied)})
	}
	for _, e := range r.windows(k) {
		window := load.Window{From: from, To: over.Add(*e.until)}
		*e.all = append(*e.all, window)
		length := window.To.Sub(window.From)
		if length > k.Most {
			r.overlong = append(r.overlong, fmt.Errorf("chaos: a window of %s lasted %v, %v is the most", k.Name, length.Round(time.Millisecond), k.Most))
		}
		r.longest[k.Name] = max(r.longest[k.Name], length)
		if err := pause(ctx, time.Until(window.To)); err != nil {
			return err
		}
	}
	counts, err := r.reasons(ctx)
	if err != nil {
		return err
	}
	if r.Verbose {
		fmt.Fprintf(r.Out, "%6.1f s %s %s, %v; packets since the last one: %s\n",
			from.Sub(r.begin).Seconds(), k.Name, r.object, over.Sub(from).Round(time.Millisecond), since(r.counts, counts))
	}
	r.counts = counts
	return nil
}

// since says which reasons were counted between two times.
func since(before, now map[string]uint64) string {
	var all []string
	for _, reason := range slices.Sorted(maps.Keys(now)) {
		if n := now[reason] - before[reason]; n != 0 {
			all = append(all, fmt.Sprintf("%d %s", n, reason))
		}
	}
	if len(all) == 0 {
		return "all went through"
	}
	return strings.Join(all, ", ")
}

// judge stops the traffic, prints the table and says what came of it.
func (r *run) judge() (Result, error) {
	var plain, proxied load.Report
	for _, c := range r.arena.plain {
		plain.Add(c.Stop())
	}
	for _, c := range r.arena.proxied {
		proxied.Add(c.Stop())
	}
	bad := plain.Outside(r.packets)
	broken := append(unexcused(plain.Broken, r.plain, nil), unexcused(proxied.Broken, r.proxied, r.endings)...)
	result := Result{
		Packets: plain.Packets, Connections: plain.Connections + proxied.Connections,
		Lost: len(bad.Lost), Broken: len(broken),
	}
	r.table(&result)
	for _, b := range broken {
		fmt.Fprintf(r.Out, "broken: %s of %s from %.3f s to %.3f s: %v\n", b.Kind, b.Client, b.From.Sub(r.begin).Seconds(), b.To.Sub(r.begin).Seconds(), b.Err)
	}
	for _, g := range bad.Gaps() {
		fmt.Fprintf(r.Out, "lost: packets from %.3f s to %.3f s\n", g.From.Sub(r.begin).Seconds(), g.To.Sub(r.begin).Seconds())
	}
	seconds := r.end.Sub(r.begin).Seconds()
	failed := r.overlong
	if result.Lost > 0 || result.Broken > 0 {
		failed = append(failed, errors.New("chaos: something was lost that should not be"))
	}
	if float64(result.Packets) < leastPackets*seconds || float64(result.Connections) < leastConnections*seconds {
		failed = append(failed, fmt.Errorf("chaos: too little was checked in %.0f s: %d packets, %d connections", seconds, result.Packets, result.Connections))
	}
	most := time.Duration(mostCovered * float64(r.Duration))
	if max(covered(r.packets), covered(r.plain), covered(r.proxied)) > most {
		failed = append(failed, errors.New("chaos: fault windows cover more than a quarter of the run"))
	}
	return result, errors.Join(failed...)
}

// unexcused are the connections that should not have broken: new ones outside of windows, and those that existed
// outside of endings.
func unexcused(all []load.Broken, windows, endings []load.Window) (bad []load.Broken) {
	for _, b := range all {
		excuses := windows
		if strings.Contains(b.Kind, "busy") || strings.Contains(b.Kind, "silent") {
			excuses = endings
		}
		bad = append(bad, load.Report{Broken: []load.Broken{b}}.Outside(excuses).Broken...)
	}
	return bad
}

// table prints every kind with its windows, why it has them, and how often it came.
func (r *run) table(result *Result) {
	until := func(d *time.Duration) string {
		if d == nil {
			return "0"
		}
		return fmt.Sprintf("until over + %v", *d)
	}
	w := tabwriter.NewWriter(r.Out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "FAULT\tWHAT\tPACKETS\tNEW CONNECTIONS\tNEW PROXIED ONES\tEXISTING ONES\tLONGEST\tMOST\tTIMES\tWHY THAT LONG")
	var missing []string
	for _, k := range Kinds() {
		n := r.struck[k.Name]
		result.Faults += n
		if n == 0 {
			missing = append(missing, k.Name)
		}
		existing, longest, most := "stay", "-", "-"
		if k.Ends {
			existing = "proxied ones end"
		}
		if len(r.windows(k)) > 0 {
			longest, most = r.longest[k.Name].Round(time.Millisecond).String(), k.Most.String()
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d\t%s\n",
			k.Name, k.What, until(k.Packets), until(k.Plain), until(k.Proxied), existing, longest, most, n, k.Why)
	}
	_ = w.Flush() // the writer's errors are the output's
	fmt.Fprintf(r.Out, "%v after a fault is over, as TCP's timeouts of 200 ms and more have to pass before it sends again\n", grace)
	share := func(windows []load.Window) float64 { return 100 * covered(windows).Seconds() / r.Duration.Seconds() }
	fmt.Fprintf(r.Out, "windows cover %.0f %% of the run for packets, %.0f %% for new connections, %.0f %% for new proxied ones; seed %d\n",
		share(r.packets), share(r.plain), share(r.proxied), r.Seed)
	if len(missing) > 0 {
		fmt.Fprintf(r.Out, "did not come: %s\n", strings.Join(missing, ", "))
	}
	fmt.Fprintf(r.Out, "cannot come here: %s\n", strings.Join(impossible, ", "))
}
