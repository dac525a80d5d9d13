package main

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/privlink/privlink/pkg/lab"
)

// stopwatch measures how long something takes, what it costs a process, and what else the machine did meanwhile.
type stopwatch struct {
	process             int // 0 = this
	wall, spent, others time.Duration
}

// start returns a stopwatch that runs; what it has are the beginnings.
func start(process int) (stopwatch, error) {
	s := stopwatch{process: process}
	err := s.read()
	return s, err
}

// read puts the clocks' present values in.
func (s *stopwatch) read() (err error) {
	if s.spent, err = lab.ProcessorTime(s.process); err != nil {
		return err
	}
	own := s.spent
	if s.process != 0 {
		if own, err = lab.ProcessorTime(0); err != nil {
			return err
		}
		own += s.spent
	}
	var ended unix.Rusage // of commands that this process ran
	if err := unix.Getrusage(unix.RUSAGE_CHILDREN, &ended); err != nil {
		return fmt.Errorf("read the processor time of ended processes: %w", err)
	}
	all, err := busy()
	if err != nil {
		return err
	}
	s.others = all - own - time.Duration(ended.Utime.Nano()+ended.Stime.Nano())
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return fmt.Errorf("read the clock: %w", err)
	}
	s.wall = time.Duration(now.Nano())
	return nil
}

// busy is the time that all processors together have worked, proc_stat(5), in steps of 10 ms.
func busy() (time.Duration, error) {
	const tick = 10 * time.Millisecond // USER_HZ
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, fmt.Errorf("read what the processors did: %w", err)
	}
	var user, nice, system, idle, wait, irq, softirq, steal int64
	if _, err := fmt.Fscan(bytes.NewReader(bytes.TrimPrefix(text, []byte("cpu"))), &user, &nice, &system, &idle, &wait, &irq, &softirq, &steal); err != nil {
		return 0, fmt.Errorf("read what the processors did: %w", err)
	}
	return time.Duration(user+nice+system+irq+softirq+steal) * tick, nil
}

func (s *stopwatch) stop() error {
	begin := *s
	if err := s.read(); err != nil {
		return err
	}
	s.wall, s.spent, s.others = s.wall-begin.wall, s.spent-begin.spent, s.others-begin.others
	return nil
}

func rounded(d time.Duration) time.Duration { return d.Round(100 * time.Microsecond) }

func (s stopwatch) String() string {
	return fmt.Sprintf("%v (processor %v)", rounded(s.wall), rounded(s.spent))
}

// series are several of the same.
type series []stopwatch

// median are the medians of what passed and of what was spent.
func (s series) median() stopwatch {
	of := func(pick func(stopwatch) time.Duration) time.Duration {
		all := make([]time.Duration, len(s))
		for i := range s {
			all[i] = pick(s[i])
		}
		slices.Sort(all)
		return all[len(all)/2]
	}
	return stopwatch{wall: of(func(x stopwatch) time.Duration { return x.wall }), spent: of(func(x stopwatch) time.Duration { return x.spent })}
}

// load is how many processors were busy with something else.
func (s series) load() float64 {
	var wall, others time.Duration
	for _, x := range s {
		wall, others = wall+x.wall, others+x.others
	}
	return max(0, others.Seconds()/wall.Seconds())
}

// A promise is of a machine that has nothing else to do. On one whose processors are busy otherwise, more than idle of one of
// them, the processor time is judged, which is what would have passed; and what passes is bounded all the same.
const (
	idle    = 0.25
	patient = 10
)

// under fails above a limit.
func (s series) under(limit time.Duration) error {
	m, load := s.median(), s.load()
	switch {
	case m.wall <= limit:
		return nil
	case load <= idle:
		return fmt.Errorf("%v is longer than %v, and nothing else kept the machine busy (%.2f processors)", m, limit, load)
	case m.spent > limit, m.wall > patient*limit:
		return fmt.Errorf("%v is longer than %v, with %.2f processors busy otherwise", m, limit, load)
	}
	return nil
}

func (s series) String() string {
	text := s.median().String()
	if len(s) > 1 {
		byWall := slices.SortedFunc(slices.Values(s), func(a, b stopwatch) int { return int(a.wall - b.wall) })
		text = fmt.Sprintf("median of %d: %v, shortest %v, longest %v", len(s), text, byWall[0], byWall[len(byWall)-1])
	}
	return fmt.Sprintf("%s, %.2f processors busy otherwise", text, s.load())
}
