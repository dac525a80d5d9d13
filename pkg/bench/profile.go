package bench

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/cilium/ebpf"
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
