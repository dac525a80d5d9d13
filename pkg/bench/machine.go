package bench

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// machine says what the run runs on, and what stands above every table.
func machine(o Options) []string {
	var u unix.Utsname
	kernel := "unknown kernel"
	if unix.Uname(&u) == nil {
		kernel = unix.ByteSliceToString(u.Release[:])
	}
	lines := []string{
		fmt.Sprintf("kernel %s, %d x %s, everything on CPU %d", kernel, runtime.NumCPU(), processor(), o.CPU),
		"costs are ns per packet above the generator sending straight into the sink; ratios are of minima, of rates of maxima",
	}
	// Others' work shows in medians and ranges; of minima it may leave none undisturbed.
	if load, err := os.ReadFile("/proc/loadavg"); err == nil {
		var one float64
		if _, err := fmt.Sscan(string(load), &one); err == nil && one > 0.5 {
			lines = append(lines, fmt.Sprintf("the machine was not idle when this began (load %.1f): expect wider ranges", one))
		}
	}
	return lines
}

func processor() string {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return "unknown CPU"
	}
	defer func() { _ = f.Close() }()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if name, value, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown CPU"
}
