package bench

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"os/exec"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/cilium/ebpf"

	"github.com/privlink/privlink/pkg/lab"
)

// ProfileLine is a place where a core spent its time: a line of a BPF program or a kernel function.
type ProfileLine struct {
	Where string  // "program file:line source" or "kernel function"
	Share float64 // of all samples
}

// Profile samples a core while run is repeated, and says where the time went: kernel functions
// by name, BPF programs by source line. It needs perf; without hardware counters
// (most virtual machines) perf samples by a timer, which is enough.
func Profile(ctx context.Context, cpu int, d time.Duration, dir string, run func() error) ([]ProfileLine, error) {
	data := filepath.Join(dir, "perf.data")
	record := exec.CommandContext(ctx, "perf", "record", "-q", "-e", "cpu-clock", "-F", "9000", "-C", strconv.Itoa(cpu),
		"-o", data, "--", "sleep", fmt.Sprintf("%.1f", d.Seconds()))
	if err := record.Start(); err != nil {
		return nil, fmt.Errorf("start perf: %w (install linux-perf)", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- record.Wait() }()
	for {
		select {
		case err := <-ended:
			if err != nil {
				return nil, fmt.Errorf("perf record: %w", err)
			}
			script := exec.CommandContext(ctx, "perf", "script", "-i", data, "-F", "ip,sym")
			out, err := script.Output()
			if err != nil {
				return nil, fmt.Errorf("perf script: %w", err)
			}
			return attribute(out)
		default:
			if err := run(); err != nil {
				_ = record.Process.Kill()
				<-ended
				return nil, err
			}
		}
	}
}

// ProfileOptions say what to look at.
type ProfileOptions struct {
	Forwarder string // as the table names it, "tc privlink"
	Flows     uint32
	New       bool // packets that open flows instead of such of established ones
	Direction Direction
	// Connections are real ones, connect-request-close, instead of generated packets.
	Connections bool
	For         time.Duration
}

// RunProfile sets one forwarder up and says where the core spends its time while packets go
// through it, the largest shares first.
func RunProfile(ctx context.Context, cpu int, o ProfileOptions) ([]ProfileLine, error) {
	core, err := NewCore(cpu)
	if err != nil {
		return nil, err
	}
	defer core.Close()
	var f Forwarder
	for _, candidate := range forwarders(max(1<<20, 2*o.Flows)) {
		if candidate.Name() == o.Forwarder {
			f = candidate
		}
	}
	if f == nil {
		return nil, fmt.Errorf("profile %q: no such forwarder", o.Forwarder)
	}
	var lines []ProfileLine
	if o.Connections {
		err = inLab(ctx, func(net *lab.Lab) error {
			l, err := newTCPLane(net, f)
			if err != nil {
				return err
			}
			defer func() { _ = f.Close() }()
			lines, err = Profile(ctx, cpu, o.For, net.Dir(), func() error {
				_, err := l.conversation(cpu).connections(ctx, time.Second)
				return err
			})
			return err
		})
		return lines, err
	}
	err = inLab(ctx, func(net *lab.Lab) error {
		l, err := NewLane(net, core, f, o.Flows)
		if err != nil {
			return err
		}
		defer func() { _ = l.Close() }()
		plan := Plan{Direction: o.Direction, Flows: o.Flows, Packets: 1 << 18, Scatter: true}
		if o.New {
			plan = Plan{Flows: o.Flows, Packets: uint64(o.Flows)}
		} else if err := l.Open(o.Flows); err != nil {
			return err
		}
		lines, err = Profile(ctx, cpu, o.For, net.Dir(), func() error {
			if o.New {
				if err := f.Forget(); err != nil {
					return err
				}
			}
			_, err := l.Run(plan)
			return err
		})
		return err
	})
	return lines, err
}

// PrintProfile prints shares by BPF program and source file, then the places that cost most.
func PrintProfile(w io.Writer, lines []ProfileLine, most int) {
	sums := make(map[string]float64)
	for _, l := range lines {
		if program, rest, ok := strings.Cut(l.Where, " "); ok {
			file, _, _ := strings.Cut(rest, ":")
			sums[program] += l.Share
			sums[program+" "+file] += l.Share
		} else {
			sums["kernel"] += l.Share
		}
	}
	for _, name := range slices.Sorted(maps.Keys(sums)) {
		if sums[name] >= 0.005 {
			_, _ = fmt.Fprintf(w, "%5.1f %%  %s\n", 100*sums[name], name)
		}
	}
	_, _ = fmt.Fprintln(w)
	for i, l := range lines {
		if i == most {
			break
		}
		_, _ = fmt.Fprintf(w, "%5.1f %%  %s\n", 100*l.Share, l.Where)
	}
}

// place is where jitted code of one source line begins.
type place struct {
	address uint64
	name    string
}

// attribute counts perf's samples ("address symbol" lines) by function and by BPF source line.
func attribute(script []byte) ([]ProfileLine, error) {
	places, err := jittedPlaces()
	if err != nil {
		return nil, err
	}
	counts := make(map[string]int)
	total := 0
	for lines := bufio.NewScanner(bytes.NewReader(script)); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) == 0 {
			continue
		}
		address, err := strconv.ParseUint(fields[0], 16, 64)
		if err != nil {
			continue
		}
		total++
		symbol := "?"
		if len(fields) > 1 {
			symbol = fields[1]
		}
		if strings.HasPrefix(symbol, "bpf_prog_") {
			i, exact := slices.BinarySearchFunc(places, address, func(p place, a uint64) int {
				switch {
				case p.address < a:
					return -1
				case p.address > a:
					return 1
				}
				return 0
			})
			if !exact {
				i--
			}
			if i >= 0 {
				symbol = places[i].name
			}
		}
		counts[symbol]++
	}
	var profile []ProfileLine
	for where, n := range counts {
		profile = append(profile, ProfileLine{where, float64(n) / float64(total)})
	}
	sort.Slice(profile, func(i, j int) bool { return profile[i].Share > profile[j].Share })
	return profile, nil
}

// jittedPlaces is where every source line of every loaded BPF program begins in memory, in order.
func jittedPlaces() ([]place, error) {
	var places []place
	for id := ebpf.ProgramID(0); ; {
		var err error
		if id, err = ebpf.ProgramGetNextID(id); err != nil {
			break
		}
		prog, err := ebpf.NewProgramFromID(id)
		if err != nil {
			continue // gone meanwhile
		}
		info, err := prog.Info()
		_ = prog.Close()
		if err != nil {
			return nil, err
		}
		addresses, ok := info.JitedLineInfos()
		if !ok {
			continue
		}
		lines, err := info.LineInfos()
		if err != nil {
			continue // without BTF
		}
		for i, address := range addresses {
			if i >= len(lines) {
				break
			}
			line := lines[i].Line
			places = append(places, place{address, fmt.Sprintf("%s %s:%d %s", info.Name,
				filepath.Base(line.FileName()), line.LineNumber(), strings.TrimSpace(line.Line()))})
		}
	}
	slices.SortFunc(places, func(a, b place) int {
		switch {
		case a.address < b.address:
			return -1
		case a.address > b.address:
			return 1
		}
		return 0
	})
	return places, nil
}
